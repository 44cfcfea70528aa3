//! Objects too large for memory, to and from files.

use std::path::Path;

use brigade_protocol::Digest;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Bucket, Pin, Stored};
use crate::{BucketError, Result};

impl Bucket {
    /// Writes a file as an object, over whatever was there, and returns the pin of what was sent.
    ///
    /// # Errors
    /// [`BucketError::File`] for the file; others as the server says.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<Pin> {
        let failed = |source| file_error(path, source);
        let mut file = File::open(path).await.map_err(failed)?;
        let part_size = self.part_size(file.metadata().await.map_err(failed)?.len());
        let first = read_part(&mut file, part_size).await.map_err(failed)?;
        let (mut hasher, mut size) = (Sha256::new(), first.len() as u64);
        hasher.update(&first);
        if first.len() < part_size {
            let Stored { etag } = self.put(key, first).await?;
            return Ok(Pin { etag: Some(etag), sha256: Digest(hasher.finalize().into()), size });
        }
        let sums = (&mut hasher, &mut size);
        let rest = stream::try_unfold((file, sums), |(mut file, sums)| async move {
            let part = read_part(&mut file, part_size).await.map_err(|source| file_error(path, source))?;
            sums.0.update(&part);
            *sums.1 += part.len() as u64;
            Ok((!part.is_empty()).then_some((part, (file, sums))))
        });
        let Stored { etag } = self.put_parts(key, stream::iter([Ok(first)]).chain(rest)).await?;
        Ok(Pin { etag: Some(etag), sha256: Digest(hasher.finalize().into()), size })
    }

    /// Reads the object that `pin` describes into a file. The file appears only when it is whole and its hash is right.
    ///
    /// # Errors
    /// As [`get_pinned`](Self::get_pinned), and [`BucketError::File`].
    pub async fn get_file(&self, key: &str, pin: &Pin, path: &Path) -> Result<()> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = Path::new(&part);
        let fetched = self.get_into(key, pin, part).await;
        if fetched.is_err() {
            // Nothing more can be done when this fails too; the first error is the one to report.
            let _ = tokio::fs::remove_file(part).await;
            return fetched;
        }
        tokio::fs::rename(part, path).await.map_err(|source| file_error(path, source))
    }

    async fn get_into(&self, key: &str, pin: &Pin, path: &Path) -> Result<()> {
        let failed = |source| file_error(path, source);
        let mut body = self.fetch_pinned(key, pin).await?.into_stream();
        let mut file = File::create(path).await.map_err(failed)?;
        let (mut hasher, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = body.try_next().await.map_err(|error| self.error(key, &error))? {
            size += chunk.len() as u64;
            if size > pin.size {
                break;
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        if size != pin.size {
            return Err(self.size_mismatch(key, pin.size, size));
        }
        self.check_digest(key, pin.sha256, Digest(hasher.finalize().into()))?;
        file.sync_all().await.map_err(failed)
    }
}

/// Reads up to `size` bytes; fewer only at the end of the file.
async fn read_part(file: &mut File, size: usize) -> std::io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(size);
    let mut source = file.take(size as u64);
    while source.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}

fn file_error(path: &Path, source: std::io::Error) -> BucketError {
    BucketError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::BucketOptions;
    use std::sync::Arc;

    #[tokio::test]
    async fn files_travel_whole_or_not_at_all() {
        let options = BucketOptions { part_size: 1000, ..BucketOptions::default() };
        let bucket = Bucket::over(Arc::new(object_store::memory::InMemory::new()), "bucket", options);
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for size in [0, 1, 999, 1000, 1001, 4000, 4321] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            std::fs::write(&from, &bytes).unwrap();
            let pin = bucket.put_file("file", &from).await.unwrap();
            assert_eq!((pin.size, pin.sha256), (size, Digest::of(&bytes)));
            bucket.get_file("file", &pin, &to).await.unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), bytes);
            std::fs::remove_file(&to).unwrap();
            let wrong = Pin { sha256: Digest::of(b"other"), ..pin };
            assert!(matches!(
                bucket.get_file("file", &wrong, &to).await,
                Err(BucketError::DigestMismatch { .. })
            ));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
        }
    }
}
