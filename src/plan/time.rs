//! A step, a window, an exchange.

use serde::Serialize;

use super::{Setup, Units};
use crate::throughput;

/// Arithmetic of training on one token, in FLOP; see [`throughput::flops_per_token`].
pub fn flops_per_token(setup: &Setup) -> f64 {
    throughput::flops_per_token(&setup.model, setup.sequence_length as usize)
}

/// Seconds of an inner step over `batch_tokens` tokens of the peer, at `flops` FLOP/s a device and a share of `mfu` of it. What
/// is recomputed costs up to a third more.
pub fn step_seconds(setup: &Setup, batch_tokens: u64, flops: f64, mfu: f64) -> f64 {
    let layers = setup.model.num_hidden_layers as u64;
    let again = setup.recompute.blocks(layers) as f64 / layers.max(1) as f64;
    let work = batch_tokens as f64 * flops_per_token(setup) * (1.0 + again / 3.0);
    work / (setup.gpus.max(1) as f64 * flops * mfu)
}

/// What connects a peer, and how a run compresses.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bits a second to the bucket.
    pub up: f64,
    /// Bits a second from it.
    pub down: f64,
    /// Updates that make a delta.
    pub peers: u64,
    /// Values that an update keeps of every 4096.
    pub top_k: u64,
    /// Bits of an update's code, 1 to 4.
    pub bits: u8,
    /// Bits of a delta's code, 1 to 4.
    pub delta_bits: u8,
}

/// What goes over the link in a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exchange {
    /// Bytes of the peer's update.
    pub update_bytes: u64,
    /// Bytes of the delta.
    pub delta_bytes: u64,
    /// Seconds of the upload.
    pub up_seconds: f64,
    /// Seconds of the download.
    pub down_seconds: f64,
}

/// What a window's update and delta cost. Peers are taken to keep values independently of each other; as they agree in part, the
/// delta is rather smaller.
pub fn exchange(setup: &Setup, link: &Link) -> Exchange {
    let n = Units::of(&setup.model).total();
    let kept = link.top_k as f64 / 4096.0;
    let joint = 1.0 - (1.0 - kept).powf(link.peers as f64);
    let bytes = |density: f64, bits: u8| n * density * bits_per_value(density, bits) / 8.0;
    let (update, delta) = (bytes(kept, link.bits), bytes(joint, link.delta_bits));
    Exchange {
        update_bytes: update.round() as u64,
        delta_bytes: delta.round() as u64,
        up_seconds: 8.0 * update / link.up,
        down_seconds: 8.0 * delta / link.down,
    }
}

/// Bits of a kept value in a file: the entropy of which values are kept, and what the code, its scale and tables took
/// beside that in files at 64 of 4096 (8.6 bits with codes of one, 9.45 with codes of two).
fn bits_per_value(density: f64, bits: u8) -> f64 {
    let rest = 1.0 - density;
    let positions =
        if density <= 0.0 || rest <= 0.0 { 0.0 } else { -density.log2() - rest / density * rest.log2() };
    positions + [1.2, 2.05, 3.0, 4.0][usize::from(bits.clamp(1, 4)) - 1]
}
