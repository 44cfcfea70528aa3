//! Shards on this machine: fetched once, checked every time, kept within a byte limit.
//!
//! Several processes may share a folder. A file is named after the hash of its content, is put there by a rename,
//! and is checked whenever it is read; so the worst that another process can do is to make a fetch necessary.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};

use brigade_protocol::{DatasetIndex, Digest, ShardId, ShardInfo};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt, path::Path as Key};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::DataError;
use super::disk::Disk;
use super::shard::{Said, Shard};

/// Shards that a prefetch fetches at the same time.
const PREFETCH_CONCURRENCY: usize = 4;

/// The shards of one dataset, through a folder on disk.
pub struct ShardCache {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    index: DatasetIndex,
    disk: Arc<Disk>,
    /// One lock a shard: who holds it fetches, the others wait and find the shard there (single flight).
    slots: StdMutex<HashMap<ShardId, Arc<Mutex<Weak<Shard>>>>>,
}

impl fmt::Debug for ShardCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardCache({}/{}, {:?})", self.store, self.prefix, self.disk)
    }
}

impl ShardCache {
    /// A cache of the dataset under `prefix`, in `folder`, of at most `max_bytes` bytes on disk.
    ///
    /// A limit below the size of one shard is allowed: such a shard is fetched whenever it is needed.
    ///
    /// # Errors
    /// [`DataError::Index`] when the index is not valid; [`DataError::Io`] when the folder cannot be made.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Key,
        index: DatasetIndex,
        folder: impl Into<PathBuf>,
        max_bytes: u64,
    ) -> Result<Arc<Self>, DataError> {
        index.validate()?;
        let disk = Arc::new(Disk::open(folder.into(), max_bytes)?);
        Ok(Arc::new(Self { store, prefix, index, disk, slots: StdMutex::default() }))
    }

    /// The dataset's index.
    pub fn index(&self) -> &DatasetIndex {
        &self.index
    }

    /// A shard, from memory, from disk or from the store.
    ///
    /// It stays in memory while anybody holds it, and no longer: hold it for as long as its sequences are needed.
    ///
    /// # Errors
    /// [`DataError::NoShard`], [`DataError::Store`], [`DataError::ShardLength`], [`DataError::ShardDigest`]. Trouble
    /// with the folder is logged and worked around.
    pub async fn ensure(&self, id: ShardId) -> Result<Arc<Shard>, DataError> {
        let said = Said::find(&self.index, id).ok_or(DataError::NoShard { shard: id })?;
        let slot =
            Arc::clone(self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default());
        let mut slot = slot.lock().await;
        if let Some(shard) = slot.upgrade() {
            return Ok(shard);
        }
        let shard = match self.load_cached(id, &said).await? {
            Some(shard) => shard,
            None => self.load_remote(id, &said).await?,
        };
        let shard = Arc::new(shard);
        *slot = Arc::downgrade(&shard);
        Ok(shard)
    }

    /// Fetches shards onto the disk in the background, four at a time, in the order given, until they would fill the
    /// cache. Failures are logged: whoever needs the shard will meet them. Dropping the result stops the work.
    ///
    /// Must be called within a tokio runtime.
    pub fn prefetch(self: &Arc<Self>, shards: impl IntoIterator<Item = ShardId>) -> Prefetch {
        let mut room = self.disk.max_bytes();
        let fits = |id: &ShardId| {
            let rest = self.index.shard(*id).and_then(|info| room.checked_sub(info.bytes));
            room = rest.unwrap_or(0);
            rest.is_some()
        };
        let shards: Vec<ShardId> = shards.into_iter().take_while(fits).collect();
        let cache = Arc::clone(self);
        let task = tokio::spawn(async move {
            let fetch = |id| {
                let cache = Arc::clone(&cache);
                async move {
                    cache
                        .ensure(id)
                        .await
                        .inspect_err(|error| tracing::warn!(%error, "prefetch failed"))
                        .is_ok()
                }
            };
            let fetches = futures::stream::iter(shards).map(fetch).buffer_unordered(PREFETCH_CONCURRENCY);
            fetches.filter(|fetched| std::future::ready(*fetched)).count().await
        });
        Prefetch { task }
    }

    async fn load_cached(&self, id: ShardId, said: &Said) -> Result<Option<Shard>, DataError> {
        let (disk, digest, length) = (Arc::clone(&self.disk), said.info.sha256, said.info.bytes);
        let Some(bytes) = blocking(move || disk.read(digest, length)).await? else {
            return Ok(None);
        };
        match self.verify(id, said, bytes).await {
            Ok(shard) => Ok(Some(shard)),
            Err(error) => {
                tracing::warn!(%error, "a cached shard is damaged; fetching it again");
                let disk = Arc::clone(&self.disk);
                blocking(move || disk.forget(digest)).await?;
                Ok(None)
            }
        }
    }

    async fn load_remote(&self, id: ShardId, said: &Said) -> Result<Shard, DataError> {
        let bytes = self.fetch(&said.info).await?;
        let shard = self.verify(id, said, bytes.clone()).await?;
        let (disk, digest, in_use) = (Arc::clone(&self.disk), said.info.sha256, self.in_use());
        blocking(move || disk.write(digest, &bytes, &in_use)).await?;
        Ok(shard)
    }

    /// Reads an object, never more of it than the index gives it.
    async fn fetch(&self, info: &ShardInfo) -> Result<Bytes, DataError> {
        let key = self.key(info);
        let failed = |source| DataError::Store { place: key.to_string(), source };
        let wrong = |found| DataError::ShardLength { key: key.to_string(), expected: info.bytes, found };
        let found = self.store.get(&key).await.map_err(failed)?;
        if found.meta.size != info.bytes {
            return Err(wrong(found.meta.size));
        }
        let mut stream = found.into_stream();
        let mut bytes = BytesMut::with_capacity(info.bytes as usize);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(failed)?;
            let length = (bytes.len() + chunk.len()) as u64;
            // The size in the answer's header is the store's word; the body may go on.
            if length > info.bytes {
                return Err(wrong(length));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Hashing takes a second for the largest shards: not on the runtime's threads.
    async fn verify(&self, id: ShardId, said: &Said, bytes: Bytes) -> Result<Shard, DataError> {
        let (key, said) = (self.key(&said.info), said.clone());
        blocking(move || Shard::verify(id, bytes, &said, key.as_ref())).await?
    }

    fn key(&self, info: &ShardInfo) -> Key {
        self.prefix.clone().join(info.file.as_str())
    }

    /// Digests of the shards that somebody holds.
    fn in_use(&self) -> HashSet<Digest> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let held = slots.iter().filter(|(_, slot)| {
            // A locked slot is being loaded: about to be in use.
            slot.try_lock().map_or(true, |shard| shard.strong_count() > 0)
        });
        held.filter_map(|(id, _)| self.index.shard(*id)).map(|info| info.sha256).collect()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DataError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| DataError::Task { reason: error.to_string() })
}

/// A prefetch under way. Dropping it stops it.
#[derive(Debug)]
#[must_use = "dropping a prefetch stops it"]
pub struct Prefetch {
    task: JoinHandle<usize>,
}

impl Prefetch {
    /// Waits for the end, and gives the number of shards that are there.
    pub async fn done(mut self) -> usize {
        (&mut self.task).await.unwrap_or(0)
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
