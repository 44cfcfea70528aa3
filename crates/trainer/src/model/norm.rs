//! RMSNorm (arXiv 1910.07467).

use tch::{Kind, Tensor};

use crate::Result;

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension of `x` (`[.., hidden]`), with `weight` `[hidden]`.
///
/// As in `transformers`, the mean and the division are fp32 whatever the dtype of `x`, and the product with the
/// weight (which may be of a wider dtype) is in the dtype of `x`, which is also that of the result.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cuda() {
        // One kernel there; on a CPU it is composed of the same operations as below, and no faster.
        return Ok(x.f_rms_norm(weight.size(), Some(weight), eps)?);
    }
    let kind = x.f_kind()?;
    let wide = x.f_to_kind(Kind::Float)?;
    let mean_square = wide.f_mul(&wide)?.f_mean_dim(Some([-1_i64].as_slice()), true, Kind::Float)?;
    let normal = wide.f_mul(&mean_square.f_add_scalar(eps)?.f_rsqrt()?)?;
    Ok(normal.f_to_kind(kind)?.f_mul(&weight.f_to_kind(kind)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
