//! Bytes and accuracy, on values like those of training: the bars of `docs/decisions/0001-update-format.md`.
#![allow(clippy::unwrap_used)]

mod common;

use brigade_codec::{
    CodeBits, Delta, DeltaConfig, Layout, Stats, Update, compress, max_delta_bytes, max_update_bytes, merge,
};
use common::{BITS, binding, config, delta_binding, layout, normal, slices, values};

struct Measured {
    stats: Stats,
    /// Squared error over squared norm, on the kept values.
    error: f64,
}

fn measure(layout: &Layout, top_k: u32, bits: CodeBits, delta: &[Vec<f32>]) -> Measured {
    let config = config(top_k, bits);
    let mut e = layout.zeros();
    let bytes = compress(layout, &binding(0), &config, &slices(delta), &mut e).unwrap();
    assert!(bytes.len() as u64 <= max_update_bytes(layout, &config));
    let update = Update::parse(bytes, layout, &config, &binding(0)).unwrap();
    let (mut error, mut norm) = (0.0, 0.0);
    for tensor in 0..delta.len() {
        update
            .for_each(tensor, |index, _| {
                error += f64::from(e[tensor][index]).powi(2);
                norm += f64::from(delta[tensor][index]).powi(2);
            })
            .unwrap();
    }
    Measured { stats: update.stats().unwrap(), error: error / norm }
}

fn show(name: &str, top_k: u32, bits: CodeBits, m: &Measured) {
    let per = |bits: f64| bits / m.stats.kept as f64;
    let s = &m.stats;
    eprintln!(
        "{name:<22} k {top_k:3} {bits:?}: index {:.3} (bound {:.3}) code {:.3} scale {:.3} rest {:.3} = {:.3}; fp32/{:.1}; MSE {:.5}",
        per(s.index_bits),
        per(s.index_bound_bits),
        per(s.code_bits),
        per(s.scale_bits),
        per(s.framing_bits),
        s.bits_per_kept(),
        s.compression(),
        m.error,
    );
}

/// What 30 windows of error feedback leave: β = 0.95, so values bunch above the threshold.
fn after_error_feedback(layout: &Layout, top_k: u32, sigma: f32) -> Vec<Vec<f32>> {
    let config = config(top_k, CodeBits::Two);
    let mut e = layout.zeros();
    for window in 0..30 {
        let delta = values(layout, 100 + window, 0.0);
        // The same chunk scales in every window, as a layer's learning rate and shape would make them.
        let mut rng = common::Random(5);
        let scaled: Vec<Vec<f32>> = delta
            .iter()
            .map(|t| {
                let scale = |run: &[f32]| {
                    let scale = (sigma * normal(&mut rng)).exp();
                    run.iter().map(|v| v * scale).collect::<Vec<_>>()
                };
                t.chunks(4096).flat_map(scale).collect()
            })
            .collect();
        compress(layout, &binding(0), &config, &slices(&scaled), &mut e).unwrap();
    }
    e
}

/// Whether a quantiser of two magnitudes can be this good: at k = 128 the kept part of a normal is too wide.
fn error_bar(top_k: u32) -> f64 {
    if top_k > 64 { 0.006 } else { 0.005 }
}

#[test]
fn sizes_and_errors_meet_the_bars() {
    let layout = layout(&[&[1 << 22]]);
    for sigma in [0.0, 0.6, 1.0] {
        let delta = values(&layout, 11, sigma);
        for top_k in [32, 64, 128] {
            let m = measure(&layout, top_k, CodeBits::Two, &delta);
            show(&format!("lognormal {sigma}"), top_k, CodeBits::Two, &m);
            let (kept, s) = (m.stats.kept as f64, &m.stats);
            let bound = s.index_bound_bits + s.code_bits + s.scale_bits;
            assert!(8.0 * s.bytes as f64 <= 1.02 * bound, "{:.4} × the bound", 8.0 * s.bytes as f64 / bound);
            assert!(s.index_bits <= 1.01 * s.index_bound_bits);
            // At k = 32 with scales that jump from chunk to chunk a scale is a third of a bit a value.
            assert!(s.code_bits + s.scale_bits <= 2.25 * kept);
            assert!(m.error <= error_bar(top_k), "{}", m.error);
            assert!(top_k != 64 || s.bits_per_kept() <= 9.5);
            assert!(s.framing_bits <= 8.0 * 460.0);
        }
    }
}

#[test]
fn each_bit_of_code_divides_the_error_by_more_than_two() {
    let layout = layout(&[&[1 << 18]]);
    let delta = values(&layout, 12, 0.3);
    let mut last = f64::INFINITY;
    for bits in BITS {
        let m = measure(&layout, 64, bits, &delta);
        show("lognormal 0.3", 64, bits, &m);
        assert!(
            m.error < last / 2.0 && m.stats.code_bits <= 1.002 * f64::from(bits as u8) * m.stats.kept as f64
        );
        last = m.error;
    }
}

#[test]
fn values_from_error_feedback_bunch_and_quantise_well() {
    let layout = layout(&[&[1 << 18]]);
    for sigma in [0.0, 0.6] {
        let e = after_error_feedback(&layout, 64, sigma);
        for bits in BITS {
            let m = measure(&layout, 64, bits, &e);
            show(&format!("error feedback {sigma}"), 64, bits, &m);
            assert!(m.error <= if bits == CodeBits::One { 0.0015 } else { 0.0005 }, "{}", m.error);
        }
    }
}

#[test]
fn a_merged_delta_costs_little_more_than_its_entropy() {
    let layout = layout(&[&[1 << 18]]);
    let config = config(64, CodeBits::Two);
    for peers in [1, 8, 20] {
        let updates: Vec<_> = (0..peers).map(|peer| common::update(&layout, &config, peer)).collect();
        let inputs: Vec<_> = updates.iter().map(|update| (update, 1.0 / f32::from(peers))).collect();
        let mut e = layout.zeros();
        for bits in BITS {
            let bytes = merge(&layout, &delta_binding(), &DeltaConfig { bits, top_k: None }, &inputs, &mut e)
                .unwrap();
            assert!(bytes.len() as u64 <= max_delta_bytes(&layout, &DeltaConfig { bits, top_k: None }));
            let delta =
                Delta::parse(bytes, &layout, &DeltaConfig { bits, top_k: None }, &delta_binding()).unwrap();
            let stats = delta.stats().unwrap();
            show(&format!("merged from {peers}"), 64, bits, &Measured { stats, error: 0.0 });
            assert!(stats.index_bits <= 1.006 * stats.index_bound_bits + 13.0 * 64.0);
        }
    }
}
