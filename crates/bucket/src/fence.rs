//! Fencing: of several aggregators, only the latest acts.
//!
//! Epochs are create-once objects `fence/{epoch}.json`. Acquiring one means creating the next; whoever holds an earlier
//! epoch finds out at its next [`check`](Fence::check). The check is an early stop, not the guard: between a check and a
//! write another aggregator may take over, so every commit is itself create-once.

use brigade_protocol::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::keys::RunKey;
use crate::{Bucket, BucketError, Creation, Result};

/// The longest fence record, in bytes.
const RECORD_LIMIT: u64 = 1024;
/// The most epochs that are listed at a start; one is used for every start of an aggregator.
const MAX_EPOCHS: usize = 1_000_000;

/// The content of `fence/{epoch}.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRecord {
    /// The epoch, as in the key.
    pub epoch: u64,
    /// Who took it: a peer id, or any short text that tells processes apart.
    pub holder: String,
    /// When, by the store's clock.
    pub since: Timestamp,
}

/// An epoch that this process holds until another takes the next.
#[derive(Clone, Debug)]
pub struct Fence {
    bucket: Bucket,
    epoch: u64,
}

impl Fence {
    /// Takes the next epoch. Two callers never get the same one.
    ///
    /// # Errors
    /// As the server says; [`BucketError::Malformed`] when `fence/` holds something else.
    pub async fn acquire(bucket: &Bucket, holder: &str, now: Timestamp) -> Result<Self> {
        let last = || malformed(bucket, RunKey::FENCES, "there is no epoch after the last".to_owned());
        let mut epoch = latest(bucket).await?;
        loop {
            epoch = epoch.checked_add(1).ok_or_else(last)?;
            let record = FenceRecord { epoch, holder: holder.to_owned(), since: now };
            let key = RunKey::Fence(epoch).to_string();
            match bucket.create(&key, encode(bucket, &key, &record)?).await? {
                Creation::Created(_) => return Ok(Self { bucket: bucket.clone(), epoch }),
                Creation::AlreadyExists => {}
            }
        }
    }

    /// The epoch held: 1 for the first aggregator of a run.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns if no later epoch has been taken.
    ///
    /// # Errors
    /// [`BucketError::Fenced`] when one has: stop at once. Others as the server says.
    pub async fn check(&self) -> Result<()> {
        let Some(by) = self.epoch.checked_add(1) else { return Ok(()) };
        let key = RunKey::Fence(by).to_string();
        let Some(object) = self.bucket.try_get(&key, RECORD_LIMIT).await? else { return Ok(()) };
        let holder = serde_json::from_slice::<FenceRecord>(&object.bytes)
            .map_or_else(|_| "an unreadable record".to_owned(), |record| record.holder);
        Err(BucketError::Fenced { bucket: self.bucket.name().to_owned(), epoch: self.epoch, by, holder })
    }
}

/// The latest epoch taken; 0 when none is.
async fn latest(bucket: &Bucket) -> Result<u64> {
    let taken = bucket.list(RunKey::FENCES, MAX_EPOCHS).await?;
    let Some(last) = taken.last() else { return Ok(0) };
    match last.key.parse() {
        Ok(RunKey::Fence(epoch)) => Ok(epoch),
        _ => Err(malformed(bucket, &last.key, "not a fence epoch".to_owned())),
    }
}

fn encode(bucket: &Bucket, key: &str, record: &FenceRecord) -> Result<Bytes> {
    let json = serde_json::to_vec(record).map_err(|error| malformed(bucket, key, error.to_string()))?;
    if json.len() as u64 > RECORD_LIMIT {
        return Err(malformed(bucket, key, "the holder's name is too long".to_owned()));
    }
    Ok(json.into())
}

fn malformed(bucket: &Bucket, key: &str, reason: String) -> BucketError {
    BucketError::Malformed { bucket: bucket.name().to_owned(), key: key.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn the_later_fences_the_earlier() {
        let bucket = Bucket::in_memory("bucket");
        let first = Fence::acquire(&bucket, "alice", Timestamp(1)).await.unwrap();
        first.check().await.unwrap();
        let second = Fence::acquire(&bucket, "bob", Timestamp(2)).await.unwrap();
        assert_eq!((first.epoch(), second.epoch()), (1, 2));
        second.check().await.unwrap();
        let error = first.check().await.unwrap_err();
        assert!(
            matches!(&error, BucketError::Fenced { epoch: 1, by: 2, holder, .. } if holder == "bob"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn no_epoch_is_held_twice() {
        let bucket = Bucket::in_memory("bucket");
        let race = (0..32).map(|i| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                Fence::acquire(&bucket, &format!("racer {i}"), Timestamp(0)).await.unwrap()
            })
        });
        let held = futures::future::join_all(race).await;
        let epochs: BTreeSet<u64> = held.iter().map(|fence| fence.as_ref().unwrap().epoch()).collect();
        assert_eq!(epochs, (1..=32).collect());
    }

    #[tokio::test]
    async fn strange_objects_are_reported() {
        let bucket = Bucket::in_memory("bucket");
        bucket.put("fence/zzz", Bytes::new()).await.unwrap();
        let acquired = Fence::acquire(&bucket, "alice", Timestamp(0)).await;
        assert!(matches!(acquired, Err(BucketError::Malformed { .. })));
        let full = Bucket::in_memory("full");
        full.put(&RunKey::Fence(u64::MAX).to_string(), Bytes::new()).await.unwrap();
        assert!(matches!(
            Fence::acquire(&full, "alice", Timestamp(0)).await,
            Err(BucketError::Malformed { .. })
        ));
        let holder = "x".repeat(2000);
        assert!(Fence::acquire(&Bucket::in_memory("other"), &holder, Timestamp(0)).await.is_err());
    }
}
