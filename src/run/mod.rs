//! A run as its bucket tells it: the terms, the windows, θ.
//!
//! | module | role |
//! | --- | --- |
//! | [`Run`] | the manifest and the bucket behind it; reads records and checks who signed them |
//! | [`checkpoint`] | θ as a Hugging Face folder |
//! | [`create`] | the first objects of a run |
//! | [`lobby`] | asking to take part; opening what peers sealed |
//! | [`outer`] | merging, and the aggregator's error feedback beside θ |
//! | [`replica`] | θ in memory, moved along by closes |

pub mod checkpoint;
pub mod create;
pub mod lobby;
pub mod outer;
pub mod replica;
mod start;
pub mod url;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use brigade_bucket::keys::{DataFile, RunKey};
use brigade_bucket::{Bucket, BucketError, Creation, Pin, PollPolicy};
use brigade_codec::{
    Binding, CodeBits, CodecConfig, Delta, DeltaBinding, DeltaConfig, Frame, Layout, Update, max_delta_bytes,
    max_update_bytes,
};
use brigade_protocol::checks::{Expected, expect_digest};
use brigade_protocol::gauntlet::Standing;
use brigade_protocol::{
    Close, Compression, Cutoff, DatasetIndex, Digest, Envelope, FilePin, Manifest, ObjectPin, Open, PeerId,
    Record, Roster, Signed, SigningKey, Verdict,
};
use bytes::Bytes;

use crate::shutdown::{Shutdown, Stopped};

/// The longest pause after errors in a row, unless the pause between two looks is longer.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A record of one window of one run.
pub trait OfWindow: Record {
    /// The run and the window that it is about.
    fn place(&self) -> (Digest, u64);
}

macro_rules! of_window {
    ($($record:ty),*) => {$(
        impl OfWindow for $record {
            fn place(&self) -> (Digest, u64) {
                (self.run, self.window)
            }
        }
    )*};
}

of_window!(Open, Cutoff, Verdict, Close);

/// A run whose manifest has been checked against its id.
#[derive(Clone, Debug)]
pub struct Run {
    bucket: Bucket,
    manifest: Arc<Signed<Manifest>>,
    layout: Arc<Layout>,
    poll: Duration,
}

