//! Files that must never change once there is a release: if one of these tests fails then, the format has changed, and its
//! version must too.
#![allow(clippy::unwrap_used)]

use brigade_codec::{
    Binding, CodeBits, CodecConfig, Delta, DeltaBinding, DeltaConfig, Layout, Update, compress, merge,
};
use sha2::{Digest as _, Sha256};

const UPDATE: &[u8] = include_bytes!("golden/update.bin");
const DELTA: &[u8] = include_bytes!("golden/delta.bin");
const FORMAT: &str = include_str!("../../../docs/update-format.md");

fn layout() -> Layout {
    let tensors = [("matrix", vec![130, 70]), ("vector", vec![5000]), ("scalar", vec![])];
    Layout::new(tensors.map(|(name, shape)| (name.to_owned(), shape))).unwrap()
}

const DELTA_CONFIG: DeltaConfig = DeltaConfig { bits: CodeBits::Two, top_k: None };
const CONFIG: CodecConfig = CodecConfig { top_k: 64, bits: CodeBits::Two, error_feedback_decay: 0.95 };

fn binding(peer: u8) -> Binding {
    Binding { run: [1; 32], window: 258, peer: [peer; 32], start_state_root: [3; 32] }
}

fn delta_binding() -> DeltaBinding {
    DeltaBinding { run: [1; 32], window: 258, start_state_root: [3; 32] }
}

/// Heavy-tailed values from integers alone, so that they are the same on every machine.
fn values(layout: &Layout, seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state as i32 >> 8) as f32 / 8_388_608.0;
        x * x * x / 256.0
    };
    layout.tensors().iter().map(|t| (0..t.len()).map(|_| next()).collect()).collect()
}

/// The second window's update, so that error feedback has a part in it.
fn update(peer: u8) -> Vec<u8> {
    let layout = layout();
    let mut e = layout.zeros();
    let mut bytes = Vec::new();
    for window in 0..2 {
        let delta = values(&layout, u32::from(peer) * 16 + window);
        let delta: Vec<_> = delta.iter().map(Vec::as_slice).collect();
        bytes = compress(&layout, &binding(peer), &CONFIG, &delta, &mut e).unwrap();
    }
    bytes
}

fn parse(peer: u8) -> Update {
    Update::parse(update(peer), &layout(), &CONFIG, &binding(peer)).unwrap()
}

fn delta() -> Vec<u8> {
    let (one, two) = (parse(1), parse(2));
    let mut e = values(&layout(), 99);
    merge(&layout(), &delta_binding(), &DELTA_CONFIG, &[(&one, 0.5), (&two, 0.25)], &mut e).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of the decoded values' bits, little-endian, tensor after tensor.
fn value_digest(tensors: &[Vec<f32>]) -> String {
    sha256(&tensors.iter().flatten().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

#[test]
fn the_update_is_the_golden_file() {
    let bytes = update(1);
    assert_eq!(sha256(&bytes), "76a97b224d0ac47106b16661a53af36d25a7184b030141011bb343f23fae9267");
    assert_eq!(bytes, UPDATE);
    let update = Update::parse(UPDATE, &layout(), &CONFIG, &binding(1)).unwrap();
    assert_eq!(
        value_digest(&update.decode().unwrap()),
        "2303000a5b8a393579fb9bf5f015c785cfd5682c10d934bbf1d86bc9d8056c30"
    );
}

#[test]
fn the_delta_is_the_golden_file() {
    let bytes = delta();
    assert_eq!(sha256(&bytes), "9b3b6807edfd0018033a177d2b3621a2995c0dbe5585431f03feda7542374699");
    assert_eq!(bytes, DELTA);
    let delta = Delta::parse(DELTA, &layout(), &DELTA_CONFIG, &delta_binding()).unwrap();
    let mut theta = values(&layout(), 5);
    delta.apply(&mut theta).unwrap();
    assert_eq!(value_digest(&theta), "6c49ff469b60c4e14fe7067ec7b7f7eda51d9c0801063fef0e78fdcf8589e7da");
}

/// The example of `docs/update-format.md`: every line of hexadecimal digits in its last code block, put together.
#[test]
fn the_worked_example_is_true() {
    let layout = Layout::new([("w".to_owned(), vec![8])]).unwrap();
    let config = CodecConfig { top_k: 1536, bits: CodeBits::Two, error_feedback_decay: 0.95 };
    let delta = [0.1_f32, -1.0, 0.2, 0.3, 2.0, -0.1, 1.0, 0.0];
    let mut e = layout.zeros();
    let bytes = compress(&layout, &binding(2), &config, &[&delta], &mut e).unwrap();
    let block = FORMAT.rsplit("```").nth(1).unwrap();
    let digits = block.lines().filter_map(|line| line.split('|').nth(1)).flat_map(str::split_whitespace);
    assert_eq!(digits.collect::<String>(), hex::encode(&bytes), "document and program differ");
    let update = Update::parse(bytes, &layout, &config, &binding(2)).unwrap();
    assert_eq!(update.decode().unwrap(), [[0.0, -1.0, 0.0, 0.0, 1.988_281_3, 0.0, 1.0, 0.0]]);
}
