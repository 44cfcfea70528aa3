//! Tokens by assignment: which sequences a window gives to whom, and the text behind them.

use std::sync::Arc;

use brigade_bucket::keys::RunKey;
use brigade_protocol::assignment::{self, Draw, SequenceId};
use brigade_protocol::{DatasetIndex, Digest, PeerId, ShardId};
use brigade_trainer::TokenBatch;
use object_store::path::Path as Key;
use tokio::sync::mpsc;

use crate::config::Participant;
use crate::data::{Prefetch, Shard, ShardCache};
use crate::metrics;
use crate::run::Run;

/// Bytes of shards that are kept on disk.
const CACHE_BYTES: u64 = 20 << 30;

/// Batches that are made ahead of who trains on them: a busy machine may leave their task aside for many short steps, and
/// even a large run's batch is a few megabytes.
const AHEAD: usize = 64;

/// The run's text.
pub(crate) struct Samples {
    run: Digest,
    cache: Arc<ShardCache>,
    /// Sequences in every training shard.
    sequences: Vec<u64>,
    sequence_length: usize,
    shards_per_window: u32,
}

/// What to draw for a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// Seed of the window before: it draws the shards.
    pub(crate) previous_seed: Digest,
    /// Seed of the window: it draws the sequences.
    pub(crate) seed: Digest,
    /// For whom.
    pub(crate) draw: Draw,
}

/// The batches of a window, in order, made by a task of their own while earlier ones are trained on. Dropping it stops that.
pub(crate) struct Feed {
    inbox: mpsc::Receiver<anyhow::Result<TokenBatch>>,
}

impl Iterator for Feed {
    type Item = anyhow::Result<TokenBatch>;

    /// Waits for the next batch. Not for the threads of an asynchronous runtime.
    fn next(&mut self) -> Option<Self::Item> {
        self.inbox.blocking_recv()
    }
}

impl Samples {
    /// The dataset that the manifest names, with a cache on disk.
    ///
    /// # Errors
    /// When the dataset cannot be read, has another vocabulary than the model, or no full sequence.
    pub(crate) async fn open(run: &Run, settings: &Participant) -> anyhow::Result<Self> {
        let index = run.dataset().await?;
        let manifest = run.manifest();
        let sequence_length = manifest.training.sequence_length as usize;
        anyhow::ensure!(
            index.vocab_size as usize <= manifest.model.vocab_size,
            "the dataset has {} tokens, the model only {}",
            index.vocab_size,
            manifest.model.vocab_size
        );
        let sequences: Vec<u64> =
            index.train.iter().map(|shard| shard.num_sequences(sequence_length as u64)).collect();
        anyhow::ensure!(
            sequences.iter().sum::<u64>() > 0,
            "the dataset has no sequence of {sequence_length} tokens; give `brigade data prepare` more text"
        );
        // A handle of its own, so that the exchange's byte counters do not count text.
        let bucket = settings.open_run()?;
        metrics::count("data", bucket.counters());
        let store = bucket.object_store();
        let prefix = Key::parse(&settings.run.prefix)?.join(RunKey::DATA);
        let cache = ShardCache::new(store, prefix, index, settings.state.join("shards"), CACHE_BYTES)?;
        let shards_per_window = manifest.training.shards_per_window;
        Ok(Self { run: run.id(), cache, sequences, sequence_length, shards_per_window })
    }

    /// The dataset's index.
    pub(crate) fn index(&self) -> &DatasetIndex {
        self.cache.index()
    }

    /// Tokens in a sequence.
    pub(crate) fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Fetches the shards of the window after the one with `seed`, while this one is trained.
    pub(crate) fn prefetch(&self, seed: Digest, peer: PeerId) -> Prefetch {
        let shards = self.shards(seed, Draw::Assigned(peer));
        self.cache.prefetch(shards.into_iter().map(ShardId::train))
    }

    /// `count` training sequences.
    ///
    /// # Errors
    /// When a shard cannot be read or is not what the index says.
    pub(crate) async fn draw(&self, ticket: Ticket, count: usize) -> anyhow::Result<Vec<Vec<u32>>> {
        self.read(&self.ids(ticket, count)).await
    }

