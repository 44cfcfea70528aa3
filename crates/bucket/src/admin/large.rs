//! Create-once for files that are too large for one request's patience: a conditional CompleteMultipartUpload, which
//! `object_store` does not offer.

use std::path::Path;

use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ObjectCannedAcl};

use super::{Admin, failure};
use crate::bucket::{Tokens, WRITE_TOKEN, bare};
use crate::cause::Cause;
use crate::place::{creates_multipart_once, writer_owns};
use crate::{BucketError, Creation, Result, Stored};

impl Admin {
    /// Writes a file as an object only if none is there. The parts are uploaded first; completing them is the commit.
    ///
    /// Where a store ignores the condition on completion (Ceph), the file goes up in one request of at most 5 GiB.
    ///
    /// # Errors
    /// [`BucketError::File`] for the file; [`BucketError::Conflict`] when another writer is completing at this moment:
    /// call again. Others as the server says.
    pub async fn create_large(&self, key: &str, path: &Path) -> Result<Creation> {
        let file = |source| BucketError::File { path: path.display().to_string(), source };
        let size = tokio::fs::metadata(path).await.map_err(file)?.len();
        let key = match self.place.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        let token = Tokens::random().next();
        let part_size = self.options.part_size.max(5 << 20) as u64;
        let written = if size <= part_size || !creates_multipart_once(self.place.dialect) {
            self.put_once(&key, path, size, &token).await
        } else {
            self.put_parts_once(&key, path, size.div_ceil(part_size), part_size, size, &token).await
        };
        match written {
            Ok(etag) => Ok(Creation::Created(Stored { etag })),
            Err(error) if matches!(error, BucketError::Conflict { .. }) || error.is_transient() => {
                self.settle(&key, &token).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn put_once(&self, key: &str, path: &Path, size: u64, token: &str) -> Result<String> {
        let request = self.client.put_object().bucket(&self.place.bucket).key(key).if_none_match("*");
        let request =
            request.set_acl(self.acl()).metadata(WRITE_TOKEN, token).body(self.slice(path, 0, size).await?);
        let stored = request.send().await.map_err(|error| self.refused(key, &error))?;
        Ok(bare(stored.e_tag()))
    }

    async fn put_parts_once(
        &self,
        key: &str,
        path: &Path,
        parts: u64,
        part_size: u64,
        size: u64,
        token: &str,
    ) -> Result<String> {
        let bucket = &self.place.bucket;
        let begun =
            self.client.create_multipart_upload().bucket(bucket).key(key).metadata(WRITE_TOKEN, token);
        let begun = begun.set_acl(self.acl()).send().await.map_err(|error| self.refused(key, &error))?;
        let id = begun.upload_id().unwrap_or_default().to_owned();
        let completed = async {
            let mut sent = CompletedMultipartUpload::builder();
            for part in 0..parts {
                let (number, from) = (i32::try_from(part + 1).unwrap_or(i32::MAX), part * part_size);
                let body = self.slice(path, from, part_size.min(size - from)).await?;
                let request = self.client.upload_part().bucket(bucket).key(key).upload_id(&id);
                let stored = request.part_number(number).body(body).send().await;
                let stored = stored.map_err(|error| self.refused(key, &error))?;
                let part =
                    CompletedPart::builder().part_number(number).set_e_tag(stored.e_tag().map(str::to_owned));
                sent = sent.parts(part.build());
            }
            let request = self.client.complete_multipart_upload().bucket(bucket).key(key).upload_id(&id);
            let stored = request.if_none_match("*").multipart_upload(sent.build()).send().await;
            Ok(bare(stored.map_err(|error| self.refused(key, &error))?.e_tag()))
        };
        let completed = completed.await;
        if completed.is_err() {
            let abort =
                self.client.abort_multipart_upload().bucket(bucket).key(key).upload_id(&id).send().await;
            if let Err(error) = abort.map_err(|error| self.refused(key, &error)) {
                tracing::warn!(key, %error, "abandoned parts stay until they expire");
            }
        }
        completed
    }

    /// Where objects belong to their writers, the bucket's owner must be let in.
    fn acl(&self) -> Option<ObjectCannedAcl> {
        writer_owns(self.place.dialect).then_some(ObjectCannedAcl::BucketOwnerFullControl)
    }

    async fn slice(&self, path: &Path, from: u64, size: u64) -> Result<ByteStream> {
        let body = ByteStream::read_from().path(path).offset(from).length(Length::Exact(size)).build().await;
        body.map_err(|error| BucketError::File {
            path: path.display().to_string(),
            source: std::io::Error::other(error.to_string()),
        })
    }

    /// Who wrote the object: us, another, or nobody.
    async fn settle(&self, key: &str, token: &str) -> Result<Option<Creation>> {
        match self.client.head_object().bucket(&self.place.bucket).key(key).send().await {
            Ok(found) => {
                let ours = found
                    .metadata()
                    .and_then(|metadata| metadata.get(WRITE_TOKEN))
                    .is_some_and(|t| t == token);
                let stored = Stored { etag: bare(found.e_tag()) };
                Ok(Some(if ours { Creation::Created(stored) } else { Creation::AlreadyExists }))
            }
            Err(error) => match self.error(key, &error) {
                BucketError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// A failed condition is a conflict; everything else has its own name.
    fn refused<E: failure::Told>(&self, key: &str, error: &E) -> BucketError {
        match failure::cause(error) {
            cause @ Cause { status: Some(412), .. } => BucketError::Conflict {
                bucket: self.place.bucket.clone(),
                key: key.to_owned(),
                source: Box::new(cause),
            },
            cause => self.named(key, cause),
        }
    }
}
