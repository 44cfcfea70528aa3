//! Single questions to a store, for whoever wants to know why it does not work.

use bytes::Bytes;
use futures::stream;

use super::Bucket;
use crate::Result;

impl Bucket {
    /// Writes an object as a multipart upload, however small it is, in parts of `part_size` bytes (5 MiB at least but for the
    /// last).
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_in_parts(&self, key: &str, body: Bytes, part_size: usize) -> Result<()> {
        let parts = body.len().div_ceil(part_size.max(1));
        let cut = move |i: usize| body.slice(i * part_size..body.len().min((i + 1) * part_size));
        self.put_parts(key, stream::iter((0..parts).map(cut).map(Ok))).await.map(|_| ())
    }

    /// Checks that a part of the object `key`, which holds `body`, can be read alone.
    ///
    /// # Errors
    /// [`BucketError::Incompatible`](crate::BucketError::Incompatible) when other bytes come; others as the server says.
    pub async fn check_range(&self, key: &str, body: &[u8]) -> Result<()> {
        let (from, to) = (body.len() / 3, body.len() - body.len() / 3);
        let part = self.get_range(key, from as u64..to as u64, None).await?;
        if part[..] == body[from..to] {
            return Ok(());
        }
        Err(self
            .incompatible("answers a request for a part of an object with other bytes; readers need parts"))
    }

    /// Checks that the object `key` is listed.
    ///
    /// # Errors
    /// [`BucketError::Incompatible`](crate::BucketError::Incompatible) when it is not; others as the server says.
    pub async fn check_listed(&self, key: &str) -> Result<()> {
        let listed = self.list("probe", 10_000).await?;
        if listed.iter().any(|meta| meta.key == key) {
            return Ok(());
        }
        Err(self.incompatible("does not list an object that was just written; it is not strongly consistent"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn questions_have_answers_and_change_nothing() {
        let bucket = Bucket::in_memory("bucket");
        let body = Bytes::from_static(b"what was written");
        let key = bucket.probe_key();
        bucket.put_in_parts(&key, body.clone(), 5).await.unwrap();
        bucket.check_range(&key, &body).await.unwrap();
        assert!(bucket.check_range(&key, b"what was not read").await.is_err());
        bucket.check_listed(&key).await.unwrap();
        assert!(bucket.check_listed("probe/another").await.is_err());
        assert_eq!(bucket.list("", 10).await.unwrap().len(), 1);
    }
}
