//! What peers agree on.

mod dataset;
mod digest;
mod error;
mod model;

pub use dataset::{
    DATASET_INDEX_FILE, DATASET_VERSION, DatasetIndex, MAX_INDEX_BYTES, MAX_SHARD_TOKENS, MAX_SHARDS, MAX_VOCAB_SIZE, ShardId,
    ShardInfo, Split, TOKENIZER_FILE, TokenizerInfo,
};
pub use digest::Digest;
pub use error::Error;
pub use model::{ModelConfig, TensorSpec};
