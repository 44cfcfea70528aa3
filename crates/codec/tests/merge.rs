//! The aggregator's side: merge against a dense reference, the delta applied bit for bit, inner products.
#![allow(clippy::unwrap_used)]

mod common;

use brigade_codec::{
    CodeBits, Delta, DeltaBinding, DeltaConfig, Error, Layout, Update, gram, max_delta_bytes, merge,
};
use common::{BITS, config, delta_binding, layout, update, values};

fn some_updates(layout: &Layout, n: u8) -> Vec<Update> {
    (0..n).map(|peer| update(layout, &config(64, CodeBits::Two), peer)).collect()
}

fn model() -> Layout {
    layout(&[&[130, 200], &[300], &[9000], &[], &[64, 64]])
}

#[test]
fn merge_is_the_dense_sum_with_error_feedback() {
    let layout = model();
    let updates = some_updates(&layout, 5);
    let coefficients = [0.2_f32, 0.3, 0.0, -0.1, 1.5];
    let inputs: Vec<_> = updates.iter().zip(coefficients).collect();
    let before = values(&layout, 77, 0.0);
    for bits in BITS {
        let config = DeltaConfig { bits, top_k: None };
        let mut after = before.clone();
        let bytes = merge(&layout, &delta_binding(), &config, &inputs, &mut after).unwrap();
        assert!(bytes.len() as u64 <= max_delta_bytes(&layout, &config));
        let delta = Delta::parse(bytes, &layout, &config, &delta_binding()).unwrap();

        let dense: Vec<_> = updates.iter().map(|update| update.decode().unwrap()).collect();
        let mut touched = 0;
        for t in 0..before.len() {
            let mut decoded = vec![None; before[t].len()];
            delta.for_each(t, |index, value| assert!(decoded[index].replace(value).is_none())).unwrap();
            for i in 0..before[t].len() {
                let voices = || dense.iter().zip(coefficients).filter(|(u, c)| *c != 0.0 && u[t][i] != 0.0);
                let sum = voices().fold(0.0_f32, |sum, (u, c)| sum + c * u[t][i]);
                let union = voices().next().is_some();
                assert_eq!(decoded[i].is_some(), union, "support is the union");
                touched += u64::from(union);
                let expected = if union { before[t][i] + sum - decoded[i].unwrap() } else { before[t][i] };
                assert_eq!(after[t][i].to_bits(), expected.to_bits());
            }
        }
        assert_eq!(delta.kept(), touched);
    }
}

#[test]
fn merge_is_deterministic() {
    let layout = model();
    let updates = some_updates(&layout, 3);
    let inputs: Vec<_> = updates.iter().map(|u| (u, 1.0 / 3.0)).collect();
    let run = || {
        let mut e = values(&layout, 1, 0.0);
        (merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, &mut e).unwrap(), e)
    };
    assert_eq!(run(), run());
}

#[test]
fn error_feedback_brings_the_whole_sum_through_in_time() {
    let layout = layout(&[&[64, 64]]);
    let updates = some_updates(&layout, 2);
    let inputs: Vec<_> = updates.iter().map(|u| (u, 0.5)).collect();
    let mut e = layout.zeros();
    let mut theta = layout.zeros();
    let windows = 512;
    for _ in 0..windows {
        let bytes = merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, &mut e).unwrap();
        let delta = Delta::parse(bytes, &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
        delta.apply(&mut theta).unwrap();
    }
    let mut sum = layout.zeros();
    inputs.iter().for_each(|(update, c)| update.add_scaled_into(*c, &mut sum).unwrap());
    let largest = sum[0].iter().fold(0.0, |max: f32, v| max.max(v.abs()));
    for (theta, sum) in theta[0].iter().zip(&sum[0]) {
        // What error feedback still holds stays bounded, so its share of the total vanishes.
        assert!((theta / windows as f32 + sum).abs() < 0.1 * largest, "{theta} {sum}");
    }
}

#[test]
fn apply_is_one_subtraction() {
    let layout = model();
    let updates = some_updates(&layout, 3);
    let inputs: Vec<_> = updates.iter().map(|u| (u, 0.7)).collect();
    let bytes =
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, &mut layout.zeros()).unwrap();
    let delta = Delta::parse(bytes, &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    let before = values(&layout, 5, 0.0);
    let mut theta = before.clone();
    delta.apply(&mut theta).unwrap();
    let mut expected = before;
    for (tensor, theta) in expected.iter_mut().enumerate() {
        delta.for_each(tensor, |index, value| theta[index] -= value).unwrap();
    }
    let bits = |t: &[Vec<f32>]| t.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&theta), bits(&expected));
    assert!(matches!(delta.apply(&mut theta[..1]), Err(Error::Shape { .. })));
}

#[test]
fn nothing_to_merge_is_an_empty_delta() {
    let layout = model();
    let mut e = values(&layout, 3, 0.0);
    let before = e.clone();
    let bytes = merge(&layout, &delta_binding(), &DeltaConfig::default(), &[], &mut e).unwrap();
    let delta = Delta::parse(bytes, &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    assert_eq!((delta.kept(), delta.norm()), (0, 0.0));
    assert_eq!(e, before);
}

#[test]
fn cancelling_updates_keep_their_support() {
    let layout = layout(&[&[4096]]);
    let one = update(&layout, &config(64, CodeBits::Two), 1);
    let mut e = layout.zeros();
    let bytes =
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &[(&one, 1.0), (&one, -1.0)], &mut e);
    let delta = Delta::parse(bytes.unwrap(), &layout, &DeltaConfig::default(), &delta_binding()).unwrap();
    assert_eq!(delta.kept(), 0, "a chunk that sums to zero is not written");
    assert_eq!(e, layout.zeros());
}

