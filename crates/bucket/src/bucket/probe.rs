//! The startup check: does this bucket keep the promises that a run stands on?

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Bucket, Creation};
use crate::{BucketError, Result};

/// An ETag that no object has.
const NOBODYS_ETAG: &str = "00000000000000000000000000000000";

/// What a successful [`probe`](Bucket::probe) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How far this machine's wall clock is ahead of the store's, in milliseconds; good to about half a second.
    pub local_lead_ms: Option<i64>,
    /// The time of one small write.
    pub write_latency: Duration,
    /// The time of one small read.
    pub read_latency: Duration,
}

/// A step of a [`probe`](Bucket::probe), in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeStep {
    /// A write, with `If-None-Match: *`.
    Create,
    /// Its metadata comes back.
    Metadata,
    /// A second create fails.
    CreateAgain,
    /// A write with a stale ETag fails.
    StaleUpdate,
    /// A write with the right ETag succeeds.
    Update,
    /// The last version is read.
    Read,
    /// A read of the version before fails.
    StaleRead,
    /// What was written is deleted.
    Delete,
}

impl Bucket {
    /// Checks that the bucket exists, that the keys work, and that conditional requests are honoured: a second create
    /// fails, a write and a read with a stale ETag fail, and metadata survives. Leaves nothing behind.
    ///
    /// # Errors
    /// [`BucketError::Unreachable`], [`BucketError::NoSuchBucket`], [`BucketError::WrongKeys`],
    /// [`BucketError::WrongRegion`], [`BucketError::ClockSkew`], [`BucketError::Denied`],
    /// [`BucketError::ConditionIgnored`], [`BucketError::Incompatible`]: each says what to do.
    pub async fn probe(&self) -> Result<Probe> {
        self.probe_by_steps(&mut |_| {}).await
    }

    /// The same; `begin` is told each step before it is made, so that the last one is that of the error.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub async fn probe_by_steps(&self, begin: &mut (dyn FnMut(ProbeStep) + Send)) -> Result<Probe> {
        let key = self.probe_key();
        let checked = self.check(&key, begin).await;
        if checked.is_ok() {
            begin(ProbeStep::Delete);
        }
        let deleted = self.delete(&key).await;
        // When the check failed, its error tells more than the deletion's.
        let probe = checked?;
        deleted?;
        Ok(probe)
    }

    /// Checks that the bucket can be read: for readers of other people's buckets.
    ///
    /// # Errors
    /// As [`probe`](Self::probe), where reads can tell.
    pub async fn probe_read(&self) -> Result<()> {
        // A GET, not a HEAD: only a body can say that it is the bucket that is missing.
        match self.try_get("probe/absent", 0).await {
            // Whoever put something there can be read.
            Ok(_) | Err(BucketError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A key under `probe/` of its own, so that two processes that share a bucket do not disturb each other.
    pub fn probe_key(&self) -> String {
        format!("probe/{}", self.inner.tokens.next())
    }

    async fn check(&self, key: &str, begin: &mut (dyn FnMut(ProbeStep) + Send)) -> Result<Probe> {
        begin(ProbeStep::Create);
        let begun = Instant::now();
        let first = self.create(key, Bytes::from_static(b"first")).await?;
        let write_latency = begun.elapsed();
        let Creation::Created(first) = first else {
            return Err(self.incompatible(
                "does not return object metadata, or returns another object's; this store cannot hold a run",
            ));
        };
        begin(ProbeStep::Metadata);
        self.check_stamp(key).await?;
        begin(ProbeStep::CreateAgain);
        if self.create(key, Bytes::from_static(b"again")).await?.is_created() {
            return Err(self.ignored("If-None-Match: *"));
        }
        begin(ProbeStep::StaleUpdate);
        match self.update(key, Bytes::from_static(b"stale"), NOBODYS_ETAG).await {
            Err(BucketError::Changed { .. }) => {}
            Ok(_) => return Err(self.ignored("If-Match")),
            Err(error) => return Err(error),
        }
        begin(ProbeStep::Update);
        match self.update(key, Bytes::from_static(b"second"), &first.etag).await {
            Ok(_) => {}
            Err(BucketError::Changed { .. }) => {
                return Err(self.incompatible(
                    "refuses its own ETag in If-Match; if it is a Ceph gateway, set the dialect to `ceph`",
                ));
            }
            Err(error) => return Err(error),
        }
        begin(ProbeStep::Read);
        let begun = Instant::now();
        let object = self.get(key, 64).await?;
        let read_latency = begun.elapsed();
        if object.bytes != b"second"[..] {
            return Err(
                self.incompatible("returns an old version after a write; it is not strongly consistent")
            );
        }
        begin(ProbeStep::StaleRead);
        match self.get_range(key, 0..3, Some(&first.etag)).await {
            Err(BucketError::Changed { .. }) => {}
            Ok(_) => return Err(self.ignored("If-Match (on GET)")),
            Err(error) => return Err(error),
        }
        Ok(Probe { local_lead_ms: self.inner.clock.local_lead(), write_latency, read_latency })
    }

    async fn check_stamp(&self, key: &str) -> Result<()> {
        match self.stamp(key).await? {
            Some(stamp) if stamp.token.is_some() => Ok(()),
            Some(_) => Err(self.incompatible("drops object metadata; this store cannot hold a run")),
            None => {
                Err(self.incompatible("does not show an object that was just written; it is not consistent"))
            }
        }
    }

    fn ignored(&self, condition: &'static str) -> BucketError {
        let (bucket, endpoint) = (self.inner.name.clone(), self.inner.endpoint.clone());
        BucketError::ConditionIgnored { bucket, endpoint, condition }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_good_store_passes_and_stays_clean() {
        let bucket = Bucket::in_memory("bucket");
        let probe = bucket.probe().await.unwrap();
        assert_eq!(probe.local_lead_ms, Some(0));
        bucket.probe_read().await.unwrap();
        bucket.put("probe/absent", Bytes::from_static(b"gotcha")).await.unwrap();
        bucket.probe_read().await.unwrap();
        bucket.delete("probe/absent").await.unwrap();
        assert!(bucket.list("", 10).await.unwrap().is_empty());
    }
}
