//! A step, a window, an exchange.

use brigade_protocol::Manifest;
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
    /// Values that a delta keeps of every 4096; 0: all that an update has kept.
    pub delta_top_k: u64,
}

impl Link {
    /// A link of one bit a second each way, in a run by `manifest` with so many `peers`.
    pub fn of(manifest: &Manifest, peers: u64) -> Self {
        let bits = |bits: u32| u8::try_from(bits).unwrap_or(4);
        Self {
            up: 1.0,
            down: 1.0,
            peers,
            top_k: manifest.compression.top_k.into(),
            bits: bits(manifest.compression.bits),
            delta_bits: bits(manifest.outer.delta_bits),
            delta_top_k: manifest.outer.delta_top_k.into(),
        }
    }
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
    let (update, delta) = exchange_bytes(Units::of(&setup.model).total(), link);
    Exchange {
        update_bytes: update.round() as u64,
        delta_bytes: delta.round() as u64,
        up_seconds: 8.0 * update / link.up,
        down_seconds: 8.0 * delta / link.down,
    }
}

/// Bytes of an update and of the delta, for a model of so many `parameters`; see [`exchange`].
pub fn exchange_bytes(parameters: f64, link: &Link) -> (f64, f64) {
    let kept = link.top_k as f64 / 4096.0;
    let joint = 1.0 - (1.0 - kept).powf(link.peers as f64);
    let most = if link.delta_top_k > 0 { link.delta_top_k as f64 / 4096.0 } else { 1.0 };
    let bytes = |density: f64, bits: u8| parameters * density * bits_per_value(density, bits) / 8.0;
    (bytes(kept, link.bits), bytes(joint.min(most), link.delta_bits))
}

/// The largest object that stores take in one request, in bytes: 5 GiB on S3, 5 MiB less on R2.
pub const ONE_PUT_BYTES: f64 = ((5_u64 << 30) - (5 << 20)) as f64;

/// How far a delta may come out larger than is told.
const MARGIN: f64 = 1.05;

/// Of every 4096 values the most that a delta may keep so that it can be written, if that is fewer than `link` leads to.
pub fn largest_delta(parameters: f64, link: &Link) -> Option<u64> {
    let is_writable =
        |delta_top_k| MARGIN * exchange_bytes(parameters, &Link { delta_top_k, ..*link }).1 <= ONE_PUT_BYTES;
    if is_writable(link.delta_top_k) { None } else { (1..=4096).rev().find(|top_k| is_writable(*top_k)) }
}

/// Bits of a kept value in a file: the entropy of which values are kept, and what the code, its scale and tables took
/// beside that in files at 64 of 4096 (8.6 bits with codes of one, 9.45 with codes of two).
fn bits_per_value(density: f64, bits: u8) -> f64 {
    let rest = 1.0 - density;
    let positions =
        if density <= 0.0 || rest <= 0.0 { 0.0 } else { -density.log2() - rest / density * rest.log2() };
    positions + [1.2, 2.05, 3.0, 4.0][usize::from(bits.clamp(1, 4)) - 1]
}
