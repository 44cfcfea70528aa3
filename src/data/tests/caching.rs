use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
    path::Path as Key,
};

use super::super::{DataError, ShardCache};
use super::*;

/// A store that counts its reads, and takes a moment for each.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    reads: AtomicUsize,
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn get_opts(&self, location: &Key, options: GetOptions) -> StoreResult<GetResult> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        self.inner.get_opts(location, options).await
    }
    async fn get_ranges(&self, location: &Key, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        opts: PutOptions,
    ) -> StoreResult<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Key,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Key>>,
    ) -> BoxStream<'static, StoreResult<Key>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A dataset in a store, and room for a cache.
struct Stage {
    folder: tempfile::TempDir,
    store: Arc<Counting>,
    index: DatasetIndex,
    tokens: Vec<u32>,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        let (out, index) = tokio::task::spawn_blocking(move || small_dataset(&place)).await.unwrap();
        let store = Arc::new(Counting::default());
        for (name, bytes) in files(&out) {
            store.put(&Key::from("set").join(name), bytes.into()).await.unwrap();
        }
        let tokens = tokens(&out, &index, Split::Train);
        Self { folder, store, index, tokens }
    }

    fn cache(&self, max_bytes: u64) -> Arc<ShardCache> {
        let store: Arc<dyn ObjectStore> = self.store.clone();
        ShardCache::new(store, Key::from("set"), self.index.clone(), self.cached(), max_bytes).unwrap()
    }

    fn cached(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::SeqCst)
    }

    fn file(&self, number: u32) -> PathBuf {
        self.cached().join(format!("{}.bin", self.index.train[number as usize].sha256))
    }

    /// The shards that lie on disk.
    fn on_disk(&self) -> Vec<u32> {
        (0..self.index.train.len() as u32).filter(|n| self.file(*n).exists()).collect()
    }
}

