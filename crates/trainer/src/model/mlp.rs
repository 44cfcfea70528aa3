//! SwiGLU (arXiv 2002.05202).

use tch::Tensor;

use crate::Result;

/// `down · (silu(gate · x) ⊙ up · x)` for `x` `[batch, length, hidden]`, with `gate` and `up`
/// `[intermediate, hidden]` and `down` `[hidden, intermediate]`.
///
/// One product for gate and up would do, but its halves' gradients would have to be copied together again.
pub(crate) fn mlp(x: &Tensor, gate: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let gate = x.f_linear(gate, None::<&Tensor>)?.f_silu()?;
    Ok(gate.f_mul(&x.f_linear(up, None::<&Tensor>)?)?.f_linear(down, None::<&Tensor>)?)
}
