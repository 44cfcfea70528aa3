//! The few things that the engine does with files, with their errors named.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::layout::Version;
use super::record;
use crate::server::error::StoreError;

/// What all buckets of one root share: the folder for bodies on their way in, the order of commits, the clock.
pub(crate) struct Disk {
    pub(super) root: PathBuf,
    fsync: bool,
    /// The last sequence number given out.
    sequence: AtomicU64,
    /// The last commit's time, in milliseconds since 1970.
    clock_ms: AtomicU64,
    /// Names the files in `tmp`.
    staged: AtomicU64,
}

impl Disk {
    pub(super) fn new(root: &Path, fsync: bool) -> Self {
        Self {
            root: root.to_owned(),
            fsync,
            sequence: AtomicU64::new(0),
            clock_ms: AtomicU64::new(0),
            staged: AtomicU64::new(0),
        }
    }

    /// The next commit's version: above all earlier ones, and no earlier in time ([`tick`]).
    pub(super) fn next_version(&self) -> Version {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64);
        let next = |last| Some(tick(last, now));
        let last = self.clock_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).unwrap_or(now);
        Version { sequence: self.sequence.fetch_add(1, Ordering::SeqCst) + 1, modified_ms: tick(last, now) }
    }

    /// Takes note of a version found on disk, so that the next one comes after it.
    pub(super) fn saw(&self, version: Version) {
        self.sequence.fetch_max(version.sequence, Ordering::SeqCst);
        self.clock_ms.fetch_max(version.modified_ms, Ordering::SeqCst);
    }

    /// A fresh path under `tmp`.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp").join(format!("{:016x}", self.staged.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes a folder's entries durable: a rename or an unlink is not, until its folder is.
    pub(super) fn sync_folder(&self, folder: &Path) -> Result<(), StoreError> {
        if !self.fsync {
            return Ok(());
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::disk("sync", folder))
    }

    /// Makes a folder, durably; its parent must exist.
    pub(super) fn make_folder(&self, folder: &Path) -> Result<(), StoreError> {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(StoreError::disk("make", folder)(error)),
        }
        folder.parent().map_or(Ok(()), |parent| self.sync_folder(parent))
    }

    /// Writes a small JSON file in one piece.
    pub(super) fn write_json<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), StoreError> {
        let bytes =
            serde_json::to_vec(value).map_err(|error| StoreError::disk("encode", path)(error.into()))?;
        let mut staging = Staging::create(self)?;
        staging.append(&bytes)?;
        staging.sync(self)?;
        staging.keep(self, path)
    }

    /// Removes a folder and all below it, in one step as seen from outside.
    pub(super) fn discard_folder(&self, folder: &Path) -> Result<(), StoreError> {
        let doomed = self.temporary();
        fs::rename(folder, &doomed).map_err(StoreError::disk("remove", folder))?;
        if let Some(parent) = folder.parent() {
            self.sync_folder(parent)?;
        }
        // From here on it is gone for every reader and every restart; the rest is housekeeping.
        if let Err(error) = fs::remove_dir_all(&doomed) {
            tracing::warn!(path = %doomed.display(), %error, "cannot empty a removed folder; the next start will");
        }
        Ok(())
    }
}

/// How far the clock may be set back before commits follow it.
const CLOCK_TOLERANCE_MS: u64 = 10 * 60 * 1000;

/// The time of a commit at `now` after one at `last`: never earlier, so that `Last-Modified` does not fall when the
/// clock is adjusted. But a clock that once stood far in the future must not hold all times there for ever.
fn tick(last: u64, now: u64) -> u64 {
    if last > now + CLOCK_TOLERANCE_MS { now } else { last.max(now) }
}

/// A file on its way in. Dropped before it is kept, it leaves nothing behind.
pub(crate) struct Staging {
    file: File,
    path: PathBuf,
    size: u64,
    kept: bool,
}

impl Staging {
    pub(crate) fn create(disk: &Disk) -> Result<Self, StoreError> {
        let path = disk.temporary();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(StoreError::disk("create", &path))?;
        Ok(Self { file, path, size: 0, kept: false })
    }

    /// Adds to the body.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::disk("write", &self.path))?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Bytes appended so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ends the body with its record and puts both on the disk. The slow half of a commit: call it before
    /// taking any lock.
    pub(super) fn seal<T: Serialize>(&mut self, disk: &Disk, record: &T) -> Result<(), StoreError> {
        let bytes = record::encode(record).map_err(StoreError::disk("encode the record of", &self.path))?;
        self.append(&bytes)?;
        self.sync(disk)
    }

    fn sync(&self, disk: &Disk) -> Result<(), StoreError> {
        if !disk.fsync {
            return Ok(());
        }
        self.file.sync_all().map_err(StoreError::disk("sync", &self.path))
    }

    /// Renames the file to where it belongs, durably. Nothing may be there yet, or only what this replaces.
    pub(super) fn keep(mut self, disk: &Disk, path: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, path).map_err(StoreError::disk("put in place", path))?;
        self.kept = true;
        let Some(folder) = path.parent() else { return Ok(()) };
        disk.sync_folder(folder).inspect_err(|_| {
            // Whether the rename is on the disk is unknown, so the caller is told that it is not: undo it.
            remove_quietly(path);
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.kept {
            remove_quietly(&self.path);
        }
    }
}

/// Removes a file that nothing refers to any more. A failure costs disk space, never correctness: the next start
/// sweeps it.
pub(super) fn remove_quietly(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file that is no longer needed");
        }
        _ => {}
    }
}

/// Reads exactly `length` bytes at `offset`.
#[cfg(unix)]
pub(super) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Reads exactly `length` bytes at `offset`.
#[cfg(not(unix))]
pub(super) fn read_at(mut file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = vec![0; length];
    file.seek(io::SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_fall_but_recovers_from_nonsense() {
        assert_eq!(tick(1000, 2000), 2000);
        assert_eq!(tick(2000, 1000), 2000);
        assert_eq!(tick(1000 + CLOCK_TOLERANCE_MS, 1000), 1000 + CLOCK_TOLERANCE_MS);
        assert_eq!(tick(1001 + CLOCK_TOLERANCE_MS, 1000), 1000);
    }
}
