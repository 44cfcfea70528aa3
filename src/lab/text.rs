//! Text for experiments: a dataset's shards in memory.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use brigade_protocol::{DatasetIndex, ShardId};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::data::{self, FolderSink, PrepareOptions, Progress, Shard, ShardCache, TokenizerChoice};
use crate::demo::plan;

/// Bytes of shards that may lie beside the dataset.
const CACHE_BYTES: u64 = 4 << 30;

/// Training and held-out sequences of one length.
pub(super) struct Text {
    train: Vec<Arc<Shard>>,
    heldout: Vec<Vec<u32>>,
    length: usize,
    pub(super) vocab_size: u32,
}

impl Text {
    /// The dataset in `folder`; made from the Rust source on this machine if there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or has no sequence of `length` tokens.
    pub(super) async fn open(folder: &Path, length: usize, heldout: usize) -> anyhow::Result<Self> {
        let index = folder.join("dataset.json");
        if !index.exists() {
            let options = PrepareOptions {
                heldout_fraction: plan::HELDOUT,
                max_bytes: Some(plan::CORPUS_BYTES),
                shard_tokens: 1 << 18,
                ..PrepareOptions::new(
                    plan::rust_source()?,
                    TokenizerChoice::Train { vocab_size: plan::VOCABULARY },
                )
            };
            let sink = FolderSink::new(folder);
            tokio::task::spawn_blocking(move || data::prepare(&options, &sink, Progress::terminal()))
                .await??;
        }
        let index = std::fs::read(&index).with_context(|| format!("cannot read {}", index.display()))?;
        let index = DatasetIndex::from_json(&index)?;
        let (shards, vocab_size) = (index.train.len() as u32, index.vocab_size);
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder)?);
        let cache = ShardCache::new(store, Key::default(), index, folder.join("cache"), CACHE_BYTES)?;
        let mut text = Self { train: Vec::new(), heldout: Vec::new(), length, vocab_size };
        for number in 0..shards {
            text.train.push(cache.ensure(ShardId::train(number)).await?);
        }
        let held = cache.ensure(ShardId::heldout(0)).await?;
        for sequence in 0..held.num_sequences(length as u64).min(heldout as u64) {
            text.heldout.push(held.sequence(sequence, length as u64)?);
        }
        let trainable: u64 = text.train.iter().map(|shard| shard.num_sequences(length as u64)).sum();
        anyhow::ensure!(
            trainable > 0 && !text.heldout.is_empty(),
            "{} has no sequence of {length} tokens to train on and to hold out",
            folder.display()
        );
        Ok(text)
    }

    /// Sequences that nobody trains on.
    pub(super) fn heldout(&self) -> &[Vec<u32>] {
        &self.heldout
    }

    /// `count` training sequences that follow from `seed` alone.
    ///
    /// # Errors
    /// When a shard has a token that its index does not allow.
    pub(super) fn draw(&self, seed: [u64; 3], count: usize) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut key = [0; 32];
        key.chunks_exact_mut(8)
            .zip(seed)
            .for_each(|(bytes, number)| bytes.copy_from_slice(&number.to_le_bytes()));
        let mut rng = ChaCha8Rng::from_seed(key);
        let length = self.length as u64;
        let sequences: Vec<u64> = self.train.iter().map(|shard| shard.num_sequences(length)).collect();
        let total: u64 = sequences.iter().sum();
        let mut one = || {
            let mut place = rng.next_u64() % total;
            for (shard, &sequences) in self.train.iter().zip(&sequences) {
                if place < sequences {
                    return Ok(shard.sequence(place, length)?);
                }
                place -= sequences;
            }
            unreachable!("a place below the total is in one of the shards")
        };
        (0..count).map(|_| one()).collect()
    }
}
