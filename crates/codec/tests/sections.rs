//! Files of several sections, on one thread and on four, against a dense reference.
#![allow(clippy::unwrap_used)]

mod common;

use brigade_codec::{CodeBits, Delta, DeltaConfig, Layout, Update, compress, gram, merge};
use common::{binding, config, delta_binding, layout, slices, values};

/// Small tensors around two matrices that are cut: 21 × 101 and 66 × 20 tiles, ragged at both edges.
fn model() -> Layout {
    let layout =
        layout(&[&[70], &[64 * 20 + 9, 64 * 100 + 3], &[65 * 64 + 5, 64 * 19 + 40], &[7], &[3, 5000]]);
    assert!(layout.num_sections() >= 5);
    for tensor in [1, 2] {
        assert!(layout.tensor_sections(tensor).len() >= 2, "the matrix is cut");
    }
    layout
}

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn bits(tensors: &[Vec<f32>]) -> Vec<u32> {
    tensors.iter().flatten().map(|value| value.to_bits()).collect()
}

/// An update and the error feedback that it leaves.
fn update(layout: &Layout, peer: u8) -> (Vec<u8>, Vec<Vec<f32>>) {
    let mut e = values(layout, 50, 0.5);
    let delta = values(layout, peer.into(), 0.5);
    let bytes =
        compress(layout, &binding(peer), &config(64, CodeBits::Two), &slices(&delta), &mut e).unwrap();
    (bytes, e)
}

#[test]
fn compressing_keeps_the_largest_of_every_tile_with_any_number_of_threads() {
    let layout = model();
    let (bytes, e) = on(1, || update(&layout, 1));
    let (again, e_again) = on(4, || update(&layout, 1));
    assert!(bytes == again && bits(&e) == bits(&e_again));

    let update = Update::parse(bytes, &layout, &config(64, CodeBits::Two), &binding(1)).unwrap();
    let decoded = update.decode().unwrap();
    let (before, delta) = (values(&layout, 50, 0.5), values(&layout, 1, 0.5));
    for (t, tensor) in layout.tensors().iter().enumerate() {
        let folded: Vec<f32> = before[t].iter().zip(&delta[t]).map(|(e, delta)| 0.95 * e + delta).collect();
        for i in 0..tensor.len() {
            let left = if decoded[t][i] == 0.0 { folded[i] } else { folded[i] - decoded[t][i] };
            assert_eq!(left.to_bits(), e[t][i].to_bits(), "{} {i}", tensor.name());
        }
        let [rows, columns] = tensor.shape() else { continue };
        for (top, left) in (0..*rows).step_by(64).flat_map(|r| (0..*columns).step_by(64).map(move |c| (r, c)))
        {
            let (bottom, right) = ((top + 64).min(*rows), (left + 64).min(*columns));
            let mut tile: Vec<(f32, bool)> = (top..bottom)
                .flat_map(|r| (left..right).map(move |c| r * columns + c))
                .map(|i| (folded[i].abs(), decoded[t][i] != 0.0))
                .collect();
            let k = (64 * tile.len()).div_ceil(4096);
            tile.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert!(
                tile.iter().enumerate().all(|(rank, (_, kept))| *kept == (rank < k)),
                "tile {top} {left}"
            );
        }
    }
}

#[test]
fn merging_is_the_dense_mean_with_any_number_of_threads() {
    let layout = model();
    let open = |peer| {
        let bytes = on(2, || update(&layout, peer).0);
        Update::parse(bytes, &layout, &config(64, CodeBits::Two), &binding(peer)).unwrap()
    };
    let updates: Vec<Update> = (1..4).map(open).collect();
    let all: Vec<&Update> = updates.iter().collect();
    let dense: Vec<_> = updates.iter().map(|update| update.decode().unwrap()).collect();
    let products = on(1, || gram(&all).unwrap());
    assert_eq!(products, on(4, || gram(&all).unwrap()));
    for a in 0..3 {
        for b in 0..3 {
            let pairs = dense[a].iter().flatten().zip(dense[b].iter().flatten());
            let expected: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((products[3 * a + b] - expected).abs() < 1e-11 * updates[a].norm() * updates[b].norm());
        }
    }

    let inputs: Vec<_> = updates.iter().map(|update| (update, 1.0 / 3.0)).collect();
    for config in [DeltaConfig::default(), DeltaConfig { bits: CodeBits::Two, top_k: Some(100) }] {
        let run = || {
            let mut e = layout.zeros();
            (merge(&layout, &delta_binding(), &config, &inputs, &mut e).unwrap(), e)
        };
        let (bytes, e) = on(1, run);
        let (again, e_again) = on(4, run);
        assert!(bytes == again && bits(&e) == bits(&e_again));
        let mut theta = values(&layout, 9, 0.0);
        let before = theta.clone();
        Delta::parse(bytes, &layout, &config, &delta_binding()).unwrap().apply(&mut theta).unwrap();
        for t in 0..theta.len() {
            for i in 0..theta[t].len() {
                let mean = dense.iter().fold(0.0_f32, |sum, update| sum + 1.0 / 3.0 * update[t][i]);
                let moved = before[t][i] - theta[t][i];
                assert!(
                    (moved + e[t][i] - mean).abs()
                        <= 1e-6 * (before[t][i].abs() + e[t][i].abs() + mean.abs()),
                    "{t} {i}"
                );
            }
        }
    }
}

#[test]
fn the_first_bad_section_is_named_whatever_thread_finds_it() {
    use sha2::{Digest as _, Sha256};
    let layout = model();
    let (mut bytes, _) = update(&layout, 1);
    let sections = layout.num_sections();
    let (entries, frame) = (161, 193 + 36 * sections);
    let mut at = frame;
    for section in 0..sections {
        let entry = entries + 36 * section;
        let len = u32::from_le_bytes(bytes[entry..entry + 4].try_into().unwrap()) as usize;
        if section > 0 {
            // The step: out of range.
            bytes[at..at + 2].copy_from_slice(&[0, 0]);
        }
        let digest: [u8; 32] = Sha256::digest(&bytes[at..at + len]).into();
        bytes[entry + 4..entry + 36].copy_from_slice(&digest);
        at += len;
    }
    let digest: [u8; 32] = Sha256::digest(&bytes[..frame - 32]).into();
    bytes[frame - 32..frame].copy_from_slice(&digest);
    for _ in 0..20 {
        let error = on(4, || Update::parse(bytes.clone(), &layout, &config(64, CodeBits::Two), &binding(1)));
        assert_eq!(error.unwrap_err().to_string(), "section 1: the step is out of range");
    }
}
