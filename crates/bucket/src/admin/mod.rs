//! Making and keeping buckets: what operators and tests do, and what `object_store` cannot.
//!
//! This is the only place that touches `aws-sdk-s3`; none of its types leaves it.

mod failure;
mod large;
mod policy;

use std::fmt;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
    CreateBucketConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
};
use brigade_protocol::{BucketAddress, Dialect};

pub use policy::Grant;

/// An ETag that no object has.
const NOBODYS_ETAG: &str = "\"00000000000000000000000000000000\"";

use crate::cause::{Aim, Cause};
use crate::place::Place;
use crate::{BucketError, BucketOptions, Credentials, Result};

/// The owner's view of one bucket.
#[derive(Clone)]
pub struct Admin {
    client: Client,
    place: Place,
    options: BucketOptions,
}

/// What a bucket forgets by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// Days after which the parts of an unfinished multipart upload go; 0 keeps them.
    pub abort_multipart_days: i32,
    /// Prefixes (from the bucket's root, with a slash at the end) and the days after which objects under them go.
    pub expire: Vec<(String, i32)>,
}

impl Admin {
    /// Opens the owner's view. Sends nothing.
    ///
    /// # Errors
    /// [`BucketError::InvalidAddress`] when the address is not well formed.
    pub fn open(address: &BucketAddress, credentials: &Credentials, options: BucketOptions) -> Result<Self> {
        let place = Place::of(address)?;
        let keys = aws_sdk_s3::config::Credentials::new(
            credentials.access_key_id(),
            credentials.secret_access_key(),
            credentials.session_token().map(str::to_owned),
            None,
            "brigade",
        );
        let timeouts = TimeoutConfig::builder().connect_timeout(options.connect_timeout).build();
        let retries = u32::try_from(options.max_retries).unwrap_or(u32::MAX).saturating_add(1);
        let mut config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(place.region.clone()))
            .credentials_provider(keys)
            .timeout_config(timeouts)
            .retry_config(
                RetryConfig::standard().with_max_attempts(retries).with_max_backoff(options.max_backoff),
            )
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().grace_period(options.response_timeout).build(),
            )
            // The SDK would add checksum trailers, which Ceph refuses and R2 takes for a second checksum.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if address.endpoint.is_some() {
            config = config.endpoint_url(&place.origin).force_path_style(true);
        }
        Ok(Self { client: Client::from_conf(config.build()), place, options })
    }

    /// Makes the bucket; `false` when it was ours already.
    ///
    /// # Errors
    /// [`BucketError::Rejected`] when it belongs to somebody else; others as the server says.
    pub async fn create_bucket(&self) -> Result<bool> {
        let Place { bucket, region, dialect, .. } = &self.place;
        let mut request = self.client.create_bucket().bucket(bucket);
        if *dialect == Dialect::Aws && region != "us-east-1" {
            let constraint = BucketLocationConstraint::from(region.as_str());
            let location = CreateBucketConfiguration::builder().location_constraint(constraint).build();
            request = request.create_bucket_configuration(location);
        }
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => {
                let cause = failure::cause(&error);
                match cause.code.as_deref() {
                    Some("BucketAlreadyOwnedByYou") => Ok(false),
                    Some("BucketAlreadyExists") => Err(BucketError::Rejected {
                        bucket: bucket.clone(),
                        key: bucket.clone(),
                        source: Box::new(Cause::new("the name is taken by another account; choose another")),
                    }),
                    _ => Err(self.named(bucket, cause)),
                }
            }
        }
    }

    /// Sets who else may read the bucket, and what they may write. Replaces earlier grants.
    ///
    /// # Errors
    /// As the server says.
    pub async fn grant(&self, grants: &[Grant]) -> Result<()> {
        let policy = policy::document(&self.place.bucket, &self.place.prefix, grants);
        let request = self.client.put_bucket_policy().bucket(&self.place.bucket).policy(policy);
        request.send().await.map(|_| ()).map_err(|error| self.error("(policy)", &error))
    }

    /// Sets what the bucket forgets by itself. Replaces earlier rules.
    ///
    /// # Errors
    /// As the server says.
    pub async fn set_lifecycle(&self, lifecycle: &Lifecycle) -> Result<()> {
        let mut rules = Vec::new();
        if lifecycle.abort_multipart_days > 0 {
            let abort = AbortIncompleteMultipartUpload::builder()
                .days_after_initiation(lifecycle.abort_multipart_days);
            rules.push(rule("abandoned-uploads", "").abort_incomplete_multipart_upload(abort.build()));
        }
        for (index, (prefix, days)) in lifecycle.expire.iter().enumerate() {
            let expiration = LifecycleExpiration::builder().days(*days).build();
            rules.push(rule(&format!("expire-{index}"), prefix).expiration(expiration));
        }
        let malformed = |error: &dyn fmt::Display| self.named("(lifecycle)", Cause::new(&error.to_string()));
        let rules = rules.into_iter().map(|rule| rule.build()).collect::<Result<Vec<_>, _>>();
        let rules = rules.map_err(|error| malformed(&error))?;
        let configuration = BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build();
        let configuration = configuration.map_err(|error| malformed(&error))?;
        let request = self.client.put_bucket_lifecycle_configuration().bucket(&self.place.bucket);
        let sent = request.lifecycle_configuration(configuration).send().await;
        sent.map(|_| ()).map_err(|error| self.error("(lifecycle)", &error))
    }

    /// Whether the keys may write the object `key` (relative to the address's prefix), found out without writing it: the write demands a version
    /// that is not there and has a hash that is not its own. Stores look at permissions first, then at these; some at one of them only, when there is no
    /// such object.
    ///
    /// # Errors
    /// [`BucketError::ConditionIgnored`] when the store wrote all the same; what it wrote is deleted if the keys allow that. Others but
    /// [`BucketError::Denied`] as it says.
    pub async fn may_write(&self, key: &str) -> Result<bool> {
        let Place { bucket, prefix, origin, .. } = &self.place;
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        let request = self.client.put_object().bucket(bucket).key(&path).body(Vec::new().into());
        // The hash of the one byte `x`; the body is empty.
        let request = request.content_md5("ndTkYSaMgDT1yFZOFVxnpg==").if_match(NOBODYS_ETAG);
        let Err(error) = request.send().await else {
            let _ = self.client.delete_object().bucket(bucket).key(&path).send().await;
            let (bucket, endpoint) = (bucket.clone(), origin.clone());
            return Err(BucketError::ConditionIgnored { bucket, endpoint, condition: "If-Match" });
        };
        let cause = failure::cause(&error);
        match (cause.status, cause.code.as_deref()) {
            (_, Some("BadDigest" | "InvalidDigest" | "PreconditionFailed" | "NoSuchKey"))
            | (Some(412), _) => Ok(true),
            _ => match self.named(key, cause) {
                BucketError::Denied { .. } => Ok(false),
                BucketError::NotFound { .. } => Ok(true),
                error => Err(error),
            },
        }
    }

    /// What the bucket forgets by itself, as far as rules say it in days; rules that are switched off are left out.
    ///
    /// # Errors
    /// [`BucketError::Denied`] where the key may not see the rules; others as the server says.
    pub async fn lifecycle(&self) -> Result<Lifecycle> {
        let request = self.client.get_bucket_lifecycle_configuration().bucket(&self.place.bucket);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = failure::cause(&error);
                return match cause.code.as_deref() {
                    Some("NoSuchLifecycleConfiguration") => Ok(Lifecycle::default()),
                    _ => Err(self.named("(lifecycle)", cause)),
                };
            }
        };
        let mut found = Lifecycle::default();
        for rule in answer.rules().iter().filter(|rule| *rule.status() == ExpirationStatus::Enabled) {
            let abort =
                rule.abort_incomplete_multipart_upload().and_then(|abort| abort.days_after_initiation());
            found.abort_multipart_days = found.abort_multipart_days.max(abort.unwrap_or(0));
            #[expect(deprecated, reason = "older servers answer with it")]
            let old = rule.prefix();
            let filter = rule.filter();
            // A rule for some objects only, by tag or size, says nothing of ours.
            let is_narrow = filter.is_some_and(|filter| {
                let by_size = |less: Option<i64>, greater: Option<i64>| less.is_some() || greater.is_some();
                filter.tag().is_some()
                    || by_size(filter.object_size_less_than(), filter.object_size_greater_than())
                    || filter.and().is_some_and(|and| {
                        !and.tags().is_empty()
                            || by_size(and.object_size_less_than(), and.object_size_greater_than())
                    })
            });
            if is_narrow {
                continue;
            }
            let and = filter.and_then(|filter| filter.and()).and_then(|and| and.prefix());
            let prefix = filter.and_then(|filter| filter.prefix()).or(and).or(old).unwrap_or_default();
            if let Some(days) = rule.expiration().and_then(|expiration| expiration.days()) {
                found.expire.push((prefix.to_owned(), days));
            }
        }
        Ok(found)
    }

    /// Deletes every object and every unfinished upload under `prefix` (from the bucket's root, as a plain text prefix;
    /// empty for all), and returns how many objects went.
    ///
    /// # Errors
    /// As the server says; what was deleted before stays deleted.
    pub async fn delete_under(&self, prefix: &str) -> Result<u64> {
        let bucket = &self.place.bucket;
        let mut deleted = 0;
        loop {
            let page = self.client.list_objects_v2().bucket(bucket).prefix(prefix).send().await;
            let page = page.map_err(|error| self.error(prefix, &error))?;
            let keys: Vec<&str> = page.contents().iter().filter_map(|object| object.key()).collect();
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let gone = self.client.delete_object().bucket(bucket).key(key).send().await;
                gone.map_err(|error| self.error(key, &error))?;
                deleted += 1;
            }
        }
        let uploads = self.client.list_multipart_uploads().bucket(bucket).prefix(prefix).send().await;
        let uploads = uploads.map_err(|error| self.error(prefix, &error))?;
        for upload in uploads.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            let gone =
                self.client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id).send().await;
            gone.map_err(|error| self.error(key, &error))?;
        }
        Ok(deleted)
    }

    /// Deletes the bucket and everything in it.
    ///
    /// # Errors
    /// As the server says; what was deleted before stays deleted.
    pub async fn delete_bucket(&self) -> Result<()> {
        self.delete_under("").await?;
        let request = self.client.delete_bucket().bucket(&self.place.bucket);
        request.send().await.map(|_| ()).map_err(|error| self.error(&self.place.bucket, &error))
    }

    fn error<E: failure::Told>(&self, key: &str, error: &E) -> BucketError {
        self.named(key, failure::cause(error))
    }

    fn named(&self, key: &str, cause: Cause) -> BucketError {
        let Place { bucket, origin, region, .. } = &self.place;
        let aim = Aim { bucket, endpoint: origin, region, key };
        match (cause.status, cause.code.as_deref()) {
            (Some(404), None | Some("NoSuchKey" | "NotFound")) => {
                BucketError::NotFound { bucket: bucket.clone(), key: key.to_owned() }
            }
            _ => aim.cause(cause),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("place", &self.place).finish()
    }
}

fn rule(id: &str, prefix: &str) -> aws_sdk_s3::types::builders::LifecycleRuleBuilder {
    let filter = LifecycleRuleFilter::builder().prefix(prefix).build();
    LifecycleRule::builder().id(id).filter(filter).status(ExpirationStatus::Enabled)
}
