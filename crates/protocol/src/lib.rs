//! What peers agree on. Pure: no input or output, no clock, no ambient randomness, no libtorch.
//!
//! | module | role |
//! | --- | --- |
//! | [`Digest`], [`PeerId`], [`Timestamp`], [`BucketAddress`] | the nouns that records are made of |
//! | [`Envelope`] | signed records (DSSE) |
//! | [`Manifest`] | the terms of a run |
//! | [`Open`] … [`Close`] | the statements that move a window along |
//! | [`ModelConfig`], [`Parameters`] | the shape of θ, its values, its state root |
//! | [`assignment`] | who trains on what |
//! | [`Roster`] | who is waited for |
//! | [`checks`] | what a receipt must say to be pinned |
//! | [`gauntlet`] | what a window says of its peers |

mod address;
pub mod assignment;
pub mod checks;
mod dataset;
mod digest;
mod envelope;
mod error;
#[cfg(test)]
mod fixtures;
pub mod gauntlet;
mod identity;
mod manifest;
mod model;
mod parameters;
mod records;
mod roster;
mod schedule;
mod time;

pub use address::{BucketAddress, Dialect};
pub use dataset::{
    DATASET_INDEX_FILE, DATASET_VERSION, DatasetIndex, MAX_INDEX_BYTES, MAX_SHARD_TOKENS, MAX_SHARDS,
    MAX_VOCAB_SIZE, ShardId, ShardInfo, Split, TOKENIZER_FILE, TokenizerInfo,
};
pub use digest::Digest;
pub use envelope::{Envelope, Record, Signed};
pub use error::Error;
pub use identity::{PeerId, SigningKey};
pub use manifest::{
    Compression, FORMAT_VERSION, Manifest, Official, Optimizer, Outer, Scoring, Training, Validator, Windows,
};
pub use model::{ModelConfig, RopeScaling, TensorSpec};
pub use parameters::{Parameters, leaf_digests, state_root};
pub use records::{
    Checkpoint, Close, Cutoff, Evaluation, Exclusion, FilePin, Improvement, Join, Member, ObjectPin, Open,
    PeerScore, Pinned, Reason, Receipt, Role, Roster, Scores, Share, Verdict,
};
pub use roster::Applicant;
pub use schedule::{Anneal, DecayType, Schedule};
pub use time::Timestamp;