/// With fewer coordinates, what is left out is sent later: the sum of the deltas follows the sum of the merges.
#[test]
fn a_sparser_delta_keeps_the_largest_and_owes_the_rest() {
    let layout = model();
    let updates = some_updates(&layout, 4);
    let inputs: Vec<_> = updates.iter().map(|u| (u, 0.25)).collect();
    let config = DeltaConfig { bits: CodeBits::Two, top_k: Some(64) };
    let mut e = layout.zeros();
    let mut owed = layout.zeros();
    inputs.iter().for_each(|(update, c)| update.add_scaled_into(*c, &mut owed).unwrap());
    let bytes = merge(&layout, &delta_binding(), &config, &inputs, &mut e).unwrap();
    assert!(bytes.len() as u64 <= max_delta_bytes(&layout, &config));
    let delta = Delta::parse(bytes.clone(), &layout, &config, &delta_binding()).unwrap();
    assert!(delta.kept() < updates[0].kept() + 1);
    for t in 0..owed.len() {
        let mut left = owed[t].clone();
        delta.for_each(t, |index, value| left[index] -= value).unwrap();
        assert_eq!(left, e[t]);
    }
    assert!(Delta::parse(bytes, &layout, &DeltaConfig::default(), &delta_binding()).is_err());
    let bad = DeltaConfig { bits: CodeBits::Two, top_k: Some(0) };
    assert!(matches!(merge(&layout, &delta_binding(), &bad, &inputs, &mut e), Err(Error::Config { .. })));
}

#[test]
fn merge_refuses_what_does_not_belong_and_changes_nothing() {
    let layout = model();
    let updates = some_updates(&layout, 1);
    let before = values(&layout, 3, 0.0);
    let mut e = before.clone();
    let mut refuse = |binding: DeltaBinding, coefficient: f32, layout: &Layout| {
        merge(layout, &binding, &DeltaConfig::default(), &[(&updates[0], coefficient)], &mut e).unwrap_err()
    };
    let good = delta_binding();
    for (field, binding) in [
        ("run", DeltaBinding { run: [9; 32], ..good }),
        ("window", DeltaBinding { window: 8, ..good }),
        ("start state root", DeltaBinding { start_state_root: [9; 32], ..good }),
    ] {
        let error = refuse(binding, 1.0, &layout);
        assert!(matches!(error, Error::Binding { field: f, .. } if f == field), "{error}");
    }
    for bad in [f32::NAN, f32::INFINITY, -1e20] {
        assert!(matches!(refuse(good, bad, &layout), Error::Value { what: "coefficient", .. }));
    }
    let same_lengths =
        Layout::new(layout.tensors().iter().map(|t| (format!("x{}", t.name()), t.shape().to_vec())));
    assert!(matches!(refuse(good, 1.0, &same_lengths.unwrap()), Error::Binding { field: "layout", .. }));
    assert_eq!(e, before);
    let mut kept = None;
    updates[0].for_each(1, |index, _| kept = Some(index)).unwrap();
    e[1][kept.unwrap()] = f32::NAN;
    let error = merge(&layout, &good, &DeltaConfig::default(), &[(&updates[0], 1.0)], &mut e).unwrap_err();
    assert!(matches!(error, Error::Value { tensor: 1, index, .. } if Some(index) == kept));
}

/// More updates than columns of a block, than a block of rows, and than a byte counts.
#[test]
fn gram_of_many_is_that_of_pairs() {
    let layout = common::layout(&[&[64, 64], &[100]]);
    let few = some_updates(&layout, 9);
    for count in [9, 30, 300] {
        let all: Vec<_> = few.iter().cycle().take(count).collect();
        let products = gram(&all).unwrap();
        for a in 0..count {
            for b in (0..count).filter(|b| a % 9 != b % 9) {
                let pair = gram(&[&few[a.max(b) % 9], &few[a.min(b) % 9]]).unwrap()[1];
                assert_eq!(products[a * count + b].to_bits(), pair.to_bits(), "{count}: {a}, {b}");
            }
        }
    }
}

#[test]
fn gram_is_the_dense_inner_products() {
    let layout = model();
    let updates = some_updates(&layout, 4);
    let all: Vec<_> = updates.iter().collect();
    let products = gram(&all).unwrap();
    let dense: Vec<_> = updates.iter().map(|update| update.decode().unwrap()).collect();
    for a in 0..4 {
        for b in 0..4 {
            let pairs = dense[a].iter().flatten().zip(dense[b].iter().flatten());
            let expected: f64 = pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            let size = updates[a].norm() * updates[b].norm();
            assert!((products[a * 4 + b] - expected).abs() < 1e-12 * size);
            assert_eq!(products[a * 4 + b], products[b * 4 + a]);
        }
        assert!((products[a * 5].sqrt() / updates[a].norm() - 1.0).abs() < 1e-12);
    }
    assert_eq!(gram(&[]).unwrap(), Vec::<f64>::new());
    let other = update(&common::layout(&[&[10]]), &config(64, CodeBits::Two), 1);
    assert!(matches!(gram(&[&updates[0], &other]), Err(Error::Binding { field: "layout", .. })));
}