fn id(number: u32) -> ShardId {
    ShardId::train(number)
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_are_the_tokens_of_the_dataset() {
    let stage = Stage::new().await;
    let cache = stage.cache(1 << 30);
    let shard = cache.ensure(id(1)).await.unwrap();
    assert_eq!(
        (shard.id(), shard.num_tokens(), shard.num_sequences(99), shard.num_sequences(1000)),
        (id(1), 1000, 10, 0)
    );
    for j in [0, 1, 9] {
        let start = 1000 + j * 99;
        assert_eq!(shard.sequence(j as u64, 99).unwrap(), stage.tokens[start..start + 100]);
    }
    assert_eq!(shard.sequence(0, 999).unwrap(), stage.tokens[1000..2000]);
    let error = shard.sequence(10, 99).unwrap_err().to_string();
    assert_eq!(error, "train-00001.bin holds 10 sequences of 99 tokens; there is no sequence 10");
    for (j, length) in [(0, 1000), (0, 0), (0, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
        assert!(matches!(shard.sequence(j, length), Err(DataError::NoSequence { .. })), "{j} of {length}");
    }
    let past = cache.ensure(id(9999)).await.unwrap_err();
    assert!(matches!(past, DataError::NoShard { .. }));
    let heldout = cache.ensure(ShardId::heldout(0)).await.unwrap();
    assert_eq!(heldout.num_tokens(), stage.index.heldout[0].tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_make_one_fetch() {
    let stage = Stage::new().await;
    let cache = stage.cache(1 << 30);
    let asks = (0..50).map(|_| {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.ensure(id(0)).await.unwrap() })
    });
    let shards: Vec<_> = futures::future::join_all(asks).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(stage.reads(), 1);
    assert!(shards.iter().all(|shard| Arc::ptr_eq(shard, &shards[0])));
    drop(shards);
    // Nobody holds it: it comes from disk, in this process and in the next.
    cache.ensure(id(0)).await.unwrap();
    stage.cache(1 << 30).ensure(id(0)).await.unwrap();
    assert_eq!(stage.reads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asker_who_gives_up_does_not_block_the_next() {
    let stage = Stage::new().await;
    let cache = stage.cache(1 << 30);
    let asker = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.ensure(id(0)).await.map(drop) }
    });
    while stage.reads() == 0 {
        tokio::task::yield_now().await;
    }
    asker.abort();
    cache.ensure(id(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_not_what_the_index_says_is_refused() {
    let stage = Stage::new().await;
    let cache = stage.cache(1 << 30);
    let put = |number: u32, bytes: Vec<u8>| {
        let key = Key::from("set").join(id(number).file_name());
        let store = Arc::clone(&stage.store);
        async move { store.put(&key, bytes.into()).await.unwrap() }
    };
    put(0, vec![7; 2000]).await;
    put(1, vec![7; 2001]).await;
    put(2, Vec::new()).await;
    let error = cache.ensure(id(0)).await.unwrap_err();
    assert!(matches!(&error, DataError::ShardDigest { key, .. } if key == "set/train-00000.bin"), "{error}");
    for (number, length) in [(1, 2001), (2, 0)] {
        let error = cache.ensure(id(number)).await.unwrap_err();
        assert!(
            matches!(error, DataError::ShardLength { expected: 2000, found, .. } if found == length),
            "{error}"
        );
    }
    assert!(stage.on_disk().is_empty());
    stage.store.delete(&Key::from("set/train-00003.bin")).await.unwrap();
    let error = cache.ensure(id(3)).await.unwrap_err();
    assert!(matches!(error, DataError::Store { source: object_store::Error::NotFound { .. }, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_is_repaired() {
    let stage = Stage::new().await;
    stage.cache(1 << 30).ensure(id(0)).await.unwrap();
    stage.cache(1 << 30).ensure(id(1)).await.unwrap();
    let good = std::fs::read(stage.file(0)).unwrap();
    let mut bad = good.clone();
    bad[99] ^= 1;
    std::fs::write(stage.file(0), &bad).unwrap();
    std::fs::write(stage.file(1), &good[..500]).unwrap();
    let cache = stage.cache(1 << 30);
    let shards = [cache.ensure(id(0)).await.unwrap(), cache.ensure(id(1)).await.unwrap()];
    for (n, shard) in shards.iter().enumerate() {
        assert_eq!(shard.sequence(0, 999).unwrap(), stage.tokens[n * 1000..(n + 1) * 1000]);
    }
    assert_eq!(stage.reads(), 4);
    assert_eq!(std::fs::read(stage.file(0)).unwrap(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_goes_first_and_none_that_is_held() {
    let stage = Stage::new().await;
    let cache = stage.cache(6000);
    let held = cache.ensure(id(0)).await.unwrap();
    cache.ensure(id(1)).await.unwrap();
    cache.ensure(id(2)).await.unwrap();
    cache.ensure(id(1)).await.unwrap();
    assert_eq!(stage.reads(), 3);
    cache.ensure(id(3)).await.unwrap();
    assert_eq!(stage.on_disk(), [0, 1, 3]);
    cache.ensure(id(4)).await.unwrap();
    assert_eq!(stage.on_disk(), [0, 3, 4]);
    let also = [cache.ensure(id(3)).await.unwrap(), cache.ensure(id(4)).await.unwrap()];
    // No room at all: the shard is served and not stored.
    assert_eq!(cache.ensure(id(1)).await.unwrap().num_tokens(), 1000);
    assert_eq!(stage.on_disk(), [0, 3, 4]);
    drop((held, also));
    cache.ensure(id(1)).await.unwrap();
    assert_eq!(stage.on_disk(), [1, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_costs_only_fetches() {
    let stage = Stage::new().await;
    let cache = stage.cache(1 << 30);
    std::fs::remove_dir_all(stage.cached()).unwrap();
    std::fs::write(stage.cached(), "a file in the folder's place").unwrap();
    for _ in 0..2 {
        assert_eq!(cache.ensure(id(0)).await.unwrap().num_tokens(), 1000);
    }
    assert_eq!(stage.reads(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_fills_the_disk_up_to_the_limit() {
    let stage = Stage::new().await;
    let cache = stage.cache(7000);
    assert_eq!(cache.prefetch((0..5).map(id)).done().await, 3);
    assert_eq!((stage.on_disk(), stage.reads()), (vec![0, 1, 2], 3));
    cache.ensure(id(2)).await.unwrap();
    assert_eq!(stage.reads(), 3);
    stage.store.delete(&Key::from("set/train-00004.bin")).await.unwrap();
    assert_eq!(cache.prefetch([id(4), id(9999), id(3)]).done().await, 0);
    assert_eq!(cache.prefetch([id(4), id(3)]).done().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_that_share_a_folder_do_not_hinder_each_other() {
    let stage = Stage::new().await;
    let caches = [stage.cache(4000), stage.cache(4000)];
    let asks = (0..60_u32).map(|n| {
        let cache = Arc::clone(&caches[n as usize % 2]);
        tokio::spawn(async move { (n % 5, cache.ensure(id(n % 5)).await.unwrap()) })
    });
    for ask in futures::future::join_all(asks).await {
        let (n, shard) = ask.unwrap();
        let start = n as usize * 1000;
        assert_eq!(shard.sequence(0, 999).unwrap(), stage.tokens[start..start + 1000]);
    }
    let leftovers =
        std::fs::read_dir(stage.cached()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(leftovers.into_iter().all(|name| name.ends_with(".bin")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_outside_the_vocabulary_is_refused() {
    let mut stage = Stage::new().await;
    let mut bytes: Vec<u8> = 0_u16.to_le_bytes().repeat(1000);
    bytes[200..202].copy_from_slice(&320_u16.to_le_bytes());
    stage.index.train[0].sha256 = brigade_protocol::Digest::of(&bytes);
    stage.store.put(&Key::from("set/train-00000.bin"), bytes.into()).await.unwrap();
    let shard = stage.cache(1 << 30).ensure(id(0)).await.unwrap();
    assert_eq!(shard.sequence(0, 99).unwrap(), vec![0; 100]);
    let error = shard.sequence(1, 99).unwrap_err().to_string();
    assert_eq!(error, "train-00000.bin: token 100 is 320, outside the vocabulary of 320");
}
