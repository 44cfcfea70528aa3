//! Operations over lists of tensors: on a GPU a handful of kernels for a whole model, instead of a few per tensor.
//!
//! All change the storage behind their first list, under `no_grad`, and none waits for the device.

use tch::Tensor;

use crate::Result;
use crate::ffi::{self, Failure, Handle};

/// The L2 norm of all tensors taken as one vector: an fp32 scalar tensor on their device.
///
/// # Errors
///
/// An empty list, an undefined tensor, or tensors on several devices.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor> {
    let list = ffi::handles(tensors);
    // SAFETY: `list` holds `list.len()` handles of tensors that are borrowed for the call; `out` goes through.
    unsafe { ffi::returning("global_norm", |out| ffi::btx_global_norm(list.as_ptr(), list.len(), out)) }
}

/// Scales all tensors by `min(1, max_norm / (norm + 1e-6))`, PyTorch's `clip_grad_norm_`; returns the norm that they
/// had, an fp32 scalar tensor on their device.
///
/// A norm that is not finite makes all tensors NaN or zero: pass `norm.isfinite()`'s opposite to
/// [`AdamW::step`](crate::AdamW::step) as `found_inf` to leave such a step out without asking the device.
///
/// # Errors
///
/// An empty list, an undefined tensor, or tensors on several devices.
pub fn clip_global_norm_(tensors: &[Tensor], max_norm: f64) -> Result<Tensor> {
    let list = ffi::handles(tensors);
    // SAFETY: as in `global_norm`.
    unsafe {
        ffi::returning("clip_global_norm_", |out| {
            ffi::btx_clip_global_norm(list.as_ptr(), list.len(), max_norm, out)
        })
    }
}

/// `to[i] = from[i]`, converted to the kind of `to[i]`; shapes must agree or broadcast.
///
/// # Errors
///
/// Lists of different length, undefined tensors, or shapes that do not broadcast.
pub fn copy_(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    // SAFETY: `pairwise` passes two lists of the given length.
    pairwise("copy_", to, from, |to, from, length| unsafe { ffi::btx_foreach_copy(to, from, length, false) })
}

/// The same, but between page-locked host memory and a GPU the host does not wait: what comes after it on the GPU's stream
/// sees the copy, and the host may read it only once it has synchronised. Elsewhere there is no difference.
///
/// # Errors
///
/// As [`copy_`].
pub fn copy_ahead_(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    // SAFETY: as above.
    pairwise("copy_ahead_", to, from, |to, from, length| unsafe {
        ffi::btx_foreach_copy(to, from, length, true)
    })
}

/// `to[i] += alpha × from[i]`.
///
/// # Errors
///
/// Lists of different length, undefined tensors, or shapes that do not broadcast.
pub fn add_(to: &[Tensor], from: &[Tensor], alpha: f64) -> Result<()> {
    // SAFETY: `pairwise` passes two lists of the given length.
    pairwise("add_", to, from, |to, from, length| unsafe { ffi::btx_foreach_add(to, from, length, alpha) })
}

/// `to[i] += weight × (from[i] − to[i])`: 0 keeps `to`, 1 takes `from`.
///
/// # Errors
///
/// Lists of different length, undefined tensors, or tensors that differ in shape or kind.
pub fn lerp_(to: &[Tensor], from: &[Tensor], weight: f64) -> Result<()> {
    // SAFETY: `pairwise` passes two lists of the given length.
    pairwise("lerp_", to, from, |to, from, length| unsafe { ffi::btx_foreach_lerp(to, from, length, weight) })
}

/// `tensors[i] *= factor`.
///
/// # Errors
///
/// An empty list or an undefined tensor.
pub fn mul_(tensors: &[Tensor], factor: f64) -> Result<()> {
    let list = ffi::handles(tensors);
    // SAFETY: `list` holds `list.len()` handles of tensors that are borrowed for the call.
    unsafe { ffi::check("mul_", ffi::btx_foreach_mul(list.as_ptr(), list.len(), factor)) }
}

/// `tensors[i] = 0`.
///
/// # Errors
///
/// An empty list or an undefined tensor.
pub fn zero_(tensors: &[Tensor]) -> Result<()> {
    let list = ffi::handles(tensors);
    // SAFETY: as in `mul_`.
    unsafe { ffi::check("zero_", ffi::btx_foreach_zero(list.as_ptr(), list.len())) }
}

