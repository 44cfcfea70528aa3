//! One transformer block: a function of its parameters and its input.

use tch::Tensor;

use super::{Shape, attention::attention, mlp::mlp, norm::rms_norm, rope::Rope};
use crate::Result;

/// Number of parameter tensors in a block.
pub(crate) const TENSORS: usize = 9;

/// The block's output for `x` `[batch, length, hidden]`; `weights` is the block's flat unit in the dtype of `x`.
pub(crate) fn block(weights: &Tensor, x: &Tensor, rope: &Rope, shape: &Shape) -> Result<Tensor> {
    let Shape { hidden, intermediate, heads, kv_heads, head_dim, eps } = *shape;
    let (qkv_rows, q, inner) = ((heads + 2 * kv_heads) * head_dim, heads * head_dim, intermediate * hidden);
    let parts = weights
        .f_split_with_sizes([hidden, qkv_rows * hidden, hidden * q, hidden, inner, inner, inner], 0)?;
    let matrix = |part: usize, columns: i64| parts[part].f_view([-1, columns]);

    let normal = rms_norm(x, &parts[0], eps)?;
    let x = x.f_add(&attention(&normal, &matrix(1, hidden)?, &matrix(2, q)?, rope, shape)?)?;
    let normal = rms_norm(&x, &parts[3], eps)?;
    Ok(x.f_add(&mlp(&normal, &matrix(4, hidden)?, &matrix(5, hidden)?, &matrix(6, intermediate)?)?)?)
}
