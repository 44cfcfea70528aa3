//! The file behind `brigade run create`: the terms that an operator sets.

use std::path::PathBuf;

use brigade_protocol::{Compression, ModelConfig, Outer, PeerId, Scoring, Training, Windows};
use serde::Deserialize;

use super::BucketSection;

/// The terms of a run. What is left out has the values that trained Covenant-72B (arXiv 2603.08163).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// What people call the run.
    pub name: String,
    /// The aggregator's identity file; it signs the manifest.
    pub identity: PathBuf,
    /// 32 bytes in hexadecimal from which the first weights are drawn; random when absent.
    #[serde(default)]
    pub initial_seed: Option<String>,
    /// The run's bucket, with a key that may write. `data/` must be there already.
    pub bucket: BucketSection,
    /// Whose scores count.
    #[serde(default)]
    pub validators: Vec<ValidatorEntry>,
    /// The shape of the model. `vocab_size` must be the tokenizer's.
    pub model: ModelConfig,
    /// How a peer trains.
    #[serde(default)]
    pub training: Training,
    /// How a peer compresses.
    #[serde(default)]
    pub compression: Compression,
    /// How updates become a delta.
    #[serde(default)]
    pub outer: Outer,
    /// How windows pass.
    #[serde(default)]
    pub windows: Windows,
    /// How updates are scored.
    #[serde(default)]
    pub scoring: Scoring,
}

/// A validator, as `brigade identity show` prints it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorEntry {
    /// Its signing key.
    pub id: PeerId,
    /// Its age recipient.
    pub seal_to: String,
    /// Its weight in medians over validators.
    #[serde(default = "one")]
    pub stake: u64,
}

fn one() -> u64 {
    1
}
