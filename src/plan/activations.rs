//! What a block leaves behind in its forward pass, and needs in its backward pass.

use super::{DeviceKind, Setup};

/// Widths that a block computes with, in elements a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widths {
    pub(super) hidden: f64,
    intermediate: f64,
    heads: f64,
    queries: f64,
    /// Of the keys, and of the values.
    keys: f64,
}

impl Widths {
    pub(super) fn of(setup: &Setup) -> Self {
        let model = &setup.model;
        let head = model.head_dim();
        Self {
            hidden: model.hidden_size as f64,
            intermediate: model.intermediate_size as f64,
            heads: model.num_attention_heads as f64,
            queries: (model.num_attention_heads * head) as f64,
            keys: (model.num_key_value_heads * head) as f64,
        }
    }

    fn rotated(&self) -> f64 {
        self.queries + self.keys
    }

    fn projected(&self) -> f64 {
        self.queries + 2.0 * self.keys
    }
}

/// Bytes a token of every tensor that a block's graph keeps, its input first.
///
/// As `trainer/src/model/block.rs` makes them. The L×L matrix of attention is never held: flash attention keeps its output
/// and one sum a head.
pub(super) fn kept(setup: &Setup) -> Vec<f64> {
    let (c, w) = (setup.element(), Widths::of(setup));
    if setup.is_widened {
        // The streams and what is between the products are in bf16; in fp32 there are the inputs of all projections, queries,
        // keys, values and the result of attention.
        let narrow = [c * w.hidden, c * w.hidden, c * w.intermediate, c * w.intermediate];
        let wide = [w.hidden, w.hidden, w.queries, w.intermediate, w.queries, w.keys, w.keys, w.queries];
        let wide = wide.map(|n| 4.0 * n);
        return narrow.into_iter().chain(wide).chain([4.0 * w.heads, 4.0, 4.0]).collect();
    }
    let (apart, hidden) = match setup.device {
        // The projection, where the values lie, and the turned queries and keys beside it.
        DeviceKind::Cuda => (vec![w.projected(), w.rotated()], w.intermediate),
        DeviceKind::Cpu => (vec![w.queries, w.keys, w.keys], 0.0),
    };
    let attention = apart.into_iter().chain([w.queries]).map(|n| c * n).chain([4.0 * w.heads]);
    // gate, up, their product, and on a GPU silu(gate)
    let feed_forward = [c * w.intermediate, c * w.intermediate, c * w.intermediate, c * hidden];
    let mut all = vec![c * w.hidden];
    for is_second in [false, true] {
        all.extend(norm(setup, w.hidden));
        // The second norm's input belongs to the residual stream between the halves.
        if is_second {
            all.push(c * w.hidden);
        }
    }
    all.extend(attention);
    all.extend(feed_forward);
    all
}

/// What an RMSNorm keeps beside its input, its result included, in bytes a token.
pub(super) fn norm(setup: &Setup, hidden: f64) -> Vec<f64> {
    // One kernel: the result, and a root a token.
    vec![setup.element() * hidden, 4.0]
}

/// Most bytes of the backward pass of a block beside what its graph keeps, gradients of its weights included.
///
/// Three moments compete: inside the feed-forward layer (the product is gone, the gradients of it, of up and of gate or silu(gate) are there),
/// inside attention (what the feed-forward layer kept is gone, gradients of its weights are there), and the end, where the
/// gradients of all parts are joined into one flat gradient, which then becomes fp32.
pub(super) fn backward(setup: &Setup, tokens: f64, block: f64) -> f64 {
    let (c, w, kept) = (setup.element(), Widths::of(setup), tokens * kept(setup).iter().sum::<f64>());
    let streams = 2.0 * tokens * w.hidden * c;
    let (f, matrix) = (tokens * w.intermediate * c, w.intermediate * w.hidden * c);
    let feed_forward = streams + 2.0 * f + matrix;
    let (turned, hidden) = match setup.device {
        DeviceKind::Cuda => (w.rotated(), w.intermediate),
        DeviceKind::Cpu => (0.0, 0.0),
    };
    let gradients = tokens * c * (w.queries + 2.0 * w.projected() + turned);
    let output = w.queries * w.hidden * c;
    let attention = streams - 3.0 * f - tokens * hidden * c + 3.0 * matrix + output + gradients;
    let joined = (2.0 * c).max(c + if c < 4.0 { 4.0 } else { 0.0 }) * block;
    // The input outlives the graph.
    let end = streams + joined - kept + tokens * w.hidden * c;
    feed_forward.max(attention).max(end)
}
