//! From what servers and transports say to this crate's errors.

use std::fmt;

use object_store::client::{HttpError, HttpErrorKind};

use crate::BucketError;
use crate::wire::Failure;

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
            // No request was sent: there are no keys to sign it with.
            object_store::Error::Unauthenticated { source, .. } if cause.status.is_none() => {
                BucketError::NoKeys {
                    bucket: self.bucket.into(),
                    source: Cause::new(&source.to_string()).into(),
                }
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
            // What a server cannot do now it cannot do later.
            (501, ..) | (_, "NotImplemented", _) => BucketError::Rejected { bucket, key, source },
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

/// The message of the error at the bottom of a chain: those above tend to repeat it.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
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
