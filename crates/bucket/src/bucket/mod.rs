//! One bucket.

mod create;
mod examine;
mod files;
mod list;
mod open;
mod probe;
mod read;
mod token;
mod wait;
mod write;

use std::fmt;
use std::sync::Arc;

use brigade_protocol::{Dialect, Digest, Timestamp};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

pub use create::Creation;
pub use probe::{Probe, ProbeStep};
pub use wait::PollPolicy;

use crate::cause::{Aim, Cause, one_line};
use crate::place::is_key;
use crate::wire::{Counters, Recognised, ServerClock};
use crate::{BucketError, BucketOptions, Result};
pub(crate) use token::Tokens;
pub(crate) use write::WRITE_TOKEN;

/// The longest key of the layout is far below this; S3's own limit is 1024 with the prefix.
const MAX_KEY: usize = 512;

/// An open bucket. Clones share connections, limits, counters and the clock.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    name: String,
    endpoint: String,
    region: String,
    prefix: String,
    etags: EtagStyle,
    tokens: Tokens,
    clock: Arc<ServerClock>,
    counters: Arc<Counters>,
    recognised: Arc<Recognised>,
    options: BucketOptions,
}

/// How `If-Match` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EtagStyle {
    Quoted,
    Bare,
}

/// An object that was read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The object's bytes.
    pub bytes: Bytes,
    /// What is known about it.
    pub meta: ObjectMeta,
}

/// What a store says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, without the address's prefix.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, without quotation marks; empty when the store tells none.
    pub etag: String,
    /// When the object was written, by the store's clock; a multipart object: when its upload began. Stores round
    /// down to whole seconds.
    pub last_modified: Timestamp,
}

/// What a reader insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The entity tag, without quotation marks; `None` when only the content matters.
    pub etag: Option<String>,
    /// The SHA-256 of the content.
    pub sha256: Digest,
    /// The size in bytes.
    pub size: u64,
}

/// What a write left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The new entity tag, without quotation marks; empty when the store tells none.
    pub etag: String,
}

impl Bucket {
    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The store's clock, as its responses tell it.
    pub fn clock(&self) -> Arc<ServerClock> {
        Arc::clone(&self.inner.clock)
    }

    /// The time by the store's clock; asks the store when nothing has been heard from it.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn now(&self) -> Result<Timestamp> {
        if let Some(now) = self.inner.clock.now() {
            return Ok(now);
        }
        let asked = self.head("probe/clock").await;
        // A refusal tells the time as well.
        match (self.inner.clock.now(), asked) {
            (Some(now), _) => Ok(now),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(self.incompatible("sends no Date header; a proxy may remove it")),
        }
    }

    /// Running totals of requests and bytes.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.counters)
    }

    /// Which S3 the server speaks, as far as its answers gave that away.
    pub fn recognised(&self) -> Option<Dialect> {
        self.inner.recognised.get()
    }

    /// The storage client beneath, for what this type does not offer. Keys there include the address's prefix.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.store)
    }

    fn path(&self, key: &str) -> Result<Path> {
        if !is_key(key, MAX_KEY) {
            return Err(self.invalid(key, "is not a usable key"));
        }
        let prefix = &self.inner.prefix;
        let full = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Path::parse(full).map_err(|_| self.invalid(key, "is not a usable key"))
    }

    /// The `If-Match` value for an ETag, which may come from a stranger's record.
    fn if_match(&self, etag: &str) -> Result<String> {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"';
        if etag.is_empty() || etag.len() > 256 || !etag.bytes().all(plain) {
            return Err(self.invalid(etag, "is not an ETag"));
        }
        Ok(match self.inner.etags {
            EtagStyle::Quoted => format!("\"{etag}\""),
            EtagStyle::Bare => etag.to_owned(),
        })
    }

    fn meta(&self, key: &str, meta: &object_store::ObjectMeta) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: meta.size,
            etag: bare(meta.e_tag.as_deref()),
            last_modified: Timestamp(u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)),
        }
    }

    fn aim<'a>(&'a self, key: &'a str) -> Aim<'a> {
        let Inner { name, endpoint, region, .. } = &*self.inner;
        Aim { bucket: name, endpoint, region, key }
    }

    fn error(&self, key: &str, error: &object_store::Error) -> BucketError {
        self.aim(key).error(error)
    }

    fn transient(&self, key: &str, message: &str) -> BucketError {
        let source = Box::new(Cause::new(message));
        BucketError::Transient { bucket: self.inner.name.clone(), key: key.to_owned(), source }
    }

    fn invalid(&self, value: &str, reason: &'static str) -> BucketError {
        BucketError::InvalidArgument { bucket: self.inner.name.clone(), value: one_line(value, 80), reason }
    }

    fn incompatible(&self, problem: &'static str) -> BucketError {
        let Inner { name, endpoint, .. } = &*self.inner;
        BucketError::Incompatible { bucket: name.clone(), endpoint: endpoint.clone(), problem }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, endpoint, prefix, .. } = &*self.inner;
        f.debug_struct("Bucket")
            .field("name", name)
            .field("endpoint", endpoint)
            .field("prefix", prefix)
            .finish()
    }
}

/// An ETag without its quotation marks.
pub(crate) fn bare(etag: Option<&str>) -> String {
    let etag = etag.unwrap_or_default();
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn etags_lose_their_quotes_and_get_them_back() {
        assert_eq!(
            (bare(Some("\"abc\"")), bare(Some("abc")), bare(None)),
            ("abc".into(), "abc".into(), String::new())
        );
        let bucket = Bucket::in_memory("bucket");
        assert_eq!(bucket.if_match("abc-2").unwrap(), "\"abc-2\"");
        for hostile in ["", "a\r\nX: y", "a\"b", "a b", "é", &"a".repeat(300)] {
            assert!(bucket.if_match(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        let bucket = Bucket::in_memory("bucket");
        for key in ["", "/a", "a/", "../a", "a//b", "a?b", "a%2fb", "a\nb", "é", &"a/".repeat(600)] {
            assert!(matches!(bucket.path(key), Err(BucketError::InvalidArgument { .. })), "{key:?}");
        }
    }
}
