//! The aggregator's and the validators' part of a window: opening, cutoff, scores.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_codec::Update;
use brigade_protocol::checks::Expected;
use brigade_protocol::{
    Cutoff, Digest, Envelope, Exclusion, Improvement, Open, Pinned, Reason, Receipt, Scores, Signed,
    Timestamp,
};

use super::attack::Attack;
use super::deliver::{Delivery, Desk, update_key};
use super::run::{NOBODY, Run, VALIDATORS, key};
use crate::roles::validator::score::stages;
use crate::scoring::{Candidate, Exam, Measured, Start};

impl Run<'_> {
    pub(super) fn open(&self, window: u64) -> anyhow::Result<Signed<Open>> {
        let opened_at = Timestamp(1_000_000 * (window + 1));
        let open = Open {
            run: Digest([1; 32]),
            window,
            epoch: 0,
            previous_close: None,
            seed: Digest::of(window.to_le_bytes()),
            opened_at,
            deadline: Timestamp(opened_at.0 + 500_000),
            roster: Digest([2; 32]),
            state_root: self.theta.root(),
        };
        Ok(Envelope::sign(open, &key(VALIDATORS[0]))?.1)
    }

    /// The fast checks and the decoder, as the aggregator has them.
    pub(super) fn cutoff(
        &self,
        open: &Signed<Open>,
        deliveries: Vec<Delivery>,
    ) -> anyhow::Result<(Signed<Cutoff>, Vec<Update>)> {
        let codec = self.codec();
        let key_of_update = update_key(open.record.window);
        let max_update_bytes = brigade_codec::max_update_bytes(&self.layout, &codec);
        let start_sequences = self.manifest.start_sequences();
        let expected = Expected { open, update_key: &key_of_update, max_update_bytes, start_sequences };
        let desk = Desk { layout: &self.layout, codec, open };
        let (mut pinned, mut excluded) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            match admit(&expected, &desk, delivery) {
                Ok(both) => pinned.push(both),
                Err(exclusion) => excluded.push(exclusion),
            }
        }
        pinned.sort_by_key(|(pinned, _)| pinned.peer);
        let (pinned, updates): (Vec<Pinned>, Vec<Update>) = pinned.into_iter().unzip();
        let cutoff = Cutoff {
            run: open.record.run,
            window: open.record.window,
            epoch: 0,
            open: open.digest,
            cut_at: open.record.deadline,
            pinned,
            excluded,
        };
        Ok((Envelope::sign(cutoff, &key(VALIDATORS[0]))?.1, updates))
    }

    /// What three validators say. Two of them measure the same, so it is measured once.
    pub(super) fn scores(
        &mut self,
        cutoff: &Signed<Cutoff>,
        updates: &[Update],
        window: u64,
    ) -> anyhow::Result<(Vec<Signed<Scores>>, Vec<Measured>)> {
        let scoring = &self.manifest.scoring;
        let (most, length) =
            (scoring.max_sequences as usize, self.manifest.training.sequence_length as usize);
        let unassigned = self.text.draw([self.setting.seed, window, NOBODY], most)?;
        let (mut own, mut candidates) = (Vec::new(), Vec::new());
        let theta = Arc::clone(&self.theta);
        for (pinned, update) in cutoff.record.pinned.iter().zip(updates) {
            let n = self.number(&pinned.peer).context("only peers of the run are pinned")?;
            own.push(self.peers.assigned(n, window, most, cutoff.digest)?);
            let count = self.manifest.start_sequences();
            let sequences = self.peers.start(n, window, count)?;
            let start = Start { sequences, losses: pinned.start_losses.clone() };
            let (peer, update) = (pinned.peer, Ok(update.clone()));
            let standing = self.standings.iter().find(|standing| standing.peer == peer);
            candidates.push(Candidate::new(self.manifest, cutoff.digest, standing, peer, update, start));
        }
        let stages = stages(&unassigned, &own, scoring.sequences as usize, length)?;
        let step = self.manifest.outer.learning_rate / candidates.len().max(1) as f32;
        let exam = Exam { scoring, theta: theta.tensors(), step, candidates: &candidates };
        let measured = exam.measure(self.peers.trainer(), &stages, 0, || true)?;
        let scores = measured.iter().map(|measured| measured.score.clone()).collect();
        let honest = Scores { run: cutoff.record.run, window, cutoff: cutoff.digest, scores, seconds: 0.0 };
        let mut liar = honest.clone();
        if self.setting.attack == Some(Attack::LyingValidator) {
            for score in &mut liar.scores {
                let is_cheat = self.number(&score.peer).is_none_or(|n| n >= self.setting.honest);
                let mean = if is_cheat { 10.0 } else { -10.0 };
                let lie = Some(Improvement { mean, standard_error: 1e-3, sequences: 64 });
                (score.unassigned, score.merit, score.trace) = (lie, lie, lie);
            }
        }
        let signed = [honest.clone(), honest, liar].into_iter().zip(VALIDATORS);
        let signed = signed.map(|(scores, n)| Ok(Envelope::sign(scores, &key(n))?.1));
        Ok((signed.collect::<anyhow::Result<_>>()?, measured))
    }
}

/// A delivery through the fast checks and the decoder.
fn admit(
    expected: &Expected<'_>,
    desk: &Desk<'_>,
    delivery: Delivery,
) -> Result<(Pinned, Update), Exclusion> {
    let Delivery { peer, update, receipt, received_at } = delivery;
    let receipt: Signed<Receipt> = expected.check(peer, &receipt, received_at)?;
    let (promised, start_losses) = (receipt.record.update, receipt.record.start_losses);
    if promised.sha256 != Digest::of(&update) || promised.size != update.len() as u64 {
        return Err(Exclusion::new(peer, Reason::Unavailable, "another file than the receipt names"));
    }
    let update = Update::parse(update, desk.layout, &desk.codec, &desk.binding(peer))
        .map_err(|error| Exclusion::new(peer, Reason::Malformed, error))?;
    let pinned = Pinned {
        peer,
        update: promised,
        etag: String::new(),
        receipt: receipt.digest,
        received_at,
        mirrored_at: Timestamp(received_at.0 + 500),
        content: Digest(update.frame().content()),
        start_losses,
    };
    Ok((pinned, update))
}
