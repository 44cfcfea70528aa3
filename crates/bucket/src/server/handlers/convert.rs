//! Between the engine's types and those of the S3 protocol.

use std::time::{Duration, UNIX_EPOCH};

use hyper::HeaderMap;
use s3s::dto::{self, ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Result, TrailingHeaders, s3_error};

use crate::server::checksum::{Algorithm, Expected, Sum};
use crate::server::engine::{Conditions, Headers, Match};
use crate::server::error::StoreError;

pub(super) fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms))
}

pub(super) fn etag(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

/// Bytes as the protocol's signed numbers.
pub(super) fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whole seconds since 1970.
fn seconds(time: &Timestamp) -> Option<i64> {
    let mut text = Vec::new();
    time.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    String::from_utf8(text).ok()?.split('.').next()?.parse().ok()
}

fn matching(condition: Option<&ETagCondition>) -> Option<Match> {
    condition.map(|condition| match condition {
        ETagCondition::Any => Match::Any,
        ETagCondition::ETag(etag) => Match::Etag(etag.value().to_owned()),
    })
}

/// Conditions as four headers give them.
pub(super) fn conditions(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    modified_since: Option<&Timestamp>,
    unmodified_since: Option<&Timestamp>,
) -> Conditions {
    Conditions {
        if_match: matching(if_match),
        if_none_match: matching(if_none_match),
        if_modified_since: modified_since.and_then(seconds),
        if_unmodified_since: unmodified_since.and_then(seconds),
    }
}

/// The headers that are kept with an object, from the input of whichever operation stores it.
macro_rules! headers {
    ($input:expr) => {{
        let input = &$input;
        crate::server::engine::Headers {
            content_type: input.content_type.clone(),
            content_encoding: crate::server::handlers::convert::encoding(input.content_encoding.as_deref()),
            content_disposition: input.content_disposition.clone(),
            content_language: input.content_language.clone(),
            cache_control: input.cache_control.clone(),
            user: input.metadata.clone().unwrap_or_default().into_iter().collect(),
        }
    }};
}

/// Fills in the headers that were kept, in the output of whichever operation reads the object.
macro_rules! set_headers {
    ($output:expr, $headers:expr) => {
        let headers: Headers = $headers;
        // S3 names a type even where none was given.
        $output.content_type = headers.content_type.or_else(|| Some("binary/octet-stream".to_owned()));
        $output.content_encoding = headers.content_encoding;
        $output.content_disposition = headers.content_disposition;
        $output.content_language = headers.content_language;
        $output.cache_control = headers.cache_control;
        $output.metadata = (!headers.user.is_empty()).then(|| headers.user.into_iter().collect());
    };
}

/// Refuses what the server would otherwise have to ignore in silence.
macro_rules! refuse_unsupported {
    ($input:expr) => {{
        let input = &$input;
        let asked = [
            (
                input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
                "encryption with a customer's key",
            ),
            (
                input.server_side_encryption.is_some() || input.ssekms_key_id.is_some(),
                "server-side encryption",
            ),
            (
                input.object_lock_mode.is_some() || input.object_lock_legal_hold_status.is_some(),
                "object lock",
            ),
            (input.tagging.is_some(), "tagging"),
            (input.acl.as_ref().is_some_and(|acl| acl.as_str() != "private"), "an ACL other than private"),
            (input.website_redirect_location.is_some(), "website redirection"),
        ];
        asked.iter().find(|(asked, _)| *asked).map_or(Ok(()), |(_, what)| Err(StoreError::Unsupported(what)))
    }};
}

pub(super) use {headers, refuse_unsupported, set_headers};

/// What of `Content-Encoding` belongs to the object: `aws-chunked` is about the transfer and is gone by now.
pub(super) fn encoding(value: Option<&str>) -> Option<String> {
    let kept: Vec<_> =
        value?.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// The bound on user metadata, as S3 has it: names and values together.
const MOST_METADATA_BYTES: usize = 2048;

pub(super) fn check_headers(headers: &Headers) -> Result<(), StoreError> {
    let bytes: usize = headers.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MOST_METADATA_BYTES {
        return Err(StoreError::Invalid(format!(
            "user metadata may have at most {MOST_METADATA_BYTES} bytes"
        )));
    }
    Ok(())
}

/// The checksums that an incoming body must be digested with, known before its first byte.
pub(super) struct Announced {
    /// Sent in headers, hence known already.
    sent: Vec<Sum>,
    /// To come in a trailer.
    trailing: Vec<Algorithm>,
    /// Named by `x-amz-sdk-checksum-algorithm`, with or without a value.
    named: Option<Algorithm>,
}

impl Announced {
    pub(super) fn read(headers: &HeaderMap, sent: Vec<Sum>, named: Option<&str>) -> Result<Self, StoreError> {
        let trailers = headers.get_all("x-amz-trailer");
        let names =
            trailers.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let trailing = names
            .filter_map(|name| {
                Algorithm::ALL
                    .into_iter()
                    .find(|algorithm| algorithm.header().eq_ignore_ascii_case(name.trim()))
            })
            .collect();
        Ok(Self { sent, trailing, named: named.map(Algorithm::parse).transpose()? })
    }

    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let sent = self.sent.iter().map(|sum| sum.algorithm);
        sent.chain(self.trailing.iter().copied()).chain(self.named).collect()
    }

    /// The one to store with the object, if any.
    pub(super) fn stored(&self) -> Option<Algorithm> {
        self.algorithms().first().copied()
    }

    /// All that the client said of the body, once its trailers are in.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if an announced trailer did not come: the body may have lost its end.
    pub(super) fn expected(
        self,
        content_md5: Option<&str>,
        trailers: Option<&TrailingHeaders>,
    ) -> Result<Expected, StoreError> {
        let mut sums = self.sent;
        for algorithm in self.trailing {
            let value = trailers.and_then(|trailers| {
                trailers.read(|headers| {
                    headers.get(algorithm.header()).and_then(|v| v.to_str().ok()).map(str::to_owned)
                })
            });
            let value = value.flatten().ok_or(StoreError::Digest(algorithm.header()))?;
            sums.push(Sum { algorithm, value: value.trim().to_owned() });
        }
        Expected { md5: None, sums }.with_md5(content_md5)
    }
}

/// This server keeps one version of each key; `null` is its name.
pub(super) fn check_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "the server keeps no versions")),
    }
}

/// The bucket and key of a copy's source.
pub(super) fn copy_source(source: &dto::CopySource) -> S3Result<(&str, &str)> {
    match source {
        dto::CopySource::Bucket { bucket, key, version_id } => {
            check_version(version_id.as_deref())?;
            Ok((bucket, key))
        }
        _ => Err(s3_error!(NotImplemented, "the source of a copy must be a bucket and a key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_encodings_are_not_kept() {
        assert_eq!(encoding(Some("aws-chunked")), None);
        assert_eq!(encoding(Some("gzip, aws-chunked")), Some("gzip".into()));
        assert_eq!(encoding(Some("zstd")), Some("zstd".into()));
        assert_eq!(encoding(None), None);
    }

    #[test]
    fn times_keep_their_second() {
        assert_eq!(seconds(&timestamp(1_750_000_000_999)), Some(1_750_000_000));
        assert_eq!(seconds(&timestamp(0)), Some(0));
    }
}
