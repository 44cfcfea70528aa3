//! Where a dataset is written: a folder, or a prefix in an object store.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use brigade_protocol::MAX_INDEX_BYTES;
use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, path::Path as Key};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::DataError;

/// A place that takes files whole. Methods block; call them off the async runtime.
///
/// `Display` names the place for messages.
pub trait Sink: fmt::Debug + fmt::Display + Send + Sync {
    /// Reads a small file (at most [`MAX_INDEX_BYTES`]), or `None` when it is not there.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Store`].
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError>;

    /// Writes a file: readers see all of it or none. It need not be there before [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Store`]; the error may be that of an earlier file.
    fn write(&self, name: &str, bytes: Bytes) -> Result<(), DataError>;

    /// Removes a file; not an error when it is not there.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Store`].
    fn remove(&self, name: &str) -> Result<(), DataError>;

    /// Waits until everything written is there.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Store`].
    fn flush(&self) -> Result<(), DataError>;
}

/// A folder, created when the first file is written.
#[derive(Debug)]
pub struct FolderSink {
    folder: PathBuf,
}

impl FolderSink {
    /// Writes into `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl fmt::Display for FolderSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folder.display().fmt(f)
    }
}

impl Sink for FolderSink {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        let path = self.folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io(path, error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes).map_err(|error| DataError::io(path, error))?;
        Ok(Some(bytes))
    }

    fn write(&self, name: &str, bytes: Bytes) -> Result<(), DataError> {
        fs::create_dir_all(&self.folder).map_err(|error| DataError::io(&self.folder, error))?;
        let path = self.folder.join(name);
        let part = self.folder.join(format!(".{name}.{}.part", std::process::id()));
        let written = File::create(&part)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&part, &path));
        written.map_err(|error| {
            // The first error is the one to report.
            let _ = fs::remove_file(&part);
            DataError::io(path, error)
        })
    }

    fn remove(&self, name: &str) -> Result<(), DataError> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DataError::io(path, error)),
            _ => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), DataError> {
        Ok(())
    }
}

/// Bytes that may be on their way at once, in units of [`UPLOAD_UNIT`].
const UPLOAD_UNITS: u32 = 64;
const UPLOAD_UNIT: usize = 1 << 20;

/// A prefix in an object store. Uploads overlap with the work of the caller, up to 64 MiB of them at once.
#[derive(Debug)]
pub struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    name: String,
    prefix: Key,
    runtime: Handle,
    room: Arc<Semaphore>,
    uploads: Mutex<JoinSet<Result<(), DataError>>>,
}

impl ObjectSink {
    /// Writes under `prefix` into what people know as `name`. Uploads run on `runtime`, which must have I/O and time enabled.
    pub fn new(store: Arc<dyn ObjectStore>, name: &str, prefix: Key, runtime: Handle) -> Self {
        let room = Arc::new(Semaphore::new(UPLOAD_UNITS as usize));
        Self { store, name: name.to_owned(), prefix, runtime, room, uploads: Mutex::new(JoinSet::new()) }
    }

    fn failed(&self, name: &str, source: object_store::Error) -> DataError {
        DataError::Store { place: format!("{self}/{name}"), source }
    }
}

impl fmt::Display for ObjectSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.prefix)
    }
}

impl Sink for ObjectSink {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        let key = self.prefix.clone().join(name);
        let read = async {
            let found = self.store.get(&key).await?;
            if found.meta.size > MAX_INDEX_BYTES {
                // Longer than any index: as much as shows that it is none.
                return Ok(Bytes::new());
            }
            found.bytes().await
        };
        match self.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(name, source)),
        }
    }

    fn write(&self, name: &str, bytes: Bytes) -> Result<(), DataError> {
        let units =
            u32::try_from(bytes.len().div_ceil(UPLOAD_UNIT)).unwrap_or(UPLOAD_UNITS).min(UPLOAD_UNITS);
        let room = self.runtime.block_on(Arc::clone(&self.room).acquire_many_owned(units));
        let (store, key) = (Arc::clone(&self.store), self.prefix.clone().join(name));
        let place = format!("{self}/{name}");
        let upload = async move {
            let _room = room;
            store.put(&key, bytes.into()).await.map_err(|source| DataError::Store { place, source })?;
            Ok(())
        };
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.spawn_on(upload, &self.runtime);
        while let Some(done) = uploads.try_join_next() {
            done.map_err(|error| DataError::Task { reason: error.to_string() })??;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DataError> {
        let key = self.prefix.clone().join(name);
        match self.runtime.block_on(self.store.delete(&key)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed(name, source)),
        }
    }

    fn flush(&self) -> Result<(), DataError> {
        let mut uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        self.runtime.block_on(async {
            while let Some(done) = uploads.join_next().await {
                done.map_err(|error| DataError::Task { reason: error.to_string() })??;
            }
            Ok(())
        })
    }
}
