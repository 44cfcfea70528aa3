//! SwiGLU (arXiv 2002.05202).

use tch::Tensor;

use crate::Result;

/// `down · (silu(gate · x) ⊙ up · x)` for `x` `[batch, length, hidden]`.
///
/// `gate_up` is `[2·intermediate, hidden]`, the rows of the gate and of the up projection; `down` is
/// `[hidden, intermediate]`.
pub(crate) fn mlp(x: &Tensor, gate_up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let both = x.f_linear(gate_up, None::<&Tensor>)?.f_chunk(2, -1)?;
    Ok(both[0].f_silu()?.f_mul(&both[1])?.f_linear(down, None::<&Tensor>)?)
}
