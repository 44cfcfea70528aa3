//! One step: the loss of a batch, its gradients, and what the optimiser makes of them.

use brigade_torch_ext::foreach;
use tch::{Kind, Tensor};

use crate::{
    Error, Result, TokenBatch, Trainer,
    model::{Gradients, to_vec},
    ranks::{Command, Group},
};

/// What an inner step measured, before it changed the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Mean cross-entropy per token, in nats.
    pub loss: f32,
    /// L2 norm of the gradient of all parameters, before it was clipped.
    pub grad_norm: f32,
    /// Number of tokens predicted.
    pub tokens: usize,
}

/// What a backward pass is worth, over all ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Mean cross-entropy per token, in nats.
    pub(crate) loss: f64,
    /// L2 norm of all gradients.
    pub(crate) norm: f64,
}

impl Measured {
    /// Reads the loss, summed over `batch` in `sum`, and the norm of `gradients` at once: the only time in a step that the
    /// host waits for its device, and for the other ranks' numbers.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one of them is not finite; [`Error::Rank`].
    pub(crate) fn wait(
        group: &Group,
        sum: &Tensor,
        gradients: &[Tensor],
        batch: &TokenBatch,
    ) -> Result<Self> {
        let own = Tensor::f_stack(&[sum, &foreach::global_norm(gradients)?], 0)?;
        let &[sum, norm] = to_vec(&own)?.as_slice() else {
            return Err(Error::NotFinite { what: "loss", value: f64::NAN });
        };
        let (sum, norm) = (f64::from(sum), f64::from(norm));
        let (sum, norm) = match group.sum(&[sum, norm * norm])?.as_slice() {
            &[sum, squares] if group.world() > 1 => (sum, squares.sqrt()),
            _ => (sum, norm),
        };
        let loss = sum * (1.0 / batch.targets() as f64);
        for (what, value) in [("loss", loss), ("gradient norm", norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite { what, value });
            }
        }
        Ok(Self { loss, norm })
    }
}

impl Trainer {
    /// One step of the optimiser with learning rate `lr` on the mean cross-entropy of `batch`.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the batch does not fit the model, [`Error::NotFinite`] if the loss or
    /// the gradient is not finite. In all of these the parameters and the optimiser are as before.
    pub fn inner_step(&mut self, batch: &TokenBatch, lr: f64) -> Result<StepStats> {
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(Error::Setting { field: "lr", value: lr, must: "at least 0 and finite" });
        }
        self.check(batch)?;
        batch.share(0, self.model.units.group.world())?;
        self.lead(|| Command::Step {
            tokens: batch.tokens().to_vec(),
            sequences: batch.sequences(),
            sequence_length: batch.sequence_length(),
            lr,
        })?;
        let stepped = self.step_own(batch, lr);
        self.conclude(stepped)
    }

    /// The mean loss of `batch` and its gradients, in the order of [`ModelConfig::tensors`](brigade_protocol::ModelConfig::tensors); changes nothing.
    ///
    /// # Errors
    /// As [`inner_step`](Self::inner_step).
    pub fn gradients(&self, batch: &TokenBatch) -> Result<(f32, Vec<Vec<f32>>)> {
        self.whole()?;
        let (sum, gradients) = self.backward(batch)?;
        let gradients = gradients.into_inner()?;
        let Measured { loss, .. } = Measured::wait(&self.model.units.group, &sum, &gradients, batch)?;
        let mut values = Vec::with_capacity(self.model.units.specs.len());
        for (unit, flat) in self.model.units.all.iter().zip(gradients) {
            for view in flat.f_split_with_sizes(&unit.lengths[..], 0)? {
                values.push(to_vec(&view)?);
            }
        }
        Ok((loss as f32, values))
    }

    /// This rank's part of the mean loss, an fp32 scalar on its device that nothing has waited for, and the gradients.
    pub(crate) fn backward(&self, batch: &TokenBatch) -> Result<(Tensor, Gradients)> {
        self.check(batch)?;
        let scale = 1.0 / batch.targets() as f64;
        let group = &self.model.units.group;
        let batch = &*batch.share(group.rank(), group.world())?;
        let mut gradients = Gradients::none(&self.model.units);
        let mut sum: Option<Tensor> = None;
        for ids in batch.micro_batches(self.micro_batch.unwrap_or(batch.sequences())) {
            let (inputs, targets) = ids.to_tensors(self.model.device)?;
            let part = self.model.backward(&inputs, &targets, scale, &mut gradients)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
        }
        let nothing = || Tensor::f_zeros([], (Kind::Float, self.model.device));
        Ok((sum.map_or_else(nothing, Ok)?, gradients))
    }

    /// Mean cross-entropy of every sequence of `batch`, in nats per token; changes nothing. May be NaN if the
    /// parameters are. Of several ranks each computes all of it: it is for a few sequences.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the batch does not fit the model.
    pub fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>> {
        self.check(batch)?;
        self.lead(|| Command::Losses {
            tokens: batch.tokens().to_vec(),
            sequences: batch.sequences(),
            sequence_length: batch.sequence_length(),
        })?;
        self.conclude(self.losses_own(batch))
    }

    /// The same on this rank, while all others do the same.
    pub(crate) fn losses_own(&self, batch: &TokenBatch) -> Result<Vec<f32>> {
        let mut losses = Vec::with_capacity(batch.sequences());
        for ids in batch.micro_batches(self.micro_batch.unwrap_or(batch.sequences())) {
            let (inputs, targets) = ids.to_tensors(self.model.device)?;
            let tokens = self.model.token_losses(&inputs, &targets)?;
            losses.extend(to_vec(&tokens.f_mean_dim(Some([1_i64].as_slice()), false, Kind::Float)?)?);
        }
        Ok(losses)
    }
}
