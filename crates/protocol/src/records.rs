//! The statements that move a window along. Each is signed, written once, and names those before it by digest.

use serde::{Deserialize, Serialize};

use crate::gauntlet::Standing;
use crate::{BucketAddress, Digest, Envelope, PeerId, Record, Timestamp};

/// What a participant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains.
    Miner,
    /// Scores.
    Validator,
}

/// `lobby/{peer}.json`: a wish to take part, signed by the peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The run.
    pub run: Digest,
    /// What the participant wants to do.
    pub role: Role,
    /// Where it writes.
    pub bucket: BucketAddress,
    /// The read key of that bucket, sealed with age to the aggregator and the validators (base64).
    pub sealed_credentials: String,
    /// When the wish was made. A later one renews it, also after an eviction.
    pub joined_at: Timestamp,
}

impl Record for Join {
    const TYPE: &'static str = "application/vnd.brigade.join+json";
    const MAX_BYTES: u64 = 16 << 10;
}

/// A participant as the roster knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its signing key.
    pub peer: PeerId,
    /// What it does.
    pub role: Role,
    /// Its signed wish to join.
    pub join: Envelope,
    /// SHA-256 of that wish: an evicted member comes back with a new one.
    pub join_digest: Digest,
    /// Windows in a row in which nothing of it was accepted.
    pub missed: u32,
    /// Whether windows wait for it.
    pub active: bool,
}

/// `rosters/{sha256}.json`: the peers admitted for a window, under the hash that `open` signs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Everybody who was ever admitted, ordered by key.
    pub members: Vec<Member>,
}

impl Roster {
    /// The largest roster that is read, in bytes.
    pub const MAX_BYTES: u64 = 64 << 20;

    /// The most members that are ever admitted: with the longest wishes they still make a roster that can be read.
    pub const MAX_MEMBERS: usize = 2500;

    /// The miners that windows wait for, in order.
    pub fn active_miners(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.active && member.role == Role::Miner)
    }

    /// The entry of `peer`.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.members.binary_search_by_key(peer, |member| member.peer).ok().map(|at| &self.members[at])
    }

    /// Whether windows wait for miner `peer`.
    pub fn admits(&self, peer: &PeerId) -> bool {
        self.member(peer).is_some_and(|member| member.active && member.role == Role::Miner)
    }
}

/// `windows/{w}/open.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// The aggregator's fencing epoch.
    pub epoch: u64,
    /// Digest of the close before; `None` in window 0.
    pub previous_close: Option<Digest>,
    /// 32 random bytes (hex): who trains on what. Nobody could know them before.
    pub seed: Digest,
    /// When the window opened.
    pub opened_at: Timestamp,
    /// When receipts stop to count.
    pub deadline: Timestamp,
    /// SHA-256 of the roster object.
    pub roster: Digest,
    /// State root of θ at the start.
    pub state_root: Digest,
}

impl Record for Open {
    const TYPE: &'static str = "application/vnd.brigade.open+json";
    const MAX_BYTES: u64 = 64 << 10;
}

/// An object that is fixed by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectPin {
    /// Key, relative to the bucket's prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: Digest,
}

/// An update or a delta that is fixed by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePin {
    /// Key, relative to the bucket's prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: Digest,
    /// SHA-256 of the file's header, as it stands in front of the first section. The header has every section's hash, so
    /// who fetches only some of them can check those.
    pub frame: Digest,
}

impl FilePin {
    /// The object that the file is.
    pub fn object(&self) -> ObjectPin {
        let Self { key, size, sha256, .. } = self;
        ObjectPin { key: key.clone(), size: *size, sha256: *sha256 }
    }
}

/// `{run}/windows/{w}/receipt.json` in a miner's bucket: written after the update; its time decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// Digest of the open record that was answered.
    pub open: Digest,
    /// State root of the θ that training started from.
    pub start_state_root: Digest,
    /// The update.
    pub update: FilePin,
    /// Inner steps done.
    pub inner_steps: u32,
    /// Tokens trained.
    pub tokens: u64,
    /// Mean training loss over the inner steps, in nats a token.
    pub train_loss: f64,
    /// Losses of the θ that training started from on the first of the sequences that were trained, nats a token
    /// ([`Manifest::start_sequences`](crate::Manifest::start_sequences)). Who has another θ cannot know them.
    pub start_losses: Vec<f32>,
    /// Digest of the sequences that were trained, in order.
    pub samples: Digest,
    /// Seconds of inner steps. The peer's own word; shown, not trusted.
    pub compute_seconds: f64,
}

