//! Uploads in parts: one open upload, its parts, and how they become an object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::blob::Received;
use super::disk::{Disk, Staging, remove_quietly};
use super::layout::{Version, part_name};
use super::lock;
use super::record::{Assembled, ObjectRecord, PartRecord, Segment, UploadRecord};
use crate::server::checksum::{Sum, assembled_etag, assembled_sum};
use crate::server::error::StoreError;

/// Every part but the last has at least this many bytes, as in S3.
pub(crate) const LEAST_PART_BYTES: u64 = 5 << 20;
/// Parts are numbered from 1 to this.
pub(crate) const MOST_PARTS: u32 = 10_000;

/// The folder of an upload that became an object. Removed when the object is gone and nobody reads it any more.
pub(super) struct PartsFolder {
    path: PathBuf,
    condemned: AtomicBool,
}

impl PartsFolder {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, condemned: AtomicBool::new(false) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The object is gone: the last reader to leave removes the folder. A crash before that leaves a folder that
    /// no object refers to, which the next start sweeps.
    pub(super) fn condemn(&self) {
        self.condemned.store(true, Ordering::SeqCst);
    }
}

impl Drop for PartsFolder {
    fn drop(&mut self) {
        if !*self.condemned.get_mut() {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the parts of a deleted object");
            }
        };
        // The last reader may leave on a thread that serves connections and must not wait for the disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// A part that was uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) version: Version,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) checksum: Option<Sum>,
}

/// A part as the client names it when it completes an upload.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) number: u32,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) sums: Vec<Sum>,
}

/// An upload that is still open.
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) record: UploadRecord,
    pub(super) folder: PathBuf,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) parts: BTreeMap<u32, Part>,
    /// Completed or aborted: whoever still holds the upload must not add to it.
    pub(super) closed: bool,
}

impl Upload {
    pub(super) fn new(
        id: String,
        record: UploadRecord,
        folder: PathBuf,
        parts: BTreeMap<u32, Part>,
    ) -> Arc<Self> {
        Arc::new(Self { id, record, folder, state: Mutex::new(State { parts, closed: false }) })
    }

    /// Keeps a received body as part `number`; of two bodies for one number the later stays.
    pub(crate) fn put_part(&self, disk: &Disk, number: u32, received: Received) -> Result<Part, StoreError> {
        if !(1..=MOST_PARTS).contains(&number) {
            return Err(StoreError::Invalid(format!("a part's number must be from 1 to {MOST_PARTS}")));
        }
        let wanted = self.record.checksum.map(|(algorithm, _)| algorithm);
        let sums = &received.digest.sums;
        let checksum = sums.iter().find(|sum| wanted.is_none_or(|wanted| sum.algorithm == wanted)).cloned();
        let record = PartRecord { size: received.size(), etag: received.digest.etag(), checksum };
        let mut staging = received.staging;
        staging.seal(disk, &record)?;

        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::NoSuchUpload);
        }
        let version = disk.next_version();
        staging.keep(disk, &self.folder.join(part_name(number, version)))?;
        let PartRecord { size, etag, checksum } = record;
        let part = Part { number, version, size, etag, checksum };
        if let Some(before) = state.parts.insert(number, part.clone()) {
            remove_quietly(&self.folder.join(part_name(number, before.version)));
        }
        Ok(part)
    }

    /// The parts after number `after`, at most `limit`, and whether there are more.
    pub(crate) fn list(&self, after: u32, limit: usize) -> (Vec<Part>, bool) {
        let state = lock(&self.state);
        let mut parts: Vec<_> = state
            .parts
            .range(after.saturating_add(1)..)
            .take(limit + 1)
            .map(|(_, part)| part.clone())
            .collect();
        let more = parts.len() > limit;
        parts.truncate(limit);
        (parts, more)
    }

    /// Checks the client's list of parts against what was uploaded and makes the object's record of it.
    pub(super) fn assemble(
        &self,
        parts: &BTreeMap<u32, Part>,
        claims: &[Claim],
        limit: u64,
    ) -> Result<ObjectRecord, StoreError> {
        if claims.is_empty() {
            return Err(StoreError::Invalid("an upload is completed with at least one part".into()));
        }
        if !claims.is_sorted_by(|a, b| a.number < b.number) {
            return Err(StoreError::PartOrder);
        }
        let mut chosen = Vec::with_capacity(claims.len());
        for claim in claims {
            let part = parts.get(&claim.number).filter(|part| part.etag == claim.etag);
            let part = part.ok_or(StoreError::InvalidPart(claim.number))?;
            let differs = |sum: &&Sum| {
                part.checksum.as_ref().is_some_and(|own| own.algorithm == sum.algorithm && own != *sum)
            };
            if claim.sums.iter().any(|sum| differs(&sum)) {
                return Err(StoreError::InvalidPart(claim.number));
            }
            chosen.push(part);
        }
        if let Some(small) = chosen[..chosen.len() - 1].iter().find(|part| part.size < LEAST_PART_BYTES) {
            return Err(StoreError::PartTooSmall {
                number: small.number,
                size: small.size,
                least: LEAST_PART_BYTES,
            });
        }
        let size = chosen.iter().map(|part| part.size).try_fold(0u64, u64::checked_add);
        let size = size.filter(|size| *size <= limit).ok_or(StoreError::TooLarge { limit })?;
        let etag = assembled_etag(chosen.iter().map(|part| part.etag.as_str())).ok_or(StoreError::Worker)?;
        Ok(ObjectRecord {
            key: self.record.key.clone(),
            size,
            etag,
            headers: self.record.headers.clone(),
            checksum: self.checksum(&chosen),
            assembled: Some(Assembled {
                upload_id: self.id.clone(),
                parts: chosen.into_iter().map(segment).collect(),
            }),
        })
    }

    fn checksum(&self, parts: &[&Part]) -> Option<Sum> {
        let (algorithm, whole) = self.record.checksum?;
        let sums = parts
            .iter()
            .map(|part| part.checksum.as_ref().map(|sum| (sum.value.as_str(), part.size)))
            .collect::<Option<Vec<_>>>()?;
        assembled_sum(algorithm, whole, &sums)
    }

    /// After the object is in force: the upload is over, and the parts that it did not use are waste.
    pub(super) fn settle(&self, disk: &Disk, state: &mut State, used: &[Segment]) -> Result<(), StoreError> {
        state.closed = true;
        for part in
            state.parts.values().filter(|part| !used.iter().any(|used| used.version() == part.version))
        {
            remove_quietly(&self.folder.join(part_name(part.number, part.version)));
        }
        remove_quietly(&self.folder.join("upload"));
        // Otherwise a crash, after the object was deleted too, could bring the upload back to life.
        disk.sync_folder(&self.folder)
    }
}

fn segment(part: &Part) -> Segment {
    let Version { sequence, modified_ms } = part.version;
    Segment { number: part.number, sequence, modified_ms, size: part.size }
}

/// Makes the folder of a new upload: whole, or not at all.
pub(super) fn begin(disk: &Disk, folder: &Path, record: &UploadRecord) -> Result<(), StoreError> {
    let draft = disk.temporary();
    disk.make_folder(&draft)?;
    let mut staging = Staging::create(disk)?;
    staging.seal(disk, record)?;
    staging.keep(disk, &draft.join("upload"))?;
    fs::rename(&draft, folder).map_err(StoreError::disk("make", folder))?;
    folder.parent().map_or(Ok(()), |parent| disk.sync_folder(parent))
}
