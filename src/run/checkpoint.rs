//! Checkpoints: θ as a Hugging Face folder in the run's bucket, under a signed record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use brigade_bucket::keys::{CheckpointFile, RunKey};
use brigade_bucket::{Bucket, Pin};
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{
    Checkpoint, Digest, Envelope, ModelConfig, ObjectPin, Parameters, Signed, SigningKey,
};
use bytes::Bytes;

use super::Run;
use crate::folder;

/// The largest checkpoint file of a small model that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 30;

/// What a checkpoint of a run is made of.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The run.
    pub run: Digest,
    /// The window that starts from θ.
    pub window: u64,
    /// The shape of θ.
    pub model: &'a ModelConfig,
    /// θ.
    pub theta: &'a Parameters,
    /// The aggregator's error feedback.
    pub error_feedback: &'a Parameters,
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// The token that ends a document.
    pub end_of_document: u32,
}

impl Contents<'_> {
    /// Uploads the folder, its signed record last: its existence is the commit.
    ///
    /// Two aggregators may get here at once, or one twice: all of them write the same bytes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn publish(&self, bucket: &Bucket, signer: &SigningKey) -> anyhow::Result<()> {
        let key = |file| RunKey::Checkpoint { window: self.window, file }.to_string();
        let mut files = folder::files(self.model, self.theta, self.tokenizer, self.end_of_document)?;
        // An empty error feedback, as before the first window, is left out.
        if self.error_feedback.tensors().iter().flatten().any(|value| *value != 0.0) {
            files.push((CheckpointFile::ErrorFeedback, folder::to_bytes(self.error_feedback)?));
        }
        let mut pins = Vec::new();
        for (file, bytes) in files {
            pins.push(ObjectPin {
                key: file.to_string(),
                size: bytes.len() as u64,
                sha256: Digest::of(&bytes),
            });
            bucket.put(&key(file), Bytes::from(bytes)).await?;
        }
        let checkpoint = Checkpoint {
            run: self.run,
            window: self.window,
            state_root: self.theta.root(),
            error_feedback_root: self.error_feedback.root(),
            files: pins,
        };
        let (envelope, _) = Envelope::sign(checkpoint, signer)?;
        bucket.put(&key(CheckpointFile::Record), Bytes::from(envelope.to_bytes())).await?;
        Ok(())
    }
}

/// Whether the checkpoint before `window` is committed.
///
/// # Errors
/// When the store fails.
pub async fn exists(run: &Run, window: u64) -> anyhow::Result<bool> {
    let key = RunKey::Checkpoint { window, file: CheckpointFile::Record };
    Ok(run.bucket().head(&key.to_string()).await?.is_some())
}

/// The newest checkpoint of a run, of which only committed ones count.
///
/// # Errors
/// When there is none, or its record is not the aggregator's.
pub async fn latest(run: &Run) -> anyhow::Result<Signed<Checkpoint>> {
    latest_until(run, u64::MAX).await
}

/// The newest checkpoint of a window up to `last`.
///
/// # Errors
/// As [`latest`].
pub async fn latest_until(run: &Run, last: u64) -> anyhow::Result<Signed<Checkpoint>> {
    let newest = windows(run)
        .await?
        .range(..=last)
        .next_back()
        .copied()
        .context("the run has no checkpoint; `brigade run create` has not finished")?;
    at(run, newest).await?.with_context(|| format!("checkpoint {newest} has vanished"))
}

/// The windows that a committed checkpoint lies before.
///
/// # Errors
/// When the store fails.
pub async fn windows(run: &Run) -> anyhow::Result<BTreeSet<u64>> {
    let listed = run.bucket().list(RunKey::CHECKPOINTS, 1_000_000).await?;
    let window = |key: &str| match key.parse() {
        Ok(RunKey::Checkpoint { window, file: CheckpointFile::Record }) => Some(window),
        _ => None,
    };
    Ok(listed.iter().filter_map(|object| window(&object.key)).collect())
}

