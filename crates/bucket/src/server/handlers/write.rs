//! PutObject.

use std::sync::Arc;

use s3s::dto::{PutObjectInput, PutObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use super::Store;
use super::convert::{Announced, check_headers, conditions, etag, headers, refuse_unsupported};
use crate::server::body::{blocking, receive};
use crate::server::checksum::{checksum_type, set_sum, sums};
use crate::server::error::StoreError;

pub(super) async fn put_object(
    store: &Store,
    req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let mut input = req.input;
    refuse_unsupported!(input)?;
    let bucket = store.engine.bucket(&input.bucket)?;
    let kept = headers!(input);
    check_headers(&kept)?;
    let condition = conditions(input.if_match.as_ref(), input.if_none_match.as_ref(), None, None);
    // Whoever has lost already need not have its body stored first.
    bucket.check(&input.key, &condition)?;
    let named = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str());
    let announced = Announced::read(&req.headers, sums!(input), named)?;

    let disk = Arc::clone(store.engine.disk());
    let algorithms = announced.algorithms();
    let arrived = receive(&disk, input.body.take(), input.content_length, algorithms, store.limit).await?;
    let stored = announced.stored();
    let expected = announced.expected(input.content_md5.as_deref(), req.trailing_headers.as_ref())?;
    let (entry, record) = blocking(move || {
        let received = arrived.finish(&disk)?;
        expected.check(&received.digest)?;
        let sum = received.digest.sums.iter().find(|sum| Some(sum.algorithm) == stored).cloned();
        bucket.put(&input.key, received, kept, sum, &condition)
    })
    .await?;

    let mut output = PutObjectOutput { e_tag: etag(&entry.etag), ..Default::default() };
    output.checksum_type = record.checksum.as_ref().map(checksum_type);
    set_sum!(output, &record.checksum);
    Ok(S3Response::new(output))
}
