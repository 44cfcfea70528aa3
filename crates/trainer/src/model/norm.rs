//! RMSNorm (arXiv 1910.07467).

use tch::{Kind, Tensor};

use crate::Result;

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension of `x` (`[.., hidden]`), with `weight` `[hidden]`.
///
/// As in `transformers`, the mean and the division are fp32 whatever the dtype of `x`, and the product with the
/// weight is in the dtype of `x`, which is also that of the result.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let kind = x.f_kind()?;
    let wide = x.f_to_kind(Kind::Float)?;
    let mean_square = wide.f_mul(&wide)?.f_mean_dim(Some([-1_i64].as_slice()), true, Kind::Float)?;
    let normal = wide.f_mul(&mean_square.f_add_scalar(eps)?.f_rsqrt()?)?;
    Ok(normal.f_to_kind(kind)?.f_mul(weight)?)
}
