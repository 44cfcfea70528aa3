//! The verdict: all validators' scores, combined. It determines the delta.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use brigade_bucket::Bucket;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_codec::Update;
use brigade_protocol::gauntlet::{Case, Gram, judge};
use brigade_protocol::{
    Cutoff, Envelope, Join, Member, PeerId, Record as _, Role, Roster, Scores, Signed, Timestamp, Verdict,
};
use futures::future::try_join_all;

use super::Aggregator;
use crate::events::Event;
use crate::run::lobby;

/// What the last look at a validator's bucket may take.
const LAST_LOOK: Duration = Duration::from_secs(30);

impl Aggregator {
    /// Waits for the validators and combines their scores, or adopts the verdict that is there.
    pub(super) async fn verdict(
        &self,
        cutoff: &Signed<Cutoff>,
        roster: &Roster,
        updates: &BTreeMap<PeerId, Update>,
    ) -> anyhow::Result<Signed<Verdict>> {
        let window = cutoff.record.window;
        if let Some(verdict) = self.run.verdict(window).await? {
            return Ok(verdict);
        }
        let heard = if updates.is_empty() { Vec::new() } else { self.hear(cutoff, roster).await? };
        let (envelopes, scores): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
        let previous = self.run.standings(window).await?;
        let gram = products(cutoff, updates)?;
        let case = Case {
            manifest: self.run.manifest(),
            cutoff: &cutoff.record,
            heard: &scores,
            gram: &gram,
            previous: &previous,
        };
        let judgement = judge(&case);
        let verdict = Verdict {
            run: self.run.id(),
            window,
            epoch: self.fence.epoch(),
            cutoff: cutoff.digest,
            scores: envelopes,
            shares: judgement.shares,
            excluded: judgement.excluded,
            standings: judgement.standings,
        };
        self.fence.check().await?;
        self.run.create(&RunKey::Verdict(window), verdict, self.identity.signing()).await
    }

    /// The scores of every validator on the roster that speaks in time.
    async fn hear(
        &self,
        cutoff: &Signed<Cutoff>,
        roster: &Roster,
    ) -> anyhow::Result<Vec<(Envelope, Signed<Scores>)>> {
        let until = cutoff.record.cut_at.plus(self.run.manifest().windows.score());
        let validators = roster.members.iter().filter(|member| member.role == Role::Validator);
        let hearing = try_join_all(validators.map(|member| self.hear_one(cutoff, member, until)));
        Ok(self.pace.shutdown.or(hearing).await??.into_iter().flatten().collect())
    }

    async fn hear_one(
        &self,
        cutoff: &Signed<Cutoff>,
        member: &Member,
        until: Timestamp,
    ) -> anyhow::Result<Option<(Envelope, Signed<Scores>)>> {
        let join = member.join.open_from::<Join>(&member.peer).map_err(anyhow::Error::from);
        let bucket =
            join.and_then(|join| lobby::open_bucket(&self.identity, &join.record, self.peer_options.clone()));
        let bucket = match bucket {
            Ok(bucket) => bucket,
            Err(error) => return Ok(self.silent(member, &error)),
        };
        let key = PeerKey::new(self.run.id(), cutoff.record.window, PeerFile::Scores).to_string();
        let mut error = anyhow::anyhow!("no scores in time");
        loop {
            let now = self.now().await?;
            let patience = until.max(now).since(now) + LAST_LOOK;
            match tokio::time::timeout(patience, look(&bucket, &key, cutoff, member)).await {
                Ok(Ok(Some(scores))) => return Ok(Some(scores)),
                Ok(Ok(None)) => {}
                Ok(Err(problem)) => error = problem,
                Err(_) => error = anyhow::anyhow!("its bucket is too slow"),
            }
            if now > until {
                return Ok(self.silent(member, &error));
            }
            tokio::time::sleep(self.pace.poll).await;
        }
    }

    fn silent(&self, member: &Member, error: &anyhow::Error) -> Option<(Envelope, Signed<Scores>)> {
        let message = format!("validator {} is not heard: {error:#}", member.peer.short());
        self.pace.reporter.tell(Event::Warning { message });
        None
    }
}

/// Inner products of the pinned updates, in the order of the cutoff.
fn products(cutoff: &Signed<Cutoff>, updates: &BTreeMap<PeerId, Update>) -> anyhow::Result<Gram> {
    let pinned = cutoff.record.pinned.iter();
    let updates: Vec<&Update> = pinned.filter_map(|pinned| updates.get(&pinned.peer)).collect();
    let products = tokio::task::block_in_place(|| brigade_codec::gram(&updates))?;
    Gram::new(products).context("the products of the updates are no numbers")
}

async fn look(
    bucket: &Bucket,
    key: &str,
    cutoff: &Signed<Cutoff>,
    member: &Member,
) -> anyhow::Result<Option<(Envelope, Signed<Scores>)>> {
    let Some(object) = bucket.try_get(key, Scores::MAX_BYTES).await? else { return Ok(None) };
    let envelope = Envelope::from_bytes(&object.bytes)?;
    let scores = envelope.open_from::<Scores>(&member.peer)?;
    anyhow::ensure!(scores.record.cutoff == cutoff.digest, "scores of another cutoff");
    Ok(Some((envelope, scores)))
}
