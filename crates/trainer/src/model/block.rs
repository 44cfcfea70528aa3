//! One transformer block: a function of its parameters and its input.

use brigade_protocol::ModelConfig;
use tch::Tensor;

use super::{
    Shape,
    attention::{Past, attention},
    mlp::{Projection, mlp},
    norm::rms_norm,
    rope::Rope,
};
use crate::Result;

/// Number of parameter tensors in a block.
pub(crate) fn num_tensors(config: &ModelConfig) -> usize {
    9 + if config.attention_bias { 4 } else { 0 } + if config.mlp_bias { 3 } else { 0 }
}

/// The block's output for `x` `[batch, length, hidden]`; `weights` is the block's flat unit in the dtype of `x`, `past` what
/// its attention has seen before, if it is to remember.
pub(crate) fn block(
    weights: &Tensor,
    x: &Tensor,
    rope: &Rope,
    shape: &Shape,
    past: Option<&mut Past>,
) -> Result<Tensor> {
    let Shape { hidden, intermediate, heads, kv_heads, head_dim, eps, attention_bias, mlp_bias } = *shape;
    let (qkv_rows, q, inner) = ((heads + 2 * kv_heads) * head_dim, heads * head_dim, intermediate * hidden);
    let bias = |is_there: bool, rows: i64| if is_there { rows } else { 0 };
    // In the order of `ModelConfig::tensors`. One split, because its backward pass is one concatenation.
    let parts = weights.f_split_with_sizes(
        [
            hidden,
            qkv_rows * hidden,
            bias(attention_bias, qkv_rows),
            hidden * q,
            bias(attention_bias, hidden),
            hidden,
            inner,
            inner,
            bias(mlp_bias, intermediate),
            bias(mlp_bias, intermediate),
            inner,
            bias(mlp_bias, hidden),
        ],
        0,
    )?;
    let projection = |matrix: usize, columns: i64, bias: usize, is_there: bool| -> Result<Projection<'_>> {
        Ok(Projection {
            weight: parts[matrix].f_view([-1, columns])?,
            bias: is_there.then_some(&parts[bias]),
        })
    };

    let normal = rms_norm(x, &parts[0], eps)?;
    let (qkv, output) = (projection(1, hidden, 2, attention_bias)?, projection(3, q, 4, attention_bias)?);
    let x = x.f_add(&attention(&normal, &qkv, &output, rope, shape, past)?)?;
    let normal = rms_norm(&x, &parts[5], eps)?;
    let (gate, up) = (projection(6, hidden, 8, mlp_bias)?, projection(7, hidden, 9, mlp_bias)?);
    Ok(x.f_add(&mlp(&normal, &gate, &up, &projection(10, intermediate, 11, mlp_bias)?)?)?)
}
