//! The storage engine: buckets of objects in files under one folder.
//!
//! Everything here is synchronous and does file work; callers run it on threads that may block. A write is
//! visible only once it is durable, and durable only whole: body and record share a file, and one rename puts
//! that file in force (`record`, `layout`). Conditions are checked and commits made under one lock per stripe of
//! keys (`bucket`), so of many writers racing to create one key exactly one wins.

mod blob;
mod bucket;
mod conditions;
mod disk;
mod index;
mod layout;
mod multipart;
mod record;
mod recover;
mod uploads;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

pub(crate) use self::blob::{BodyReader, Intake, Received};
pub(crate) use self::bucket::{Bucket, Opened};
pub(crate) use self::conditions::{Conditions, Match};
pub(crate) use self::disk::Disk;
pub(crate) use self::index::{Entry, Page, Query, Start};
pub(crate) use self::multipart::{Claim, Part};
pub(crate) use self::record::{Headers, ObjectRecord};
pub(crate) use self::uploads::{OpenUpload, Whole};
use super::error::{ServerError, StoreError};

/// All buckets under one root folder.
pub(crate) struct Engine {
    disk: Arc<Disk>,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    /// Held, as an advisory lock, until the process ends: two servers over one root would each trust their own
    /// index.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct LayoutFile {
    layout: u32,
}

impl Engine {
    /// Opens a root folder, making it if it is absent: finishes what a crash interrupted, sweeps what it left,
    /// and reads every object's record.
    ///
    /// # Errors
    /// [`ServerError::RootInUse`], [`ServerError::Layout`], [`ServerError::Disk`].
    pub(crate) fn open(root: &Path, fsync: bool) -> Result<Self, ServerError> {
        let failed = |action| move |source| ServerError::Disk { action, path: root.to_owned(), source };
        for folder in ["tmp", "buckets"] {
            fs::create_dir_all(root.join(folder)).map_err(failed("make"))?;
        }
        let lock = File::create(root.join("lock")).map_err(failed("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => ServerError::RootInUse { root: root.to_owned() },
            fs::TryLockError::Error(source) => failed("lock")(source),
        })?;
        recover::empty_folder(&root.join("tmp")).map_err(failed("sweep"))?;
        let disk = Arc::new(Disk::new(root, fsync));
        check_layout(&disk)?;
        let buckets = recover::buckets(&disk)?;
        Ok(Self { disk, buckets: RwLock::new(buckets), _lock: lock })
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<Bucket>, StoreError> {
        read(&self.buckets).get(name).cloned().ok_or(StoreError::NoSuchBucket)
    }

    /// All buckets, by name.
    pub(crate) fn list(&self) -> Vec<Arc<Bucket>> {
        read(&self.buckets).values().cloned().collect()
    }

    /// Makes an empty bucket.
    pub(crate) fn create(&self, name: &str) -> Result<(), StoreError> {
        if !s3s::path::check_bucket_name(name) {
            return Err(StoreError::InvalidBucketName);
        }
        // Held over the file work: bucket creation is rare, and two of one name must not meet on the disk.
        let mut buckets = write(&self.buckets);
        if buckets.contains_key(name) {
            return Err(StoreError::BucketExists);
        }
        let bucket = Bucket::create(&self.disk, name)?;
        buckets.insert(name.to_owned(), Arc::new(bucket));
        Ok(())
    }

    /// Removes an empty bucket, with the uploads still open in it.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = write(&self.buckets);
        buckets.get(name).ok_or(StoreError::NoSuchBucket)?.close()?;
        buckets.remove(name);
        Ok(())
    }
}

fn check_layout(disk: &Disk) -> Result<(), ServerError> {
    let path = disk.root.join("layout.json");
    let failed = |action| {
        let path = path.clone();
        move |source| ServerError::Disk { action, path, source }
    };
    match fs::read(&path) {
        Ok(bytes) => {
            let found: LayoutFile =
                serde_json::from_slice(&bytes).map_err(|error| failed("understand")(error.into()))?;
            if found.layout != layout::LAYOUT {
                let root = disk.root.clone();
                return Err(ServerError::Layout { root, found: found.layout, expected: layout::LAYOUT });
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => disk
            .write_json(&path, &LayoutFile { layout: layout::LAYOUT })
            .map_err(|error| failed("write")(std::io::Error::other(error))),
        Err(error) => Err(failed("read")(error)),
    }
}

// A thread that panicked while it held one of these locks left the index as it was before its commit: the change
// to the index is a commit's last step. So a poisoned lock is as good as a sound one.

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
