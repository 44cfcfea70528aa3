//! The file behind `brigade run create`: the terms that an operator sets.

use std::path::{Path, PathBuf};

use brigade_protocol::gauntlet::Gauntlet;
use brigade_protocol::{Compression, ModelConfig, Outer, PeerId, Scoring, Training, Windows};
use serde::Deserialize;
use serde::de::Error as _;

use super::{BucketSection, ConfigError};

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
    /// The model that window 0 starts from. Its `vocab_size` must be at least the tokenizer's.
    pub model: ModelSection,
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
    /// How they are judged.
    #[serde(default)]
    pub gauntlet: Gauntlet,
}

impl RunSettings {
    /// Reads the file. Sequences are as long as the model's context where that is shorter than usual and nothing else is said.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line and the setting.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut settings: Self = super::read(path)?;
        let given: toml::Table = super::read(path)?;
        let is_given = given.get("training").and_then(|training| training.get("sequence_length")).is_some();
        if let (false, ModelSection::Shape(model)) = (is_given, &settings.model) {
            let longest = u32::try_from(model.max_position_embeddings).unwrap_or(u32::MAX);
            settings.training.sequence_length = settings.training.sequence_length.min(longest);
        }
        Ok(settings)
    }
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

/// What window 0 starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSection {
    /// A shape, by its fields, or by a `preset` and what differs from it. The weights are drawn.
    Shape(ModelConfig),
    /// `from`: shape and weights of a Hugging Face folder, beside the settings file unless the path is absolute.
    From(PathBuf),
}

impl<'de> Deserialize<'de> for ModelSection {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut given = serde_json::Map::deserialize(deserializer)?;
        if let Some(from) = given.remove("from") {
            let folder = from.as_str().filter(|folder| !folder.is_empty());
            let folder = folder.ok_or_else(|| D::Error::custom(format!("from {from} is no folder")))?;
            if !given.is_empty() {
                let others: Vec<_> = given.keys().map(String::as_str).collect();
                let others = others.join(", ");
                return Err(D::Error::custom(format!(
                    "from = {from} says all of the model; leave out {others}, or from"
                )));
            }
            return Ok(Self::From(folder.into()));
        }
        let mut fields = serde_json::Map::new();
        if let Some(name) = given.remove("preset") {
            let preset = name.as_str().and_then(ModelConfig::preset).ok_or_else(|| {
                D::Error::custom(format!("preset {name} is none of {}", ModelConfig::PRESETS.join(", ")))
            })?;
            if let Ok(serde_json::Value::Object(preset)) = serde_json::to_value(preset) {
                fields = preset;
            }
        }
        fields.extend(given);
        serde_json::from_value(fields.into()).map(Self::Shape).map_err(D::Error::custom)
    }
}

fn one() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Terms {
        model: ModelSection,
    }

    fn read(model: &str) -> Result<ModelSection, toml::de::Error> {
        toml::from_str::<Terms>(&format!("[model]\n{model}")).map(|terms| terms.model)
    }

    #[test]
    fn a_preset_is_a_model_that_other_keys_change() {
        let found = read("preset = \"8b\"\nvocab_size = 50000\nmlp_bias = true").unwrap();
        let expected = ModelConfig::preset("8b").unwrap();
        let expected = ModelConfig { vocab_size: 50_000, mlp_bias: true, ..expected };
        assert_eq!(found, ModelSection::Shape(expected));
    }

    #[test]
    fn a_folder_is_a_whole_model() {
        assert_eq!(read("from = \"../llama\"").unwrap(), ModelSection::From("../llama".into()));
    }

    #[test]
    fn a_model_that_is_none_is_refused_by_what_is_wrong() {
        for (model, named) in [
            ("preset = \"70b\"", "covenant-72b"),
            ("preset = \"8b\"\nvocabsize = 1", "vocabsize"),
            ("vocab_size = 7", "hidden_size"),
            ("preset = \"8b\"\nvocab_size = -1", "-1"),
            ("from = \"llama\"\npreset = \"8b\"\nvocab_size = 7", "leave out preset, vocab_size"),
            ("from = 7", "from 7 is no folder"),
        ] {
            let error = read(model).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
