//! θ, the aggregator's error feedback, and the one step that changes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_codec::{Delta, Update};
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{Close, Cutoff, Digest, FilePin, Open, Parameters, PeerId, Share, Signed, Verdict};
use bytes::Bytes;

use super::Aggregator;
use crate::events::Event;
use crate::run::replica::Replica;
use crate::run::{Run, checkpoint, frame_digest, is_transient};

/// What the aggregator holds between windows. All of it can be made again from the run's bucket.
pub(super) struct State {
    /// θ at the start of the window that comes next.
    pub(super) replica: Replica,
    /// What quantising the deltas so far has dropped.
    pub(super) error_feedback: Parameters,
}

impl AsRef<Replica> for State {
    fn as_ref(&self) -> &Replica {
        &self.replica
    }
}

impl State {
    /// The state after the last closed window: that of the newest checkpoint, and every merge since done again.
    pub(super) async fn restore(run: &Run) -> anyhow::Result<Self> {
        let record = checkpoint::latest(run).await?.record;
        let replica = Replica::from_checkpoint(run, &record).await?;
        let error_feedback = checkpoint::fetch_error_feedback(run, &record).await?;
        let mut state = Self { replica, error_feedback };
        while let Some(close) = run.close(state.replica.window).await? {
            let window = state.replica.window;
            let open = run.open(window).await?.context("closed but not open")?;
            let updates = mirrored(run, &open, &close.record).await?;
            let merged = state.merge(run, &open, &close.record.accepted, &updates)?;
            anyhow::ensure!(
                merged.is_some() == close.record.delta.is_some(),
                "close {window} contradicts itself"
            );
            state.replica.advance(&open, &close)?;
            state.expect_error_feedback(&close)?;
        }
        Ok(state)
    }

    /// The error feedback decides about later deltas, so it must be what everybody else would compute.
    fn expect_error_feedback(&self, close: &Signed<Close>) -> anyhow::Result<()> {
        let (promised, found) = (close.record.error_feedback_root, self.error_feedback.root());
        Ok(expect_digest("error feedback after the window", promised, found)?)
    }

    /// The outer step: merges `updates` by `shares` and applies the delta to θ. Returns the delta's bytes.
    ///
    /// A pure function of its arguments: every observer gets the same bytes.
    fn merge(
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

/// The updates that `close` merged, from the mirror.
async fn mirrored(run: &Run, open: &Signed<Open>, close: &Close) -> anyhow::Result<BTreeMap<PeerId, Update>> {
    let cutoff = run.cutoff(close.window).await?.context("closed but not cut off")?;
    let mut updates = BTreeMap::new();
    for pinned in &cutoff.record.pinned {
        if close.accepted.iter().any(|share| share.peer == pinned.peer) {
            updates.insert(pinned.peer, run.update(&open.record, &pinned.peer, &pinned.update).await??);
        }
    }
    Ok(updates)
}

impl Aggregator {
    /// Merges, publishes the delta, and commits the window. After an error `state` is worth nothing.
    pub(super) async fn close(
        &self,
        state: &mut State,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
        verdict: &Signed<Verdict>,
        updates: &BTreeMap<PeerId, Update>,
    ) -> anyhow::Result<()> {
        let window = open.record.window;
        anyhow::ensure!(verdict.record.cutoff == cutoff.digest, "window {window}: verdict on another cutoff");
        let start_state_root = state.replica.state_root;
        let delta = match state.merge(&self.run, open, &verdict.record.shares, updates)? {
            Some(bytes) => Some(self.publish_delta(window, bytes).await?),
            None => None,
        };
        let state_root = if delta.is_some() { state.replica.theta.root() } else { start_state_root };
        let mut excluded = [&cutoff.record.excluded[..], &verdict.record.excluded[..]].concat();
        excluded.sort_by_key(|exclusion| exclusion.peer);
        let close = Close {
            run: self.run.id(),
            window,
            epoch: self.fence.epoch(),
            open: open.digest,
            cutoff: cutoff.digest,
            verdict: verdict.digest,
            delta,
            accepted: verdict.record.shares.clone(),
            excluded,
            start_state_root,
            state_root,
            error_feedback_root: state.error_feedback.root(),
            closed_at: self.now().await?,
        };
        self.fence.check().await?;
        let close = self.run.create(&RunKey::Close(window), close, self.identity.signing()).await?;
        state.replica.advance(open, &close)?;
        state.expect_error_feedback(&close)?;
        self.tell_closed(&close.record);
        Ok(())
    }

    /// Writes the delta. It follows from the verdict, so one that is there already must be the same.
    async fn publish_delta(&self, window: u64, bytes: Vec<u8>) -> anyhow::Result<FilePin> {
        let key = RunKey::Delta(window).to_string();
        let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
        let pin = FilePin { key, size, sha256, frame: frame_digest(&bytes, self.run.layout()) };
        self.fence.check().await?;
        let created = self.run.bucket().create(&pin.key, Bytes::from(bytes)).await?;
        if !created.is_created()
            && let Err(error) = self.run.pinned(&pin.object()).await
        {
            let faulty = "another delta lies there than the verdict leads to; an aggregator's hardware or program is faulty";
            return Err(if is_transient(&error) { error } else { error.context(faulty) });
        }
        Ok(pin)
    }

    fn tell_closed(&self, close: &Close) {
        if close.accepted.is_empty() {
            let message = format!(
                "window {} closed with nothing to merge, θ stays; look at the reasons for the exclusions",
                close.window
            );
            self.pace.reporter.tell(Event::Warning { message });
        }
        self.pace.reporter.tell(Event::Closed {
            window: close.window,
            state_root: close.state_root,
            accepted: close.accepted.iter().map(|share| share.peer).collect(),
            excluded: close.excluded.clone(),
            delta_bytes: close.delta.as_ref().map_or(0, |delta| delta.size),
        });
    }
}
