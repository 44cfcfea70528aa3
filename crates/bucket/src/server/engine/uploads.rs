//! A bucket's uploads in parts: begun, listed, completed, aborted.

use std::ops::Bound;
use std::sync::Arc;

use super::bucket::Bucket;
use super::conditions::Conditions;
use super::disk::Staging;
use super::lock;
use super::multipart::{Claim, PartsFolder, Upload, begin};
use super::record::{Headers, ObjectRecord, UploadRecord};
use crate::server::checksum::{Algorithm, Sum};
use crate::server::error::StoreError;

/// What a listing of uploads says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenUpload {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) initiated_ms: u64,
}

/// One page of open uploads.
pub(crate) struct UploadPage {
    pub(crate) uploads: Vec<OpenUpload>,
    pub(crate) truncated: bool,
}

/// What a client says of the object that its parts are to make.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub(crate) size: Option<u64>,
    pub(crate) sums: Vec<Sum>,
}

impl Bucket {
    /// Begins an upload. `checksum` is the algorithm that the object will carry and whether it is to cover the
    /// whole object.
    pub(crate) fn begin_upload(
        &self,
        key: &str,
        headers: Headers,
        checksum: Option<(Algorithm, bool)>,
    ) -> Result<Arc<Upload>, StoreError> {
        if key.is_empty() || !s3s::path::check_key(key) {
            return Err(StoreError::InvalidKey);
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| StoreError::Worker)?;
        let id = hex::encode(id);
        let initiated_ms = self.disk.next_version().modified_ms;
        let record = UploadRecord { key: key.to_owned(), initiated_ms, headers, checksum };
        let _alive = self.enter()?;
        let folder = self.folder.join("uploads").join(&id);
        begin(&self.disk, &folder, &record)?;
        let upload = Upload::new(id.clone(), record, folder, Default::default());
        lock(&self.uploads).insert((key.to_owned(), id), Arc::clone(&upload));
        Ok(upload)
    }

    pub(crate) fn upload(&self, key: &str, id: &str) -> Result<Arc<Upload>, StoreError> {
        lock(&self.uploads).get(&(key.to_owned(), id.to_owned())).cloned().ok_or(StoreError::NoSuchUpload)
    }

    /// Open uploads whose key begins with `prefix`, after the one named by `marker` (key, identifier).
    pub(crate) fn list_uploads(
        &self,
        prefix: &str,
        marker: Option<(String, String)>,
        limit: usize,
    ) -> UploadPage {
        let uploads = lock(&self.uploads);
        let from = match marker {
            Some(marker) if marker.0.as_str() >= prefix => Bound::Excluded(marker),
            _ => Bound::Included((prefix.to_owned(), String::new())),
        };
        let mut matching = uploads
            .range((from, Bound::Unbounded))
            .take_while(|((key, _), _)| key.starts_with(prefix))
            .map(|((key, id), upload)| OpenUpload {
                key: key.clone(),
                id: id.clone(),
                initiated_ms: upload.record.initiated_ms,
            });
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let truncated = limit > 0 && matching.next().is_some();
        UploadPage { uploads: page, truncated }
    }

    /// Makes an object of an upload's parts. A second call for the same upload, as a client makes whose answer
    /// got lost, finds the object there and succeeds again.
    pub(crate) fn complete_upload(
        &self,
        key: &str,
        id: &str,
        claims: &[Claim],
        whole: &Whole,
        limit: u64,
        conditions: &Conditions,
    ) -> Result<ObjectRecord, StoreError> {
        let Ok(upload) = self.upload(key, id) else { return self.completed(key, id) };
        let mut state = lock(&upload.state);
        if state.closed {
            drop(state);
            return self.completed(key, id);
        }
        let record = upload.assemble(&state.parts, claims, limit)?;
        if whole.size.is_some_and(|size| size != record.size) {
            return Err(StoreError::Invalid(
                "x-amz-mp-object-size is not the sum of the parts' sizes".into(),
            ));
        }
        for sum in &whole.sums {
            if record.checksum.as_ref().is_some_and(|own| own.algorithm == sum.algorithm && own != sum) {
                return Err(StoreError::Digest(sum.algorithm.header()));
            }
        }
        let folder = PartsFolder::new(upload.folder.clone());
        self.commit(Staging::create(&self.disk)?, &record, Some(folder), conditions)?;
        let used = record.assembled.as_ref().map_or(&[][..], |assembled| &assembled.parts);
        lock(&self.uploads).remove(&(key.to_owned(), id.to_owned()));
        // The object is in force whatever becomes of this.
        if let Err(error) = upload.settle(&self.disk, &mut state, used) {
            tracing::warn!(%error, upload = id, "an upload was completed but could not be tidied up");
        }
        Ok(record)
    }

    fn completed(&self, key: &str, id: &str) -> Result<ObjectRecord, StoreError> {
        let record = self.open(key).map_err(|_| StoreError::NoSuchUpload)?.record;
        let same = record.assembled.as_ref().is_some_and(|assembled| assembled.upload_id == id);
        if same { Ok(record) } else { Err(StoreError::NoSuchUpload) }
    }

    /// Ends an upload and removes its parts.
    pub(crate) fn abort_upload(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let upload = self.upload(key, id)?;
        let mut state = lock(&upload.state);
        if state.closed {
            return Err(StoreError::NoSuchUpload);
        }
        let _alive = self.enter()?;
        self.disk.discard_folder(&upload.folder)?;
        state.closed = true;
        lock(&self.uploads).remove(&(key.to_owned(), id.to_owned()));
        Ok(())
    }
}
