//! Files of a checkpoint: a Hugging Face folder, and what Brigade adds to it.

use std::fmt;

/// A file of `checkpoints/{w}/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CheckpointFile {
    /// `checkpoint.json`: the signed record that lists the others; written last.
    Record,
    /// `config.json`: the model's shape.
    Config,
    /// `generation_config.json`.
    GenerationConfig,
    /// `tokenizer.json`.
    Tokenizer,
    /// `tokenizer_config.json`.
    TokenizerConfig,
    /// `model.safetensors`: θ in one file.
    Model,
    /// `model.safetensors.index.json`: which part holds which tensor.
    ModelIndex,
    /// `model-{part}-of-{of}.safetensors`, with `1 ≤ part ≤ of`: a part of θ.
    Part {
        /// The part, from 1.
        part: u32,
        /// How many parts there are.
        of: u32,
    },
    /// `error_feedback.safetensors`: the aggregator's error feedback.
    ErrorFeedback,
}

impl CheckpointFile {
    /// The files with one name.
    pub const FIXED: [Self; 8] = [
        Self::Record,
        Self::Config,
        Self::GenerationConfig,
        Self::Tokenizer,
        Self::TokenizerConfig,
        Self::Model,
        Self::ModelIndex,
        Self::ErrorFeedback,
    ];

    /// The file called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::read(name).filter(|file| file.to_string() == name)
    }

    pub(super) fn read(name: &str) -> Option<Self> {
        if let Some(file) = Self::FIXED.into_iter().find(|file| file.fixed_name() == Some(name)) {
            return Some(file);
        }
        let (part, of) = name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
        let (part, of) = (part.parse().ok()?, of.parse().ok()?);
        (1 <= part && part <= of).then_some(Self::Part { part, of })
    }

    fn fixed_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Record => "checkpoint.json",
            Self::Config => "config.json",
            Self::GenerationConfig => "generation_config.json",
            Self::Tokenizer => "tokenizer.json",
            Self::TokenizerConfig => "tokenizer_config.json",
            Self::Model => "model.safetensors",
            Self::ModelIndex => "model.safetensors.index.json",
            Self::ErrorFeedback => "error_feedback.safetensors",
            Self::Part { .. } => return None,
        })
    }
}

impl fmt::Display for CheckpointFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.fixed_name()) {
            (Self::Part { part, of }, _) => write!(f, "model-{part:05}-of-{of:05}.safetensors"),
            (_, name) => f.write_str(name.unwrap_or_default()),
        }
    }
}
