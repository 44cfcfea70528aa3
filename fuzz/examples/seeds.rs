//! Writes the seeds anew, from the golden files and from records that count. Run it when a format has changed:
//! `RUSTFLAGS= cargo run --example seeds`.

use std::fs;
use std::path::{Path, PathBuf};

use brigade_codec::{Update, compress, merge};
use brigade_fuzz::input::{
    BINDING, DELTA_BINDING, DELTAS, RAW, REHASHED, SECTIONS, SETTLED, Setting, UPDATES, selector,
};
use brigade_fuzz::records::{self, OPEN, START_SEQUENCES, UPDATE_KEY};
use brigade_protocol::gauntlet::Gauntlet;
use brigade_protocol::{
    Compression, Digest, FORMAT_VERSION, FilePin, Manifest, ModelConfig, Official, Outer, PeerId, Receipt,
    Record, Scoring, Timestamp, Training, Validator, Windows,
};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden =
        |name: &str| fs::read(root.join("../crates/codec/tests/golden").join(name)).expect("a golden file");
    files(&root.join("seeds/update"), &UPDATES, golden("update.bin"), honest_update);
    files(&root.join("seeds/delta"), &DELTAS, golden("delta.bin"), honest_delta);
    texts(&root.join("seeds/receipt"), &receipt());
    texts(&root.join("seeds/manifest"), &manifest());
}

/// The golden file in every form, and for every setting the sections of an honest file.
fn files(folder: &Path, settings: &[Setting], golden: Vec<u8>, honest: fn(&Setting) -> Vec<u8>) {
    let write = |name: &str, selector: u8, bytes: &[u8]| {
        put(folder.join(name), [&[selector], bytes].concat());
    };
    write("golden", selector(RAW, 0, false), &golden);
    write("golden-rehashed", selector(REHASHED, 0, false), &golden);
    write("golden-sections", selector(SECTIONS, 0, true), &sections(&settings[0], &golden));
    for (i, setting) in settings.iter().enumerate() {
        let sections = sections(setting, &honest(setting));
        write(&format!("settled-{i}"), selector(SETTLED, i, i == 1), &sections);
    }
}

/// A file's sections, each but the last behind its length.
fn sections(setting: &Setting, file: &[u8]) -> Vec<u8> {
    let ranges = setting.ranges(file).expect("an honest file has sections");
    let last = ranges.len() - 1;
    let section = |(i, range): (usize, std::ops::Range<usize>)| {
        let len = if i < last { (range.len() as u16).to_le_bytes().to_vec() } else { Vec::new() };
        [&len, &file[range]].concat()
    };
    ranges.into_iter().enumerate().flat_map(section).collect()
}

/// Values with long tails, from integers alone. The large ones keep together, so that some distances are far; most tiles
/// of the largest tensor are zero.
fn values(setting: &Setting, seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state as i32 >> 8) as f32 / 8_388_608.0;
        let size = if (i / 23).is_multiple_of(31) { 1.0 } else { 1e-3 };
        if i < 10_000 { size * x * x * x / 256.0 } else { 0.0 }
    };
    let tensors = setting.layout.tensors().iter();
    tensors.map(|tensor| (0..tensor.len()).map(&mut next).collect()).collect()
}

fn honest_update(setting: &Setting) -> Vec<u8> {
    let values = values(setting, 1);
    let values: Vec<_> = values.iter().map(Vec::as_slice).collect();
    compress(&setting.layout, &BINDING, &setting.config(), &values, &mut setting.layout.zeros())
        .expect("honest values")
}

fn honest_delta(setting: &Setting) -> Vec<u8> {
    let update =
        Update::parse(honest_update(setting), &setting.layout, &setting.config(), &BINDING).expect("honest");
    let mut e = setting.layout.zeros();
    merge(&setting.layout, &DELTA_BINDING, &setting.delta_config(), &[(&update, 1.0)], &mut e)
        .expect("honest")
}

/// A record as it is, and signed.
fn texts<R: Record>(folder: &Path, record: &R) {
    let payload = serde_json::to_vec(record).expect("a record is JSON");
    put(folder.join("envelope.json"), records::envelope(R::TYPE, &payload));
    put(folder.join("payload.json"), payload);
}

fn put(path: PathBuf, bytes: Vec<u8>) {
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder for the seeds");
    fs::write(path, bytes).expect("a seed");
}

fn receipt() -> Receipt {
    Receipt {
        run: OPEN.record.run,
        window: OPEN.record.window,
        open: OPEN.digest,
        start_state_root: OPEN.record.state_root,
        update: FilePin {
            key: UPDATE_KEY.into(),
            size: 657,
            sha256: Digest([6; 32]),
            frame: Digest([9; 32]),
        },
        inner_steps: 30,
        tokens: 11_796_480,
        train_loss: 3.25,
        start_losses: vec![3.5; START_SEQUENCES],
        samples: Digest([7; 32]),
        compute_seconds: 1180.5,
    }
}

fn manifest() -> Manifest {
    let id = *records::SIGNER;
    let validator = |n, stake| Validator { id: PeerId([n; 32]), seal_to: "age1v".into(), stake };
    Manifest {
        version: FORMAT_VERSION,
        name: "seed".into(),
        created_at: Timestamp(1),
        aggregator: Official { id, seal_to: "age1a".into() },
        validators: vec![validator(2, 1), validator(3, 300)],
        model: ModelConfig {
            vocab_size: 256,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: Some(16),
            max_position_embeddings: 64,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
        },
        dataset: Digest([7; 32]),
        training: Training { sequence_length: 64, decay_steps: 3000, ..Training::default() },
        compression: Compression::default(),
        outer: Outer::default(),
        windows: Windows { total: Some(100), ..Windows::default() },
        scoring: Scoring::default(),
        gauntlet: Gauntlet::default(),
        initial_state_root: Digest([8; 32]),
    }
}
