//! DeleteObject and DeleteObjects.

use s3s::dto::{self, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::Store;
use super::convert::{check_version, conditions};
use crate::server::body::blocking;
use crate::server::engine::{Conditions, Match};
use crate::server::error::StoreError;

/// How many keys one DeleteObjects may name, as in S3.
const MOST_KEYS: usize = 1000;

pub(super) async fn delete_object(
    store: &Store,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = req.input;
    check_version(input.version_id.as_deref())?;
    if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(StoreError::Unsupported("deleting under a condition other than If-Match").into());
    }
    let bucket = store.engine.bucket(&input.bucket)?;
    let condition = conditions(input.if_match.as_ref(), None, None, None);
    blocking(move || bucket.delete(&input.key, &condition)).await?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn delete_objects(
    store: &Store,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = req.input;
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > MOST_KEYS {
        return Err(s3_error!(MalformedXML, "name 1 to {MOST_KEYS} keys"));
    }
    let quiet = input.delete.quiet == Some(true);
    let bucket = store.engine.bucket(&input.bucket)?;
    let results = blocking(move || {
        let delete = |object: dto::ObjectIdentifier| {
            let if_match = object.e_tag.as_ref().map(|etag| Match::Etag(etag.value().to_owned()));
            let condition = Conditions { if_match, ..Conditions::default() };
            let result = match check_version(object.version_id.as_deref()) {
                Ok(()) => bucket.delete(&object.key, &condition).map_err(S3Error::from),
                Err(error) => Err(error),
            };
            (object.key, result)
        };
        Ok(objects.into_iter().map(delete).collect::<Vec<_>>())
    })
    .await?;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (key, result) in results {
        match result {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(dto::DeletedObject { key: Some(key), ..Default::default() }),
            Err(error) => errors.push(dto::Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(key),
                message: error.message().map(str::to_owned),
                ..Default::default()
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    }))
}
