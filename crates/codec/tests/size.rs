//! Bytes and accuracy, on values like those of training: the bars of `docs/decisions/0001-update-format.md`.
#![allow(clippy::unwrap_used)]

mod common;

use brigade_codec::{CodeBits, Layout, Stats, Update, compress, max_update_bytes};
use common::{BITS, binding, config, layout, normal, slices, values};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

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
        update.for_each(tensor, |index, _| {
            error += f64::from(e[tensor][index]).powi(2);
            norm += f64::from(delta[tensor][index]).powi(2);
        });
    }
    Measured { stats: update.stats(), error: error / norm }
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
        let mut rng = ChaCha8Rng::seed_from_u64(5);
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

#[test]
fn sizes_and_errors_meet_the_bars() {
    let layout = layout(&[&[1 << 22]]);
    for sigma in [0.0, 0.3, 0.6, 1.0] {
        let delta = values(&layout, 11, sigma);
        for top_k in [32, 64, 128] {
            for bits in BITS {
                let m = measure(&layout, top_k, bits, &delta);
                show(&format!("lognormal {sigma}"), top_k, bits, &m);
                assert!(m.stats.index_bits <= 1.003 * m.stats.index_bound_bits);
                if bits == CodeBits::Two {
                    assert!(m.error <= 0.005, "{}", m.error);
                    let rest = m.stats.code_bits + m.stats.scale_bits;
                    assert!(rest <= 2.0 * m.stats.kept as f64);
                }
                if (top_k, bits) == (64, CodeBits::Two) {
                    assert!(m.stats.bits_per_kept() <= 9.5);
                }
            }
        }
    }
}

#[test]
fn values_from_error_feedback_are_smaller_still() {
    let layout = layout(&[&[1 << 20]]);
    for sigma in [0.0, 0.6] {
        let e = after_error_feedback(&layout, 64, sigma);
        for bits in BITS {
            let m = measure(&layout, 64, bits, &e);
            show(&format!("error feedback {sigma}"), 64, bits, &m);
            assert!(bits == CodeBits::One || m.error <= 0.004, "{}", m.error);
        }
    }
}
