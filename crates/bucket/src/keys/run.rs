//! Keys of the run's bucket, which the aggregator writes; only `lobby/` is written by peers.

use std::fmt;
use std::str::FromStr;

use brigade_protocol::{Digest, PeerId};

use super::{CheckpointFile, DataFile, strictly};
use crate::BucketError;

/// A key of the run's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RunKey {
    /// `manifest.json`: the terms of the run.
    Manifest,
    /// `fence/{epoch}.json`: who aggregates.
    Fence(u64),
    /// `lobby/{peer}.json`: a peer's wish to join.
    Lobby(PeerId),
    /// `rosters/{sha256}.json`: the peers admitted, named by the content's hash.
    Roster(Digest),
    /// `windows/{w}/open.json`: the start of a window.
    Open(u64),
    /// `windows/{w}/cutoff.json`: the updates that count.
    Cutoff(u64),
    /// `windows/{w}/verdict.json`: the validators' scores combined.
    Verdict(u64),
    /// `windows/{w}/delta.bin`: the merged update.
    Delta(u64),
    /// `windows/{w}/close.json`: the commit point.
    Close(u64),
    /// `windows/{w}/receipts/{peer}.json`: the aggregator's copy of a pinned receipt.
    Receipt {
        /// The window.
        window: u64,
        /// Whose receipt.
        peer: PeerId,
    },
    /// `windows/{w}/updates/{peer}.bin`: the aggregator's copy of a pinned update.
    Update {
        /// The window.
        window: u64,
        /// Whose update.
        peer: PeerId,
    },
    /// `checkpoints/{w}/{file}`: θ from which window `w` starts.
    Checkpoint {
        /// The window that starts from it.
        window: u64,
        /// The file.
        file: CheckpointFile,
    },
    /// `data/{file}`: the dataset.
    Data(DataFile),
    /// `gc/boundary.json`: below which window everything may be gone; advanced before anything is deleted.
    GcBoundary,
}

impl RunKey {
    /// Prefix of all fence epochs, for lists.
    pub const FENCES: &'static str = "fence";
    /// Prefix of all wishes to join, for lists.
    pub const LOBBY: &'static str = "lobby";
    /// Prefix of all rosters, for lists.
    pub const ROSTERS: &'static str = "rosters";
    /// Prefix of all windows, for lists.
    pub const WINDOWS: &'static str = "windows";
    /// Prefix of all checkpoints, for lists.
    pub const CHECKPOINTS: &'static str = "checkpoints";
    /// Prefix of the dataset, for lists.
    pub const DATA: &'static str = "data";

    /// Prefix of everything of one window, for lists.
    pub fn window_prefix(window: u64) -> String {
        format!("windows/{window:010}")
    }

    /// Prefix of one checkpoint, for lists.
    pub fn checkpoint_prefix(window: u64) -> String {
        format!("checkpoints/{window:010}")
    }

    /// The window that the key belongs to, if to one.
    pub fn window(&self) -> Option<u64> {
        match *self {
            Self::Open(window)
            | Self::Cutoff(window)
            | Self::Verdict(window)
            | Self::Delta(window)
            | Self::Close(window)
            | Self::Receipt { window, .. }
            | Self::Update { window, .. }
            | Self::Checkpoint { window, .. } => Some(window),
            _ => None,
        }
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("manifest.json"),
            Self::Fence(epoch) => write!(f, "fence/{epoch:010}.json"),
            Self::Lobby(peer) => write!(f, "lobby/{peer}.json"),
            Self::Roster(sha256) => write!(f, "rosters/{sha256}.json"),
            Self::Open(window) => write!(f, "windows/{window:010}/open.json"),
            Self::Cutoff(window) => write!(f, "windows/{window:010}/cutoff.json"),
            Self::Verdict(window) => write!(f, "windows/{window:010}/verdict.json"),
            Self::Delta(window) => write!(f, "windows/{window:010}/delta.bin"),
            Self::Close(window) => write!(f, "windows/{window:010}/close.json"),
            Self::Receipt { window, peer } => write!(f, "windows/{window:010}/receipts/{peer}.json"),
            Self::Update { window, peer } => write!(f, "windows/{window:010}/updates/{peer}.bin"),
            Self::Checkpoint { window, file } => write!(f, "checkpoints/{window:010}/{file}"),
            Self::Data(file) => write!(f, "data/{file}"),
            Self::GcBoundary => f.write_str("gc/boundary.json"),
        }
    }
}

impl FromStr for RunKey {
    type Err = BucketError;

    fn from_str(text: &str) -> Result<Self, BucketError> {
        strictly(text, |parts| match *parts {
            ["manifest.json"] => Some(Self::Manifest),
            ["gc", "boundary.json"] => Some(Self::GcBoundary),
            ["fence", epoch] => Some(Self::Fence(stem(epoch, ".json")?)),
            ["lobby", peer] => Some(Self::Lobby(stem(peer, ".json")?)),
            ["rosters", sha256] => Some(Self::Roster(stem(sha256, ".json")?)),
            ["windows", window, file] => in_window(window.parse().ok()?, file),
            ["windows", window, "receipts", peer] => {
                Some(Self::Receipt { window: window.parse().ok()?, peer: stem(peer, ".json")? })
            }
            ["windows", window, "updates", peer] => {
                Some(Self::Update { window: window.parse().ok()?, peer: stem(peer, ".bin")? })
            }
            ["checkpoints", window, file] => {
                Some(Self::Checkpoint { window: window.parse().ok()?, file: CheckpointFile::read(file)? })
            }
            ["data", file] => Some(Self::Data(DataFile::read(file)?)),
            _ => None,
        })
    }
}

fn in_window(window: u64, file: &str) -> Option<RunKey> {
    Some(match file {
        "open.json" => RunKey::Open(window),
        "cutoff.json" => RunKey::Cutoff(window),
        "verdict.json" => RunKey::Verdict(window),
        "delta.bin" => RunKey::Delta(window),
        "close.json" => RunKey::Close(window),
        _ => return None,
    })
}

fn stem<T: FromStr>(file: &str, suffix: &str) -> Option<T> {
    file.strip_suffix(suffix)?.parse().ok()
}
