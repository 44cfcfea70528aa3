//! Compress, parse, decode: what comes out is what error feedback says went in.
#![allow(clippy::unwrap_used)]

mod common;

use brigade_codec::{CodeBits, Error, Layout, Update, compress, max_update_bytes};
use common::{BITS, binding, config, layout, slices, values};
use proptest::prelude::*;

fn bits_of(tensors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    tensors.iter().map(|t| t.iter().map(|v| v.to_bits()).collect()).collect()
}

fn shapes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let shape = prop_oneof![
        Just(vec![]),
        (1..6000_usize).prop_map(|n| vec![n]),
        (1..150_usize, 1..150_usize).prop_map(|(r, c)| vec![r, c]),
        (1..5_usize, 1..40_usize, 1..40_usize).prop_map(|(a, b, c)| vec![a, b, c]),
    ];
    prop::collection::vec(shape, 1..5)
}

/// How many values each chunk should keep, summed: chunk by chunk as the layout cuts them.
fn expected_kept(layout: &Layout, top_k: u64) -> u64 {
    let share = |len: usize| (top_k * len as u64).div_ceil(4096);
    let of = |shape: &[usize], len: usize| match *shape {
        [rows, cols] => {
            let side = |n: usize| (0..n.div_ceil(64)).map(move |i| 64.min(n - 64 * i));
            side(rows).flat_map(|h| side(cols).map(move |w| share(h * w))).sum::<u64>()
        }
        _ => (0..len.div_ceil(4096)).map(|i| share(4096.min(len - 4096 * i))).sum(),
    };
    layout.tensors().iter().map(|t| of(t.shape(), t.len())).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn error_feedback_holds_what_was_not_sent(
        shapes in shapes(),
        top_k in prop_oneof![Just(1_u32), Just(64), Just(4096), 1..4096_u32],
        bits in prop::sample::select(&BITS[..]),
        seed in any::<u64>(),
        sigma in 0.0..2.0_f32,
    ) {
        let layout = Layout::new(shapes.into_iter().enumerate().map(|(i, s)| (format!("t{i}"), s))).unwrap();
        let config = config(top_k, bits);
        let delta = values(&layout, seed, sigma);
        let before = values(&layout, !seed, sigma);
        let mut after = before.clone();
        let bytes = compress(&layout, &binding(2), &config, &slices(&delta), &mut after).unwrap();
        prop_assert!(bytes.len() as u64 <= max_update_bytes(&layout, &config));

        let mut again = before.clone();
        let twin = compress(&layout, &binding(2), &config, &slices(&delta), &mut again).unwrap();
        prop_assert_eq!(&twin, &bytes);
        prop_assert_eq!(bits_of(&again), bits_of(&after));

        let update = Update::parse(bytes, &layout, &config, &binding(2)).unwrap();
        prop_assert_eq!(update.kept(), expected_kept(&layout, top_k.into()));
        let decoded = update.decode().unwrap();
        let (mut kept, mut squares) = (0, 0.0);
        for t in 0..delta.len() {
            for i in 0..delta[t].len() {
                let folded = 0.95 * before[t][i] + delta[t][i];
                prop_assert_eq!((folded - decoded[t][i]).to_bits(), after[t][i].to_bits());
                kept += u64::from(decoded[t][i] != 0.0);
                squares += f64::from(decoded[t][i]).powi(2);
            }
        }
        prop_assert_eq!(kept, update.kept());
        prop_assert!((update.norm() - squares.sqrt()).abs() <= 1e-12 * squares.sqrt());
    }
}

#[test]
fn for_each_and_add_scaled_agree_with_decode() {
    let layout = layout(&[&[100, 130], &[5000], &[64, 64]]);
    let update = common::update(&layout, &config(64, CodeBits::Two), 4);
    let decoded = update.decode().unwrap();
    for (tensor, dense) in decoded.iter().enumerate() {
        let mut seen = vec![0.0; dense.len()];
        update
            .for_each(tensor, |index, value| {
                assert_eq!(seen[index], 0.0, "an index comes once");
                seen[index] = value;
            })
            .unwrap();
        assert_eq!(&seen, dense);
    }
    let start = values(&layout, 9, 0.0);
    let mut out = start.clone();
    update.add_scaled_into(0.3, &mut out).unwrap();
    for ((out, start), dense) in out.iter().zip(&start).zip(&decoded) {
        for ((out, start), value) in out.iter().zip(start).zip(dense) {
            assert_eq!(out.to_bits(), (start + 0.3 * value).to_bits());
        }
    }
    assert!(matches!(update.add_scaled_into(1.0, &mut out[..2]), Err(Error::Shape { .. })));
}

