//! Text in, token shards out; token shards in, sequences out.
//!
//! [`prepare`] turns files of text into a dataset (see [`brigade_protocol::DatasetIndex`] for its shape) in a
//! [`Sink`]. [`ShardCache`] is the other end: it brings shards from an object store to a local folder, checks them
//! and hands out sequences. [`corpus`] finds text on a machine that has none of its own.

mod cache;
pub mod corpus;
mod disk;
mod error;
mod jsonl;
mod prepare;
mod progress;
mod selection;
mod shard;
mod sink;
mod source;
mod table;
mod text;
mod tokenizer;
mod words;
mod writer;

pub use cache::{Prefetch, ShardCache};
pub use error::DataError;
pub use prepare::{
    DEFAULT_HELDOUT_FRACTION, DEFAULT_SHARD_TOKENS, DEFAULT_TEXT_COLUMN, PrepareOptions, Prepared,
    TokenizerChoice, prepare,
};
pub use progress::Progress;
pub use shard::Shard;
pub use sink::{FolderSink, ObjectSink, Sink};
pub use tokenizer::{END_OF_DOCUMENT, Encoder, MIN_TRAINED_VOCAB};

#[cfg(test)]
mod tests;
