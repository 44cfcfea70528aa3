//! Uploads in parts.

use std::sync::Arc;

use s3s::dto::{self, *};
use s3s::{S3Request, S3Response, S3Result};

use super::Store;
use super::convert::{Announced, check_headers, conditions, etag, headers, refuse_unsupported, timestamp};
use crate::server::body::{blocking, receive};
use crate::server::checksum::{Algorithm, checksum_type, set_sum, sums};
use crate::server::engine::{Claim, Whole};
use crate::server::error::StoreError;

/// How many parts or uploads one page lists at most, as in S3.
const MOST_LISTED: i32 = 1000;

pub(super) fn number(part: i32) -> Result<u32, StoreError> {
    u32::try_from(part).map_err(|_| StoreError::Invalid("a part's number must be positive".into()))
}

fn limit(asked: Option<i32>) -> Result<usize, StoreError> {
    usize::try_from(asked.unwrap_or(MOST_LISTED).min(MOST_LISTED))
        .map_err(|_| StoreError::Invalid("a limit must not be negative".into()))
}

/// The checksum that the finished object is to carry, and whether it is to cover the whole object.
fn planned(
    algorithm: Option<&dto::ChecksumAlgorithm>,
    kind: Option<&dto::ChecksumType>,
) -> Result<Option<(Algorithm, bool)>, StoreError> {
    let Some(algorithm) = algorithm else { return Ok(None) };
    let algorithm = Algorithm::parse(algorithm.as_str())?;
    let whole = match kind.map(dto::ChecksumType::as_str) {
        None => algorithm.whole_by_default(),
        Some(dto::ChecksumType::FULL_OBJECT) => true,
        Some(dto::ChecksumType::COMPOSITE) => false,
        Some(other) => return Err(StoreError::Invalid(format!("checksum type {other:?} is not known"))),
    };
    match (algorithm, whole) {
        (Algorithm::Sha1 | Algorithm::Sha256, true) | (Algorithm::Crc64Nvme, false) => {
            Err(StoreError::Invalid(format!("{} cannot be of that type", algorithm.name())))
        }
        _ => Ok(Some((algorithm, whole))),
    }
}

pub(super) async fn create_multipart_upload(
    store: &Store,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = req.input;
    refuse_unsupported!(input)?;
    let bucket = store.engine.bucket(&input.bucket)?;
    let kept = headers!(input);
    check_headers(&kept)?;
    let checksum = planned(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let key = input.key.clone();
    let upload = blocking(move || bucket.begin_upload(&key, kept, checksum)).await?;
    let kind =
        checksum.map(|(_, whole)| if whole { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE });
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.id.clone()),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: kind.map(ChecksumType::from_static),
        ..Default::default()
    }))
}

pub(super) async fn upload_part(
    store: &Store,
    req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let mut input = req.input;
    let number = number(input.part_number)?;
    let upload = store.engine.bucket(&input.bucket)?.upload(&input.key, &input.upload_id)?;
    let named = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str());
    let announced = Announced::read(&req.headers, sums!(input), named)?;
    let mut algorithms = announced.algorithms();
    algorithms.extend(upload.record.checksum.map(|(algorithm, _)| algorithm));

    let disk = Arc::clone(store.engine.disk());
    let arrived = receive(&disk, input.body.take(), input.content_length, algorithms, store.limit).await?;
    let expected = announced.expected(input.content_md5.as_deref(), req.trailing_headers.as_ref())?;
    let part = blocking(move || {
        let received = arrived.finish(&disk)?;
        expected.check(&received.digest)?;
        upload.put_part(&disk, number, received)
    })
    .await?;
    let mut output = UploadPartOutput { e_tag: etag(&part.etag), ..Default::default() };
    set_sum!(output, &part.checksum);
    Ok(S3Response::new(output))
}

