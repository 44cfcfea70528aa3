//! Writes: overwriting, comparing, deleting.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::{Attribute, Attributes, MultipartUpload, PutMode, PutOptions, PutPayload, UpdateVersion};

use super::{Bucket, Stored, bare};
use crate::{BucketError, Result};

/// Parts of one upload in flight at once.
const PARTS_IN_FLIGHT: usize = 4;
/// The most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;
/// The metadata name under which a conditional write leaves its token.
pub(crate) const WRITE_TOKEN: &str = "brigade-write";

impl Bucket {
    /// Writes an object, over whatever was there. Bodies above `part_size` go up in equal parts.
    ///
    /// # Errors
    /// As the server says.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<Stored> {
        let part_size = self.part_size(body.len() as u64);
        if body.len() > part_size {
            let parts = body.len().div_ceil(part_size);
            let cut = move |i: usize| body.slice(i * part_size..body.len().min((i + 1) * part_size));
            return self.put_parts(key, stream::iter((0..parts).map(cut).map(Ok))).await;
        }
        let path = self.path(key)?;
        let stored = self.inner.store.put_opts(&path, body.into(), PutOptions::default()).await;
        let stored = stored.map_err(|error| self.error(key, &error))?;
        Ok(Stored { etag: bare(stored.e_tag.as_deref()) })
    }

    /// Bytes in a part of an object of `size` bytes.
    pub(super) fn part_size(&self, size: u64) -> usize {
        let needed = usize::try_from(size.div_ceil(MAX_PARTS)).unwrap_or(usize::MAX);
        self.inner.options.part_size.max(needed).max(1)
    }

    /// Uploads parts, all of the same size but the last, and leaves nothing behind when one fails.
    pub(super) async fn put_parts(
        &self,
        key: &str,
        parts: impl stream::Stream<Item = Result<Bytes>> + Send,
    ) -> Result<Stored> {
        let path = self.path(key)?;
        let upload = self.inner.store.put_multipart_opts(&path, Default::default()).await;
        let mut upload = upload.map_err(|error| self.error(key, &error))?;
        let etag = match self.send_parts(key, upload.as_mut(), parts).await {
            Ok(etag) => etag,
            Err(error) => {
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(key, error = %self.error(key, &abort), "abandoned parts stay until they expire");
                }
                return Err(error);
            }
        };
        // Ceph's answer has an empty ETag.
        let etag = match etag {
            etag if etag.is_empty() => self.head(key).await?.map(|meta| meta.etag).unwrap_or_default(),
            etag => etag,
        };
        Ok(Stored { etag })
    }

    async fn send_parts(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        parts: impl stream::Stream<Item = Result<Bytes>> + Send,
    ) -> Result<String> {
        let sends = parts.map_ok(|part| {
            let send = upload.put_part(PutPayload::from(part));
            async move { send.await.map_err(|error| self.error(key, &error)) }
        });
        sends.try_buffer_unordered(PARTS_IN_FLIGHT).try_collect::<()>().await?;
        let done = upload.complete().await.map_err(|error| self.error(key, &error))?;
        Ok(bare(done.e_tag.as_deref()))
    }

    /// Replaces the version `etag` of an object.
    ///
    /// # Errors
    /// [`BucketError::Changed`] when the object is missing or has another ETag; others as the server says. After a
    /// transient error the write may still have happened.
    pub async fn update(&self, key: &str, body: Bytes, etag: &str) -> Result<Stored> {
        let path = self.path(key)?;
        let version = UpdateVersion { e_tag: Some(self.if_match(etag)?), version: None };
        let token = self.inner.tokens.next();
        let options = stamped(PutMode::Update(version), &token);
        let error = match self.inner.store.put_opts(&path, body.into(), options).await {
            Ok(stored) => return Ok(Stored { etag: bare(stored.e_tag.as_deref()) }),
            Err(error) => self.error(key, &error),
        };
        // A write that was applied and then answered with 500 is repeated, and the repetition fails on the first.
        match error {
            BucketError::Conflict { bucket, key, .. } => match self.written_by(&key, &token).await? {
                Some(etag) => Ok(Stored { etag }),
                None => Err(BucketError::Changed { bucket, key, etag: etag.to_owned() }),
            },
            error if error.is_transient() => match self.written_by(key, &token).await {
                Ok(Some(etag)) => Ok(Stored { etag }),
                _ => Err(error),
            },
            error => Err(error),
        }
    }

    async fn written_by(&self, key: &str, token: &str) -> Result<Option<String>> {
        Ok(self
            .stamp(key)
            .await?
            .filter(|stamp| stamp.token.as_deref() == Some(token))
            .map(|stamp| stamp.etag))
    }

    /// Deletes an object; a missing one is no error.
    ///
    /// # Errors
    /// As the server says.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        let mut deleted = self.inner.store.delete_stream(stream::iter([Ok(path)]).boxed());
        while let Some(result) = deleted.next().await {
            match result.map_err(|error| self.error(key, &error)) {
                Ok(_) | Err(BucketError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Options of a conditional write that leaves its token.
pub(super) fn stamped(mode: PutMode, token: &str) -> PutOptions {
    let attributes = Attributes::from_iter([(Attribute::Metadata(WRITE_TOKEN.into()), token.to_owned())]);
    PutOptions { mode, attributes, ..PutOptions::default() }
}
