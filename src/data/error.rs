//! Everything that can go wrong with text, tokens and shards.

use std::path::{Path, PathBuf};

use brigade_protocol::{Digest, ShardId};

/// Errors of this module. Every message is one line and names what to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// An input that is not there.
    #[error("{}: no such file or folder", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused a file or a folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Inputs without a single document.
    #[error(
        "no text found under {inputs}: give .txt, source, .jsonl, .jsonl.zst or .parquet files that hold text"
    )]
    NoText {
        /// The inputs, joined by commas.
        inputs: String,
    },
    /// A file that was named by itself and is not text.
    #[error("{}: not UTF-8 text, nor .jsonl, .jsonl.zst or .parquet", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A column or field that a file does not have.
    #[error("{place}: no column `{column}`; there are: {columns} (choose one with --text-column)")]
    UnknownColumn {
        /// The file, with the line for JSON.
        place: String,
        /// The column that was asked for.
        column: String,
        /// The columns that there are, joined by commas.
        columns: String,
    },
    /// A Parquet column that holds no strings.
    #[error("{}: column `{column}` is {kind}, not a plain string", path.display())]
    ColumnKind {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it holds.
        kind: String,
    },
    /// A Parquet file that cannot be read.
    #[error("{}: not a readable Parquet file: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A line that is not the JSON it should be.
    #[error("{}:{line}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer that cannot be read or used.
    #[error("tokenizer {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer could not be trained on this text.
    #[error("cannot train a tokenizer: {reason}")]
    Train {
        /// What the trainer said.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("cannot tokenise a document: {reason}")]
    Encode {
        /// What the tokenizer said.
        reason: String,
    },
    /// An option outside its range.
    #[error("{option} {reason}")]
    Setting {
        /// The option, as typed.
        option: &'static str,
        /// What is wrong with the value, and the range.
        reason: String,
    },
    /// Holding out would leave nothing to train on.
    #[error("all {documents} documents would be held out: give more text, or a smaller --heldout-fraction")]
    NothingToTrain {
        /// How many distinct documents there are.
        documents: u64,
    },
    /// The inputs were written to while they were read.
    #[error("the inputs changed while they were read: expected {expected}, found {found}; run again")]
    Changed {
        /// Documents and bytes of the first reading.
        expected: String,
        /// Documents and bytes of the second reading.
        found: String,
    },
    /// The output already holds another dataset.
    #[error(
        "{output} already holds another dataset ({file} differs): choose another output, or pass --replace"
    )]
    Occupied {
        /// The folder or URL.
        output: String,
        /// The first file that differs.
        file: String,
    },
    /// More shards than an index may list.
    #[error("the dataset needs more than {limit} shards: raise --shard-tokens")]
    TooManyShards {
        /// The most that an index lists.
        limit: usize,
    },
    /// The object store refused a transfer.
    #[error("{place}: {source}")]
    Store {
        /// The key, or the output and the key.
        place: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A shard that the index does not list.
    #[error("the dataset has no shard {shard}")]
    NoShard {
        /// The shard that was asked for.
        shard: ShardId,
    },
    /// A shard with another length than the index gives.
    #[error("{key}: {found} bytes, but the index says {expected}")]
    ShardLength {
        /// The shard's key.
        key: String,
        /// Length by the index.
        expected: u64,
        /// Length found; when the object is too long, as far as it was read.
        found: u64,
    },
    /// A shard with another hash than the index gives.
    #[error("{key}: SHA-256 is {found}, but the index says {expected}")]
    ShardDigest {
        /// The shard's key.
        key: String,
        /// Hash by the index.
        expected: Digest,
        /// Hash found.
        found: Digest,
    },
    /// A sequence past the end of its shard.
    #[error("{shard} holds {count} sequences of {length} tokens; there is no sequence {sequence}")]
    NoSequence {
        /// The shard.
        shard: ShardId,
        /// The sequence that was asked for.
        sequence: u64,
        /// Its length in tokens.
        length: u64,
        /// How many such sequences the shard holds.
        count: u64,
    },
    /// A token id outside the vocabulary: the shard is what its maker signed, but its maker erred.
    #[error("{shard}: token {position} is {token}, outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The shard.
        shard: ShardId,
        /// Position in the shard.
        position: u64,
        /// The id found.
        token: u32,
        /// The vocabulary's size.
        vocab_size: u32,
    },
    /// A machine without Rust sources for the demo corpus.
    #[error("no Rust source found under {}: give text of your own with --data PATH", place.display())]
    NoRustSource {
        /// Where Cargo unpacks its sources.
        place: PathBuf,
    },
    /// A thread of this program ended early.
    #[error("a background task ended early: {reason}")]
    Task {
        /// What ended it.
        reason: String,
    },
    /// An index that breaks its own rules.
    #[error(transparent)]
    Index(#[from] brigade_protocol::Error),
}

impl DataError {
    pub(super) fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().into(), source }
    }

    pub(super) fn setting(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting { option, reason: reason.into() }
    }
}

/// Joins names for a message, the first twenty of them.
pub(super) fn list<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut names = names.into_iter();
    let mut text = String::new();
    for name in names.by_ref().take(20) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.extend(name.as_ref().chars().take(80));
    }
    if names.next().is_some() {
        text.push_str(", …");
    }
    if text.is_empty() { "none".into() } else { text }
}
