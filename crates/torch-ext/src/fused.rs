//! Kernels that libtorch has for a GPU and composes of many for the CPU.

use tch::Tensor;

use crate::{Result, ffi};

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension of `x` (RMSNorm, arXiv 1910.07467), on the CPU, with its
/// gradients of `x` and `weight`.
///
/// Computed in fp32; the result is in the dtype of `x`, and rounded to it before the product with the weight too. The order of
/// sums depends on the number of threads and on how wide the processor's vectors are: on one machine, with one number of
/// threads, the bits are always the same.
///
/// # Errors
///
/// A tensor that is not on the CPU or neither fp32 nor bf16; a weight that is not as long as a row.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    // SAFETY: both handles are of tensors that are borrowed for the call, and `out` goes to the shim.
    unsafe { ffi::returning("rms_norm", |out| ffi::btx_rms_norm(x.as_ptr(), weight.as_ptr(), eps, out)) }
}

/// `silu(gate) ⊙ up` (the middle of SwiGLU, arXiv 2002.05202), on the CPU, with its gradients.
///
/// Computed in fp32; the result is in the dtype of both, and rounded to it before the product too. For the way back it keeps
/// nothing but its operands.
///
/// # Errors
///
/// A tensor that is not on the CPU or neither fp32 nor bf16; two of different shape or dtype.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    // SAFETY: as in `rms_norm`.
    unsafe { ffi::returning("swiglu", |out| ffi::btx_swiglu(gate.as_ptr(), up.as_ptr(), out)) }
}

