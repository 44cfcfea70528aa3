//! Random tokens as a run's text: a shard on disk, read and cut into batches ahead of the trainer, as a miner does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Context as _;
use brigade_protocol::{
    DATASET_VERSION, DatasetIndex, Digest, MAX_SHARD_TOKENS, MAX_VOCAB_SIZE, ShardId, ShardInfo,
    TOKENIZER_FILE, TokenizerInfo,
};
use brigade_trainer::TokenBatch;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::data::{Shard, ShardCache};

/// Batches that are ready before they are wanted.
const AHEAD: usize = 2;

/// Least tokens of the shard.
const LEAST_TOKENS: usize = 1 << 20;

/// A folder that goes when this does.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one where temporary files belong.
    pub(super) fn new() -> anyhow::Result<Self> {
        let number = getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let path = std::env::temp_dir().join(format!("brigade-bench-{number:016x}"));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// What batches look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) vocab_size: usize,
    /// Sequences.
    pub(super) batch: usize,
    /// Tokens in a sequence.
    pub(super) sequence_length: usize,
}

/// Batches from a thread of their own, for as long as somebody takes them.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn batches(folder: &Folder, shape: Shape) -> anyhow::Result<Receiver<anyhow::Result<TokenBatch>>> {
    let index = write(&folder.0, shape)?;
    let store = Arc::new(LocalFileSystem::new_with_prefix(&folder.0)?);
    let cache = ShardCache::new(store, Key::default(), index, folder.0.join("cache"), u64::MAX)?;
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::Builder::new().name("data".into()).spawn(move || {
        if let Err(error) = produce(&cache, shape, &sender) {
            let _ = sender.send(Err(error));
        }
    })?;
    Ok(receiver)
}

/// Sends batches until nobody takes them any more.
fn produce(
    cache: &Arc<ShardCache>,
    shape: Shape,
    sender: &SyncSender<anyhow::Result<TokenBatch>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let shard = runtime.block_on(cache.ensure(ShardId::train(0)))?;
    for number in 0.. {
        if sender.send(Ok(batch(&shard, shape, number)?)).is_err() {
            break;
        }
    }
    Ok(())
}

fn batch(shard: &Shard, shape: Shape, number: u64) -> anyhow::Result<TokenBatch> {
    let Shape { batch, sequence_length, .. } = shape;
    let count = shard.num_sequences(sequence_length as u64);
    let mut tokens = Vec::with_capacity(batch * (sequence_length + 1));
    for place in 0..batch as u64 {
        tokens.extend(shard.sequence((number * batch as u64 + place) % count, sequence_length as u64)?);
    }
    Ok(TokenBatch::new(tokens, batch, sequence_length)?)
}

/// One shard of random tokens in `folder`, and its index.
fn write(folder: &Path, shape: Shape) -> anyhow::Result<DatasetIndex> {
    let vocab_size = (shape.vocab_size as u32).min(MAX_VOCAB_SIZE);
    let token_bytes = DatasetIndex::token_bytes_for(vocab_size);
    let wanted = shape.batch.saturating_mul(shape.sequence_length).saturating_add(1);
    let tokens = wanted.clamp(LEAST_TOKENS.max(shape.sequence_length + 1), MAX_SHARD_TOKENS as usize);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut bytes = Vec::with_capacity(tokens * token_bytes as usize);
    for _ in 0..tokens {
        let token = (random.next_u32() % vocab_size).to_le_bytes();
        bytes.extend_from_slice(&token[..token_bytes as usize]);
    }
    let file = ShardId::train(0).file_name();
    let path = folder.join(&file);
    fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let info =
        ShardInfo { file, tokens: tokens as u64, bytes: bytes.len() as u64, sha256: Digest::of(&bytes) };
    Ok(DatasetIndex {
        version: DATASET_VERSION,
        tokenizer: TokenizerInfo { file: TOKENIZER_FILE.into(), sha256: Digest::of([]) },
        vocab_size,
        token_bytes,
        end_of_document: 0,
        shard_tokens: tokens as u64,
        train: vec![info],
        heldout: Vec::new(),
        train_text_bytes: 0,
        heldout_text_bytes: 0,
        documents: 1,
        heldout_documents: 0,
        duplicates_dropped: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_without_end_and_the_folder_goes() {
        let folder = Folder::new().unwrap();
        let path = folder.0.clone();
        let shape = Shape { vocab_size: 70_000, batch: 3, sequence_length: 400_000 };
        let receiver = batches(&folder, shape).unwrap();
        for _ in 0..4 {
            let batch = receiver.recv().unwrap().unwrap();
            assert_eq!((batch.sequences(), batch.sequence_length()), (3, 400_000));
            assert!(batch.tokens().iter().any(|token| *token > 1 << 16));
        }
        drop(folder);
        assert!(!path.exists());
    }
}