/// The checkpoint before `window`, if it is committed.
///
/// # Errors
/// When its record is not the aggregator's.
pub async fn at(run: &Run, window: u64) -> anyhow::Result<Option<Signed<Checkpoint>>> {
    let key = RunKey::Checkpoint { window, file: CheckpointFile::Record };
    let checkpoint = run.record::<Checkpoint>(&key).await?;
    if let Some(Signed { record, .. }) = &checkpoint {
        anyhow::ensure!(
            record.run == run.id() && record.window == window,
            "{key} belongs to another run or window"
        );
    }
    Ok(checkpoint)
}

/// Fetches θ of a checkpoint and checks its state root.
///
/// # Errors
/// When a file is missing or another one, or θ does not have the root that was signed.
pub async fn fetch_theta(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Parameters> {
    let model = &run.manifest().model;
    let mut tensors = BTreeMap::new();
    for pin in &checkpoint.files {
        if let Some(CheckpointFile::Model | CheckpointFile::Part { .. }) = CheckpointFile::from_name(&pin.key)
        {
            folder::read_into(&fetch(run, checkpoint, pin).await?, model, &mut tensors)?;
        }
    }
    let theta = folder::assemble(model, tensors)?;
    expect_digest("state root of the checkpoint", checkpoint.state_root, theta.root())?;
    Ok(theta)
}

/// Fetches the aggregator's error feedback of a checkpoint and checks its root.
///
/// # Errors
/// As [`fetch_theta`].
pub async fn fetch_error_feedback(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Parameters> {
    let model = &run.manifest().model;
    let error_feedback = match checkpoint.files.iter().find(|pin| is_error_feedback(pin)) {
        None => Parameters::zeros(model),
        Some(pin) => folder::from_bytes(&fetch(run, checkpoint, pin).await?, model)?,
    };
    let (expected, found) = (checkpoint.error_feedback_root, error_feedback.root());
    expect_digest("root of the checkpoint's error feedback", expected, found)?;
    Ok(error_feedback)
}

fn is_error_feedback(pin: &ObjectPin) -> bool {
    CheckpointFile::from_name(&pin.key) == Some(CheckpointFile::ErrorFeedback)
}

/// The largest checkpoint file that is read, in bytes: error feedback is one file, of 4 bytes a parameter and a header.
fn most_bytes(model: &ModelConfig) -> u64 {
    MAX_FILE_BYTES.max((model.num_parameters() as u64).saturating_mul(5))
}

async fn fetch(run: &Run, checkpoint: &Checkpoint, pin: &ObjectPin) -> anyhow::Result<Bytes> {
    let most = most_bytes(&run.manifest().model);
    anyhow::ensure!(
        pin.size <= most,
        "checkpoint file {} says it has {} bytes, more than {most}",
        pin.key,
        pin.size
    );
    let key = key(checkpoint, pin)?;
    let wanted = Pin { etag: None, sha256: pin.sha256, size: pin.size };
    Ok(run.bucket().get_pinned(&key, &wanted).await?)
}

/// Key of a file of a checkpoint.
///
/// # Errors
/// When its record gives it a name that no such file has.
pub fn key(checkpoint: &Checkpoint, pin: &ObjectPin) -> anyhow::Result<String> {
    let file = CheckpointFile::from_name(&pin.key).context("the checkpoint names a file of no known kind")?;
    Ok(RunKey::Checkpoint { window: checkpoint.window, file }.to_string())
}

/// Downloads the Hugging Face folder of a checkpoint.
///
/// # Errors
/// When a file is missing or another one, or the disk is full.
pub async fn download(run: &Run, checkpoint: &Checkpoint, folder: &Path) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(folder).await?;
    for pin in checkpoint.files.iter().filter(|pin| !is_error_feedback(pin)) {
        // Only names that we know become paths: a record might say `../…`.
        let file =
            CheckpointFile::from_name(&pin.key).context("the checkpoint names a file of no known kind")?;
        let path = folder.join(file.to_string());
        let bytes = fetch(run, checkpoint, pin).await?;
        tokio::fs::write(&path, bytes).await.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
