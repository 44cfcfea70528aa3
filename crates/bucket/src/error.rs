//! Everything that can go wrong with a bucket.

use std::fmt;

use brigade_protocol::Digest;
use object_store::client::{HttpError, HttpErrorKind};

use crate::wire::Failure;

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

/// What a server or the transport said, cut, on one line, and with nothing secret in it.
///
/// The errors of the storage client are not chained as they are: they quote whole error bodies, which may repeat
/// signatures and session tokens, and a hostile server decides what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The HTTP status; absent when no response came.
    pub status: Option<u16>,
    /// The S3 error code, such as `AccessDenied`.
    pub code: Option<String>,
    /// The message, cut to 200 characters.
    pub message: String,
    pub(crate) transport: Option<HttpErrorKind>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, code) = (self.status.map(|s| s.to_string()), self.code.as_deref());
        let parts = [status.as_deref(), code, Some(self.message.as_str())];
        let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join(" "))
    }
}

impl std::error::Error for Cause {}

impl Cause {
    pub(crate) fn new(message: &str) -> Self {
        Self { status: None, code: None, message: one_line(message, 200), transport: None }
    }

    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(Failure { status, code, message }) = Failure::find(&error.to_string()) {
            return Self { status: Some(status), code, message, transport: None };
        }
        let (mut transport, mut last) = (None, error);
        loop {
            transport = transport.or_else(|| last.downcast_ref::<HttpError>().map(HttpError::kind));
            match last.source() {
                Some(source) => last = source,
                None => break,
            }
        }
        Self { transport, ..Self::new(&last.to_string()) }
    }
}

/// Where an operation was aimed, for error messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) region: &'a str,
    pub(crate) key: &'a str,
}

impl Aim<'_> {
    /// Names an error of the storage client.
    pub(crate) fn error(&self, error: &object_store::Error) -> BucketError {
        let cause = Cause::of(error);
        match error {
            object_store::Error::NotFound { .. } if cause.code.as_deref() != Some("NoSuchBucket") => {
                BucketError::NotFound { bucket: self.bucket.into(), key: self.key.into() }
            }
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                BucketError::Conflict {
                    bucket: self.bucket.into(),
                    key: self.key.into(),
                    source: cause.into(),
                }
            }
            _ => self.cause(cause),
        }
    }

    /// Names a failure by what the server or the transport said.
    pub(crate) fn cause(&self, cause: Cause) -> BucketError {
        let (bucket, key) = (self.bucket.to_owned(), self.key.to_owned());
        let endpoint = || self.endpoint.to_owned();
        let status = cause.status.unwrap_or(0);
        let (code, transport) = (cause.code.clone(), cause.transport);
        let source = Box::new(cause);
        match (status, code.as_deref().unwrap_or(""), transport) {
            (_, "NoSuchBucket", _) => BucketError::NoSuchBucket { bucket, endpoint: endpoint() },
            (_, "RequestTimeTooSkewed" | "RequestExpired", _) => BucketError::ClockSkew { bucket, source },
            (
                _,
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
                _,
            ) => BucketError::WrongRegion { bucket, region: self.region.into(), source },
            (401, ..)
            | (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp", _)
            | (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidClientTokenId", _) => {
                BucketError::WrongKeys { bucket, source }
            }
            (_, "SlowDown" | "TooManyRequests" | "ServiceUnavailable", _) | (429 | 503, ..) => {
                BucketError::Throttled { bucket, key, source }
            }
            (403, ..) => BucketError::Denied { bucket, key, source },
            (409, ..) => BucketError::Conflict { bucket, key, source },
            (408, ..) | (500..=599, ..) | (_, "InternalError" | "RequestTimeout", _) => {
                BucketError::Transient { bucket, key, source }
            }
            (_, _, Some(HttpErrorKind::Connect)) => {
                BucketError::Unreachable { bucket, endpoint: endpoint(), source }
            }
            (_, _, Some(_)) => BucketError::Transient { bucket, key, source },
            _ => BucketError::Rejected { bucket, key, source },
        }
    }
}

/// `text` on one line without control characters, cut to `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > 4 * max {
            break;
        }
    }
    match line.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIM: Aim<'static> = Aim { bucket: "b", endpoint: "http://h", region: "r", key: "k" };

    fn named(status: u16, code: &str) -> BucketError {
        AIM.cause(Cause { status: Some(status), code: Some(code.into()), ..Cause::new("said the server") })
    }

    #[test]
    fn every_failure_has_its_name() {
        assert!(matches!(named(404, "NoSuchBucket"), BucketError::NoSuchBucket { .. }));
        assert!(matches!(named(403, "SignatureDoesNotMatch"), BucketError::WrongKeys { .. }));
        assert!(matches!(named(403, "RequestTimeTooSkewed"), BucketError::ClockSkew { .. }));
        assert!(matches!(named(403, "AccessDenied"), BucketError::Denied { .. }));
        assert!(matches!(named(400, "AuthorizationHeaderMalformed"), BucketError::WrongRegion { .. }));
        assert!(matches!(named(400, "InvalidRequest"), BucketError::Rejected { .. }));
        assert!(matches!(named(503, "SlowDown"), BucketError::Throttled { .. }));
        assert!(matches!(named(500, "InternalError"), BucketError::Transient { .. }));
        assert!(named(429, "").is_transient() && !named(403, "").is_transient());
        let refused = Cause { transport: Some(HttpErrorKind::Connect), ..Cause::new("refused") };
        assert!(matches!(AIM.cause(refused), BucketError::Unreachable { .. }));
        let cut = Cause { transport: Some(HttpErrorKind::Interrupted), ..Cause::new("reset") };
        assert!(AIM.cause(cut).is_transient());
    }

    #[test]
    fn messages_are_one_short_line() {
        let error = named(403, "AccessDenied").to_string();
        assert_eq!(
            error,
            "bucket `b`: no permission for `k` (403 AccessDenied said the server); \
             the key's policy must allow it, listing included"
        );
        assert_eq!(one_line("a\r\n\tb\u{1b}[31m c", 80), "a b [31m c");
        assert_eq!(one_line(&"é".repeat(300), 5), "ééééé…");
    }

    #[test]
    fn errors_stay_small() {
        assert!(std::mem::size_of::<BucketError>() < 128);
    }
}
