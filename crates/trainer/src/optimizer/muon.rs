//! Muon (Keller Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024): the momentum of a
//! matrix, made nearly orthogonal, is the step. Weight decay and the scale of the step are those of arXiv 2502.16982,
//! so that AdamW's learning rate and decay fit; `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` is the same.

use brigade_protocol::TensorSpec;
use brigade_torch_ext::foreach;
use tch::{Device, Kind, Tensor};

use super::{Moment, MuonConfig, Span, cut_all};
use crate::{Result, model::Units};

/// a, b and c of X ← aX + (bXXᵀ + c(XXᵀ)²)X. Their slope at zero is steep rather than their fixed point exact: small
/// singular values grow to about one in few steps, and all end between about 0.7 and 1.2.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const NEWTON_SCHULZ_STEPS: usize = 5;
/// The least norm that a matrix is divided by.
const EPS: f64 = 1e-7;
/// Root mean square of the entries of AdamW's usual steps, before the learning rate.
const ADAMW_RMS: f64 = 0.2;

/// The momentum of the matrices of all blocks.
#[derive(Debug)]
pub(crate) struct Muon {
    pub(super) config: MuonConfig,
    pub(super) spans: Vec<Span>,
    /// One for each span.
    pub(super) momenta: Vec<Moment>,
}

/// A weight matrix on its way through a step: three tensors of one shape `[rows, columns]`, fp32, contiguous and whole.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// Changed.
    pub(crate) weight: Tensor,
    /// Read, and used up: holds something else afterwards.
    pub(crate) gradient: Tensor,
    /// Changed.
    pub(crate) momentum: Tensor,
}

impl Muon {
    /// One step with learning rate `lr`; `gradients` are flat, one for every unit, and used up. `at_once` spans' momenta
    /// are brought at a time.
    pub(super) fn step(&self, units: &Units, gradients: &[Tensor], lr: f64, at_once: usize) -> Result<()> {
        if units.is_sharded() {
            return self.step_shares(units, gradients, lr, at_once);
        }
        for (spans, kept) in self.spans.chunks(at_once).zip(self.momenta.chunks(at_once)) {
            let momenta = bring(units, spans, kept)?;
            let mut matrices = Vec::new();
            for (span, momentum) in spans.iter().zip(&momenta) {
                let all =
                    [&span.cut(&units.all[span.unit].master)?, &span.cut(&gradients[span.unit])?, momentum];
                let [weights, gradients, momenta] = all.map(|flat| matrices_of(units, span, flat));
                for ((weight, gradient), momentum) in weights?.into_iter().zip(gradients?).zip(momenta?) {
                    matrices.push(Matrix { weight, gradient, momentum });
                }
            }
            step(&matrices, &self.config, lr)?;
            kept.iter().zip(&momenta).try_for_each(|(kept, momentum)| kept.keep(momentum))?;
        }
        Ok(())
    }

    /// The same of what several ranks hold: momentum is each one's own, but a matrix is made orthogonal whole. Every rank does
    /// that for all of a unit's and takes its part.
    fn step_shares(&self, units: &Units, gradients: &[Tensor], lr: f64, at_once: usize) -> Result<()> {
        for (spans, kept) in self.spans.chunks(at_once).zip(self.momenta.chunks(at_once)) {
            let momenta = bring(units, spans, kept)?;
            nesterov(&momenta, &cut_all(spans, |unit| &gradients[unit])?, self.config.momentum)?;
            kept.iter().zip(&momenta).try_for_each(|(kept, momentum)| kept.keep(momentum))?;
        }
        let mut whole: Option<(usize, Tensor)> = None;
        for span in &self.spans {
            if whole.as_ref().is_none_or(|(unit, _)| *unit != span.unit) {
                whole = Some((span.unit, units.group.all_gather(&gradients[span.unit])?.wait()?));
            }
            let Some((_, direction)) = &whole else { continue };
            let updates = matrices_of(units, span, &direction.f_narrow(0, span.start, span.length)?)?;
            let updates = updates.iter().map(|matrix| Ok(update(matrix, lr)?.f_reshape([-1])?));
            let update = Tensor::f_cat(&updates.collect::<Result<Vec<_>>>()?, 0)?;
            let mut weight = span.cut(&units.all[span.unit].master)?;
            let first = units.group.rank() as i64 * units.all[span.unit].master.size()[0];
            let start = (first + span.own.start - span.start).clamp(0, span.length);
            let own = update.f_narrow(0, start, weight.size()[0])?;
            drop(weight.f_mul_scalar_(1.0 - lr * self.config.adamw.weight_decay)?.f_add_(&own)?);
        }
        Ok(())
    }
}

