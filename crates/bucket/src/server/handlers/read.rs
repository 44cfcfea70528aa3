//! GetObject, HeadObject and GetObjectAttributes.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{ETAG, HeaderValue};
use s3s::dto::{
    self, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput, GetObjectOutput,
    HeadObjectInput, HeadObjectOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result};

use super::Store;
use super::convert::{check_version, conditions, etag, length, set_headers, timestamp};
use crate::server::body::{answer, blocking};
use crate::server::checksum::{checksum_type, set_sum};
use crate::server::engine::{Conditions, Headers, ObjectRecord, Opened};
use crate::server::error::StoreError;

/// The part of an object that a read asks for.
struct Wanted {
    range: Option<dto::Range>,
    part: Option<i32>,
}

/// The part of an object that a read gets.
struct Slice {
    bytes: Range<u64>,
    /// `Content-Range`, if it is not the whole.
    content_range: Option<String>,
    parts_count: Option<i32>,
}

impl Wanted {
    fn resolve(&self, record: &ObjectRecord) -> Result<Slice, StoreError> {
        let size = record.size;
        let parts = record.assembled.as_ref().map(|assembled| &assembled.parts);
        let parts_count = parts.and_then(|parts| i32::try_from(parts.len()).ok());
        let bytes = match (self.part, self.range) {
            (Some(_), Some(_)) => {
                return Err(StoreError::Invalid("a range and a part number exclude each other".into()));
            }
            (None, None) => return Ok(Slice { bytes: 0..size, content_range: None, parts_count: None }),
            (None, Some(range)) => range.check(size).map_err(|_| StoreError::Range { size })?,
            (Some(part), None) => {
                let at = usize::try_from(part).ok().and_then(|part| part.checked_sub(1));
                let at = at.ok_or_else(|| StoreError::Invalid("parts are numbered from 1".into()))?;
                match parts {
                    Some(parts) => {
                        let length = parts.get(at).ok_or(StoreError::InvalidPart(at as u32 + 1))?.size;
                        let start = parts[..at].iter().map(|part| part.size).sum();
                        start..start + length
                    }
                    None if at == 0 => 0..size,
                    None => return Err(StoreError::InvalidPart(at as u32 + 1)),
                }
            }
        };
        // No Content-Range can describe an empty slice.
        let described =
            (bytes.end > bytes.start).then(|| format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1));
        let parts_count = self.part.and(parts_count);
        Ok(Slice { bytes, content_range: described, parts_count })
    }
}

/// Opens an object if the conditions allow it. The inner error still names the object's ETag.
async fn open(
    store: &Store,
    bucket: &str,
    key: String,
    conditions: Conditions,
    wanted: Wanted,
) -> S3Result<(Opened, Slice)> {
    let bucket = store.engine.bucket(bucket)?;
    let opened = blocking(move || {
        let opened = bucket.open(&key)?;
        let checked = conditions.check_read(&opened.entry.etag, opened.entry.version.modified_ms);
        Ok(match checked.and_then(|()| wanted.resolve(&opened.record)) {
            Ok(slice) => Ok((opened, slice)),
            Err(error) => Err((error, opened.entry)),
        })
    })
    .await?;
    opened.map_err(|(error, entry)| {
        let size = match error {
            StoreError::Range { size } => Some(size),
            _ => None,
        };
        let mut answer = S3Error::from(error);
        let mut headers = HeaderMap::new();
        if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", entry.etag)) {
            headers.insert(ETAG, etag);
        }
        if let Some(Ok(range)) = size.map(|size| HeaderValue::try_from(format!("bytes */{size}"))) {
            headers.insert(hyper::header::CONTENT_RANGE, range);
        }
        answer.set_headers(headers);
        answer
    })
}

/// Opens what the input of GetObject or HeadObject, which ask alike, asks for.
macro_rules! open_asked {
    ($store:expr, $input:expr) => {{
        check_version($input.version_id.as_deref())?;
        let conditions = conditions(
            $input.if_match.as_ref(),
            $input.if_none_match.as_ref(),
            $input.if_modified_since.as_ref(),
            $input.if_unmodified_since.as_ref(),
        );
        let wanted = Wanted { range: $input.range, part: $input.part_number };
        open($store, &$input.bucket, $input.key, conditions, wanted).await?
    }};
}

/// Fills in what GetObject and HeadObject answer alike.
macro_rules! describe {
    ($output:ty, $opened:expr, $slice:expr, $mode:expr) => {{
        let (record, entry) = (&$opened.record, &$opened.entry);
        let mut output = <$output>::default();
        output.accept_ranges = Some("bytes".to_owned());
        output.content_length = Some(length($slice.bytes.end - $slice.bytes.start));
        output.content_range = $slice.content_range.clone();
        output.e_tag = etag(&entry.etag);
        output.last_modified = Some(timestamp(entry.version.modified_ms));
        output.parts_count = $slice.parts_count;
        set_headers!(output, record.headers.clone());
        // A checksum is of the whole object; beside a range the client would check the wrong bytes with it.
        if $mode.is_some() && $slice.content_range.is_none() {
            output.checksum_type = record.checksum.as_ref().map(checksum_type);
            set_sum!(output, &record.checksum);
        }
        output
    }};
}

pub(super) async fn get_object(
    store: &Store,
    req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = req.input;
    let (opened, slice) = open_asked!(store, input);
    let mut output = describe!(GetObjectOutput, opened, slice, input.checksum_mode);
    let mut body = opened.body;
    body.narrow(slice.bytes);
    let (first, rest) = blocking(move || Ok((body.next_chunk()?, body))).await?;
    output.body = Some(answer(first, rest));
    Ok(S3Response::new(output))
}

pub(super) async fn head_object(
    store: &Store,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = req.input;
    let (opened, slice) = open_asked!(store, input);
    Ok(S3Response::new(describe!(HeadObjectOutput, opened, slice, input.checksum_mode)))
}

pub(super) async fn get_object_attributes(
    store: &Store,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = req.input;
    check_version(input.version_id.as_deref())?;
    let bucket = store.engine.bucket(&input.bucket)?;
    let opened = blocking(move || bucket.open(&input.key)).await?;
    let asked = |name: &str| input.object_attributes.iter().any(|attribute| attribute.as_str() == name);
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(opened.entry.version.modified_ms)),
        e_tag: asked(dto::ObjectAttributes::ETAG).then(|| etag(&opened.entry.etag)).flatten(),
        object_size: asked(dto::ObjectAttributes::OBJECT_SIZE).then(|| length(opened.record.size)),
        ..Default::default()
    };
    if asked(dto::ObjectAttributes::CHECKSUM) && opened.record.checksum.is_some() {
        let mut checksum = dto::Checksum::default();
        checksum.checksum_type = opened.record.checksum.as_ref().map(checksum_type);
        set_sum!(checksum, &opened.record.checksum);
        output.checksum = Some(checksum);
    }
    if let Some(assembled) = opened.record.assembled.filter(|_| asked(dto::ObjectAttributes::OBJECT_PARTS)) {
        let total = i32::try_from(assembled.parts.len()).ok();
        output.object_parts =
            Some(dto::GetObjectAttributesParts { total_parts_count: total, ..Default::default() });
    }
    Ok(S3Response::new(output))
}