    /// `steps` batches of `batch_size` of the sequences that [`Samples::draw`] would give, and the digest of all of them.
    pub(crate) fn feed(&self, ticket: Ticket, steps: usize, batch_size: usize) -> (Feed, Digest) {
        let ids = self.ids(ticket, steps * batch_size);
        let digest = assignment::samples_digest(&ids);
        let (sender, inbox) = mpsc::channel(AHEAD);
        let (mut reader, sequence_length) = (self.reader(), self.sequence_length);
        tokio::spawn(async move {
            for ids in ids.chunks(batch_size) {
                let batch = reader.read(ids).await.and_then(|sequences| {
                    Ok(TokenBatch::new(sequences.concat(), sequences.len(), sequence_length)?)
                });
                let is_last = batch.is_err();
                if sender.send(batch).await.is_err() || is_last {
                    break;
                }
            }
        });
        (Feed { inbox }, digest)
    }

    /// `count` of the `of` sequences that [`Samples::draw`] would give, in an order that follows from `seed`: whoever does not
    /// know it cannot tell which they are.
    ///
    /// # Errors
    /// As [`Samples::draw`].
    pub(crate) async fn draw_some(
        &self,
        ticket: Ticket,
        of: usize,
        count: usize,
        seed: Digest,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        let ids = self.ids(ticket, of);
        let some: Vec<_> = some_places(seed, ids.len(), count).into_iter().map(|place| ids[place]).collect();
        self.read(&some).await
    }

    /// The first `count` held-out sequences, or as many as there are.
    ///
    /// # Errors
    /// As [`Samples::draw`].
    pub(crate) async fn heldout(&self, count: usize) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut out = Vec::new();
        for number in 0.. {
            let id = ShardId::heldout(number);
            if out.len() >= count || self.index().shard(id).is_none() {
                break;
            }
            let shard = self.cache.ensure(id).await?;
            let length = self.sequence_length as u64;
            for index in 0..shard.num_sequences(length).min((count - out.len()) as u64) {
                out.push(shard.sequence(index, length)?);
            }
        }
        anyhow::ensure!(
            !out.is_empty(),
            "the dataset holds out no sequence of {} tokens",
            self.sequence_length
        );
        Ok(out)
    }

    fn shards(&self, previous_seed: Digest, draw: Draw) -> Vec<u32> {
        assignment::shards(&self.run, &previous_seed, draw, &self.sequences, self.shards_per_window)
    }

    fn ids(&self, ticket: Ticket, count: usize) -> Vec<SequenceId> {
        let shards = self.shards(ticket.previous_seed, ticket.draw);
        assignment::sequences(&self.run, &ticket.seed, ticket.draw, &self.sequences, &shards, count)
    }

    async fn read(&self, ids: &[SequenceId]) -> anyhow::Result<Vec<Vec<u32>>> {
        self.reader().read(ids).await
    }

    fn reader(&self) -> Reader {
        Reader { cache: Arc::clone(&self.cache), held: Vec::new(), sequence_length: self.sequence_length }
    }
}

/// `count` different places below `of`, or all: those with the least digests.
pub(crate) fn some_places(seed: Digest, of: usize, count: usize) -> Vec<usize> {
    let digest =
        |place: &usize| Digest::of_parts("brigade probe v1", &[&seed.0, &(*place as u64).to_le_bytes()]);
    let mut places: Vec<usize> = (0..of).collect();
    places.sort_by_cached_key(|place| digest(place).0);
    places.truncate(count);
    places
}

/// Reads sequences, each shard once.
struct Reader {
    cache: Arc<ShardCache>,
    /// Shards that were read, for as long as this lives.
    held: Vec<Arc<Shard>>,
    sequence_length: usize,
}

impl Reader {
    async fn read(&mut self, ids: &[SequenceId]) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut out = Vec::with_capacity(ids.len());
        for id in ids {
            let wanted = ShardId::train(id.shard);
            let shard = match self.held.iter().find(|shard| shard.id() == wanted) {
                Some(shard) => shard,
                None => {
                    self.held.push(self.cache.ensure(wanted).await?);
                    &self.held[self.held.len() - 1]
                }
            };
            out.push(shard.sequence(id.index, self.sequence_length as u64)?);
        }
        Ok(out)
    }
}

/// Splits sequences into batches of `size`; the last one may be smaller.
///
/// # Errors
/// When the sequences do not all have `sequence_length` + 1 tokens.
pub(crate) fn batches(
    sequences: &[Vec<u32>],
    size: usize,
    sequence_length: usize,
) -> anyhow::Result<Vec<TokenBatch>> {
    let batch = |some: &[Vec<u32>]| Ok(TokenBatch::new(some.concat(), some.len(), sequence_length)?);
    sequences.chunks(size).map(batch).collect()
}
