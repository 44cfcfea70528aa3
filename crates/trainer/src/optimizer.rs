//! AdamW (arXiv 1711.05101) with state that can be saved bit for bit.

use brigade_protocol::TensorSpec;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    Error, Result,
    model::{Gradients, Unit, Units, to_vec},
};

/// What AdamW is set to, besides the learning rate of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first and of the second moment, in `[0, 1)`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment; positive.
    pub eps: f64,
    /// Decoupled weight decay, for matrices only (the embedding among them): the one-dimensional weights of
    /// norms are scales, and decaying them to zero would be no regularisation.
    pub weight_decay: f64,
    /// Largest L2 norm of the gradient of all parameters; a longer one is scaled down to it. `None`: never.
    pub max_grad_norm: Option<f64>,
}

impl Default for AdamWConfig {
    /// As is usual for language models: betas 0.9 and 0.95, eps 1e-8, weight decay 0.1, norm clipped to 1.
    fn default() -> Self {
        Self { betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1, max_grad_norm: Some(1.0) }
    }
}

impl AdamWConfig {
    /// # Errors
    /// [`Error::Setting`] names the first field out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        let in_range = |field, value: f64, fits: bool, must| match fits {
            true => Ok(()),
            false => Err(Error::Setting { field, value, must }),
        };
        for beta in [self.betas.0, self.betas.1] {
            in_range("betas", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
        }
        in_range("eps", self.eps, self.eps.is_finite() && self.eps > 0.0, "positive and finite")?;
        let decay = self.weight_decay;
        in_range("weight_decay", decay, decay.is_finite() && decay >= 0.0, "at least 0 and finite")?;
        let norm = self.max_grad_norm.unwrap_or(1.0);
        in_range("max_grad_norm", norm, norm > 0.0, "positive")
    }
}

/// The moments of every parameter and the number of steps taken.
#[derive(Debug)]
pub(crate) struct AdamW {
    config: AdamWConfig,
    step: i64,
    /// One flat fp32 pair per unit: first and second moments.
    moments: Vec<(Tensor, Tensor)>,
}

const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";
const STEP: &str = "step";

