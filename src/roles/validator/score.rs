//! The scores of a window: every pinned update through the decoder, then on the common ruler.

use std::sync::Arc;
use std::time::Instant;

use brigade_codec::Update;
use brigade_protocol::assignment::Draw;
use brigade_protocol::{Cutoff, Digest, Exclusion, Open, Pinned, Reason, Scores, Signed};
use brigade_trainer::TokenBatch;

use super::{MEASURE_BATCH, Validator};
use crate::roles::samples::{Ticket, batches};
use crate::run::replica::Replica;
use crate::scoring::{Candidate, Exam, Stage, Start};

impl Validator {
    /// Rates every pinned update, or as many as there is time for.
    pub(super) async fn score(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
    ) -> anyhow::Result<Scores> {
        let started = Instant::now();
        let reading = self.read(replica, open, cutoff);
        let (candidates, stages) = self.pace.shutdown.or(reading).await??;
        let manifest = self.run.manifest();
        let scoring = manifest.scoring.clone();
        let step = manifest.outer.learning_rate / candidates.len().max(1) as f32;
        // Where time is short, chance decides who is not measured, and another in every window and at every validator.
        let order = Digest::of_parts("brigade order v1", &[&cutoff.digest.0, &self.identity.id().0]);
        let first = order.0[0] as usize * candidates.len() / 256;
        let (theta, until) = (Arc::clone(&replica.theta), manifest.windows.measuring());
        let shutdown = self.pace.shutdown.clone();
        let measured = self.model.call(move |trainer| {
            let exam = Exam { scoring: &scoring, theta: theta.tensors(), step, candidates: &candidates };
            exam.measure(trainer, &stages, first, || started.elapsed() < until && !shutdown.is_requested())
        });
        let measured = self.pace.shutdown.or(measured).await???;
        Ok(Scores {
            run: self.run.id(),
            window: cutoff.record.window,
            cutoff: cutoff.digest,
            scores: measured.into_iter().map(|measured| measured.score).collect(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// All updates and all sequences that they may be measured on.
    async fn read(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
    ) -> anyhow::Result<(Vec<Candidate>, Vec<Stage>)> {
        let manifest = self.run.manifest();
        let most = manifest.scoring.max_sequences.max(manifest.scoring.sequences) as usize;
        let ticket = Ticket {
            previous_seed: replica.previous_seed,
            // Nobody knows the cutoff before it is made, so nobody can train on the ruler.
            seed: Digest::of_parts("brigade ruler v1", &[&open.record.seed.0, &cutoff.digest.0]),
            draw: Draw::Unassigned,
        };
        let unassigned = self.samples.draw(ticket, most).await?;
        let standings = self.run.standings(open.record.window).await?;
        let (mut candidates, mut own) = (Vec::new(), Vec::new());
        let length = self.samples.sequence_length();
        let trained = manifest.training.inner_steps as usize * manifest.training.batch_size as usize;
        for pinned in &cutoff.record.pinned {
            let (seed, draw) = (open.record.seed, Draw::Assigned(pinned.peer));
            let ticket = Ticket { seed, draw, ..ticket };
            // Nor which of its sequences will be looked at.
            own.push(self.samples.draw_some(ticket, trained, most, cutoff.digest).await?);
            let first = self.samples.draw(ticket, manifest.start_sequences()).await?;
            let start = Start {
                sequences: TokenBatch::new(first.concat(), first.len(), length)?,
                losses: pinned.start_losses.clone(),
            };
            let (peer, update) = (pinned.peer, self.checked(open, pinned).await?);
            let standing = standings.iter().find(|standing| standing.peer == peer);
            candidates.push(Candidate::new(manifest, cutoff.digest, standing, peer, update, start));
        }
        Ok((candidates, stages(&unassigned, &own, manifest.scoring.sequences as usize, length)?))
    }

    /// The pinned update, through the decoder.
    ///
    /// # Errors
    /// The inner result is the peer's fault; the outer one says that the mirror cannot be read.
    async fn checked(
        &self,
        open: &Signed<Open>,
        pinned: &Pinned,
    ) -> anyhow::Result<Result<Update, Exclusion>> {
        let parsed = self.run.update(&open.record, &pinned.peer, &pinned.update).await?;
        Ok(parsed.map_err(|error| Exclusion::new(pinned.peer, Reason::Malformed, error)))
    }
}

/// `first` sequences of every kind for all, and the rest for those whom they do not decide.
///
/// # Errors
/// As [`batches`].
pub(crate) fn stages(
    unassigned: &[Vec<u32>],
    own: &[Vec<Vec<u32>>],
    first: usize,
    length: usize,
) -> anyhow::Result<Vec<Stage>> {
    let split = |sequences: &[Vec<u32>], first: usize| -> anyhow::Result<[Vec<TokenBatch>; 2]> {
        let (early, late) = sequences.split_at(first.min(sequences.len()));
        let part = |part: &[Vec<u32>]| batches(part, MEASURE_BATCH, length);
        Ok([part(early)?, part(late)?])
    };
    let [early, late] = split(unassigned, first)?;
    let mut stages = [Stage { unassigned: early, own: vec![] }, Stage { unassigned: late, own: vec![] }];
    for sequences in own {
        let parts = split(sequences, first)?;
        stages.iter_mut().zip(parts).for_each(|(stage, part)| stage.own.push(part));
    }
    let mut stages = Vec::from(stages);
    stages.retain(|stage| !stage.unassigned.is_empty());
    Ok(stages)
}
