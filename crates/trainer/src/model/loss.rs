//! Cross-entropy over the vocabulary, a chunk of positions at a time.
//!
//! The logits of a batch (positions × vocabulary, in fp32) would be its largest tensor by far. Here a chunk's logits
//! are made, turned into its loss and its gradient, and dropped.

use tch::{Device, Kind, Tensor};

use crate::Result;

/// What the loss gives back to the model.
pub(crate) struct LossGradients {
    /// Sum of the cross-entropies of all positions, in nats; fp32 scalar.
    pub(crate) sum: Tensor,
    /// Gradient of the hidden states, `[positions, hidden]` in their dtype.
    pub(crate) hidden: Tensor,
    /// Gradient of the output projection, fp32 `[vocab, hidden]`.
    pub(crate) weight: Tensor,
}

/// Positions in a chunk: enough for an efficient matrix product, few enough that the fp32 logits stay in cache
/// on a CPU (4 MiB) and take 1 GiB at most on a GPU.
fn chunk_rows(weight: &Tensor) -> i64 {
    let (elements, least) = if weight.device() == Device::Cpu { (1 << 20, 64) } else { (1 << 28, 256) };
    (elements / weight.size()[0].max(1)).max(least)
}

/// The loss `scale · Σ cross-entropy` and its gradients.
///
/// `hidden` `[positions, hidden]`, `weight` `[vocab, hidden]` in the dtype of products, `targets` int64
/// `[positions]`, all detached: this is its own backward pass.
pub(crate) fn loss_gradients(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<LossGradients> {
    let (rows, kind) = (chunk_rows(weight), hidden.f_kind()?);
    let hidden = hidden.f_to_kind(weight.f_kind()?)?;
    let mut sum: Option<Tensor> = None;
    let mut weight_gradient: Option<Tensor> = None;
    let mut hidden_gradients = Vec::new();
    for (hidden, targets) in hidden.f_split(rows, 0)?.iter().zip(targets.f_split(rows, 0)?) {
        let mut log_p = log_probabilities(hidden, weight)?;
        let targets = targets.f_unsqueeze(1)?;
        let chunk_sum = log_p.f_gather(1, &targets, false)?.f_sum(Kind::Float)?.f_neg()?;
        sum = Some(add(sum, chunk_sum)?);

        // d(cross-entropy)/d(logits) = softmax - one-hot.
        let mut gradient = log_p.f_exp_()?;
        let minus_one =
            Tensor::f_full([1, 1], -1.0, (Kind::Float, hidden.device()))?.f_expand_as(&targets)?;
        let gradient = gradient.f_scatter_add_(1, &targets, &minus_one)?.f_to_kind(weight.f_kind()?)?;
        hidden_gradients.push(gradient.f_matmul(weight)?.f_mul_scalar_(scale)?.f_to_kind(kind)?);
        // Added as it is, which on a GPU takes no fp32 copy: that would be the largest tensor of a large model's step.
        weight_gradient = Some(add(weight_gradient, gradient.f_tr()?.f_matmul(hidden)?)?);
    }
    let nothing = || Tensor::f_zeros([0], (Kind::Float, hidden.device()));
    Ok(LossGradients {
        sum: sum.map_or_else(nothing, Ok)?,
        hidden: Tensor::f_cat(&hidden_gradients, 0)?,
        weight: weight_gradient.map_or_else(nothing, Ok)?.f_mul_scalar_(scale)?,
    })
}

/// Cross-entropy of every position in nats, fp32 `[positions]`; arguments as in [`loss_gradients`].
pub(crate) fn token_losses(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (rows, hidden) = (chunk_rows(weight), hidden.f_to_kind(weight.f_kind()?)?);
    let mut losses = Vec::new();
    for (hidden, targets) in hidden.f_split(rows, 0)?.iter().zip(targets.f_split(rows, 0)?) {
        let log_p = log_probabilities(hidden, weight)?;
        losses.push(log_p.f_gather(1, &targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?.f_neg()?);
    }
    Ok(Tensor::f_cat(&losses, 0)?)
}

/// fp32 `[positions, vocab]`.
fn log_probabilities(hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(hidden.f_linear(weight, None::<&Tensor>)?.f_log_softmax(-1, Kind::Float)?)
}

/// An fp32 sum.
fn add(sum: Option<Tensor>, term: Tensor) -> Result<Tensor> {
    match sum {
        Some(mut sum) => Ok(sum.f_add_(&term)?),
        None => Ok(term.f_to_kind(Kind::Float)?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn chunks_agree_with_autograd_on_the_whole() {
        tch::manual_seed(1);
        // 64 rows a chunk for so wide a vocabulary: three chunks, the last one ragged.
        let (positions, vocab, width) = (150, 20_000, 5);
        assert_eq!(chunk_rows(&Tensor::zeros([vocab, width], tch::kind::FLOAT_CPU)), 64);
        let hidden = Tensor::randn([positions, width], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let weight = Tensor::randn([vocab, width], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let targets = Tensor::randint(vocab, [positions], tch::kind::INT64_CPU);
        let whole = hidden.linear(&weight, None::<&Tensor>).cross_entropy_for_logits(&targets);
        whole.backward();

        let scale = 1.0 / positions as f64;
        let ours = loss_gradients(&hidden.detach(), &weight.detach(), &targets, scale).unwrap();
        let near = |a: &Tensor, b: &Tensor| a.allclose(b, 1e-4, 1e-7, false);
        assert!(near(&(&ours.sum * scale), &whole.detach()));
        assert!(near(&ours.hidden, &hidden.grad()));
        assert!(near(&ours.weight, &weight.grad()));
        let each = token_losses(&hidden.detach(), &weight.detach(), &targets).unwrap();
        assert_eq!(each.size(), [positions]);
        assert!(near(&each.mean(Kind::Float), &whole.detach()));
    }
}
