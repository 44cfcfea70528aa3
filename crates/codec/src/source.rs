//! Where a file's bytes are: in memory, or somewhere that they are read from when they are needed.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Bytes that can be read from any place, by any thread: a file on disk, a mapping, a cache.
///
/// Nothing is asked for that the file's own header and the layout do not bound. What is read a second time is hashed a
/// second time, so that a file which changes meanwhile is an error and never a wrong value.
pub trait ReadAt: Send + Sync {
    /// Number of bytes.
    ///
    /// # Errors
    /// When the length cannot be found out.
    fn len(&self) -> io::Result<u64>;

    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// When they cannot be read, or there are fewer.
    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes>;

    /// Whether there are no bytes.
    ///
    /// # Errors
    /// Those of [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        std::os::unix::fs::FileExt::read_exact_at(self, &mut bytes, range.start)?;
        Ok(bytes.into())
    }
}

/// One of the two.
#[derive(Clone)]
pub(crate) enum Source {
    /// Cannot change, so it is hashed once.
    Memory(Bytes),
    Elsewhere(Arc<dyn ReadAt>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Self::Elsewhere(_) => write!(f, "bytes elsewhere"),
        }
    }
}

impl Source {
    pub(crate) fn len(&self) -> Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::Elsewhere(place) => place.len().map_err(|error| failed("length of the file", &error)),
        }
    }

    /// The bytes of `range`, which is within the length. `what` is for the error.
    pub(crate) fn read(&self, what: impl FnOnce() -> String, range: Range<u64>) -> Result<Bytes> {
        let expected = range.end - range.start;
        let bytes = match self {
            Self::Memory(bytes) => bytes.slice(range.start as usize..range.end as usize),
            Self::Elsewhere(place) => match place.read_at(range) {
                Ok(bytes) => bytes,
                Err(error) => return Err(failed(&what(), &error)),
            },
        };
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(Error::Length { what: "file", expected, actual: bytes.len() as u64 })
    }
}

fn failed(what: &str, error: &io::Error) -> Error {
    Error::Read { what: what.to_owned(), kind: error.kind(), reason: error.to_string() }
}
