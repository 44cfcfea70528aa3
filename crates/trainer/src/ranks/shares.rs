//! What a rank does with its share when rank 0 says so; rank 0 does the same with its own.

use super::{Command, CompressJob, Host};
use crate::step::Measured;
use crate::{Error, Result, StepStats, TokenBatch, Trainer};

impl Trainer {
    /// Tells the other ranks what comes next, which rank 0 has checked: they do not check again.
    pub(crate) fn lead(&self, command: impl FnOnce() -> Command) -> Result<()> {
        if self.model.units.is_sharded() {
            self.model.units.group.broadcast(Some(command().to_bytes()))?;
        }
        Ok(())
    }

    /// `outcome`; if it is an error that the other ranks may not have met, they are told, and end: the ranks would be at
    /// different places.
    pub(crate) fn conclude<R>(&self, outcome: Result<R>) -> Result<R> {
        match outcome {
            Ok(_) | Err(Error::NotFinite { .. }) => outcome,
            Err(error) => Err(self.model.units.group.fail_of(error)),
        }
    }

    pub(crate) fn load_shares(&mut self, tensors: Option<&[impl AsRef<[f32]>]>) -> Result<()> {
        self.model.units.load(tensors)
    }

    pub(crate) fn read_shares(&self) -> Result<Vec<Vec<f32>>> {
        self.model.units.read()
    }

    pub(crate) fn prepare_own(&mut self) -> Result<()> {
        self.optimizer = Some(self.take_optimizer()?);
        // So that rank 0 does not go on before all of them could.
        self.model.units.group.sum(&[]).map(drop)
    }

    /// One step with this rank's sequences of `batch`.
    pub(crate) fn step_own(&mut self, batch: &TokenBatch, lr: f64) -> Result<StepStats> {
        let (sum, gradients) = self.backward(batch)?;
        let gradients = gradients.into_inner()?;
        let Measured { loss, norm } = Measured::wait(&self.model.units.group, &sum, &gradients, batch)?;
        let mut optimizer = self.take_optimizer()?;
        let stepped = optimizer.step(&mut self.model.units, &gradients, norm, lr);
        self.optimizer = Some(optimizer);
        stepped?;
        Ok(StepStats { loss: loss as f32, grad_norm: norm as f32, tokens: batch.targets() })
    }

    /// The optimiser's state on rank 0, nothing on the others.
    pub(crate) fn save_shares(&mut self) -> Result<Vec<u8>> {
        let optimizer = self.take_optimizer()?;
        let saved = optimizer.save(&self.model.units);
        self.optimizer = Some(optimizer);
        saved
    }

    /// Takes over `bytes`, which rank 0 alone has.
    pub(crate) fn load_optimizer_shares(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        let mut optimizer = self.take_optimizer()?;
        let loaded = optimizer.load(&self.model.units, bytes);
        self.optimizer = Some(optimizer);
        loaded
    }

    pub(crate) fn compress_shares(
        &self,
        job: &CompressJob,
        host: Option<Host<'_>>,
    ) -> Result<Option<Vec<u8>>> {
        job.run(&self.model.units, host)
    }
}
