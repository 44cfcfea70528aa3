//! Opening a bucket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brigade_protocol::{BucketAddress, Dialect};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, AwsCredentialProvider, S3ConditionalPut};
use object_store::client::CredentialProvider;
use object_store::limit::LimitStore;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::{Bucket, EtagStyle, Inner, Tokens};
use crate::cause::Aim;
use crate::place::{Place, quotes_etags, writer_owns};
use crate::wire::{ServerClock, Wire, is_public};
use crate::{Access, BucketError, BucketOptions, Result};

/// The smallest part that S3 takes, except for the last.
const SMALLEST_PART: usize = 5 << 20;

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
        let options = BucketOptions { part_size: options.part_size.max(SMALLEST_PART), ..options };
        let wire = Wire::new(place.origin.clone(), options.clone());
        let store = build(&place, &access.into(), &options, wire.clone());
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
            recognised: wire.recognised,
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
            recognised: Arc::default(),
            options,
        };
        Self { inner: Arc::new(inner) }
    }
}

fn build(
    place: &Place,
    access: &Access,
    options: &BucketOptions,
    wire: Wire,
) -> object_store::Result<AmazonS3> {
    let builder = match access {
        Access::Keys(keys) => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(keys.access_key_id())
                .with_secret_access_key(keys.secret_access_key());
            keys.session_token().into_iter().fold(builder, AmazonS3Builder::with_token)
        }
        Access::Environment => AmazonS3Builder::new().with_credentials(EnvironmentKeys::find(wire.clone())?),
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
    builder
        .with_bucket_name(&place.bucket)
        .with_region(&place.region)
        // The endpoint is given whole, bucket and all.
        .with_endpoint(&place.url)
        .with_virtual_hosted_style_request(true)
        .with_client_options(client_options(place.dialect))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One DELETE a key: bulk deletion is where S3's imitators differ most.
        .with_disable_bulk_delete(true)
        .with_retry(retry)
        .with_http_connector(wire)
        .build()
}

/// The environment's keys, and only those: `AWS_ENDPOINT_URL` and its kin must not move a signed address.
#[derive(Debug)]
struct EnvironmentKeys(AwsCredentialProvider);

#[derive(Debug, thiserror::Error)]
#[error(
    "the environment offers no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is attached"
)]
struct NoKeys(#[source] object_store::Error);

impl EnvironmentKeys {
    fn find(wire: Wire) -> object_store::Result<AwsCredentialProvider> {
        // The last resort is an instance's metadata service. Where there is none, its absence must show soon.
        let retry =
            RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() };
        let environment = AmazonS3Builder::from_env().with_bucket_name("unused").with_retry(retry);
        let environment = environment.with_http_connector(wire).build()?;
        Ok(Arc::new(Self(Arc::clone(environment.credentials()))))
    }
}

#[async_trait]
impl CredentialProvider for EnvironmentKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.0.get_credential().await.map_err(|source| object_store::Error::Unauthenticated {
            path: String::new(),
            source: Box::new(NoKeys(source)),
        })
    }
}

fn client_options(dialect: Dialect) -> ClientOptions {
    let options = ClientOptions::new().with_allow_http(true);
    if !writer_owns(dialect) {
        return options;
    }
    // Otherwise the aggregator could not read what peers write into its lobby: there an object belongs to its writer.
    // Amazon's buckets belong to their owner with all that is in them since 2023; R2 knows no ACL.
    let acl = HeaderValue::from_static("bucket-owner-full-control");
    options.with_default_headers(HeaderMap::from_iter([(HeaderName::from_static("x-amz-acl"), acl)]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
