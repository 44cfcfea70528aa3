//! Reads. Sizes are bounded before a body is read.

use std::ops::Range;

use brigade_protocol::Digest;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, GetResult};

use super::{Bucket, Object, ObjectMeta, Pin};
use crate::{BucketError, Result};

/// Hashing this much takes long enough to disturb other tasks of the runtime.
const HASH_ASIDE: usize = 4 << 20;

impl Bucket {
    /// Reads an object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`BucketError::NotFound`]; [`BucketError::TooLarge`] before any of the body is read; others as the server says.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Object> {
        let result = self.fetch(key, GetOptions::default()).await?;
        let meta = self.meta(key, &result.meta);
        if meta.size > limit {
            return Err(self.too_large(key, meta.size, limit));
        }
        Ok(Object { bytes: self.collect(key, result, meta.size).await?, meta })
    }

    /// As [`get`](Self::get), with `None` for a missing object.
    ///
    /// # Errors
    /// As [`get`](Self::get), except for [`BucketError::NotFound`].
    pub async fn try_get(&self, key: &str, limit: u64) -> Result<Option<Object>> {
        found(self.get(key, limit).await)
    }

    /// Reads the object that `pin` describes, and no other.
    ///
    /// # Errors
    /// [`BucketError::Changed`] when the ETag differs, [`BucketError::SizeMismatch`] before the body is read,
    /// [`BucketError::DigestMismatch`] after; [`BucketError::NotFound`]; others as the server says.
    pub async fn get_pinned(&self, key: &str, pin: &Pin) -> Result<Bytes> {
        let result = self.fetch_pinned(key, pin).await?;
        let bytes = self.collect(key, result, pin.size).await?;
        let found = digest(&bytes).await;
        self.check_digest(key, pin.sha256, found)?;
        Ok(bytes)
    }

    /// Opens the object that `pin` describes: its ETag and size are right, its content is still to be hashed.
    pub(super) async fn fetch_pinned(&self, key: &str, pin: &Pin) -> Result<GetResult> {
        let result = self.fetch(key, self.matching(pin.etag.as_deref())?).await;
        let result = result.map_err(|error| changed(error, pin.etag.as_deref()))?;
        let size = result.meta.size;
        if size != pin.size {
            return Err(self.size_mismatch(key, pin.size, size));
        }
        Ok(result)
    }

    /// Reads `range` (bytes, end exclusive) of an object, of the version `etag` when one is given.
    ///
    /// The bytes are not checked against any hash: check them against one that covers just this range.
    ///
    /// # Errors
    /// [`BucketError::Changed`]; [`BucketError::NotFound`]; [`BucketError::SizeMismatch`] or
    /// [`BucketError::Rejected`] when the object ends before the range.
    pub async fn get_range(&self, key: &str, range: Range<u64>, etag: Option<&str>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (size, end) = (range.end - range.start, range.end);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..self.matching(etag)? };
        let result = self.fetch(key, options).await.map_err(|error| changed(error, etag))?;
        if result.range.end != end {
            return Err(self.size_mismatch(key, end, result.meta.size));
        }
        self.collect(key, result, size).await
    }

    /// What the store knows of an object; `None` when there is none.
    ///
    /// # Errors
    /// As the server says.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        let result = self.fetch(key, GetOptions { head: true, ..GetOptions::default() }).await;
        Ok(found(result)?.map(|result| self.meta(key, &result.meta)))
    }

    pub(super) async fn fetch(&self, key: &str, options: GetOptions) -> Result<GetResult> {
        let path = self.path(key)?;
        self.inner.store.get_opts(&path, options).await.map_err(|error| self.error(key, &error))
    }

    fn matching(&self, etag: Option<&str>) -> Result<GetOptions> {
        let if_match = etag.map(|etag| self.if_match(etag)).transpose()?;
        Ok(GetOptions { if_match, ..GetOptions::default() })
    }

    /// Reads a body of exactly `size` bytes, and stops reading at the first byte too many.
    async fn collect(&self, key: &str, result: GetResult, size: u64) -> Result<Bytes> {
        let mut stream = result.into_stream();
        let (mut whole, mut total) = (BytesMut::new(), 0);
        while let Some(chunk) = stream.try_next().await.map_err(|error| self.error(key, &error))? {
            total += chunk.len() as u64;
            if total > size {
                return Err(self.too_large(key, total, size));
            }
            if chunk.len() as u64 == size {
                return Ok(chunk);
            }
            if whole.is_empty() {
                // The size is within the reader's limit.
                whole.reserve(usize::try_from(size).unwrap_or(0));
            }
            whole.extend_from_slice(&chunk);
        }
        if total < size {
            return Err(self.transient(key, "the body ended early"));
        }
        Ok(whole.freeze())
    }

    pub(super) fn check_digest(&self, key: &str, expected: Digest, found: Digest) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let (bucket, key) = (self.inner.name.clone(), key.to_owned());
        Err(BucketError::DigestMismatch { bucket, key, expected, found })
    }

    pub(super) fn size_mismatch(&self, key: &str, expected: u64, size: u64) -> BucketError {
        BucketError::SizeMismatch { bucket: self.inner.name.clone(), key: key.to_owned(), expected, size }
    }

    fn too_large(&self, key: &str, size: u64, limit: u64) -> BucketError {
        BucketError::TooLarge { bucket: self.inner.name.clone(), key: key.to_owned(), limit, size }
    }
}