/// The momenta of `spans` where their parameters are.
fn bring(units: &Units, spans: &[Span], momenta: &[Moment]) -> Result<Vec<Tensor>> {
    let device = |span: &Span| units.all[span.unit].master.device();
    spans.iter().zip(momenta).map(|(span, momentum)| momentum.bring(device(span))).collect()
}

/// The matrices of `span`, as views of `flat`, which has all its elements.
fn matrices_of(units: &Units, span: &Span, flat: &Tensor) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let matrix = |spec: &TensorSpec| {
        let shape: Vec<i64> = spec.shape.iter().map(|&extent| extent as i64).collect();
        let view = flat.f_narrow(0, start, spec.numel() as i64)?.f_view(&shape[..])?;
        start += spec.numel() as i64;
        Ok(view)
    };
    units.specs[span.tensors.clone()].iter().map(matrix).collect()
}

/// Takes `gradients` into `momenta`, and leaves the direction of the step in their place: Nesterov's, as if the gradient came
/// once more.
fn nesterov(momenta: &[Tensor], gradients: &[Tensor], momentum: f64) -> Result<()> {
    foreach::lerp_(momenta, gradients, 1.0 - momentum)?;
    Ok(foreach::lerp_(gradients, momenta, momentum)?)
}

/// What is added to a weight for its whole `direction`, fp32 in its shape.
fn update(direction: &Tensor, lr: f64) -> Result<Tensor> {
    let kind = if direction.device() == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
    let (rows, columns) = direction.size2()?;
    let scale = ADAMW_RMS * (rows.max(columns) as f64).sqrt();
    Ok(orthogonalise(direction, kind)?.f_to_kind(Kind::Float)?.f_mul_scalar_(-lr * scale)?)
}

/// One step of every matrix with learning rate `lr`, under `no_grad`.
pub(crate) fn step(matrices: &[Matrix], config: &MuonConfig, lr: f64) -> Result<()> {
    let all = |of: fn(&Matrix) -> &Tensor| matrices.iter().map(|m| of(m).shallow_clone()).collect::<Vec<_>>();
    let (weights, gradients, momenta) = (all(|m| &m.weight), all(|m| &m.gradient), all(|m| &m.momentum));
    nesterov(&momenta, &gradients, config.momentum)?;
    foreach::mul_(&weights, 1.0 - lr * config.adamw.weight_decay)?;
    for (mut weight, direction) in weights.into_iter().zip(&gradients) {
        drop(weight.f_add_(&update(direction, lr)?)?);
    }
    Ok(())
}

