//! The folder behind a [`ShardCache`](super::ShardCache): files named after their hash, the least recently used
//! removed first.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use brigade_protocol::Digest;
use bytes::Bytes;

use super::DataError;

/// Unfinished files older than this were left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of shards. The time of last use is the file's modification time, which all processes see.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    max_bytes: u64,
    parts: AtomicU64,
    /// The last time given to a file. File times are coarse and clocks step back; uses must still be ordered.
    last_use: Mutex<SystemTime>,
    /// Held from making room to filling it: two writers must not fill the same room. Another process may; the
    /// next write then removes what is too much.
    writing: Mutex<()>,
}

/// A file of the folder.
struct Entry {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
    used: SystemTime,
}

impl Disk {
    pub(super) fn open(folder: PathBuf, max_bytes: u64) -> Result<Self, DataError> {
        fs::create_dir_all(&folder).map_err(|error| DataError::io(&folder, error))?;
        Ok(Self {
            folder,
            max_bytes,
            parts: AtomicU64::new(0),
            last_use: Mutex::new(SystemTime::UNIX_EPOCH),
            writing: Mutex::new(()),
        })
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.bin"))
    }

    /// The bytes of a file as they lie (the caller checks them), or `None` when it is absent or has another length.
    pub(super) fn read(&self, digest: Digest, length: u64) -> Option<Bytes> {
        let path = self.path(digest);
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::with_capacity(length as usize);
        // One byte more than expected, to see that there is none.
        (&file).take(length + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 != length {
            tracing::warn!(path = %path.display(), "a cached shard has the wrong length; fetching it again");
            self.forget(digest);
            return None;
        }
        self.touch(&path);
        Some(bytes.into())
    }

    /// Stores a file and makes room for it. When there is no room, or the folder fails, it is not stored: the cache
    /// is a convenience, and its owner has the bytes.
    pub(super) fn write(&self, digest: Digest, bytes: &[u8], in_use: &HashSet<Digest>) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.make_room(bytes.len() as u64, in_use) {
            return;
        }
        let number = self.parts.fetch_add(1, Ordering::Relaxed);
        let part = self.folder.join(format!(".{digest}.{}.{number}.part", std::process::id()));
        let path = self.path(digest);
        let written = File::create(&part)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&part, &path));
        match written {
            Ok(()) => self.touch(&path),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot cache a shard");
                let _ = fs::remove_file(&part);
            }
        }
    }

    /// Removes a file. It may be gone already.
    pub(super) fn forget(&self, digest: Digest) {
        let _ = fs::remove_file(self.path(digest));
    }

    fn touch(&self, path: &Path) {
        let mut last = self.last_use.lock().unwrap_or_else(PoisonError::into_inner);
        *last = SystemTime::now().max(*last + Duration::from_micros(1));
        // Opened for writing, since only a writer may set the time on some systems. A failure costs only order.
        let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(*last));
    }

    /// Removes the least recently used files until `needed` bytes fit. False when those in use leave no room.
    fn make_room(&self, needed: u64, in_use: &HashSet<Digest>) -> bool {
        let mut entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "cannot list the cache");
                return false;
            }
        };
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.retain(|entry| !in_use.contains(&entry.digest));
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        for entry in entries {
            if total.saturating_add(needed) <= self.max_bytes {
                break;
            }
            // Another process may have removed it first: the room is there either way.
            let _ = fs::remove_file(&entry.path);
            tracing::debug!(path = %entry.path.display(), "evicted a shard");
            total -= entry.bytes;
        }
        total.saturating_add(needed) <= self.max_bytes
    }

    fn entries(&self) -> std::io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Removed by another process between the listing and here.
            let Ok(metadata) = entry.metadata() else { continue };
            let (path, used) = (entry.path(), metadata.modified()?);
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with('.') && name.ends_with(".part") {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(&path);
                }
            } else if let Some(digest) = name.strip_suffix(".bin").and_then(|stem| stem.parse().ok()) {
                entries.push(Entry { path, digest, bytes: metadata.len(), used });
            }
        }
        Ok(entries)
    }
}