/// Calls a shim function with the handles of two lists of the same length.
fn pairwise(
    operation: &'static str,
    to: &[Tensor],
    from: &[Tensor],
    call: impl FnOnce(*const Handle, *const Handle, usize) -> Failure,
) -> Result<()> {
    ffi::same_length(operation, to.len(), &[("from", from)])?;
    let (to, from) = (ffi::handles(to), ffi::handles(from));
    let failure = call(to.as_ptr(), from.as_ptr(), to.len());
    // SAFETY: both callers and their shim functions return the shim's own text.
    unsafe { ffi::check(operation, failure) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind};

    use super::*;
    use crate::Error;

    fn random(shapes: &[&[i64]], kind: Kind) -> Vec<Tensor> {
        shapes.iter().map(|shape| Tensor::randn(*shape, (Kind::Float, Device::Cpu)).to_kind(kind)).collect()
    }

    fn reference_norm(tensors: &[Tensor]) -> f64 {
        let squares =
            tensors.iter().map(|t| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]));
        squares.sum::<f64>().sqrt()
    }

    fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    #[test]
    fn norm_is_that_of_one_long_vector() {
        let tensors = random(&[&[64, 48], &[3], &[], &[17, 2, 5]], Kind::Float);
        let norm = global_norm(&tensors).unwrap();
        assert_eq!(norm.kind(), Kind::Float);
        assert_eq!(norm.size(), Vec::<i64>::new());
        assert!((norm.double_value(&[]) / reference_norm(&tensors) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn norm_of_half_precision_is_summed_in_single() {
        // In bf16 the sum of 2^18 ones stops at 256; in fp16 the square of 300 is infinite.
        let ones = Tensor::ones([1 << 18], (Kind::BFloat16, Device::Cpu));
        assert_eq!(global_norm(&[ones]).unwrap().double_value(&[]), 512.0);
        let large = Tensor::full([4], 300.0, (Kind::Half, Device::Cpu));
        assert_eq!(global_norm(&[large]).unwrap().double_value(&[]), 600.0);
    }

    #[test]
    fn clipping_scales_down_and_never_up() {
        let tensors = random(&[&[40, 40], &[9]], Kind::Float);
        let before: Vec<Tensor> = tensors.iter().map(Tensor::copy).collect();
        let expected = reference_norm(&tensors);

        let norm = clip_global_norm_(&tensors, 1e9).unwrap();
        assert!((norm.double_value(&[]) / expected - 1.0).abs() < 1e-6);
        for (now, was) in tensors.iter().zip(&before) {
            assert_eq!(now, was, "a norm below the limit must leave the gradients as they are, bit for bit");
        }

        let norm = clip_global_norm_(&tensors, 0.5).unwrap();
        assert!(
            (norm.double_value(&[]) / expected - 1.0).abs() < 1e-6,
            "the norm before clipping is returned"
        );
        for (now, was) in tensors.iter().zip(&before) {
            assert!(max_difference(now, &(was * (0.5 / (expected + 1e-6)))) < 1e-6);
        }
        assert!((reference_norm(&tensors) - 0.5).abs() < 1e-5);
    }

    #[test]
    fn a_norm_that_is_not_finite_is_reported_as_such() {
        let tensors = [Tensor::from_slice(&[1.0f32, f32::NAN]), Tensor::from_slice(&[2.0f32])];
        assert!(clip_global_norm_(&tensors, 1.0).unwrap().double_value(&[]).is_nan());
    }

    #[test]
    fn lists_are_changed_in_place_even_where_they_need_gradients() {
        let to = random(&[&[5, 3], &[2]], Kind::Float);
        let to: Vec<Tensor> = to.into_iter().map(|t| t.set_requires_grad(true)).collect();
        let from: Vec<Tensor> = to.iter().map(|t| Tensor::ones_like(&t.detach())).collect();
        let start: Vec<Tensor> = to.iter().map(|t| t.detach().copy()).collect();

        add_(&to, &from, -2.0).unwrap();
        assert!(max_difference(&to[0].detach(), &(&start[0] - 2.0)) < 1e-6);
        lerp_(&to, &from, 0.5).unwrap();
        assert!(max_difference(&to[1].detach(), &((&start[1] - 2.0 + 1.0) / 2.0)) < 1e-6);
        mul_(&to, 4.0).unwrap();
        assert!(max_difference(&to[1].detach(), &((&start[1] - 1.0) * 2.0)) < 1e-5);
        copy_(&to, &from).unwrap();
        assert_eq!(to[0].detach(), from[0]);
        zero_(&to).unwrap();
        assert_eq!(to[0].detach().abs().max().double_value(&[]), 0.0);
        assert!(to.iter().all(Tensor::is_leaf), "no operation may enter the autograd graph");
    }

    #[test]
    fn copying_converts_the_kind() {
        let from = random(&[&[33]], Kind::Float);
        let to = [Tensor::zeros([33], (Kind::BFloat16, Device::Cpu))];
        copy_(&to, &from).unwrap();
        assert_eq!(to[0], from[0].to_kind(Kind::BFloat16));
    }

    #[test]
    fn bad_lists_are_refused() {
        let one = [Tensor::from_slice(&[1.0f32])];
        assert!(matches!(add_(&one, &[], 1.0), Err(Error::Length { found: 0, expected: 1, .. })));
        assert!(matches!(global_norm(&[]), Err(Error::Torch { .. })));
        let undefined = [Tensor::new()];
        let error = zero_(&undefined).unwrap_err().to_string();
        assert_eq!(error, "zero_: tensors[0] is undefined");
        let wide = [Tensor::zeros([3], (Kind::Float, Device::Cpu))];
        assert!(add_(&one, &wide, 1.0).is_err());
    }
}
