//! The merge and the close: `delta.bin`, then `close.json`.

use std::collections::BTreeMap;

use brigade_bucket::keys::RunKey;
use brigade_codec::Update;
use brigade_protocol::{Close, Cutoff, FilePin, Open, PeerId, Signed, Verdict};
use bytes::Bytes;

use super::Aggregator;
use crate::events::Event;
use crate::run::is_transient;
use crate::run::outer::{Outer, delta_pin};

impl Aggregator {
    /// Merges, publishes the delta, and commits the window. After an error `state` is worth nothing.
    pub(super) async fn close(
        &self,
        state: &mut Outer,
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
        self.tell_closed(&close.record, &verdict.record);
        Ok(())
    }

    /// Writes the delta. It follows from the verdict, so one that is there already must be the same.
    async fn publish_delta(&self, window: u64, bytes: Vec<u8>) -> anyhow::Result<FilePin> {
        let pin = delta_pin(&self.run, window, &bytes);
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

    fn tell_closed(&self, close: &Close, verdict: &Verdict) {
        let standings = verdict.standings.iter();
        let weights = standings.map(|standing| (standing.peer, standing.weight)).collect();
        self.pace.reporter.tell(Event::Judged { window: close.window, weights });
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
