//! The cutoff: from here on nothing else can count.

use std::collections::BTreeMap;

use brigade_bucket::keys::RunKey;
use brigade_codec::Update;
use brigade_protocol::{Cutoff, Open, PeerId, Roster, Signed};
use futures::future::try_join_all;
use futures::stream::{StreamExt as _, TryStreamExt as _};

use super::Aggregator;
use crate::events::Event;

/// Updates that are read from the run's bucket at a time.
const CONCURRENT_READS: usize = 8;

impl Aggregator {
    /// Waits for the miners and pins what counts, or adopts the cutoff that is there.
    pub(super) async fn cutoff(
        &self,
        open: &Signed<Open>,
        roster: &Roster,
    ) -> anyhow::Result<Signed<Cutoff>> {
        let window = open.record.window;
        let cutoff = match self.run.cutoff(window).await? {
            Some(cutoff) => cutoff,
            None => self.make_cutoff(open, roster).await?,
        };
        let (pinned, excluded) = (cutoff.record.pinned.len(), cutoff.record.excluded.len());
        self.pace.reporter.tell(Event::CutOff { window, pinned, excluded });
        Ok(cutoff)
    }

    async fn make_cutoff(&self, open: &Signed<Open>, roster: &Roster) -> anyhow::Result<Signed<Cutoff>> {
        let window = open.record.window;
        let collecting = try_join_all(roster.active_miners().map(|member| self.collect(open, member)));
        let collected = self.pace.shutdown.or(collecting).await??;
        if !self.run.manifest().windows.close_when_complete {
            while self.now().await? <= open.record.deadline {
                self.pace.shutdown.or(tokio::time::sleep(self.pace.poll)).await?;
            }
        }
        self.fence.check().await?;
        let (mut pinned, mut excluded) = (Vec::new(), Vec::new());
        for outcome in collected {
            match outcome {
                Ok(pin) => pinned.push(pin),
                Err(exclusion) => excluded.push(exclusion),
            }
        }
        let cutoff = Cutoff {
            run: self.run.id(),
            window,
            epoch: self.fence.epoch(),
            open: open.digest,
            cut_at: self.now().await?,
            pinned,
            excluded,
        };
        self.run.create(&RunKey::Cutoff(window), cutoff, self.identity.signing()).await
    }

    /// Reads the pinned updates back from the mirror. Nothing else ever enters a merge.
    pub(super) async fn updates(
        &self,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
    ) -> anyhow::Result<BTreeMap<PeerId, Update>> {
        futures::stream::iter(&cutoff.record.pinned)
            .map(async |pinned| {
                let update = self.run.update(&open.record, &pinned.peer, &pinned.update).await??;
                Ok((pinned.peer, update))
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await
    }
}
