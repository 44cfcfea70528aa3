//! Peers of an experiment: a trainer each, and θ in common.

use std::sync::Arc;

use brigade_protocol::{Digest, ModelConfig, Parameters, Training};
use brigade_trainer::{TokenBatch, Trainer, TrainerConfig};

use super::text::Text;
use crate::roles::miner::train::train_window;
use crate::roles::model::optimizer_config;
use crate::roles::samples::{batches, some_places};

/// Sequences that go through the model at once when nothing is trained.
const MEASURE_BATCH: usize = 16;

/// What a peer does in a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Number of the stream that it trains on; its own when left out.
    pub(super) stream: Option<u64>,
    /// Inner steps; all of them when left out.
    pub(super) steps: Option<u32>,
}

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

    /// One window of one peer, who works as it should: its pseudo-gradient.
    ///
    /// # Errors
    /// When training diverges.
    pub(super) fn train(
        &mut self,
        peer: usize,
        window: u64,
        theta: &Arc<Parameters>,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        self.work(peer, window, theta, Work::default())
    }

    /// The same of a peer that does `work` instead.
    ///
    /// # Errors
    /// When training diverges.
    pub(super) fn work(
        &mut self,
        peer: usize,
        window: u64,
        theta: &Arc<Parameters>,
        work: Work,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let steps = work.steps.unwrap_or(self.training.inner_steps);
        let size = self.training.batch_size as usize;
        let stream = work.stream.unwrap_or(peer as u64);
        let drawn = self.text.draw([self.seed, window, stream], steps as usize * size)?;
        let batches = batches(&drawn, size, self.training.sequence_length as usize)?;
        let training = Training { inner_steps: steps, ..self.training.clone() };
        let trainer = &mut self.trainers[peer];
        let trained = train_window(trainer, theta, &training, window, 0, batches.iter().map(Ok), |_| true)?;
        anyhow::ensure!(trained.is_some(), "given up, though nobody asked for it");
        Ok(trainer.pseudo_gradient(theta.tensors())?)
    }

    /// The first `count` sequences that `peer` is assigned in `window`.
    ///
    /// # Errors
    /// As [`Text::draw`].
    pub(super) fn start(&self, peer: usize, window: u64, count: usize) -> anyhow::Result<TokenBatch> {
        let drawn = self.text.draw([self.seed, window, peer as u64], count)?;
        Ok(TokenBatch::new(drawn.concat(), count, self.training.sequence_length as usize)?)
    }

    /// `count` of the sequences that `peer` is assigned in `window`, chosen by `seed`, or all of them.
    ///
    /// # Errors
    /// As [`Text::draw`].
    pub(super) fn assigned(
        &self,
        peer: usize,
        window: u64,
        count: usize,
        seed: Digest,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        let all = self.training.inner_steps as usize * self.training.batch_size as usize;
        let drawn = self.text.draw([self.seed, window, peer as u64], all)?;
        Ok(some_places(seed, all, count).into_iter().map(|place| drawn[place].clone()).collect())
    }

    /// A trainer for measurements. Its parameters are anybody's.
    pub(super) fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainers[0]
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
