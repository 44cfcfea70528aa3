//! Files of the dataset.

use std::fmt;

use brigade_protocol::{DATASET_INDEX_FILE, ShardId, TOKENIZER_FILE};

/// A file of `data/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DataFile {
    /// `dataset.json`: the index.
    Index,
    /// `tokenizer.json`.
    Tokenizer,
    /// `train-{number}.bin` or `heldout-{number}.bin`: tokens.
    Shard(ShardId),
}

impl DataFile {
    pub(super) fn read(name: &str) -> Option<Self> {
        match name {
            DATASET_INDEX_FILE => return Some(Self::Index),
            TOKENIZER_FILE => return Some(Self::Tokenizer),
            _ => {}
        }
        let (split, number) = name.strip_suffix(".bin")?.split_once('-')?;
        let number = number.parse().ok()?;
        let shard = [ShardId::train(number), ShardId::heldout(number)]
            .into_iter()
            .find(|id| id.split.name() == split)?;
        Some(Self::Shard(shard))
    }
}

impl fmt::Display for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str(DATASET_INDEX_FILE),
            Self::Tokenizer => f.write_str(TOKENIZER_FILE),
            Self::Shard(id) => f.write_str(&id.file_name()),
        }
    }
}