/// The nearest matrix to `matrix` with all singular values one, roughly: five Newton–Schulz steps in `kind`.
fn orthogonalise(matrix: &Tensor, kind: Kind) -> Result<Tensor> {
    let (rows, columns) = matrix.size2()?;
    let (a, b, c) = COEFFICIENTS;
    // Singular values must not be above one, and the Frobenius norm is above all of them. In fp32, as no rounding may
    // bring it below.
    let norm = matrix.f_norm()?.f_clamp_min(EPS)?;
    let wide = if rows > columns { matrix.f_transpose(0, 1)? } else { matrix.shallow_clone() };
    let mut x = wide.f_div(&norm)?.f_to_kind(kind)?.f_unsqueeze(0)?;
    for _ in 0..NEWTON_SCHULZ_STEPS {
        let gram = x.f_bmm(&x.f_transpose(1, 2)?)?;
        let polynomial = gram.f_baddbmm(&gram, &gram, b, c)?;
        x = x.f_baddbmm(&polynomial, &x, a, 1.0)?;
    }
    let x = x.f_squeeze_dim(0)?;
    Ok(if rows > columns { x.f_transpose(0, 1)? } else { x })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::kind::FLOAT_CPU;

    use super::*;

    fn singular_values(matrix: &Tensor) -> Vec<f64> {
        let gram = matrix.to_kind(Kind::Double);
        let gram = if gram.size()[0] > gram.size()[1] { gram.tr().mm(&gram) } else { gram.mm(&gram.tr()) };
        Vec::<f64>::try_from(gram.linalg_eigvalsh("L").sqrt()).unwrap()
    }

    #[test]
    fn singular_values_come_near_one() {
        tch::manual_seed(1);
        for shape in [[64, 200], [200, 64], [1, 40], [40, 1], [33, 64]] {
            for kind in [Kind::Float, Kind::BFloat16] {
                for scale in [1e-3, 1.0, 1e3] {
                    let matrix = Tensor::randn(shape, FLOAT_CPU) * scale;
                    let orthogonal = orthogonalise(&matrix, kind).unwrap();
                    assert_eq!(orthogonal.size(), shape);
                    for value in singular_values(&orthogonal) {
                        assert!((0.67..1.22).contains(&value), "{shape:?} {kind:?} {scale}: {value}");
                    }
                    // It turns nothing: the same singular vectors, so the product with the matrix is symmetric.
                    let product = orthogonal.to_kind(Kind::Float).tr().mm(&matrix);
                    let skew = (&product - product.tr()).norm() / product.norm();
                    assert!(skew.double_value(&[]) < 0.02, "{shape:?} {kind:?} {scale}: {skew}");
                }
            }
        }
        let zero = Tensor::zeros([3, 4], FLOAT_CPU);
        assert_eq!(orthogonalise(&zero, Kind::Float).unwrap(), zero);
    }

    /// A gradient of one entry: every step stays by hand.
    #[test]
    fn a_small_step_is_that_of_the_formula() {
        let config = MuonConfig::default();
        let matrix = Matrix {
            weight: Tensor::from_slice2(&[[1.0_f32, 2.0, -3.0], [0.5, 0.0, 4.0]]),
            gradient: Tensor::from_slice2(&[[0.0_f32, 0.0, -8.0], [0.0, 0.0, 0.0]]),
            momentum: Tensor::from_slice2(&[[0.0_f32, 0.0, 2.0], [0.0, 0.0, 0.0]]),
        };
        step(std::slice::from_ref(&matrix), &config, 0.1).unwrap();
        // 0.95 · 2 − 0.05 · 8
        let momentum = Vec::<f32>::try_from(matrix.momentum.reshape([-1])).unwrap();
        assert!((momentum[2] - 1.5).abs() < 1e-6, "{momentum:?}");
        // 0.05 · −8 + 0.95 · 1.5 is positive, so X begins as +1 there; then x ← 3.4445 x − 4.775 x³ + 2.0315 x⁵, five
        // times: 0.7010, 1.1136, 0.7207, 1.0900, 0.6964.
        let x = 0.696_436;
        let expected = [0.99, 1.98, -2.97 - 0.1 * 0.2 * 3.0_f64.sqrt() * x, 0.495, 0.0, 3.96];
        let weight = Vec::<f32>::try_from(matrix.weight.reshape([-1])).unwrap();
        for (found, expected) in weight.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{weight:?}");
        }
    }
}