pub(super) async fn complete_multipart_upload(
    store: &Store,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = req.input;
    let bucket = store.engine.bucket(&input.bucket)?;
    let condition = conditions(input.if_match.as_ref(), input.if_none_match.as_ref(), None, None);
    let whole = Whole { size: input.mpu_object_size.map(|size| size.max(0) as u64), sums: sums!(input) };
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let claims = parts.iter().map(claim).collect::<Result<Vec<_>, _>>()?;
    let (key, limit) = (input.key.clone(), store.limit);
    let record =
        blocking(move || bucket.complete_upload(&key, &input.upload_id, &claims, &whole, limit, &condition))
            .await?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: etag(&record.etag),
        checksum_type: record.checksum.as_ref().map(checksum_type),
        ..Default::default()
    };
    set_sum!(output, &record.checksum);
    Ok(S3Response::new(output))
}

fn claim(part: &CompletedPart) -> Result<Claim, StoreError> {
    let missing = |what| StoreError::Invalid(format!("a part is listed without {what}"));
    Ok(Claim {
        number: number(part.part_number.ok_or_else(|| missing("its number"))?)?,
        etag: part.e_tag.as_ref().ok_or_else(|| missing("its ETag"))?.value().to_owned(),
        sums: sums!(*part),
    })
}

pub(super) async fn abort_multipart_upload(
    store: &Store,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = req.input;
    let bucket = store.engine.bucket(&input.bucket)?;
    blocking(move || bucket.abort_upload(&input.key, &input.upload_id)).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(
    store: &Store,
    req: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = req.input;
    let upload = store.engine.bucket(&input.bucket)?.upload(&input.key, &input.upload_id)?;
    let limit = limit(input.max_parts)?;
    let after = number(input.part_number_marker.unwrap_or(0))?;
    let (parts, more) = blocking(move || Ok(upload.list(after, limit))).await?;
    let last = parts.last().map(|part| part.number as i32);
    let part = |part: crate::server::engine::Part| {
        let mut listed = dto::Part {
            part_number: Some(part.number as i32),
            e_tag: etag(&part.etag),
            size: Some(super::convert::length(part.size)),
            last_modified: Some(timestamp(part.version.modified_ms)),
            ..Default::default()
        };
        set_sum!(listed, &part.checksum);
        listed
    };
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        parts: Some(parts.into_iter().map(part).collect()),
        is_truncated: Some(more),
        max_parts: Some(limit as i32),
        next_part_number_marker: last.filter(|_| more),
        part_number_marker: input.part_number_marker,
        ..Default::default()
    }))
}

pub(super) async fn list_multipart_uploads(
    store: &Store,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = req.input;
    if input.delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty()) {
        return Err(StoreError::Unsupported("a delimiter when listing uploads").into());
    }
    let bucket = store.engine.bucket(&input.bucket)?;
    let limit = limit(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let marker = input.key_marker.clone().map(|key| {
        // Without an identifier the marker is past every upload of its key: no identifier sorts after this one.
        (key, input.upload_id_marker.clone().unwrap_or_else(|| "\u{10ffff}".to_owned()))
    });
    let page = blocking(move || Ok(bucket.list_uploads(&prefix, marker, limit))).await?;
    let last = page.uploads.last().filter(|_| page.truncated).cloned();
    let upload = |upload: crate::server::engine::OpenUpload| MultipartUpload {
        key: Some(upload.key),
        upload_id: Some(upload.id),
        initiated: Some(timestamp(upload.initiated_ms)),
        ..Default::default()
    };
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: input.prefix,
        key_marker: input.key_marker,
        upload_id_marker: input.upload_id_marker,
        max_uploads: Some(limit as i32),
        is_truncated: Some(page.truncated),
        next_key_marker: last.as_ref().map(|last| last.key.clone()),
        next_upload_id_marker: last.map(|last| last.id),
        uploads: Some(page.uploads.into_iter().map(upload).collect()),
        ..Default::default()
    }))
}
