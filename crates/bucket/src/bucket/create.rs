//! Create-once: the commit point of everything in Brigade.
//!
//! Two traps lie between `If-None-Match: *` and the truth (both are in `object_store` 0.14 by design or by bug):
//!
//! - A 409 ConditionalRequestConflict ("another conditional write is in flight") is reported as "already exists",
//!   though the other write may yet fail and leave no object.
//! - A write that is applied and then answered with a 5xx, or not at all, is repeated, and the repetition finds its own
//!   object. Reported as "already exists", it would make the winner believe that it lost.
//!
//! So every write carries a token in its metadata, and whatever is not a clear success is settled by looking.

use std::time::Duration;

use bytes::Bytes;
use object_store::{Attribute, GetOptions, PutMode};

use super::read::found;
use super::write::{WRITE_TOKEN, stamped};
use super::{Bucket, Stored, bare};
use crate::{BucketError, Result};

/// Rounds of writing and looking before giving up.
const ROUNDS: u32 = 6;
/// The largest object that a single PUT takes, on all dialects.
const MAX_SINGLE_PUT: u64 = 5 << 30;

/// What became of a [`create`](Bucket::create).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The object is ours.
    Created(Stored),
    /// Another writer's object is there, unchanged.
    AlreadyExists,
}

impl Creation {
    /// Whether the object is ours.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

/// Who wrote an object.
pub(super) struct Stamp {
    pub(super) token: Option<String>,
    pub(super) etag: String,
}

impl Bucket {
    /// Writes an object only if none is there. Of any number of concurrent writers exactly one gets
    /// [`Creation::Created`].
    ///
    /// # Errors
    /// [`BucketError::TooLarge`] above 5 GiB; a transient error when it could not be settled who won: the object may
    /// then still appear, so call again (another call has another token, and finds "already exists") or read it.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<Creation> {
        let size = body.len() as u64;
        if size > MAX_SINGLE_PUT {
            let (bucket, key) = (self.inner.name.clone(), key.to_owned());
            return Err(BucketError::TooLarge { bucket, key, limit: MAX_SINGLE_PUT, size });
        }
        let path = self.path(key)?;
        let token = self.inner.tokens.next();
        let mut last = None;
        for round in 0..ROUNDS {
            if round > 0 {
                self.pause(round).await;
            }
            let options = stamped(PutMode::Create, &token);
            match self.inner.store.put_opts(&path, body.clone().into(), options).await {
                Ok(stored) => return Ok(Creation::Created(Stored { etag: bare(stored.e_tag.as_deref()) })),
                Err(error) => match self.error(key, &error) {
                    error if error.is_transient() => last = Some(error),
                    error => return Err(error),
                },
            }
            match self.stamp(key).await {
                Ok(Some(stamp)) if stamp.token.as_ref() == Some(&token) => {
                    return Ok(Creation::Created(Stored { etag: stamp.etag }));
                }
                Ok(Some(_)) => return Ok(Creation::AlreadyExists),
                // Nothing there: the rival failed, or our write was lost. The same token makes repeating safe even if
                // a lost write lands late.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.transient(key, "nobody's write lasts")))
    }

    /// The token of whoever wrote the object with a condition.
    pub(super) async fn stamp(&self, key: &str) -> Result<Option<Stamp>> {
        let result = self.fetch(key, GetOptions { head: true, ..GetOptions::default() }).await;
        Ok(found(result)?.map(|result| Stamp {
            token: result
                .attributes
                .get(&Attribute::Metadata(WRITE_TOKEN.into()))
                .map(|value| value.to_string()),
            etag: bare(result.meta.e_tag.as_deref()),
        }))
    }

    async fn pause(&self, round: u32) {
        let base = Duration::from_millis(50) * 2_u32.saturating_pow(round);
        let pause = base.min(self.inner.options.max_backoff).mul_f64(0.5 + self.inner.tokens.unit());
        tokio::time::sleep(pause).await;
    }
}