#[test]
fn the_largest_values_are_kept_and_the_first_of_equals() {
    let layout = layout(&[&[4096]]);
    let mut delta = vec![0.5_f32; 4096];
    (delta[77], delta[4000]) = (-3.0, 3.0);
    let config = config(4, CodeBits::One);
    let bytes = compress(&layout, &binding(0), &config, &[&delta], &mut layout.zeros()).unwrap();
    let update = Update::parse(bytes, &layout, &config, &binding(0)).unwrap();
    let mut kept = Vec::new();
    update.for_each(0, |index, value| kept.push((index, value < 0.0))).unwrap();
    assert_eq!(kept, [(0, false), (1, false), (77, true), (4000, false)]);
}

#[test]
fn chunks_of_zeros_cost_almost_nothing_and_decode_to_zero() {
    let layout = layout(&[&[512, 512], &[64, 64]]);
    let mut delta = layout.zeros();
    delta[1] = values(&layout, 5, 0.0)[1].clone();
    let config = config(64, CodeBits::Two);
    let mut e = layout.zeros();
    let bytes = compress(&layout, &binding(0), &config, &slices(&delta), &mut e).unwrap();
    let update = Update::parse(bytes, &layout, &config, &binding(0)).unwrap();
    assert_eq!(update.kept(), 64);
    assert!(update.decode().unwrap()[0].iter().all(|v| v.to_bits() == 0));
    assert!(update.frame().file_len() < 560, "{}", update.frame().file_len());

    let nothing =
        compress(&layout, &binding(0), &config, &slices(&layout.zeros()), &mut layout.zeros()).unwrap();
    let nothing = Update::parse(nothing, &layout, &config, &binding(0)).unwrap();
    assert_eq!((nothing.kept(), nothing.norm()), (0, 0.0));
}

#[test]
fn extreme_values_are_kept_finite() {
    let layout = layout(&[&[3, 5000]]);
    let config = config(64, CodeBits::Four);
    for scale in [1e-44_f32, 1e-38, 1e-30, 1e-20, 1e9, 1e18] {
        let delta: Vec<f32> = (0..15000).map(|i| scale * ((i % 97) as f32 - 48.0) / 48.0).collect();
        let mut e = layout.zeros();
        let bytes = compress(&layout, &binding(0), &config, &[&delta], &mut e).unwrap();
        let update = Update::parse(bytes, &layout, &config, &binding(0)).unwrap();
        assert!(update.norm().is_finite());
        assert!(e[0].iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_bad_input_is_refused() {
    let layout = layout(&[&[100], &[64, 70]]);
    let good = values(&layout, 1, 0.0);
    let before = values(&layout, 2, 0.0);
    let config = config(64, CodeBits::Two);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut delta = good.clone();
        delta[1][4000] = bad;
        let mut e = before.clone();
        let error = compress(&layout, &binding(0), &config, &slices(&delta), &mut e).unwrap_err();
        assert!(matches!(error, Error::Value { tensor: 1, index: 4000, .. }), "{error}");

        let mut e = before.clone();
        e[0][3] = bad;
        let error = compress(&layout, &binding(0), &config, &slices(&good), &mut e).unwrap_err();
        assert!(matches!(error, Error::Value { tensor: 0, index: 3, .. }), "{error}");
    }
    let mut e = before.clone();
    let error = compress(&layout, &binding(0), &config, &slices(&good[..1]), &mut e).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }));
    for (top_k, beta) in [(0, 0.5), (4097, 0.5), (64, -0.1), (64, 1.1), (64, f32::NAN)] {
        let config = brigade_codec::CodecConfig { top_k, bits: CodeBits::Two, error_feedback_decay: beta };
        let error = compress(&layout, &binding(0), &config, &slices(&good), &mut e).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    assert_eq!(bits_of(&e), bits_of(&before), "wrong settings change nothing");
}
