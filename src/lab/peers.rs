//! Peers of an experiment: a trainer each, and θ in common.

use std::sync::Arc;

use brigade_protocol::{ModelConfig, Parameters, Training};
use brigade_trainer::{TokenBatch, Trainer, TrainerConfig};

use super::text::Text;
use crate::roles::miner::train::train_window;
use crate::roles::model::optimizer_config;
use crate::roles::samples::batches;

/// Sequences that go through the model at once when nothing is trained.
const MEASURE_BATCH: usize = 16;

/// Several peers who train from the same θ, one after the other on one thread.
pub(super) struct Peers<'a> {
    text: &'a Text,
    training: Training,
    trainers: Vec<Trainer>,
    heldout: Vec<TokenBatch>,
    seed: u64,
}

impl<'a> Peers<'a> {
    /// # Errors
    /// When the model does not fit into memory.
    pub(super) fn new(
        text: &'a Text,
        model: &ModelConfig,
        training: &Training,
        count: usize,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let optimizer = optimizer_config(training);
        let config = TrainerConfig { threads: Some(1), optimizer, ..TrainerConfig::new(model.clone()) };
        let trainers = (0..count).map(|_| Trainer::new(config.clone())).collect::<Result<_, _>>()?;
        let heldout = batches(text.heldout(), MEASURE_BATCH, training.sequence_length as usize)?;
        Ok(Self { text, training: training.clone(), trainers, heldout, seed })
    }

    /// One window of one peer: its pseudo-gradient.
    ///
    /// # Errors
    /// When training diverges.
    pub(super) fn train(
        &mut self,
        peer: usize,
        window: u64,
        theta: &Arc<Parameters>,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let (steps, size) = (self.training.inner_steps as usize, self.training.batch_size as usize);
        let drawn = self.text.draw([self.seed, window, peer as u64], steps * size)?;
        let batches = batches(&drawn, size, self.training.sequence_length as usize)?;
        let trainer = &mut self.trainers[peer];
        let trained = train_window(trainer, theta, &self.training, window, batches.iter().map(Ok), |_| true)?;
        anyhow::ensure!(trained.is_some(), "given up, though nobody asked for it");
        Ok(trainer.pseudo_gradient(theta.tensors())?)
    }

    /// Held-out loss of θ, nats a token.
    ///
    /// # Errors
    /// When the model cannot compute it.
    pub(super) fn measure(&mut self, theta: &Parameters) -> anyhow::Result<f64> {
        let trainer = &mut self.trainers[0];
        trainer.load_parameters(theta.tensors())?;
        let losses = self.heldout.iter().map(|batch| trainer.losses(batch)).collect::<Result<Vec<_>, _>>()?;
        let losses = losses.concat();
        Ok(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64)
    }
}
