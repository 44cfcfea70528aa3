//! Causal self-attention with grouped key/value heads (GQA, arXiv 2305.13245).

use tch::Tensor;

use super::{Shape, mlp::Projection, rope::Rope};
use crate::Result;

/// Attention of `x` (`[batch, length, hidden]`).
///
/// `qkv` is `[(heads + 2·kv_heads)·head_dim, hidden]`: the rows of the query, key and value projections; `output` is
/// `[hidden, heads·head_dim]`.
pub(crate) fn attention(
    x: &Tensor,
    qkv: &Projection<'_>,
    output: &Projection<'_>,
    rope: &Rope,
    shape: &Shape,
) -> Result<Tensor> {
    let Shape { heads, kv_heads, head_dim, .. } = *shape;
    let projected = qkv.of(x)?;
    // Queries and keys are neighbours, so one rotation serves both; a split's backward is one concatenation.
    let parts = projected.f_split_with_sizes([(heads + kv_heads) * head_dim, kv_heads * head_dim], -1)?;
    let turned = rope.rotate(&parts[0].f_unflatten(-1, [heads + kv_heads, head_dim])?)?;
    let turned = turned.f_split_with_sizes([heads, kv_heads], 2)?;
    let by_head = |t: &Tensor| t.f_transpose(1, 2);
    let mixed = Tensor::f_scaled_dot_product_attention(
        &by_head(&turned[0])?,
        &by_head(&turned[1])?,
        &by_head(&parts[1].f_unflatten(-1, [kv_heads, head_dim])?)?,
        None::<&Tensor>,
        0.0,
        true,
        None,
        heads != kv_heads,
    )?;
    output.of(&mixed.f_transpose(1, 2)?.f_flatten(2, 3)?)
}
