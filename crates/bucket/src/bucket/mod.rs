//! One bucket.

mod create;
mod files;
mod list;
mod probe;
mod read;
mod token;
mod wait;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use brigade_protocol::{Digest, Timestamp};
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::limit::LimitStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

pub use create::Creation;
pub use probe::Probe;
pub use wait::PollPolicy;

use crate::error::{Aim, Cause, one_line};
use crate::place::{Place, is_key, quotes_etags};
use crate::wire::{Counters, ServerClock, Wire, is_public};
use crate::{Access, BucketAddress, BucketError, BucketOptions, Result};
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
    /// Opens a bucket. Sends nothing; [`probe`](Self::probe) finds out whether it works.
    ///
    /// The address may come from a stranger: it is checked here. For those set `options.public_only`, and never
    /// [`Access::Environment`].
    ///
    /// # Errors
    /// [`BucketError::InvalidAddress`] when `options.public_only` and the address is not on the public internet;
    /// [`BucketError::Rejected`] when the environment's settings do not parse.
    pub fn open(address: &BucketAddress, access: impl Into<Access>, options: BucketOptions) -> Result<Self> {
        let place = Place::of(address)?;
        if options.public_only && place.literal.is_some_and(|host| !is_public(host)) {
            return Err(BucketError::InvalidAddress {
                field: "endpoint",
                reason: "is not on the public internet",
            });
        }
        let wire = Wire::new(place.origin.clone(), options.clone());
        let store = builder(&place, &access.into(), &options).with_http_connector(wire.clone()).build();
        let aim =
            Aim { bucket: &place.bucket, endpoint: &place.origin, region: &place.region, key: &place.bucket };
        let store = store.map_err(|error| aim.error(&error))?;
        let inner = Inner {
            store: Arc::new(LimitStore::new(store, options.max_concurrency.max(1))),
            etags: if quotes_etags(place.dialect) { EtagStyle::Quoted } else { EtagStyle::Bare },
            name: place.bucket,
            endpoint: place.origin,
            region: place.region,
            prefix: place.prefix,
            tokens: Tokens::random(),
            clock: wire.clock,
            counters: wire.counters,
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// An empty bucket in this process's memory, for tests and simulations.
    pub fn in_memory(name: &str) -> Self {
        Self::over(Arc::new(InMemory::new()), name, BucketOptions::default())
    }

    /// A bucket over any store that keeps metadata; its clock is this machine's.
    pub fn over(store: Arc<dyn ObjectStore>, name: &str, options: BucketOptions) -> Self {
        let inner = Inner {
            store,
            name: name.to_owned(),
            endpoint: "memory:".to_owned(),
            region: "local".to_owned(),
            prefix: String::new(),
            etags: EtagStyle::Quoted,
            tokens: Tokens::random(),
            clock: Arc::new(ServerClock::local()),
            counters: Arc::default(),
            options,
        };
        Self { inner: Arc::new(inner) }
    }

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
        self.head("probe/clock").await?;
        self.inner.clock.now().ok_or_else(|| self.incompatible("sends no Date header; a proxy may remove it"))
    }

    /// Running totals of requests and bytes.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inner.counters)
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

fn builder(place: &Place, access: &Access, options: &BucketOptions) -> AmazonS3Builder {
    let builder = match access {
        Access::Keys(keys) => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(keys.access_key_id())
                .with_secret_access_key(keys.secret_access_key());
            keys.session_token().into_iter().fold(builder, AmazonS3Builder::with_token)
        }
        Access::Environment => AmazonS3Builder::from_env(),
        Access::Anonymous => AmazonS3Builder::new().with_skip_signature(true),
    };
    let backoff = BackoffConfig::default();
    // Never zero: the client draws its pauses from a range, and panics on an empty one.
    let max_backoff = options.max_backoff.max(Duration::from_millis(1));
    let init_backoff = backoff.init_backoff.min(max_backoff);
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, ..backoff },
        max_retries: options.max_retries,
        retry_timeout: options.retry_timeout,
    };
    // The endpoint is given whole, bucket and all: `AWS_ENDPOINT_URL` and its kin must not move a signed address.
    builder
        .with_bucket_name(&place.bucket)
        .with_region(&place.region)
        .with_endpoint(&place.url)
        .with_virtual_hosted_style_request(true)
        .with_s3_express(false)
        .with_allow_http(true)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One DELETE a key: bulk deletion is where S3's imitators differ most.
        .with_disable_bulk_delete(true)
        .with_retry(retry)
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
    use crate::Dialect;

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

    #[tokio::test]
    async fn private_hosts_are_refused_when_asked() {
        let options = BucketOptions { public_only: true, ..BucketOptions::default() };
        let at = |endpoint: &str| BucketAddress {
            endpoint: Some(endpoint.into()),
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            prefix: String::new(),
            dialect: Dialect::Minio,
        };
        for endpoint in ["http://169.254.169.254", "http://127.0.0.1:9000", "http://[::1]:80"] {
            assert!(Bucket::open(&at(endpoint), Access::Anonymous, options.clone()).is_err());
        }
        // A name is only seen through when it is resolved.
        let once = BucketOptions { max_retries: 0, ..options };
        let bucket = Bucket::open(&at("http://localhost:1"), Access::Anonymous, once).unwrap();
        let error = bucket.get("key", 1).await.unwrap_err();
        assert!(matches!(&error, BucketError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("no public address"), "{error}");
    }
}
