//! One bucket: lookups, and the commits that change it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use super::blob::{BodyReader, Received, Source};
use super::conditions::Conditions;
use super::disk::{Disk, Staging, remove_quietly};
use super::index::{Entry, Index, Page, Query};
use super::layout::{Place, STRIPES, part_name, stripe_folder};
use super::multipart::{PartsFolder, Upload};
use super::record::{self, Headers, ObjectRecord};
use super::{lock, read, write};
use crate::server::checksum::Sum;
use crate::server::error::StoreError;

/// A bucket and its objects.
///
/// Locks are taken in this order: an upload's, `gate`, a stripe's, `index`.
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(super) folder: PathBuf,
    pub(super) disk: Arc<Disk>,
    pub(super) index: RwLock<Index>,
    /// One lock per stripe of keys, held from the check of a commit's conditions to its entry in the index.
    stripes: Vec<Mutex<Stripe>>,
    /// False once the bucket is deleted. Commits hold it for reading, deletion for writing.
    gate: RwLock<bool>,
    /// Open uploads, by key and identifier.
    pub(super) uploads: Mutex<BTreeMap<(String, String), Arc<Upload>>>,
    lifecycle: RwLock<Option<String>>,
}

#[derive(Default)]
struct Stripe {
    folder_made: bool,
}

/// What `bucket.json` says.
#[derive(Serialize, Deserialize)]
pub(super) struct BucketFile {
    pub(super) created_ms: u64,
}

/// An object as it was at one moment, ready to be read whatever happens to its key.
pub(crate) struct Opened {
    pub(crate) entry: Entry,
    pub(crate) record: ObjectRecord,
    pub(crate) body: BodyReader,
}

impl Bucket {
    /// Makes the bucket's folder: whole, or not at all.
    pub(super) fn create(disk: &Arc<Disk>, name: &str) -> Result<Self, StoreError> {
        let created_ms = disk.next_version().modified_ms;
        let draft = disk.temporary();
        for folder in [draft.clone(), draft.join("objects"), draft.join("uploads")] {
            disk.make_folder(&folder)?;
        }
        disk.write_json(&draft.join("bucket.json"), &BucketFile { created_ms })?;
        let buckets = disk.root.join("buckets");
        let folder = buckets.join(name);
        fs::rename(&draft, &folder).map_err(StoreError::disk("make", &folder))?;
        disk.sync_folder(&buckets)?;
        Ok(Self::assemble(disk, name, created_ms, Index::default(), BTreeMap::new(), None))
    }

