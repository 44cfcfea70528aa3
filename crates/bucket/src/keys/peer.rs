//! Keys of a miner's or a validator's bucket, which its owner writes and the others only read.

use std::fmt;
use std::str::FromStr;

use brigade_protocol::Digest;

use super::strictly;
use crate::BucketError;

/// `{run}/windows/{w}/{file}`: a key of a miner's or a validator's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The run: a peer may use one bucket for several.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// The file.
    pub file: PeerFile,
}

/// What a peer writes in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerFile {
    /// A miner's `update.bin`.
    Update,
    /// A miner's `receipt.json`, written after the update.
    Receipt,
    /// A validator's `scores.json`.
    Scores,
    /// A validator's `evaluation.json`: the loss on held-out data.
    Evaluation,
}

impl PeerFile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Update, Self::Receipt, Self::Scores, Self::Evaluation];

    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Update => "update.bin",
            Self::Receipt => "receipt.json",
            Self::Scores => "scores.json",
            Self::Evaluation => "evaluation.json",
        }
    }
}

impl PeerKey {
    /// The key of `file`.
    pub fn new(run: Digest, window: u64, file: PeerFile) -> Self {
        Self { run, window, file }
    }

    /// Prefix of everything that a peer wrote for one run, for lists.
    pub fn run_prefix(run: Digest) -> String {
        format!("{run}/windows")
    }

    /// Prefix of everything that a peer wrote in one window, for lists.
    pub fn window_prefix(run: Digest, window: u64) -> String {
        format!("{run}/windows/{window:010}")
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/windows/{:010}/{}", self.run, self.window, self.file.name())
    }
}

impl FromStr for PeerKey {
    type Err = BucketError;

    fn from_str(text: &str) -> Result<Self, BucketError> {
        strictly(text, |parts| {
            let [run, "windows", window, file] = *parts else { return None };
            let file = PeerFile::ALL.into_iter().find(|known| known.name() == file)?;
            Some(Self { run: run.parse().ok()?, window: window.parse().ok()?, file })
        })
    }
}