async fn digest(bytes: &Bytes) -> Digest {
    if bytes.len() < HASH_ASIDE {
        return Digest::of(bytes);
    }
    let aside = bytes.clone();
    match tokio::task::spawn_blocking(move || Digest::of(&aside)).await {
        Ok(digest) => digest,
        // The runtime is shutting down: hash here.
        Err(_) => Digest::of(bytes),
    }
}

/// Turns a missing object into `None`.
pub(super) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(BucketError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A failed precondition of a read that named an ETag.
fn changed(error: BucketError, etag: Option<&str>) -> BucketError {
    match (error, etag) {
        (BucketError::Conflict { bucket, key, .. }, Some(etag)) => {
            BucketError::Changed { bucket, key, etag: etag.to_owned() }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn bounded_and_pinned_reads() {
        let bucket = Bucket::in_memory("bucket");
        let etag = bucket.put("a/b", Bytes::from_static(b"hello")).await.unwrap().etag;
        let object = bucket.get("a/b", 5).await.unwrap();
        assert_eq!((&object.bytes[..], object.meta.size, &object.meta.etag), (&b"hello"[..], 5, &etag));
        assert!(matches!(bucket.get("a/b", 4).await, Err(BucketError::TooLarge { limit: 4, size: 5, .. })));
        assert!(
            bucket.try_get("a/c", 4).await.unwrap().is_none() && bucket.head("a/c").await.unwrap().is_none()
        );

        let pin = Pin { etag: Some(etag.clone()), sha256: Digest::of(b"hello"), size: 5 };
        assert_eq!(bucket.get_pinned("a/b", &pin).await.unwrap(), &b"hello"[..]);
        let wrong = Pin { size: 4, ..pin.clone() };
        assert!(matches!(bucket.get_pinned("a/b", &wrong).await, Err(BucketError::SizeMismatch { .. })));
        let wrong = Pin { sha256: Digest::of(b"x"), ..pin.clone() };
        assert!(matches!(bucket.get_pinned("a/b", &wrong).await, Err(BucketError::DigestMismatch { .. })));
        bucket.put("a/b", Bytes::from_static(b"jello")).await.unwrap();
        assert!(matches!(bucket.get_pinned("a/b", &pin).await, Err(BucketError::Changed { .. })));
        assert_eq!(bucket.get_range("a/b", 1..3, None).await.unwrap(), &b"el"[..]);
        assert!(matches!(bucket.get_range("a/b", 1..3, Some(&etag)).await, Err(BucketError::Changed { .. })));
        assert!(matches!(bucket.get_range("a/b", 3..9, None).await, Err(BucketError::SizeMismatch { .. })));
    }
}