    pub(super) fn assemble(
        disk: &Arc<Disk>,
        name: &str,
        created_ms: u64,
        index: Index,
        uploads: BTreeMap<(String, String), Arc<Upload>>,
        lifecycle: Option<String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            created_ms,
            folder: disk.root.join("buckets").join(name),
            disk: Arc::clone(disk),
            index: RwLock::new(index),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            gate: RwLock::new(true),
            uploads: Mutex::new(uploads),
            lifecycle: RwLock::new(lifecycle),
        }
    }

    /// Keeps the bucket from being deleted for as long as the guard lives.
    pub(super) fn enter(&self) -> Result<RwLockReadGuard<'_, bool>, StoreError> {
        let alive = read(&self.gate);
        if *alive { Ok(alive) } else { Err(StoreError::NoSuchBucket) }
    }

    /// Deletes the bucket if it holds no object.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let mut alive = write(&self.gate);
        if !read(&self.index).is_empty() {
            return Err(StoreError::BucketNotEmpty);
        }
        self.disk.discard_folder(&self.folder)?;
        *alive = false;
        Ok(())
    }

    pub(crate) fn list(&self, query: &Query) -> Page {
        read(&self.index).list(query)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        read(&self.index).get(key).cloned()
    }

    /// Whether a write under these conditions could be carried out now. Only [`Bucket::put`] decides.
    pub(crate) fn check(&self, key: &str, conditions: &Conditions) -> Result<(), StoreError> {
        conditions.check_write(self.entry(key).as_ref())
    }

    /// Stores a received body under `key`.
    pub(crate) fn put(
        &self,
        key: &str,
        received: Received,
        headers: Headers,
        checksum: Option<Sum>,
        conditions: &Conditions,
    ) -> Result<(Entry, ObjectRecord), StoreError> {
        let record = ObjectRecord {
            key: key.to_owned(),
            size: received.size(),
            etag: received.digest.etag(),
            headers,
            checksum,
            assembled: None,
        };
        let entry = self.commit(received.staging, &record, None, conditions)?;
        Ok((entry, record))
    }

    /// Puts a record in force, with the body that is staged before it.
    pub(super) fn commit(
        &self,
        mut staging: Staging,
        record: &ObjectRecord,
        parts: Option<Arc<PartsFolder>>,
        conditions: &Conditions,
    ) -> Result<Entry, StoreError> {
        if record.key.is_empty() || !s3s::path::check_key(&record.key) {
            return Err(StoreError::InvalidKey);
        }
        // Whoever has lost already need not wait for the disk. Those that pass are checked again below.
        self.check(&record.key, conditions)?;
        staging.seal(&self.disk, record)?;

        let place = Place::of(&record.key);
        let _alive = self.enter()?;
        let mut stripe = lock(&self.stripes[place.stripe()]);
        let before = self.entry(&record.key);
        conditions.check_write(before.as_ref())?;
        let objects = self.folder.join("objects");
        if !stripe.folder_made {
            self.disk.make_folder(&objects.join(stripe_folder(place.stripe())))?;
            stripe.folder_made = true;
        }
        let version = self.disk.next_version();
        staging.keep(&self.disk, &objects.join(place.path(version)))?;
        let entry = Entry { version, size: record.size, etag: record.etag.as_str().into(), parts };
        write(&self.index).insert(record.key.clone(), entry.clone());
        if let Some(before) = before {
            remove_quietly(&objects.join(place.path(before.version)));
            if let Some(parts) = before.parts {
                parts.condemn();
            }
        }
        Ok(entry)
    }

    /// Removes `key`. Removing nothing succeeds, as S3 has it, unless a condition asks for something.
    pub(crate) fn delete(&self, key: &str, conditions: &Conditions) -> Result<(), StoreError> {
        let place = Place::of(key);
        let _alive = self.enter()?;
        let _stripe = lock(&self.stripes[place.stripe()]);
        let before = self.entry(key);
        conditions.check_write(before.as_ref())?;
        let Some(before) = before else { return Ok(()) };
        let path = self.folder.join("objects").join(place.path(before.version));
        // The index forgets first: a reader that finds an entry must find its file.
        write(&self.index).remove(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                write(&self.index).insert(key.to_owned(), before);
                return Err(StoreError::disk("remove", path)(error));
            }
            _ => {}
        }
        if let Some(parts) = before.parts {
            parts.condemn();
        }
        self.disk.sync_folder(path.parent().unwrap_or(&self.folder))
    }

    /// Opens an object: its record and a reader over its whole body.
    pub(crate) fn open(&self, key: &str) -> Result<Opened, StoreError> {
        let place = Place::of(key);
        loop {
            let entry = self.entry(key).ok_or(StoreError::NoSuchKey)?;
            let path = self.folder.join("objects").join(place.path(entry.version));
            match File::open(&path) {
                Ok(file) => return self.opened(entry, file, path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Replaced between the look-up and the opening: look again. If it was not replaced, the
                    // file has gone from under the server.
                    if self.entry(key).is_some_and(|now| now.version == entry.version) {
                        return Err(StoreError::disk("open", path)(error));
                    }
                }
                Err(error) => return Err(StoreError::disk("open", path)(error)),
            }
        }
    }

    fn opened(&self, entry: Entry, file: File, path: PathBuf) -> Result<Opened, StoreError> {
        let (record, _) = record::decode::<ObjectRecord>(&file).map_err(StoreError::disk("read", path))?;
        let source = match (&record.assembled, &entry.parts) {
            (Some(assembled), Some(folder)) => {
                let path = |segment: &record::Segment| {
                    folder.path().join(part_name(segment.number, segment.version()))
                };
                let files = assembled.parts.iter().map(|segment| (path(segment), segment.size)).collect();
                Source::Parts { files, _folder: Arc::clone(folder) }
            }
            _ => Source::Whole(Arc::new(file)),
        };
        let body = BodyReader::new(source, 0..record.size);
        Ok(Opened { entry, record, body })
    }

    /// The lifecycle rules, as they were set.
    pub(crate) fn lifecycle(&self) -> Option<String> {
        read(&self.lifecycle).clone()
    }

    /// Sets or removes the lifecycle rules. They are kept, not acted on.
    pub(crate) fn set_lifecycle(&self, rules: Option<String>) -> Result<(), StoreError> {
        let _alive = self.enter()?;
        let mut current = write(&self.lifecycle);
        let path = self.folder.join("lifecycle.json");
        match &rules {
            Some(rules) => self.disk.write_json(&path, rules)?,
            None => {
                remove_quietly(&path);
                self.disk.sync_folder(&self.folder)?;
            }
        }
        *current = rules;
        Ok(())
    }
}
