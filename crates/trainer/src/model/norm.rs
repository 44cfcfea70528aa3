//! RMSNorm (arXiv 1910.07467).

use brigade_torch_ext::fused;
use tch::Tensor;

use crate::Result;

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension of `x` (`[.., hidden]`), with `weight` `[hidden]`.
///
/// As in `transformers`, the mean and the division are fp32 whatever the dtype of `x`, and the product with the
/// weight (which may be of a wider dtype) is in the dtype of `x`, which is also that of the result.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cuda() {
        // One kernel there; on a CPU libtorch composes it of a dozen.
        return Ok(x.f_rms_norm(weight.size(), Some(weight), eps)?);
    }
    Ok(fused::rms_norm(x, weight, eps)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::Kind;

    use super::*;

    #[test]
    fn it_is_the_norm_of_the_formula_and_of_libtorch() {
        let (x, weight) = (
            Tensor::from_slice(&[3.0_f32, -4.0, 0.0, 0.0]).view([2, 2]),
            Tensor::from_slice(&[2.0_f32, 1.0]),
        );
        let found = rms_norm(&x, &weight, 0.5).unwrap();
        // mean(x²) = 12.5 and 0, so the divisors are √13 and √0.5.
        let expected =
            Tensor::from_slice(&[6.0 / 13.0_f32.sqrt(), -4.0 / 13.0_f32.sqrt(), 0.0, 0.0]).view([2, 2]);
        assert!(found.allclose(&expected, 1e-6, 1e-6, false));
        assert!(found.allclose(&x.rms_norm([2], Some(&weight), 0.5), 1e-6, 1e-6, false));
        let half = rms_norm(&x.to_kind(Kind::BFloat16), &weight.to_kind(Kind::BFloat16), 0.5).unwrap();
        assert_eq!(half.kind(), Kind::BFloat16);
        assert!(half.to_kind(Kind::Float).allclose(&expected, 1e-2, 1e-2, false));
    }
}
