//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2) through libtorch's
//! fused kernel: one pass over each parameter, its gradient and its two moments.

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, AdamWScalars};
use crate::{Error, Result};

/// What stays the same from step to step; the learning rate comes with each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: parameters shrink by `lr × weight_decay` a step. For parameters that must not decay
    /// (norms), keep a second [`AdamW`] with 0.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    /// What is usual for language models: 0.9, 0.95, 1e-8, 0.1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

/// AdamW that owns its moments, so that they can be saved, restored and sharded.
///
/// Parameters and gradients are passed in at every step and must keep their order, shapes, kinds and device.
#[derive(Debug)]
pub struct AdamW {
    options: AdamWOptions,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// One fp32 number: how many steps were taken. On the device, so that a step that is left out needs no answer.
    step: Tensor,
}

impl AdamW {
    /// Starts with zero moments, of the shapes, kinds and device of `params`.
    ///
    /// # Errors
    ///
    /// libtorch cannot allocate the moments.
    pub fn new(params: &[Tensor], options: AdamWOptions) -> Result<Self> {
        let zeros = || -> Result<Vec<Tensor>> {
            params
                .iter()
                .map(|param| param.detach().f_zeros_like().map_err(|e| torch("AdamW::new", &e)))
                .collect()
        };
        let device = params.first().map_or(Device::Cpu, Tensor::device);
        let step = Tensor::f_zeros([], (Kind::Float, device)).map_err(|e| torch("AdamW::new", &e))?;
        Ok(Self { options, exp_avgs: zeros()?, exp_avg_sqs: zeros()?, step })
    }

    /// Goes on from saved moments. `steps` is how many steps they have seen.
    ///
    /// Shapes, kinds and devices are checked against the parameters at the next step.
    ///
    /// # Errors
    ///
    /// The two lists differ in length.
    pub fn from_moments(
        exp_avgs: Vec<Tensor>,
        exp_avg_sqs: Vec<Tensor>,
        steps: i64,
        options: AdamWOptions,
    ) -> Result<Self> {
        ffi::same_length("AdamW::from_moments", exp_avgs.len(), &[("exp_avg_sqs", &exp_avg_sqs)])?;
        let device = exp_avgs.first().map_or(Device::Cpu, Tensor::device);
        let step =
            Tensor::f_full([], steps, (Kind::Float, device)).map_err(|e| torch("AdamW::from_moments", &e))?;
        Ok(Self { options, exp_avgs, exp_avg_sqs, step })
    }

    /// Changes `params` by one step along `grads`.
    ///
    /// `found_inf`, one fp32 number on the device, leaves the step out if it is 1: a bad gradient then changes
    /// nothing, and nobody waits for the device to say so.
    ///
    /// # Errors
    ///
    /// The lists differ in length, or tensors that go together differ in shape, kind or device, or are not
    /// contiguous. Nothing was changed then.
    pub fn step(
        &mut self,
        params: &[Tensor],
        grads: &[Tensor],
        lr: f64,
        found_inf: Option<&Tensor>,
    ) -> Result<()> {
        // The kernel expects the number of this step, and undoes nothing: count only once it has accepted.
        let next = self.step.f_add_scalar(1.0).map_err(|e| torch("AdamW::step", &e))?;
        let steps: Vec<Tensor> = params.iter().map(|_| next.shallow_clone()).collect();
        let lists =
            Lists { params, grads, exp_avgs: &self.exp_avgs, exp_avg_sqs: &self.exp_avg_sqs, steps: &steps };
        fused_adamw_(lists, lr, &self.options, found_inf)?;
        self.step = match found_inf {
            None => next,
            Some(skipped) => next.f_sub(skipped).map_err(|e| torch("AdamW::step", &e))?,
        };
        Ok(())
    }

    /// The first moments, in the order of the parameters.
    pub fn exp_avgs(&self) -> &[Tensor] {
        &self.exp_avgs
    }

    /// The second moments, in the order of the parameters.
    pub fn exp_avg_sqs(&self) -> &[Tensor] {
        &self.exp_avg_sqs
    }

    /// How many steps were taken, not counting those left out. Waits for the device.
    #[must_use]
    pub fn steps(&self) -> i64 {
        // fp32 counts exactly to 16.7 million.
        self.step.int64_value(&[])
    }

    /// The options in force.
    #[must_use]
    pub fn options(&self) -> &AdamWOptions {
        &self.options
    }

    /// Forgets the moments and the number of steps.
    ///
    /// # Errors
    ///
    /// libtorch refuses to write them.
    pub fn reset(&mut self) -> Result<()> {
        for list in [&self.exp_avgs, &self.exp_avg_sqs] {
            if !list.is_empty() {
                crate::foreach::zero_(list)?;
            }
        }
        crate::foreach::zero_(std::slice::from_ref(&self.step))
    }
}

/// The lists that one fused step goes over, all of one length and order.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// Changed.
    pub params: &'a [Tensor],
    /// Read.
    pub grads: &'a [Tensor],
    /// First moments; changed.
    pub exp_avgs: &'a [Tensor],
    /// Second moments; changed.
    pub exp_avg_sqs: &'a [Tensor],
    /// For each parameter the number of this step, counted from 1: one fp32 number on the device; read.
    pub steps: &'a [Tensor],
}

/// One step of AdamW over all lists, by libtorch's `_fused_adamw_`. [`AdamW`] is the usual way to call it.
///
/// # Errors
///
/// As [`AdamW::step`].
pub fn fused_adamw_(
    lists: Lists<'_>,
    lr: f64,
    options: &AdamWOptions,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let rest = [
        ("grads", lists.grads),
        ("exp_avgs", lists.exp_avgs),
        ("exp_avg_sqs", lists.exp_avg_sqs),
        ("steps", lists.steps),
    ];
    ffi::same_length("fused_adamw_", lists.params.len(), &rest)?;
    let [params, grads, exp_avgs, exp_avg_sqs, steps] =
        [lists.params, lists.grads, lists.exp_avgs, lists.exp_avg_sqs, lists.steps].map(ffi::handles);
    let AdamWOptions { beta1, beta2, eps, weight_decay } = *options;
    let scalars = AdamWScalars { lr, beta1, beta2, eps, weight_decay };
    // SAFETY: five lists of `params.len()` handles of tensors that are borrowed for the call, `scalars` laid out as
    // the shim's struct, and null for no `found_inf`. The shim checks that the kernel stays within every buffer.
    unsafe {
        let failure = ffi::btx_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            params.len(),
            &raw const scalars,
            ffi::optional(found_inf),
        );
        ffi::check("fused_adamw_", failure)
    }
}

fn torch(operation: &'static str, error: &tch::TchError) -> Error {
    Error::Torch { operation, message: error.to_string() }
}

#[cfg(test)]
mod tests;
