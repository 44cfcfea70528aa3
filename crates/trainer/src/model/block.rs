//! One transformer block: a function of its parameters and its input.

use tch::Tensor;

use super::{Shape, attention::attention, mlp::mlp, norm::rms_norm, rope::Rope};
use crate::Result;

/// Number of parameter tensors in a block.
pub(crate) const TENSORS: usize = 9;

/// The block's output for `x` `[batch, length, hidden]`; `weights` is the block's flat unit in the dtype of `x`.
pub(crate) fn block(weights: &Tensor, x: &Tensor, rope: &Rope, shape: &Shape) -> Result<Tensor> {
    let Shape { hidden, intermediate, heads, kv_heads, head_dim, eps } = *shape;
    let (qkv_rows, q) = ((heads + 2 * kv_heads) * head_dim, heads * head_dim);
    let sizes =
        [hidden, qkv_rows * hidden, hidden * q, hidden, 2 * intermediate * hidden, hidden * intermediate];
    let parts = weights.f_split_with_sizes(sizes, 0)?;

    let normal = rms_norm(x, &parts[0], eps)?;
    let qkv = parts[1].f_view([qkv_rows, hidden])?;
    let x = x.f_add(&attention(&normal, &qkv, &parts[2].f_view([hidden, q])?, rope, shape)?)?;
    let normal = rms_norm(&x, &parts[3], eps)?;
    let gate_up = parts[4].f_view([2 * intermediate, hidden])?;
    Ok(x.f_add(&mlp(&normal, &gate_up, &parts[5].f_view([hidden, intermediate])?)?)?)
}
