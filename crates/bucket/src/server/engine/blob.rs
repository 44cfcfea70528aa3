//! Bodies going in and coming out.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, Staging, read_at};
use super::multipart::PartsFolder;
use crate::server::checksum::{Algorithm, Digest, Digester};
use crate::server::error::StoreError;

/// How much of a body is read from the disk at once.
pub(crate) const READ_BYTES: u64 = 1 << 20;

/// A body on its way in: written to a temporary file and digested as it comes.
pub(crate) struct Intake {
    staging: Staging,
    digester: Digester,
}

/// A body that is in whole: its temporary file and its digests.
pub(crate) struct Received {
    pub(super) staging: Staging,
    pub(crate) digest: Digest,
}

impl Intake {
    pub(crate) fn begin(disk: &Disk, algorithms: &[Algorithm]) -> Result<Self, StoreError> {
        Ok(Self { staging: Staging::create(disk)?, digester: Digester::new(algorithms) })
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.digester.update(bytes);
        self.staging.append(bytes)
    }

    pub(crate) fn finish(self) -> Received {
        Received { staging: self.staging, digest: self.digester.finish() }
    }
}

impl Received {
    /// Bytes of the body.
    pub(crate) fn size(&self) -> u64 {
        self.staging.size()
    }
}

/// A stored body: one file, or the parts of an assembled object in order.
#[derive(Clone)]
pub(super) enum Source {
    /// Held open, so that it can be read to its end whatever becomes of the key.
    Whole(Arc<File>),
    /// Paths and lengths; the folder is held so that nobody removes it meanwhile.
    Parts { files: Vec<(PathBuf, u64)>, _folder: Arc<PartsFolder> },
}

/// Reads a range of a stored body, a chunk at a time.
pub(crate) struct BodyReader {
    source: Source,
    range: Range<u64>,
    /// The part that was read last, if the body is in parts.
    open: Option<(usize, File)>,
}

impl BodyReader {
    pub(super) fn new(source: Source, range: Range<u64>) -> Self {
        Self { source, range, open: None }
    }

    /// Bytes left to read.
    pub(crate) fn remaining(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Narrows the reader to a range of the object; call it before reading.
    pub(crate) fn narrow(&mut self, range: Range<u64>) {
        self.range = range;
    }

    /// The next chunk, at most [`READ_BYTES`] long; empty at the end.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if a file is shorter than its record says, or unreadable.
    pub(crate) fn next_chunk(&mut self) -> Result<Bytes, StoreError> {
        let wanted = self.remaining().min(READ_BYTES);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let start = self.range.start;
        let bytes = match &self.source {
            Source::Whole(file) => {
                read_at(file, start, wanted as usize).map_err(StoreError::disk("read", "an object"))?
            }
            Source::Parts { files, .. } => {
                let Some((at, offset, left)) = locate(files, start) else { return Err(StoreError::Worker) };
                let path = &files[at].0;
                if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
                    self.open = Some((at, File::open(path).map_err(StoreError::disk("open", path))?));
                }
                let Some((_, file)) = &self.open else { return Err(StoreError::Worker) };
                read_at(file, offset, wanted.min(left) as usize).map_err(StoreError::disk("read", path))?
            }
        };
        self.range.start += bytes.len() as u64;
        Ok(bytes.into())
    }
}

/// Which part holds the byte at `position`, where in it, and how many bytes of it follow.
fn locate(files: &[(PathBuf, u64)], position: u64) -> Option<(usize, u64, u64)> {
    let mut offset = position;
    for (at, (_, length)) in files.iter().enumerate() {
        if offset < *length {
            return Some((at, offset, length - offset));
        }
        offset -= length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_fall_into_parts() {
        let files: Vec<_> = [3, 0, 5].into_iter().map(|length| (PathBuf::new(), length)).collect();
        assert_eq!(locate(&files, 0), Some((0, 0, 3)));
        assert_eq!(locate(&files, 2), Some((0, 2, 1)));
        assert_eq!(locate(&files, 3), Some((2, 0, 5)));
        assert_eq!(locate(&files, 7), Some((2, 4, 1)));
        assert_eq!(locate(&files, 8), None);
    }
}
