//! What can go wrong: for whoever starts the server ([`ServerError`]) and for whoever sends it a request
//! ([`StoreError`], which becomes an S3 error document).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::StatusCode;
use s3s::{S3Error, S3ErrorCode};

/// A failure to configure, start or run the embedded server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Something else listens on the address.
    #[error(
        "{address} is already in use: stop the process that listens there, or set `listen` to another address \
         (port 0 takes any free port)"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be bound for another reason.
    #[error(
        "cannot listen on {address}: check that the address belongs to this machine and that the port is allowed"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another server process serves the same folder.
    #[error("{root} is in use by another server: stop that server, or set `root` to another folder")]
    RootInUse {
        /// The folder asked for.
        root: PathBuf,
    },
    /// The folder was written by a version of the server that this one does not understand.
    #[error(
        "{root} has layout {found}, and this server writes layout {expected}: use the server that wrote it"
    )]
    Layout {
        /// The folder asked for.
        root: PathBuf,
        /// The layout number found on disk.
        found: u32,
        /// The layout number that this server reads and writes.
        expected: u32,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}")]
    Disk {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A configuration or keys file does not say what it must.
    #[error("{path}: {reason}")]
    Config {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration contradicts itself or could never work.
    #[error("{0}")]
    Invalid(String),
}

/// Why the storage engine refused a request. Never leaves the server other than as an S3 error document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket exists already")]
    BucketExists,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the bucket name is not valid")]
    InvalidBucketName,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("the key must be 1 to 1024 bytes long")]
    InvalidKey,
    #[error("the upload does not exist: it was completed, aborted or never begun")]
    NoSuchUpload,
    #[error("the condition {0} does not hold")]
    Precondition(&'static str),
    #[error("the object has not changed")]
    NotModified,
    #[error("the range lies outside the object of {size} bytes")]
    Range { size: u64 },
    #[error("part {0} was not uploaded, or its ETag or checksum differs")]
    InvalidPart(u32),
    #[error("the parts must be listed in ascending order, each once")]
    PartOrder,
    #[error("part {number} has {size} bytes; every part but the last must have at least {least}")]
    PartTooSmall { number: u32, size: u64, least: u64 },
    #[error("the object would exceed {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the body does not match {0}")]
    Digest(&'static str),
    #[error("the payload's SHA-256 does not match x-amz-content-sha256")]
    PayloadHash,
    #[error("a chunk's signature does not match")]
    ChunkSignature,
    #[error("the body ended after {got} bytes")]
    Incomplete { got: u64 },
    #[error("no byte of the body came for {seconds} s")]
    Stalled { seconds: u64 },
    #[error("{0}")]
    Invalid(String),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("cannot {action} {path}")]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
    #[error("a worker of the server died")]
    Worker,
}

impl StoreError {
    /// For `map_err` on file operations: `StoreError::disk("open", &path)`.
    pub(crate) fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }

    fn code(&self) -> S3ErrorCode {
        match self {
            Self::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            Self::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
            Self::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
            Self::InvalidBucketName => S3ErrorCode::InvalidBucketName,
            Self::NoSuchKey => S3ErrorCode::NoSuchKey,
            Self::InvalidKey => S3ErrorCode::KeyTooLongError,
            Self::NoSuchUpload => S3ErrorCode::NoSuchUpload,
            Self::Precondition(_) => S3ErrorCode::PreconditionFailed,
            Self::NotModified => S3ErrorCode::NotModified,
            Self::Range { .. } => S3ErrorCode::InvalidRange,
            Self::InvalidPart(_) => S3ErrorCode::InvalidPart,
            Self::PartOrder => S3ErrorCode::InvalidPartOrder,
            Self::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            Self::TooLarge { .. } => S3ErrorCode::EntityTooLarge,
            Self::Digest(_) => S3ErrorCode::BadDigest,
            Self::PayloadHash => S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            Self::ChunkSignature => S3ErrorCode::SignatureDoesNotMatch,
            Self::Incomplete { .. } => S3ErrorCode::IncompleteBody,
            Self::Stalled { .. } => S3ErrorCode::RequestTimeout,
            Self::Invalid(_) => S3ErrorCode::InvalidArgument,
            Self::Unsupported(_) => S3ErrorCode::NotImplemented,
            Self::Disk { source, .. } if is_full(source) => S3ErrorCode::Custom("InsufficientStorage".into()),
            Self::Disk { .. } | Self::Worker => S3ErrorCode::InternalError,
        }
    }
}

/// True if the disk, or the server's share of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let code = error.code();
        let mut answer = match &error {
            // The client learns that the server failed, not where its files lie.
            StoreError::Disk { action, path, source } if is_full(source) => {
                tracing::error!(action, path = %path.display(), %source, "the disk is full: free some space; nothing was stored");
                S3Error::with_message(code, "the server's disk is full")
            }
            StoreError::Disk { action, path, source } => {
                tracing::error!(action, path = %path.display(), %source, "the disk failed");
                S3Error::with_message(code, "the server's disk failed")
            }
            other => S3Error::with_message(code, other.to_string()),
        };
        match &error {
            StoreError::Disk { source, .. } if is_full(source) => {
                answer.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            }
            StoreError::PayloadHash => answer.set_status_code(StatusCode::BAD_REQUEST),
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_507_and_keeps_the_path_to_itself() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let answer = S3Error::from(StoreError::disk("write", "/secret/place")(full));
        assert_eq!(answer.status_code(), Some(StatusCode::INSUFFICIENT_STORAGE));
        assert!(!answer.message().is_some_and(|text| text.contains("secret")));
    }

    #[test]
    fn another_disk_failure_is_500() {
        let answer = S3Error::from(StoreError::disk("write", "/x")(io::Error::other("worn out")));
        assert_eq!(answer.status_code(), Some(StatusCode::INTERNAL_SERVER_ERROR));
    }

    #[test]
    fn a_payload_hash_mismatch_is_400() {
        assert_eq!(S3Error::from(StoreError::PayloadHash).status_code(), Some(StatusCode::BAD_REQUEST));
    }
}
