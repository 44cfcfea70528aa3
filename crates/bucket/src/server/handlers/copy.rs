//! CopyObject and UploadPartCopy. The grant on the source is checked before these run (`access`).

use std::ops::Range;
use std::sync::Arc;

use s3s::dto::{
    self, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, MetadataDirective,
    UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Store;
use super::convert::{check_headers, conditions, copy_source, etag, headers, refuse_unsupported, timestamp};
use crate::server::body::blocking;
use crate::server::checksum::{Algorithm, checksum_type, set_sum};
use crate::server::engine::{Conditions, Disk, Intake, Opened, Received};
use crate::server::error::StoreError;

/// Reads part of an object into a fresh temporary file.
fn duplicate(
    disk: &Disk,
    opened: Opened,
    range: Range<u64>,
    algorithms: &[Algorithm],
) -> Result<Received, StoreError> {
    let mut body = opened.body;
    body.narrow(range);
    let mut intake = Intake::begin(disk, algorithms)?;
    loop {
        let chunk = body.next_chunk()?;
        if chunk.is_empty() {
            return Ok(intake.finish());
        }
        intake.append(&chunk)?;
    }
}

pub(super) async fn copy_object(
    store: &Store,
    req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = req.input;
    refuse_unsupported!(input)?;
    let (from, from_key) = copy_source(&input.copy_source)?;
    let replace =
        input.metadata_directive.as_ref().is_some_and(|said| said.as_str() == MetadataDirective::REPLACE);
    if from == input.bucket && from_key == input.key && !replace {
        return Err(s3_error!(InvalidRequest, "a copy onto itself must replace the metadata"));
    }
    let (source, target) = (store.engine.bucket(from)?, store.engine.bucket(&input.bucket)?);
    let from_key = from_key.to_owned();
    let condition = conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.as_ref(),
        input.copy_source_if_unmodified_since.as_ref(),
    );
    let fresh = headers!(input);
    check_headers(&fresh)?;
    let named = input.checksum_algorithm.as_ref().map(|name| Algorithm::parse(name.as_str())).transpose()?;
    let disk = Arc::clone(store.engine.disk());
    let limit = store.limit;
    let onto = target_conditions(&req.headers)?;
    let (entry, record) = blocking(move || {
        let opened = source.open(&from_key)?;
        condition.check_source(&opened.entry.etag, opened.entry.version.modified_ms)?;
        if opened.record.size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let kept = if replace { fresh } else { opened.record.headers.clone() };
        let algorithm = named.or(opened.record.checksum.as_ref().map(|sum| sum.algorithm));
        let size = opened.record.size;
        let received = duplicate(&disk, opened, 0..size, &Vec::from_iter(algorithm))?;
        let sum = received.digest.sums.first().cloned();
        target.put(&input.key, received, kept, sum, &onto)
    })
    .await?;
    let mut result = CopyObjectResult {
        e_tag: etag(&entry.etag),
        last_modified: Some(timestamp(entry.version.modified_ms)),
        checksum_type: record.checksum.as_ref().map(checksum_type),
        ..Default::default()
    };
    set_sum!(result, &record.checksum);
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

/// The conditions on what a copy replaces. S3 has them; `s3s` does not hand them on, so they are read here.
fn target_conditions(headers: &hyper::HeaderMap) -> Result<Conditions, StoreError> {
    let read = |name: &str| {
        headers
            .get(name)
            .map(|value| dto::ETagCondition::parse_http_header(value.as_bytes()))
            .transpose()
            .map_err(|_| StoreError::Invalid(format!("{name} is not an ETag")))
    };
    Ok(conditions(read("if-match")?.as_ref(), read("if-none-match")?.as_ref(), None, None))
}

pub(super) async fn upload_part_copy(
    store: &Store,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = req.input;
    let number = super::multipart::number(input.part_number)?;
    let (from, from_key) = copy_source(&input.copy_source)?;
    let source = store.engine.bucket(from)?;
    let from_key = from_key.to_owned();
    let upload = store.engine.bucket(&input.bucket)?.upload(&input.key, &input.upload_id)?;
    let condition = conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.as_ref(),
        input.copy_source_if_unmodified_since.as_ref(),
    );
    let range = input.copy_source_range.as_deref().map(dto::Range::parse).transpose();
    let range = range.map_err(|_| StoreError::Invalid("x-amz-copy-source-range is not a range".into()))?;
    let disk = Arc::clone(store.engine.disk());
    let limit = store.limit;
    let part = blocking(move || {
        let opened = source.open(&from_key)?;
        condition.check_source(&opened.entry.etag, opened.entry.version.modified_ms)?;
        let size = opened.record.size;
        let range = match range {
            Some(range) => range.check(size).map_err(|_| StoreError::Range { size })?,
            None => 0..size,
        };
        if range.end - range.start > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let algorithm = upload.record.checksum.map(|(algorithm, _)| algorithm);
        let received = duplicate(&disk, opened, range, &Vec::from_iter(algorithm))?;
        upload.put_part(&disk, number, received)
    })
    .await?;
    let mut result = CopyPartResult {
        e_tag: etag(&part.etag),
        last_modified: Some(timestamp(part.version.modified_ms)),
        ..Default::default()
    };
    set_sum!(result, &part.checksum);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}