impl Record for Receipt {
    const TYPE: &'static str = "application/vnd.brigade.receipt+json";
    const MAX_BYTES: u64 = 64 << 10;
}

/// Why an update does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// No receipt at the cutoff.
    Missing,
    /// The receipt's time is past the deadline.
    Late,
    /// The receipt is no record, or its signature does not hold.
    BadReceipt,
    /// The receipt is for another run, window or opening.
    WrongWindow,
    /// Training started from another θ.
    WrongStart,
    /// The update is larger than any honest one.
    TooLarge,
    /// The update is not what the receipt says, or cannot be read.
    Unavailable,
    /// The update breaks the format.
    Malformed,
    /// Validators agree that the update raises the loss.
    Harmful,
    /// The update is many times longer than the others.
    Oversized,
    /// The update was sent before, by this peer or another.
    Replayed,
    /// Another peer has sent the same update, or nearly the same, before.
    Copied,
    /// Validators agree that the update does far less than the others.
    Idle,
    /// Over several windows the updates bear no trace of the sequences that the peer was assigned.
    Untraced,
}

/// A peer whose update does not count, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The peer.
    pub peer: PeerId,
    /// Why.
    pub reason: Reason,
    /// One line for the peer's owner.
    pub detail: String,
}

impl Exclusion {
    /// An exclusion with its detail cut to a line of bounded length.
    pub fn new(peer: PeerId, reason: Reason, detail: impl std::fmt::Display) -> Self {
        let detail =
            detail.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(240).collect();
        Self { peer, reason, detail }
    }
}

/// An update that counts for a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The peer.
    pub peer: PeerId,
    /// The update in the peer's bucket.
    pub update: FilePin,
    /// Its ETag there when it was mirrored.
    pub etag: String,
    /// Digest of the receipt.
    pub receipt: Digest,
    /// The receipt's time, by its store's clock.
    pub received_at: Timestamp,
    /// When the run's copy of the receipt was written, by the clock of the run's store.
    pub mirrored_at: Timestamp,
    /// SHA-256 of the hashes of the update's sections: what it says, whatever its header is bound to.
    pub content: Digest,
    /// What the receipt says of the θ that training started from.
    pub start_losses: Vec<f32>,
}

/// `windows/{w}/cutoff.json`: the updates that count. No byte enters a merge that is not pinned here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cutoff {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// The aggregator's fencing epoch.
    pub epoch: u64,
    /// Digest of the window's open record.
    pub open: Digest,
    /// When it was cut off.
    pub cut_at: Timestamp,
    /// What counts, ordered by peer.
    pub pinned: Vec<Pinned>,
    /// What does not, ordered by peer.
    pub excluded: Vec<Exclusion>,
}

impl Record for Cutoff {
    const TYPE: &'static str = "application/vnd.brigade.cutoff+json";
    const MAX_BYTES: u64 = 64 << 20;
}

/// One validator's rating of one update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerScore {
    /// The peer.
    pub peer: PeerId,
    /// Why the update failed the fast checks, if it did.
    pub fault: Option<Exclusion>,
    /// Mean loss of θ minus loss of θ − β · update, in nats a token, on sequences of the peer's own assignment.
    pub assigned: Option<Improvement>,
    /// The same on sequences that nobody was assigned.
    pub unassigned: Option<Improvement>,
    /// By how much the improvement on those exceeds the demanded share of the median peer's mean.
    #[serde(default)]
    pub merit: Option<Improvement>,
    /// How much more the update improves its own sequences than its effect on unassigned ones, and the other peers' on its own, let
    /// expect: it was trained on them.
    #[serde(default)]
    pub trace: Option<Improvement>,
    /// How far the losses of θ are from those in the receipt, root mean square, nats a token.
    #[serde(default)]
    pub start_gap: Option<f64>,
    /// Sequences that went through the model for this peer alone.
    #[serde(default)]
    pub passes: u32,
}