impl AdamW {
    /// No step taken, all moments zero.
    pub(crate) fn new(config: AdamWConfig, units: &Units) -> Result<Self> {
        config.validate()?;
        let zeros = |unit: &Unit| Ok((unit.master.f_zeros_like()?, unit.master.f_zeros_like()?));
        Ok(Self { config, step: 0, moments: units.all.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Forgets all steps.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.step = 0;
        for (first, second) in &mut self.moments {
            let _ = first.f_zero_()?;
            let _ = second.f_zero_()?;
        }
        Ok(())
    }

    /// Clips `gradients` and takes one step with learning rate `lr`; returns their norm before the clipping.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the norm is not finite; then nothing has changed.
    pub(crate) fn step(&mut self, units: &mut Units, gradients: Gradients, lr: f64) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let mut gradients = gradients.into_inner()?;
        let norm = global_norm(&gradients)?;
        if !norm.is_finite() {
            return Err(Error::NotFinite { what: "gradient norm", value: norm });
        }
        self.clip(&mut gradients, norm)?;
        self.step += 1;
        for ((unit, gradient), moments) in units.all.iter().zip(&gradients).zip(&self.moments) {
            for span in spans(units, unit) {
                let cut = |t: &Tensor| t.f_narrow(0, span.start, span.length);
                let decay = if span.decay { self.config.weight_decay } else { 0.0 };
                let mut moments = (cut(&moments.0)?, cut(&moments.1)?);
                self.update(&mut cut(&unit.master)?, &cut(gradient)?, &mut moments, lr, decay)?;
            }
        }
        units.refresh()?;
        Ok(norm)
    }

    fn clip(&self, gradients: &mut [Tensor], norm: f64) -> Result<()> {
        // The 1e-6 is that of torch.nn.utils.clip_grad_norm_, whose result this must equal.
        let scale = self.config.max_grad_norm.map_or(1.0, |max| max / (norm + 1e-6));
        if scale < 1.0 {
            for gradient in gradients {
                let _ = gradient.f_mul_scalar_(scale)?;
            }
        }
        Ok(())
    }

    fn update(
        &self,
        weight: &mut Tensor,
        gradient: &Tensor,
        (first, second): &mut (Tensor, Tensor),
        lr: f64,
        decay: f64,
    ) -> Result<()> {
        let (beta1, beta2) = self.config.betas;
        let _ = weight.f_mul_scalar_(1.0 - lr * decay)?;
        let _ = first.f_lerp_(gradient, 1.0 - beta1)?;
        let _ = second.f_mul_scalar_(beta2)?.f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - beta2)?)?;
        let (bias1, bias2) = (1.0 - beta1.powf(self.step as f64), 1.0 - beta2.powf(self.step as f64));
        let root = second.f_sqrt()?.f_div_scalar_(bias2.sqrt())?.f_add_scalar_(self.config.eps)?;
        let _ = weight.f_addcdiv_(&first.f_mul_scalar(-lr / bias1)?, &root)?;
        Ok(())
    }

    /// The moments and the number of steps as a safetensors file, bit for bit.
    ///
    /// For a parameter `p` there are `exp_avg.p` and `exp_avg_sq.p`, fp32 in its shape; `step` is int64 `[1]`.
    pub(crate) fn save(&self, units: &Units) -> Result<Vec<u8>> {
        let step = self.step.to_le_bytes();
        let mut tensors = Vec::new();
        for (unit, (first, second)) in units.all.iter().zip(&self.moments) {
            for (prefix, flat) in [(FIRST, first), (SECOND, second)] {
                let views = flat.f_split_with_sizes(&unit.lengths[..], 0)?;
                for (spec, view) in units.specs[unit.tensors.clone()].iter().zip(views) {
                    let bytes: Vec<u8> =
                        to_vec(&view)?.iter().flat_map(|value| value.to_le_bytes()).collect();
                    tensors.push((format!("{prefix}{}", spec.name), spec.shape.clone(), bytes));
                }
            }
        }
        let mut views = vec![(STEP.to_owned(), TensorView::new(Dtype::I64, vec![1], &step).map_err(state)?)];
        for (name, shape, bytes) in &tensors {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(state)?;
            views.push((name.clone(), view));
        }
        safetensors::serialize(views, None).map_err(state)
    }

    /// Takes over what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if a tensor is missing, too many, misshapen or not finite; then nothing has changed.
    pub(crate) fn load(&mut self, units: &Units, bytes: &[u8]) -> Result<()> {
        let file = SafeTensors::deserialize(bytes).map_err(state)?;
        let expected = 1 + 2 * units.specs.len();
        if file.len() != expected {
            return Err(state(format!("{} tensors, expected {expected}", file.len())));
        }
        let step = read_step(&file)?;
        let mut loaded = Vec::with_capacity(self.moments.len());
        for unit in &units.all {
            let moment = |prefix| read_moment(&file, prefix, &units.specs[unit.tensors.clone()]);
            loaded.push((moment(FIRST)?, moment(SECOND)?));
        }
        for ((first, second), (new_first, new_second)) in self.moments.iter_mut().zip(&loaded) {
            let _ = first.f_copy_(new_first)?;
            let _ = second.f_copy_(new_second)?;
        }
        self.step = step;
        Ok(())
    }
}

/// A stretch of a unit whose tensors are decayed alike.
struct Span {
    start: i64,
    length: i64,
    decay: bool,
}

fn spans(units: &Units, unit: &Unit) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut start = 0;
    for (spec, &length) in units.specs[unit.tensors.clone()].iter().zip(&unit.lengths) {
        let decay = spec.shape.len() > 1;
        match spans.last_mut() {
            Some(last) if last.decay == decay => last.length += length,
            _ => spans.push(Span { start, length, decay }),
        }
        start += length;
    }
    spans
}

/// L2 norm of all gradients together; one wait for the device.
fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let norms = gradients.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?)
}

fn read_step(file: &SafeTensors<'_>) -> Result<i64> {
    let view = file.tensor(STEP).map_err(state)?;
    match (view.dtype(), view.shape(), <[u8; 8]>::try_from(view.data())) {
        (Dtype::I64, [1], Ok(bytes)) if i64::from_le_bytes(bytes) >= 0 => Ok(i64::from_le_bytes(bytes)),
        _ => Err(state("`step` is not one int64 of at least 0")),
    }
}

/// One moment of a unit, flat, on the CPU.
fn read_moment(file: &SafeTensors<'_>, prefix: &str, specs: &[TensorSpec]) -> Result<Tensor> {
    let mut flat = Vec::with_capacity(specs.iter().map(TensorSpec::numel).sum());
    for spec in specs {
        let name = format!("{prefix}{}", spec.name);
        let view = file.tensor(&name).map_err(state)?;
        if view.dtype() != Dtype::F32 || view.shape() != spec.shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(state(format!("`{name}` is {found}, expected F32 {:?}", spec.shape)));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        flat.extend(values);
    }
    match flat.iter().all(|value| value.is_finite()) {
        true => Ok(Tensor::f_from_slice(&flat)?),
        false => Err(state(format!("`{prefix}` holds a value that is not finite"))),
    }
}

fn state(reason: impl ToString) -> Error {
    Error::OptimizerState { reason: reason.to_string() }
}
