//! Buckets themselves: creating, removing, listing, and what is known of them.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Store;
use super::convert::timestamp;
use crate::server::body::blocking;

/// The region that the server says it is in. Signatures for any region are accepted.
const REGION: &str = "us-east-1";
/// The most bytes that a bucket's lifecycle rules may take, as JSON.
const MOST_LIFECYCLE_BYTES: usize = 1 << 20;

pub(super) async fn create_bucket(
    store: &Store,
    req: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let engine = store.engine.clone();
    let name = req.input.bucket;
    let location = Some(format!("/{name}"));
    blocking(move || engine.create(&name)).await?;
    Ok(S3Response::new(CreateBucketOutput { location }))
}

pub(super) async fn delete_bucket(
    store: &Store,
    req: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let engine = store.engine.clone();
    blocking(move || engine.remove(&req.input.bucket)).await?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) async fn head_bucket(
    store: &Store,
    req: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    store.engine.bucket(&req.input.bucket)?;
    let bucket_region = Some(REGION.to_owned());
    Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
}

/// Lists the buckets that the key sees; the others are none of its business.
pub(super) async fn list_buckets(
    store: &Store,
    req: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let key = req.credentials.as_ref().and_then(|credentials| store.keys.find(&credentials.access_key));
    let key = key.ok_or_else(|| s3_error!(AccessDenied))?;
    let prefix = req.input.prefix.unwrap_or_default();
    let seen = store.engine.list().into_iter().filter(|bucket| key.sees(&bucket.name));
    let buckets = seen
        .filter(|bucket| bucket.name.starts_with(&prefix))
        .map(|bucket| Bucket {
            name: Some(bucket.name.clone()),
            creation_date: Some(timestamp(bucket.created_ms)),
            ..Default::default()
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
}

pub(super) async fn get_bucket_location(
    store: &Store,
    req: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    store.engine.bucket(&req.input.bucket)?;
    // S3 answers with nothing for the region that this server says it is in.
    Ok(S3Response::new(GetBucketLocationOutput::default()))
}

pub(super) async fn get_bucket_versioning(
    store: &Store,
    req: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    store.engine.bucket(&req.input.bucket)?;
    Ok(S3Response::new(GetBucketVersioningOutput::default()))
}

pub(super) async fn get_bucket_lifecycle_configuration(
    store: &Store,
    req: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let rules = store.engine.bucket(&req.input.bucket)?.lifecycle();
    let rules = rules.ok_or_else(|| s3_error!(NoSuchLifecycleConfiguration))?;
    let rules: BucketLifecycleConfiguration =
        serde_json::from_str(&rules).map_err(|error| s3_error!(error, InternalError))?;
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(rules.rules),
        ..Default::default()
    }))
}

pub(super) async fn put_bucket_lifecycle_configuration(
    store: &Store,
    req: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let bucket = store.engine.bucket(&req.input.bucket)?;
    let rules =
        req.input.lifecycle_configuration.ok_or_else(|| s3_error!(MalformedXML, "there are no rules"))?;
    let rules = serde_json::to_string(&rules).map_err(|error| s3_error!(error, MalformedXML))?;
    if rules.len() > MOST_LIFECYCLE_BYTES {
        return Err(s3_error!(MalformedXML, "the rules are too long"));
    }
    blocking(move || bucket.set_lifecycle(Some(rules))).await?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

pub(super) async fn delete_bucket_lifecycle(
    store: &Store,
    req: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    let bucket = store.engine.bucket(&req.input.bucket)?;
    blocking(move || bucket.set_lifecycle(None)).await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput {}))
}