/// How much a step lowers the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Improvement {
    /// Mean over sequences, nats a token; positive is better.
    pub mean: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// Sequences measured.
    pub sequences: u32,
}

/// `{run}/windows/{w}/scores.json` in a validator's bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// Digest of the cutoff that was scored.
    pub cutoff: Digest,
    /// One entry for every pinned update, in the cutoff's order.
    pub scores: Vec<PeerScore>,
    /// Seconds that scoring took.
    pub seconds: f64,
}

impl Record for Scores {
    const TYPE: &'static str = "application/vnd.brigade.scores+json";
    const MAX_BYTES: u64 = 16 << 20;
}

/// `{run}/windows/{w}/evaluation.json` in a validator's bucket: how good θ is after the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The run.
    pub run: Digest,
    /// The window that θ closes.
    pub window: u64,
    /// State root of θ.
    pub state_root: Digest,
    /// Mean loss on held-out text, nats a token.
    pub heldout_loss: f64,
    /// The same in bits a byte of text.
    pub bits_per_byte: f64,
    /// Tokens measured.
    pub tokens: u64,
}

impl Record for Evaluation {
    const TYPE: &'static str = "application/vnd.brigade.evaluation+json";
    const MAX_BYTES: u64 = 64 << 10;
}

/// The share of one update in the merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The peer.
    pub peer: PeerId,
    /// Its weight; the weights of a verdict sum to one.
    pub weight: f64,
    /// L2 norm of the decoded update.
    pub norm: f64,
    /// What the decoded update is multiplied by: α · weight · min(1, median norm ÷ norm).
    pub coefficient: f32,
}

/// `windows/{w}/verdict.json`: the combination of all validators' scores. From here on the delta is determined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// The aggregator's fencing epoch.
    pub epoch: u64,
    /// Digest of the cutoff.
    pub cutoff: Digest,
    /// The signed scores that were heard, so that anybody can combine them again.
    pub scores: Vec<Envelope>,
    /// What is merged, ordered by peer.
    pub shares: Vec<Share>,
    /// What is not although it was pinned, ordered by peer.
    pub excluded: Vec<Exclusion>,
    /// What is known of every peer that was ever pinned, this window included; ordered by peer.
    #[serde(default)]
    pub standings: Vec<Standing>,
}

impl Record for Verdict {
    const TYPE: &'static str = "application/vnd.brigade.verdict+json";
    const MAX_BYTES: u64 = 256 << 20;
}

/// `windows/{w}/close.json`: the only commit point of a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The run.
    pub run: Digest,
    /// The window.
    pub window: u64,
    /// The aggregator's fencing epoch.
    pub epoch: u64,
    /// Digest of the open record.
    pub open: Digest,
    /// Digest of the cutoff record.
    pub cutoff: Digest,
    /// Digest of the verdict record.
    pub verdict: Digest,
    /// The delta; `None` when nothing was merged and θ stays.
    pub delta: Option<FilePin>,
    /// What was merged, ordered by peer.
    pub accepted: Vec<Share>,
    /// Everybody on the roster whose update was not merged, and why, ordered by peer.
    pub excluded: Vec<Exclusion>,
    /// State root of θ before.
    pub start_state_root: Digest,
    /// State root of θ after.
    pub state_root: Digest,
    /// State root of the aggregator's error feedback after.
    pub error_feedback_root: Digest,
    /// When the window closed.
    pub closed_at: Timestamp,
}

impl Record for Close {
    const TYPE: &'static str = "application/vnd.brigade.close+json";
    const MAX_BYTES: u64 = 64 << 20;
}

/// `checkpoints/{w}/checkpoint.json`: θ at the start of window w. Written last; its existence is the commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The run.
    pub run: Digest,
    /// The window that starts from this θ.
    pub window: u64,
    /// State root of θ.
    pub state_root: Digest,
    /// State root of the aggregator's error feedback.
    pub error_feedback_root: Digest,
    /// The files beside this record.
    pub files: Vec<ObjectPin>,
}

impl Record for Checkpoint {
    const TYPE: &'static str = "application/vnd.brigade.checkpoint+json";
    const MAX_BYTES: u64 = 1 << 20;
}