impl Run {
    /// Reads the manifest and checks it against the id that the operator gave out.
    ///
    /// # Errors
    /// When there is no manifest, it is another one, or it says what no run can have.
    pub async fn load(bucket: Bucket, id: &Digest, poll: Duration) -> anyhow::Result<Self> {
        let object = bucket.get(&RunKey::Manifest.to_string(), Manifest::MAX_BYTES).await.map_err(
            |error| match error {
                error @ BucketError::NotFound { .. } => anyhow::Error::from(error).context(
                    "no run here; run.bucket and run.prefix must be what `brigade run create` wrote to",
                ),
                error => anyhow::Error::from(error).context("the run's bucket cannot be read ([run])"),
            },
        )?;
        let envelope = Envelope::from_bytes(&object.bytes)?;
        let manifest = envelope.open::<Manifest>()?;
        expect_digest("run_id is not that of the manifest in the bucket", *id, manifest.run())?;
        manifest.record.validate()?;
        envelope.open_from::<Manifest>(&manifest.record.aggregator.id)?;
        let tensors = manifest.record.model.tensors();
        let layout = Layout::new(tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)))?;
        Ok(Self { bucket, manifest: Arc::new(manifest), layout: Arc::new(layout), poll })
    }

    /// The run's id.
    pub fn id(&self) -> Digest {
        self.manifest.run()
    }

    /// The terms.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest.record
    }

    /// The terms with their digest.
    pub fn signed_manifest(&self) -> &Signed<Manifest> {
        &self.manifest
    }

    /// The run's bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// How tensors are cut into chunks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// How updates are compressed.
    pub fn codec(&self) -> CodecConfig {
        codec(&self.manifest().compression)
    }

    /// How deltas are compressed.
    pub fn delta_codec(&self) -> DeltaConfig {
        let outer = &self.manifest().outer;
        DeltaConfig {
            bits: code_bits(outer.delta_bits),
            top_k: (outer.delta_top_k > 0).then_some(outer.delta_top_k),
        }
    }

    /// What an update of `peer` in the window of `open` must be made for.
    pub fn binding(&self, open: &Open, peer: &PeerId) -> Binding {
        Binding { run: self.id().0, window: open.window, peer: peer.0, start_state_root: open.state_root.0 }
    }

    /// What the delta of the window of `open` must be made for.
    pub fn delta_binding(&self, open: &Open) -> DeltaBinding {
        DeltaBinding { run: self.id().0, window: open.window, start_state_root: open.state_root.0 }
    }

    /// What a receipt that answers `open` must be; `update_key` is the update's key in the peer's bucket.
    pub fn expected<'a>(&self, open: &'a Signed<Open>, update_key: &'a str) -> Expected<'a> {
        let max_update_bytes = max_update_bytes(self.layout(), &self.codec());
        Expected { open, update_key, max_update_bytes, start_sequences: self.manifest().start_sequences() }
    }

    /// Reads the aggregator's record at `key`, if it is there.
    ///
    /// # Errors
    /// When the store fails, or the record is not the aggregator's.
    pub async fn record<R: Record>(&self, key: &RunKey) -> anyhow::Result<Option<Signed<R>>> {
        let Some(object) = self.bucket.try_get(&key.to_string(), R::MAX_BYTES).await? else {
            return Ok(None);
        };
        self.check(key, &object.bytes).map(Some)
    }

    fn check<R: Record>(&self, key: &RunKey, bytes: &[u8]) -> anyhow::Result<Signed<R>> {
        Envelope::from_bytes(bytes)
            .and_then(|envelope| envelope.open_from(&self.manifest().aggregator.id))
            .with_context(|| format!("{key} is not what the run's aggregator signs"))
    }

    /// Waits for the aggregator's record at `key`.
    ///
    /// # Errors
    /// [`Stopped`], or those of [`Run::record`] that a later try would not cure.
    pub async fn wait_for<R: OfWindow>(
        &self,
        key: &RunKey,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Signed<R>> {
        // After errors in a row more patience, but none that could cost a window.
        let patience = self.poll.max(MAX_PAUSE);
        let poll = PollPolicy { max_interval: patience, ..PollPolicy::every(self.poll) };
        let name = key.to_string();
        let object = self.bucket.wait_for(&name, R::MAX_BYTES, &poll, shutdown.requested()).await?;
        let object = object.ok_or(Stopped)?;
        self.check_place(key, self.check(key, &object.bytes)?)
    }

    /// Signs `record` and creates it at `key`. When somebody was faster, theirs is the record.
    ///
    /// # Errors
    /// When the store fails, or what lies there is not the aggregator's.
    pub async fn create<R: OfWindow>(
        &self,
        key: &RunKey,
        record: R,
        signer: &SigningKey,
    ) -> anyhow::Result<Signed<R>> {
        let (envelope, signed) = Envelope::sign(record, signer)?;
        let bytes = envelope.to_bytes();
        // A record that no reader accepts would stop the run for good.
        anyhow::ensure!(bytes.len() as u64 <= R::MAX_BYTES, "{key} would have {} bytes", bytes.len());
        match self.bucket.create(&key.to_string(), Bytes::from(bytes)).await? {
            Creation::Created(_) => Ok(signed),
            Creation::AlreadyExists => {
                self.of_window(key).await?.with_context(|| format!("{key} exists and cannot be read"))
            }
        }
    }

    /// The open record of `window`, if it is there.
    ///
    /// # Errors
    /// When the store fails, or the record is for something else.
    pub async fn open(&self, window: u64) -> anyhow::Result<Option<Signed<Open>>> {
        self.of_window(&RunKey::Open(window)).await
    }

    /// The cutoff of `window`, if it is there.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub async fn cutoff(&self, window: u64) -> anyhow::Result<Option<Signed<Cutoff>>> {
        self.of_window(&RunKey::Cutoff(window)).await
    }

    /// The verdict of `window`, if it is there.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub async fn verdict(&self, window: u64) -> anyhow::Result<Option<Signed<Verdict>>> {
        self.of_window(&RunKey::Verdict(window)).await
    }

    /// Everybody's standing before `window`, ordered by peer.
    ///
    /// # Errors
    /// As [`Run::open`], and when the window before is not judged.
    pub async fn standings(&self, window: u64) -> anyhow::Result<Vec<Standing>> {
        let Some(before) = window.checked_sub(1) else { return Ok(Vec::new()) };
        let verdict = self.verdict(before).await?;
        Ok(verdict.with_context(|| format!("window {before} has no verdict"))?.record.standings)
    }

    /// The close of `window`, if it is there.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub async fn close(&self, window: u64) -> anyhow::Result<Option<Signed<Close>>> {
        self.of_window(&RunKey::Close(window)).await
    }

    async fn of_window<R: OfWindow>(&self, key: &RunKey) -> anyhow::Result<Option<Signed<R>>> {
        let record = self.record::<R>(key).await?;
        record.map(|record| self.check_place(key, record)).transpose()
    }

    /// A record that was moved to `key` from another key must not pass for the one that belongs there.
    fn check_place<R: OfWindow>(&self, key: &RunKey, signed: Signed<R>) -> anyhow::Result<Signed<R>> {
        let (run, window) = signed.record.place();
        anyhow::ensure!(
            run == self.id() && Some(window) == key.window(),
            "{key} holds a record of run {} window {window}",
            run.short()
        );
        Ok(signed)
    }

    /// The roster of that hash.
    ///
    /// # Errors
    /// When it is missing or another one.
    pub async fn roster(&self, digest: &Digest) -> anyhow::Result<Roster> {
        let key = RunKey::Roster(*digest).to_string();
        let object = self.bucket.get(&key, Roster::MAX_BYTES).await?;
        expect_digest("roster", *digest, Digest::of(&object.bytes))?;
        Ok(serde_json::from_slice(&object.bytes)?)
    }

    /// An object of the run's bucket that a record fixes.
    ///
    /// # Errors
    /// When it is missing or another one.
    pub async fn pinned(&self, pin: &ObjectPin) -> anyhow::Result<Bytes> {
        let wanted = Pin { etag: None, sha256: pin.sha256, size: pin.size };
        Ok(self.bucket.get_pinned(&pin.key, &wanted).await?)
    }

    /// The run's copy of the update of `peer` that `pin` fixes, whole and through the decoder.
    ///
    /// Must be called on a runtime of several threads: decoding keeps one of them busy.
    ///
    /// # Errors
    /// The inner result says how the update breaks the format, which is its peer's fault; the outer one that the copy is
    /// missing, another one, or cannot be read.
    pub async fn update(
        &self,
        open: &Open,
        peer: &PeerId,
        pin: &FilePin,
    ) -> anyhow::Result<Result<Update, brigade_codec::Error>> {
        let (layout, codec, binding) = (self.layout(), self.codec(), self.binding(open, peer));
        let limit = max_update_bytes(layout, &codec);
        if pin.size > limit {
            return Ok(Err(brigade_codec::Error::TooLong { what: "file", limit, actual: pin.size }));
        }
        let key = RunKey::Update { window: open.window, peer: *peer }.to_string();
        let wanted = Pin { etag: None, sha256: pin.sha256, size: pin.size };
        let bytes = self.bucket.get_pinned(&key, &wanted).await?;
        Ok(tokio::task::block_in_place(|| Update::parse(bytes, layout, &codec, &binding)))
    }

    /// The delta that `close` commits; `None` when θ stays.
    ///
    /// # Errors
    /// When it is missing, another one, or breaks the format.
    pub async fn delta(&self, open: &Open, close: &Close) -> anyhow::Result<Option<Delta>> {
        let Some(pin) = &close.delta else { return Ok(None) };
        let most = max_delta_bytes(self.layout(), &self.delta_codec());
        anyhow::ensure!(pin.size <= most, "the delta has {} bytes, at most {most} make sense", pin.size);
        let bytes = self.pinned(&pin.object()).await?;
        let delta = Delta::parse(bytes, self.layout(), &self.delta_codec(), &self.delta_binding(open))?;
        expect_digest("the delta's header", pin.frame, Digest(delta.frame().digest()))?;
        Ok(Some(delta))
    }

    /// The dataset's index.
    ///
    /// # Errors
    /// When it is missing or another one than the manifest says.
    pub async fn dataset(&self) -> anyhow::Result<DatasetIndex> {
        let key = RunKey::Data(DataFile::Index).to_string();
        let object = self.bucket.get(&key, brigade_protocol::MAX_INDEX_BYTES).await?;
        expect_digest("data/dataset.json", self.manifest().dataset, Digest::of(&object.bytes))?;
        Ok(DatasetIndex::from_json(&object.bytes)?)
    }
}

/// What a [pin](brigade_protocol::FilePin) says of a file that this program has made itself.
pub(crate) fn frame_digest(file: &[u8], layout: &Layout) -> Digest {
    Digest(
        Frame::digest_in(file, layout)
            .expect("a file is no shorter than what stands in front of its sections"),
    )
}

/// How updates are compressed by such terms, which have been checked.
fn codec(compression: &Compression) -> CodecConfig {
    CodecConfig {
        top_k: compression.top_k,
        bits: code_bits(compression.bits),
        error_feedback_decay: compression.error_feedback_decay,
    }
}

fn code_bits(bits: u32) -> CodeBits {
    u8::try_from(bits)
        .ok()
        .and_then(CodeBits::from_number)
        .expect("a manifest that was checked has 1 to 4 bits")
}

/// Whether a later try may succeed.
pub fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let bucket = cause.downcast_ref::<brigade_bucket::BucketError>();
        // The shard cache speaks to the store directly; what it cannot fetch now may be there later.
        bucket.is_some_and(brigade_bucket::BucketError::is_transient)
            || matches!(cause.downcast_ref(), Some(crate::data::DataError::Store { .. }))
    })
}
