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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn it_is_libtorchs_with_its_gradients() {
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
    fn rows_need_not_lie_one_after_the_other() {
        let x = Tensor::randn([6, 8], (Kind::Float, Device::Cpu));
        let weight = Tensor::ones([6], (Kind::Float, Device::Cpu));
        let found = rms_norm(&x.tr(), &weight, 0.0).unwrap();
        assert!(found.allclose(&x.tr().contiguous().rms_norm([6], Some(&weight), 0.0), 1e-5, 1e-6, false));
        assert!(rms_norm(&x, &weight, 0.0).is_err());
        assert!(rms_norm(&x.to_kind(Kind::Double), &weight, 0.0).is_err());
    }
}
