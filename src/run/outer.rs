//! The outer step: merging a window's updates, and what that changes: θ and the aggregator's error feedback.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_codec::{Delta, Update};
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{Checkpoint, Close, Digest, FilePin, Open, Parameters, PeerId, Share, Signed};

use super::replica::Replica;
use super::{Run, checkpoint, frame_digest};

/// What the merge of a window starts from. All of it can be made again from the run's bucket.
#[derive(Debug)]
pub struct Outer {
    /// θ at the start of the window that comes next.
    pub replica: Replica,
    /// What quantising the deltas so far has dropped.
    pub error_feedback: Parameters,
}

impl AsRef<Replica> for Outer {
    fn as_ref(&self) -> &Replica {
        &self.replica
    }
}

impl Outer {
    /// The state after the last closed window: that of the newest checkpoint, and every merge since done again.
    ///
    /// # Errors
    /// As [`Outer::from_checkpoint`] and [`Outer::replay`].
    pub async fn newest(run: &Run) -> anyhow::Result<Self> {
        let mut outer = Self::from_checkpoint(run, &checkpoint::latest(run).await?.record).await?;
        while let Some(close) = run.close(outer.replica.window).await? {
            let open = run.open(close.record.window).await?.context("closed but not open")?;
            outer.replay(run, &open, &close).await?;
        }
        Ok(outer)
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// When it is not what was signed, or not what the window before led to.
    pub async fn from_checkpoint(run: &Run, record: &Checkpoint) -> anyhow::Result<Self> {
        let replica = Replica::from_checkpoint(run, record).await?;
        let promised = match record.window.checked_sub(1) {
            None => Parameters::zeros(&run.manifest().model).root(),
            Some(before) => {
                let close = run.close(before).await?;
                close
                    .with_context(|| format!("window {before} has no close record"))?
                    .record
                    .error_feedback_root
            }
        };
        expect_digest("error feedback of the checkpoint", promised, record.error_feedback_root)?;
        Ok(Self { replica, error_feedback: checkpoint::fetch_error_feedback(run, record).await? })
    }

    /// Does the merge of a closed window again. After an error the state is worth nothing.
    ///
    /// # Errors
    /// [`Desynchronised`](super::replica::Desynchronised) or a mismatch when it does not lead to what was closed; when an
    /// update is missing or the store fails.
    pub async fn replay(
        &mut self,
        run: &Run,
        open: &Signed<Open>,
        close: &Signed<Close>,
    ) -> anyhow::Result<()> {
        let window = self.replica.window;
        let updates = mirrored(run, open, &close.record).await?;
        let merged = self.merge(run, open, &close.record.accepted, &updates)?;
        anyhow::ensure!(
            merged.is_some() == close.record.delta.is_some(),
            "close {window} contradicts itself"
        );
        self.replica.advance(open, close)?;
        self.expect_error_feedback(close)
    }

    /// The error feedback decides about later deltas, so it must be what everybody else would compute.
    ///
    /// # Errors
    /// When it is not what `close` says.
    pub fn expect_error_feedback(&self, close: &Signed<Close>) -> anyhow::Result<()> {
        let (promised, found) = (close.record.error_feedback_root, self.error_feedback.root());
        Ok(expect_digest("error feedback after the window", promised, found)?)
    }

    /// The outer step: merges `updates` by `shares` and applies the delta to θ. Returns the delta's bytes; nothing, and
    /// all stays as it is, if no share has a coefficient.
    ///
    /// A pure function of its arguments: every observer gets the same bytes.
    ///
    /// # Errors
    /// When a share's update is not there, or the sum is no number. After an error the state is worth nothing.
    pub fn merge(
        &mut self,
        run: &Run,
        open: &Signed<Open>,
        shares: &[Share],
        updates: &BTreeMap<PeerId, Update>,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        let counted = shares.iter().filter(|share| share.coefficient != 0.0);
        let weighted = counted
            .map(|share| {
                let update = updates.get(&share.peer);
                Ok((
                    update.with_context(|| format!("no update of {}", share.peer.short()))?,
                    share.coefficient,
                ))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        if weighted.is_empty() {
            return Ok(None);
        }
        let binding = run.delta_binding(&open.record);
        let error_feedback = self.error_feedback.tensors_mut();
        let bytes =
            brigade_codec::merge(run.layout(), &binding, &run.delta_codec(), &weighted, error_feedback)?;
        let delta = Delta::parse(bytes.clone(), run.layout(), &run.delta_codec(), &binding)?;
        delta.apply(Arc::make_mut(&mut self.replica.theta).tensors_mut())?;
        Ok(Some(bytes))
    }
}

/// What a close says of the delta that it commits.
pub(crate) fn delta_pin(run: &Run, window: u64, bytes: &[u8]) -> FilePin {
    FilePin {
        key: RunKey::Delta(window).to_string(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes),
        frame: frame_digest(bytes, run.layout()),
    }
}

/// The updates that `close` merged, from the mirror.
async fn mirrored(run: &Run, open: &Signed<Open>, close: &Close) -> anyhow::Result<BTreeMap<PeerId, Update>> {
    let cutoff = run.cutoff(close.window).await?.context("closed but not cut off")?;
    let mut wanted: BTreeSet<PeerId> = close.accepted.iter().map(|share| share.peer).collect();
    let mut updates = BTreeMap::new();
    for pinned in &cutoff.record.pinned {
        if wanted.remove(&pinned.peer) {
            updates.insert(pinned.peer, run.update(&open.record, &pinned.peer, &pinned.update).await??);
        }
    }
    Ok(updates)
}