/// Queries, keys and values, each `[batch, length, heads, head_dim]`, from their common projection `[batch, length,
/// (queries + 2·keys)·head_dim]`, on the CPU, with its gradient. Queries and keys are turned by their positions (RoPE, arXiv
/// 2104.09864); `cosines` and `sines` are `[length, 1, head_dim]` and the sines of a head's first half negative.
///
/// All are of one dtype; computed in fp32. The tables get no gradient.
///
/// # Errors
///
/// A tensor that is not on the CPU or neither fp32 nor bf16; tables of another dtype or shape.
pub fn rotary(
    projected: &Tensor,
    cosines: &Tensor,
    sines: &Tensor,
    queries: i64,
    keys: i64,
) -> Result<[Tensor; 3]> {
    let mut out = [std::ptr::null_mut(); 3];
    let handles = (projected.as_ptr(), cosines.as_ptr(), sines.as_ptr());
    // SAFETY: the handles are of tensors that are borrowed for the call, and `out` has room for the three that the shim writes.
    let failure =
        unsafe { ffi::btx_rotary(handles.0, handles.1, handles.2, queries, keys, out.as_mut_ptr()) };
    // SAFETY: `failure` came from the shim just now.
    unsafe { ffi::check("rotary", failure)? };
    // SAFETY: on success the shim wrote three tensors made with `new`, which are ours; each `Tensor` deletes one.
    Ok(out.map(|tensor| unsafe { Tensor::from_ptr(tensor) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind};

    use super::*;

    /// Runs `test` on vectors of every width that this processor has.
    fn on_all_widths(test: impl Fn()) {
        for bits in [128, 256, 512] {
            // SAFETY: it stores a number, which any thread may see at any time: all widths compute the same.
            unsafe { ffi::btx_limit_vectors(bits) };
            test();
        }
    }

    #[test]
    fn rms_norm_is_libtorchs_with_its_gradients() {
        on_all_widths(compare_rms_norm);
    }

    fn compare_rms_norm() {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            for shape in [[3, 5, 70], [1, 2, 7], [2, 33, 256]] {
                let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
                let leaf = |t: &Tensor| t.to_kind(kind).detach().copy().set_requires_grad(true);
                let (x, weight, gradient) =
                    (random(&shape), random(&shape[2..]), random(&shape).to_kind(kind));
                let run = |norm: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                    let (x, weight) = (leaf(&x), leaf(&weight));
                    let out = norm(&x, &weight);
                    (&out * &gradient).sum(Kind::Float).backward();
                    [out.detach(), x.grad(), weight.grad()].map(|t| t.to_kind(Kind::Float))
                };
                let expected = run(&|x, weight| x.rms_norm(&shape[2..], Some(weight), 1e-5));
                let found = run(&|x, weight| rms_norm(x, weight, 1e-5).unwrap());
                for (a, b) in expected.iter().zip(&found) {
                    let far = ((a - b).norm() / a.norm()).double_value(&[]);
                    assert!(far < tolerance, "{kind:?} {shape:?}: {far}");
                }
            }
        }
    }

    #[test]
    fn swiglu_is_libtorchs_with_its_gradients() {
        on_all_widths(compare_swiglu);
    }

    fn compare_swiglu() {
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 4e-3)] {
            let random =
                |scale: f64| (Tensor::randn([7, 301], (Kind::Float, Device::Cpu)) * scale).to_kind(kind);
            for scale in [1.0, 30.0] {
                let (gate, up, gradient) = (random(scale), random(1.0), random(1.0));
                let run = |middle: &dyn Fn(&Tensor, &Tensor) -> Tensor, kind: Kind| {
                    let leaf = |t: &Tensor| t.to_kind(kind).detach().copy().set_requires_grad(true);
                    let (gate, up) = (leaf(&gate), leaf(&up));
                    let out = middle(&gate, &up);
                    (&out * &gradient.to_kind(kind)).sum(kind).backward();
                    [out.detach(), gate.grad(), up.grad()].map(|t| t.to_kind(Kind::Double))
                };
                let expected = run(&|gate, up| gate.silu() * up, Kind::Double);
                let found = run(&|gate, up| swiglu(gate, up).unwrap(), kind);
                for (a, b) in expected.iter().zip(&found) {
                    let far = ((a - b).norm() / a.norm()).double_value(&[]);
                    assert!(far < tolerance, "{kind:?} times {scale}: {far}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none_and_far_gates_are_shut() {
        let gate = Tensor::from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e37, -200.0, 200.0]);
        on_all_widths(|| {
            for kind in [Kind::Float, Kind::BFloat16] {
                let gate = gate.to_kind(kind);
                let found = swiglu(&gate, &gate.ones_like()).unwrap().to_kind(Kind::Float);
                let expected = gate.silu().to_kind(Kind::Float);
                assert!(found.allclose(&expected, 1e-6, 1e-30, true), "{kind:?}: {found:?}");
            }
        });
        assert!(swiglu(&gate, &gate.view([6, 1])).is_err());
        assert!(swiglu(&gate, &gate.to_kind(Kind::BFloat16)).is_err());
    }

    /// The same by split, roll and products.
    fn composed(
        projected: &Tensor,
        cosines: &Tensor,
        sines: &Tensor,
        queries: i64,
        keys: i64,
    ) -> [Tensor; 3] {
        let dim = cosines.size()[2];
        let heads = projected.unflatten(-1, [queries + 2 * keys, dim]);
        let parts = heads.split_with_sizes([queries, keys, keys], 2);
        let turn = |x: &Tensor| x * cosines + x.roll([dim / 2], [-1]) * sines;
        [turn(&parts[0]), turn(&parts[1]), parts[2].shallow_clone()]
    }

    #[test]
    fn rotary_is_the_composed_one_with_its_gradient() {
        on_all_widths(compare_rotary);
    }

    fn compare_rotary() {
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 8e-3)] {
            for (queries, keys, dim) in [(4, 2, 64), (3, 3, 6), (5, 1, 38)] {
                let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
                let (cosines, sines) = (random(&[9, 1, dim]), random(&[9, 1, dim / 2]));
                let sines = Tensor::cat(&[-&sines, sines], -1);
                let projected = random(&[2, 9, (queries + 2 * keys) * dim]);
                // As attention's backward pass hands them back: heads before positions.
                let gradients =
                    [queries, keys, keys].map(|heads| random(&[2, heads, 9, dim]).transpose(1, 2));
                let run = |f: &dyn Fn(&Tensor) -> [Tensor; 3], kind: Kind| {
                    let x = projected.to_kind(kind).detach().copy().set_requires_grad(true);
                    let out = f(&x);
                    let sums = out.iter().zip(&gradients).map(|(o, g)| (o * g.to_kind(kind)).sum(kind));
                    sums.reduce(|a, b| a + b).unwrap().backward();
                    let [q, k, v] = out.map(|t| t.detach().to_kind(Kind::Double));
                    [q, k, v, x.grad().to_kind(Kind::Double)]
                };
                let wide = [&cosines, &sines].map(|t| t.to_kind(Kind::Double));
                let expected = run(&|x| composed(x, &wide[0], &wide[1], queries, keys), Kind::Double);
                let found = run(&|x| rotary(x, &cosines, &sines, queries, keys).unwrap(), kind);
                for (a, b) in expected.iter().zip(&found) {
                    let far = ((a - b).norm() / a.norm()).double_value(&[]);
                    assert!(
                        a.size() == b.size() && far < tolerance,
                        "{kind:?} {queries} {keys} {dim}: {far}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_output_that_nobody_uses_has_no_gradient_and_one_for_all_is_spread() {
        let table = Tensor::ones([3, 1, 4], (Kind::Float, Device::Cpu));
        let projected = Tensor::zeros([1, 3, 4 * 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        // Of the tables' second part: they are a view.
        let longer = Tensor::ones([5, 1, 4], (Kind::Float, Device::Cpu)).narrow(0, 2, 3);
        let [_, keys, _] = rotary(&projected, &longer, &table.zeros_like(), 2, 1).unwrap();
        // The gradient of a sum is one number, expanded.
        keys.sum(Kind::Float).backward();
        let found =
            Vec::<f32>::try_from(projected.grad().sum_dim_intlist([0_i64, 1].as_slice(), false, None))
                .unwrap();
        let expected: Vec<f32> = (0..16).map(|i| if (8..12).contains(&i) { 3.0 } else { 0.0 }).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn tables_of_another_shape_are_refused() {
        let table = |length: i64, dim: i64| Tensor::ones([length, 1, dim], (Kind::Float, Device::Cpu));
        let projected = Tensor::ones([2, 3, 4 * 6], (Kind::Float, Device::Cpu));
        assert!(rotary(&projected, &table(3, 6), &table(3, 6), 2, 1).is_ok());
        assert!(rotary(&projected, &table(4, 6), &table(4, 6), 2, 1).is_err());
        assert!(rotary(&projected, &table(3, 8), &table(3, 8), 2, 1).is_err());
        assert!(rotary(&projected, &table(3, 6), &table(3, 6).to_kind(Kind::BFloat16), 2, 1).is_err());
        assert!(rotary(&projected, &table(3, 6), &table(3, 6), 0, 2).is_err());
    }

    #[test]
    fn rows_need_not_lie_one_after_the_other() {
        let x = Tensor::randn([6, 8], (Kind::Float, Device::Cpu));
        let weight = Tensor::ones([6], (Kind::Float, Device::Cpu));
        let found = rms_norm(&x.tr(), &weight, 0.0).unwrap();
        assert!(found.allclose(&x.tr().contiguous().rms_norm([6], Some(&weight), 0.0), 1e-5, 1e-6, false));
        assert!(rms_norm(&x, &weight, 0.0).is_err());
        assert!(rms_norm(&x.to_kind(Kind::Double), &weight, 0.0).is_err());
    }
}
