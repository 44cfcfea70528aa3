//! Everything that can go wrong with a bucket.

use brigade_protocol::Digest;

use crate::Cause;

/// The result of this crate's operations.
pub type Result<T, E = BucketError> = std::result::Result<T, E>;

/// Errors of this crate. Messages are one line, say what to do where that is known, and hold no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// An address that is not well formed.
    #[error("bucket address: {field} {reason}")]
    InvalidAddress {
        /// The field of [`BucketAddress`](crate::BucketAddress).
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address that the protocol refuses.
    #[error(transparent)]
    Address(#[from] brigade_protocol::Error),
    /// Credentials that cannot be sent.
    #[error("bucket credentials: {field} {reason}")]
    InvalidCredentials {
        /// The field of [`Credentials`](crate::Credentials).
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key, ETag or number that cannot be used.
    #[error("bucket `{bucket}`: `{value}` {reason}")]
    InvalidArgument {
        /// The bucket.
        bucket: String,
        /// The value, cut to 80 characters.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that is no key of the layout.
    #[error("`{key}` is not a key of the bucket layout")]
    UnknownKey {
        /// The text, cut to 80 characters.
        key: String,
    },
    /// No object under this key.
    #[error("bucket `{bucket}`: no object `{key}`")]
    NotFound {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// The bucket itself is missing.
    #[error("bucket `{bucket}` does not exist at {endpoint}; create it, or correct its name or region")]
    NoSuchBucket {
        /// The bucket.
        bucket: String,
        /// Scheme, host and port.
        endpoint: String,
    },
    /// The server does not know the keys, or the secret does not match.
    #[error(
        "bucket `{bucket}`: the server refuses the access key ({source}); check key id, secret and session token"
    )]
    WrongKeys {
        /// The bucket.
        bucket: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// There are no keys to sign requests with.
    #[error("bucket `{bucket}`: {source}")]
    NoKeys {
        /// The bucket.
        bucket: String,
        /// What was looked for.
        source: Box<Cause>,
    },
    /// The keys are good but do not allow this.
    #[error(
        "bucket `{bucket}`: no permission for `{key}` ({source}); the key's policy must allow it, listing included"
    )]
    Denied {
        /// The bucket.
        bucket: String,
        /// The key, or the prefix of a list.
        key: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// The bucket lies in another region than the address says.
    #[error("bucket `{bucket}` is not in region `{region}` ({source}); correct the region")]
    WrongRegion {
        /// The bucket.
        bucket: String,
        /// The region that the address names.
        region: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// This machine's clock is too far from the server's: signatures are refused.
    #[error(
        "bucket `{bucket}`: this machine's clock is too far from the server's ({source}); set it, for example with NTP"
    )]
    ClockSkew {
        /// The bucket.
        bucket: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// No connection.
    #[error(
        "bucket `{bucket}`: {endpoint} cannot be reached ({source}); check the endpoint, the network and the proxy"
    )]
    Unreachable {
        /// The bucket.
        bucket: String,
        /// Scheme, host and port.
        endpoint: String,
        /// What the transport said.
        source: Box<Cause>,
    },
    /// The server asks for fewer requests.
    #[error("bucket `{bucket}`: throttled at `{key}` ({source})")]
    Throttled {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// Somebody else is writing this object at this moment.
    #[error("bucket `{bucket}`: another write to `{key}` is in flight ({source})")]
    Conflict {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// A timeout, a broken connection or a server error that outlasted the retries.
    #[error("bucket `{bucket}`: `{key}` failed for now ({source})")]
    Transient {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What the server or the transport said.
        source: Box<Cause>,
    },
    /// The server understood and refused.
    #[error("bucket `{bucket}`: the server refuses `{key}` ({source})")]
    Rejected {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What the server said.
        source: Box<Cause>,
    },
    /// The object is not the one that was asked for: its ETag differs.
    #[error("bucket `{bucket}`: `{key}` is no longer the version with ETag `{etag}`")]
    Changed {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The ETag that was asked for.
        etag: String,
    },
    /// The object's size is not the one that was promised.
    #[error("bucket `{bucket}`: `{key}` has {size} bytes, not the promised {expected}")]
    SizeMismatch {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The promised size in bytes.
        expected: u64,
        /// The size found, in bytes.
        size: u64,
    },
    /// The object's SHA-256 is not the one that was promised.
    #[error("bucket `{bucket}`: `{key}` has SHA-256 {found}, not the promised {expected}")]
    DigestMismatch {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The promised digest.
        expected: Digest,
        /// The digest found.
        found: Digest,
    },
    /// The object is larger than the reader accepts; its body was not read.
    #[error("bucket `{bucket}`: `{key}` has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The limit in bytes.
        limit: u64,
        /// The size in bytes.
        size: u64,
    },
    /// A list is longer than the reader accepts.
    #[error("bucket `{bucket}`: more than {limit} objects under `{prefix}`")]
    TooMany {
        /// The bucket.
        bucket: String,
        /// The prefix of the list.
        prefix: String,
        /// The limit.
        limit: usize,
    },
    /// The server accepts a conditional request and ignores the condition: no run is safe there.
    #[error(
        "bucket `{bucket}`: {endpoint} ignores `{condition}`; use a server that honours conditional requests"
    )]
    ConditionIgnored {
        /// The bucket.
        bucket: String,
        /// Scheme, host and port.
        endpoint: String,
        /// The condition, as a header.
        condition: &'static str,
    },
    /// The server does something else than S3 prescribes.
    #[error("bucket `{bucket}`: {endpoint} {problem}")]
    Incompatible {
        /// The bucket.
        bucket: String,
        /// Scheme, host and port.
        endpoint: String,
        /// What it does, and the remedy.
        problem: &'static str,
    },
    /// A later holder of the fence exists: this process must stop.
    #[error(
        "bucket `{bucket}`: fenced at epoch {epoch} by epoch {by} of {holder}; another aggregator has taken over"
    )]
    Fenced {
        /// The bucket.
        bucket: String,
        /// The epoch held.
        epoch: u64,
        /// The later epoch.
        by: u64,
        /// Who holds it.
        holder: String,
    },
    /// A record of this crate that does not parse.
    #[error("bucket `{bucket}`: `{key}` is malformed: {reason}")]
    Malformed {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl BucketError {
    /// Whether the same call may succeed later with nobody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::Conflict { .. }
                | Self::Transient { .. }
                | Self::Unreachable { .. }
        )
    }

    /// Whether the object (not the bucket) is missing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
