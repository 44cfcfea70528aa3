//! Who may do what: signatures against the keys in force, requests against the key's grants.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{Credentials, S3Auth, SecretKey};
use s3s::dto::{
    CopyObjectInput, CopySource, DeleteObjectsInput, ListMultipartUploadsInput, ListObjectsInput,
    ListObjectsV2Input, UploadPartCopyInput,
};
use s3s::path::S3Path;
use s3s::{S3Request, S3Result, s3_error};

use super::grants::{Action, KeyGrant};
use super::keys::KeyRing;

/// Checks requests against a key ring.
#[derive(Clone)]
pub(super) struct Gate {
    keys: KeyRing,
}

/// What an operation needs before its input is read.
enum Need {
    /// Any key at all; the answer holds only what the key sees.
    Key,
    /// Some grant on the bucket.
    Sight,
    /// The action on the key that the path names, or on the bucket.
    Action(Action),
    /// The action on some keys of the bucket. Which ones stands in the input: the operation's own check, further
    /// down, decides.
    Some(Action),
}

/// Every operation that the server carries out. One that is missing here is refused.
fn need(operation: &str) -> Option<Need> {
    Some(match operation {
        "ListBuckets" => Need::Key,
        "HeadBucket" | "GetBucketLocation" | "GetBucketVersioning" | "GetBucketLifecycleConfiguration" => {
            Need::Sight
        }
        "GetObject" | "HeadObject" | "GetObjectAttributes" => Need::Action(Action::Read),
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload"
        | "AbortMultipartUpload"
        | "ListParts" => Need::Action(Action::Write),
        "DeleteObject" => Need::Action(Action::Delete),
        "DeleteObjects" => Need::Some(Action::Delete),
        "ListObjects" | "ListObjectsV2" | "ListMultipartUploads" => Need::Some(Action::List),
        "CreateBucket" => Need::Action(Action::CreateBucket),
        "DeleteBucket" => Need::Action(Action::DeleteBucket),
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => Need::Action(Action::Configure),
        _ => return None,
    })
}

impl Gate {
    pub(super) fn new(keys: KeyRing) -> Self {
        Self { keys }
    }

    fn grant(&self, credentials: Option<&Credentials>) -> S3Result<Arc<KeyGrant>> {
        let credentials = credentials
            .ok_or_else(|| s3_error!(AccessDenied, "requests must be signed with an access key"))?;
        // The key was known a moment ago, when the signature was checked; it may have been revoked since.
        self.keys.find(&credentials.access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }

    fn require(
        &self,
        credentials: Option<&Credentials>,
        action: Action,
        bucket: &str,
        key: &str,
    ) -> S3Result<()> {
        if self.grant(credentials)?.allows(action, bucket, key) {
            Ok(())
        } else {
            Err(denied(action, bucket))
        }
    }

    fn source(&self, credentials: Option<&Credentials>, source: &CopySource) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket, key, .. } => self.require(credentials, Action::Read, bucket, key),
            _ => Err(s3_error!(NotImplemented, "the source of a copy must be a bucket and a key")),
        }
    }

    fn listing(&self, credentials: Option<&Credentials>, bucket: &str, prefix: Option<&str>) -> S3Result<()> {
        self.require(credentials, Action::List, bucket, prefix.unwrap_or_default())
    }
}

fn denied(action: Action, bucket: &str) -> s3s::S3Error {
    s3_error!(AccessDenied, "the access key has no grant to {action:?} here in bucket {bucket}")
}

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let key = self
            .keys
            .find(access_key)
            .ok_or_else(|| s3_error!(InvalidAccessKeyId, "the access key is not known"))?;
        Ok(SecretKey::from(key.secret_access_key.expose()))
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let grant = self.grant(cx.credentials())?;
        let operation = cx.s3_op().name();
        let Some(need) = need(operation) else {
            return Err(s3_error!(NotImplemented, "{operation} is not supported by this server"));
        };
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => ("", ""),
            S3Path::Bucket { bucket } => (&**bucket, ""),
            S3Path::Object { bucket, key } => (&**bucket, &**key),
        };
        match need {
            Need::Key => Ok(()),
            Need::Sight if grant.sees(bucket) => Ok(()),
            Need::Sight => Err(s3_error!(AccessDenied, "the access key has no grant on bucket {bucket}")),
            Need::Action(action) if grant.allows(action, bucket, key) => Ok(()),
            Need::Some(action) if grant.may(action, bucket) => Ok(()),
            Need::Action(action) | Need::Some(action) => Err(denied(action, bucket)),
        }
    }

    async fn copy_object(&self, req: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        self.source(req.credentials.as_ref(), &req.input.copy_source)
    }

    async fn upload_part_copy(&self, req: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        self.source(req.credentials.as_ref(), &req.input.copy_source)
    }

    async fn delete_objects(&self, req: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        let grant = self.grant(req.credentials.as_ref())?;
        let bucket = &req.input.bucket;
        let all =
            req.input.delete.objects.iter().all(|object| grant.allows(Action::Delete, bucket, &object.key));
        if all { Ok(()) } else { Err(denied(Action::Delete, bucket)) }
    }

    async fn list_objects(&self, req: &mut S3Request<ListObjectsInput>) -> S3Result<()> {
        self.listing(req.credentials.as_ref(), &req.input.bucket, req.input.prefix.as_deref())
    }

    async fn list_objects_v2(&self, req: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        self.listing(req.credentials.as_ref(), &req.input.bucket, req.input.prefix.as_deref())
    }

    async fn list_multipart_uploads(&self, req: &mut S3Request<ListMultipartUploadsInput>) -> S3Result<()> {
        self.listing(req.credentials.as_ref(), &req.input.bucket, req.input.prefix.as_deref())
    }
}
