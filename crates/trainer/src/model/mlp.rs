//! Projections, and the feed-forward layer that is made of them: SwiGLU (arXiv 2002.05202).

use brigade_torch_ext::fused;
use tch::Tensor;

use crate::Result;

/// A linear layer.
pub(crate) struct Projection<'a> {
    /// `[out, in]`.
    pub(crate) weight: Tensor,
    /// `[out]`.
    pub(crate) bias: Option<&'a Tensor>,
}

impl Projection<'_> {
    /// `weight · x + bias` over the last dimension of `x`, in the dtype of the weight, which may be wider.
    pub(crate) fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.weight.f_kind()?)?.f_linear(&self.weight, self.bias)?)
    }
}

/// `down · (silu(gate · x) ⊙ up · x)` for `x` `[batch, length, hidden]`, with `gate` and `up`
/// `[intermediate, hidden]` and `down` `[hidden, intermediate]`.
///
/// One product for gate and up would do, but its halves' gradients would have to be copied together again.
pub(crate) fn mlp(
    x: &Tensor,
    gate: &Projection<'_>,
    up: &Projection<'_>,
    down: &Projection<'_>,
) -> Result<Tensor> {
    let kind = x.f_kind()?;
    // Once for both.
    let x = x.f_to_kind(gate.weight.f_kind()?)?;
    let (gate, up) = (gate.of(&x)?.f_to_kind(kind)?, up.of(&x)?.f_to_kind(kind)?);
    let middle =
        if gate.device().is_cuda() { gate.f_silu()?.f_mul(&up)? } else { fused::swiglu(&gate, &up)? };
    Ok(down.of(&middle)?.f_to_kind(kind)?)
}
