//! What a window asks of the buckets: requests and bytes, by role and by whose bucket it is.
//!
//! Counted from what the roles do, in their order, and held against roles that run by `tests/cost.rs`. Records are left out of the
//! bytes: some kilobytes for each peer, where updates have gigabytes.

use std::ops::{Add, Mul};

use brigade_bucket::BucketOptions;
use serde::Serialize;

use crate::folder::FILE_BYTES;

/// The most parts that an upload has: those of the largest are larger.
const MOST_PARTS: f64 = 10_000.0;

/// Of a run, what its requests and bytes follow from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Miners.
    pub miners: f64,
    /// Validators.
    pub validators: f64,
    /// From the opening to the cutoff.
    pub train_seconds: f64,
    /// From the cutoff to the close.
    pub score_seconds: f64,
    /// From a miner's delivery to the close.
    pub wait_seconds: f64,
    /// Between two looks at what is waited for.
    pub poll_seconds: f64,
    /// An update.
    pub update_bytes: f64,
    /// The delta.
    pub delta_bytes: f64,
    /// A shard of the dataset.
    pub shard_bytes: f64,
    /// Shards that a peer draws from; none counts that lies on its disk already.
    pub shards: f64,
    /// θ, in fp32; the aggregator's error feedback is as large.
    pub theta_bytes: f64,
    /// Windows from one checkpoint to the next.
    pub checkpoint_every: f64,
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// `GET` and `HEAD`: class B.
    pub reads: f64,
    /// `PUT`, `POST` and lists: class A.
    pub writes: f64,
    /// Bytes of bodies to the bucket.
    pub bytes_up: f64,
    /// Bytes of bodies from it.
    pub bytes_down: f64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
        }
    }
}

impl Mul<f64> for Traffic {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        let Self { reads, writes, bytes_up, bytes_down } = self;
        Self {
            reads: times * reads,
            writes: times * writes,
            bytes_up: times * bytes_up,
            bytes_down: times * bytes_down,
        }
    }
}

fn reads(reads: f64, bytes_down: f64) -> Traffic {
    Traffic { reads, bytes_down, ..Traffic::default() }
}

fn writes(writes: f64, bytes_up: f64) -> Traffic {
    Traffic { writes, bytes_up, ..Traffic::default() }
}

/// What one participant asks of a bucket of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Asked {
    /// Of the run's bucket, but for the text.
    pub run: Traffic,
    /// Of the run's bucket: shards of text.
    pub data: Traffic,
    /// Of its own bucket.
    pub own: Traffic,
    /// Of one miner's bucket.
    pub miner: Traffic,
    /// Of one validator's bucket.
    pub validator: Traffic,
}

impl Window {
    /// Looks at one thing that takes `seconds` to come, the one that finds it included.
    fn looks(&self, seconds: f64) -> f64 {
        1.0 + seconds / self.poll_seconds
    }

    /// A miner: the opening, the rosters and records around it, an update and its receipt, the close and its delta.
    pub fn miner(&self) -> Asked {
        let records = 6.0 + self.looks(self.wait_seconds);
        Asked {
            run: reads(records + 1.0, self.delta_bytes),
            data: reads(self.shards, self.shards * self.shard_bytes),
            own: writes(1.0 + puts(self.update_bytes), self.update_bytes),
            ..Asked::default()
        }
    }

    /// A validator: every update, the text of everybody and of nobody, scores, the delta, an evaluation.
    pub fn validator(&self) -> Asked {
        let records = 3.0 + self.looks(self.train_seconds) + self.looks(0.0);
        let shards = (1.0 + self.miners) * self.shards;
        Asked {
            run: reads(records + self.miners + 1.0, self.miners * self.update_bytes + self.delta_bytes),
            data: reads(shards, shards * self.shard_bytes),
            own: reads(1.0, 0.0) + writes(2.0, 0.0),
            ..Asked::default()
        }
    }

    /// The aggregator: everybody's wish, receipt and update, a copy of each that it reads back for the merge, its records, and its
    /// share of a checkpoint. The roster is mostly that of the window before: written in vain, and then looked at.
    pub fn aggregator(&self) -> Asked {
        let peers = self.miners + self.validators;
        let records = reads(14.0 + peers, 0.0) + writes(6.0, self.delta_bytes) + writes(1.0, 0.0);
        // Nobody looks for a receipt any more once it is there.
        let delivered =
            (self.train_seconds + self.score_seconds - self.wait_seconds).clamp(0.0, self.train_seconds);
        let copies = reads(3.0, self.update_bytes) + writes(2.0, self.update_bytes);
        Asked {
            run: records + copies * self.miners + self.checkpoint() * (1.0 / self.checkpoint_every),
            miner: reads(self.looks(delivered) + 2.0, self.update_bytes),
            validator: reads(self.looks(self.score_seconds), 0.0),
            ..Asked::default()
        }
    }

    /// θ in files, with an index where they are several, error feedback in one, four small ones and the record.
    fn checkpoint(&self) -> Traffic {
        let files = (self.theta_bytes / FILE_BYTES as f64).ceil().max(1.0);
        let index = if files > 1.0 { 1.0 } else { 0.0 };
        let theta = files * puts(self.theta_bytes / files);
        reads(1.0, 0.0) + writes(theta + puts(self.theta_bytes) + index + 5.0, 2.0 * self.theta_bytes)
    }

    /// All that is asked of the run's bucket in a window.
    pub fn of_run(&self) -> Traffic {
        let all = |asked: Asked| asked.run + asked.data;
        all(self.aggregator()) + all(self.miner()) * self.miners + all(self.validator()) * self.validators
    }

    /// All that is asked of one miner's bucket.
    pub fn of_miner(&self) -> Traffic {
        self.miner().own + self.aggregator().miner
    }

    /// All that is asked of one validator's bucket.
    pub fn of_validator(&self) -> Traffic {
        self.validator().own + self.aggregator().validator
    }
}

/// Requests of an upload of `bytes` bytes.
fn puts(bytes: f64) -> f64 {
    let part = BucketOptions::default().part_size as f64;
    if bytes <= part { 1.0 } else { 2.0 + (bytes / part).min(MOST_PARTS).ceil() }
}
