//! What the demo trains, and with which settings.

use std::path::PathBuf;

use anyhow::Context as _;
use brigade_protocol::{Compression, ModelConfig, Outer, Scoring, Training, Windows};

use super::cast::Part;
use crate::data::corpus;
use crate::lab::attacks::Attack;

/// Tokens of the tokenizer that the demo trains.
pub(crate) const VOCABULARY: u32 = 2048;

/// Text that the demo reads, in bytes.
pub(crate) const CORPUS_BYTES: u64 = 48 << 20;

/// Absences that no demo comes to.
const MANY_WINDOWS: u32 = 1 << 20;

/// Share of the documents that is held out.
pub(crate) const HELDOUT: f64 = 0.02;

/// The Rust source that building this very program has brought to the machine.
///
/// # Errors
/// When there is none.
pub(crate) fn rust_source() -> anyhow::Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let folders =
        corpus::folders(&home.context("neither CARGO_HOME nor HOME is set; give text with --data PATH")?)?;
    Ok(corpus::pick(&folders, CORPUS_BYTES)?)
}

/// The shape that `name` stands for: `demo` (3.5 M parameters), `tiny` (for tests), or a JSON file with the fields
/// of [`ModelConfig`].
///
/// # Errors
/// When it is neither, or no model.
pub(crate) fn model(name: &str, vocab_size: u32) -> anyhow::Result<ModelConfig> {
    let demo = ModelConfig::preset("demo").context("the demo's model is a preset")?;
    let base = ModelConfig { vocab_size: vocab_size as usize, ..demo };
    let model = match name {
        "demo" => base,
        "tiny" => ModelConfig {
            hidden_size: 64,
            intermediate_size: 128,
            num_hidden_layers: 2,
            max_position_embeddings: 64,
            ..base
        },
        path => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--model {path} is neither `demo`, `tiny`, nor a file"))?;
            serde_json::from_str(&text).with_context(|| format!("--model {path}"))?
        }
    };
    model.validate()?;
    anyhow::ensure!(
        model.vocab_size >= vocab_size as usize,
        "--model {name}: vocab_size is {}, the tokenizer has {vocab_size} tokens",
        model.vocab_size
    );
    Ok(model)
}

/// The terms of the demo's run.
pub(crate) struct Terms {
    pub(crate) training: Training,
    pub(crate) compression: Compression,
    pub(crate) outer: Outer,
    pub(crate) windows: Windows,
    pub(crate) scoring: Scoring,
}

/// Settings found on two cores: see `docs/decisions/0005-demo-settings.md`.
pub(crate) fn terms(model: &str, miners: u32, windows: u64) -> Terms {
    let small = model == "tiny";
    let inner_steps = if small { 4 } else { 12 };
    Terms {
        training: Training {
            inner_steps,
            batch_size: if small { 4 } else { 8 },
            sequence_length: if small { 64 } else { 128 },
            shards_per_window: 4,
            learning_rate: 4e-3,
            min_learning_rate: 8e-4,
            warmup_steps: 2 * u64::from(inner_steps),
            decay_steps: windows * u64::from(inner_steps),
            ..Training::default()
        },
        compression: Compression::default(),
        outer: Outer { learning_rate: 3.0, ..Outer::default() },
        windows: Windows {
            total: Some(windows),
            train_seconds: 60,
            score_seconds: 60,
            start_peers: miners,
            evict_after: 1,
            checkpoint_every: 5,
            ..Windows::default()
        },
        scoring: Scoring { sequences: 8, heldout_sequences: 64, ..Scoring::default() },
    }
}

impl Terms {
    /// The same for a run in which some cheat.
    pub(crate) fn under_attack(mut self, model: &str, parts: &[Part]) -> Self {
        if parts.iter().any(|part| part.attack == Attack::Late) {
            // Every window for which somebody is late lasts to its deadline: less of them, and sooner.
            self.windows.train_seconds = if model == "tiny" { 15 } else { 30 };
        } else if !parts.is_empty() {
            // Nobody is absent, so nobody need be evicted: cheats are to be judged in every window.
            self.windows.evict_after = MANY_WINDOWS;
        }
        self
    }
}
