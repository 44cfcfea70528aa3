//! Loss scores: what θ loses when one peer's update alone is applied (Gauntlet, arXiv 2505.21684).

use std::sync::Arc;
use std::time::Instant;

use brigade_bucket::Pin;
use brigade_bucket::keys::RunKey;
use brigade_codec::Update;
use brigade_protocol::assignment::Draw;
use brigade_protocol::{
    Cutoff, Digest, Exclusion, Improvement, Open, Parameters, PeerScore, Pinned, Reason, Scores, Signed,
};
use brigade_trainer::{TokenBatch, Trainer};

use super::{MEASURE_BATCH, Validator};
use crate::roles::samples::{Ticket, batches};
use crate::run::replica::Replica;

/// The common ruler of a window: sequences that nobody was assigned, and θ's loss on each.
struct Ruler {
    theta: Arc<Parameters>,
    /// What a single update is multiplied by: its share of the merge, α ÷ number of updates.
    step: f32,
    unassigned: Arc<Vec<TokenBatch>>,
    base: Arc<Vec<f32>>,
    /// Whether θ has a loss on all of them.
    is_sound: bool,
}

impl Validator {
    /// Rates every pinned update.
    pub(super) async fn score(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
    ) -> anyhow::Result<Scores> {
        let started = Instant::now();
        let ruler = self.ruler(replica, open, cutoff).await?;
        let mut scores = Vec::new();
        for pinned in &cutoff.record.pinned {
            let score = self.pace.shutdown.or(self.score_one(&ruler, replica, open, pinned)).await??;
            scores.push(score);
        }
        Ok(Scores {
            run: self.run.id(),
            window: cutoff.record.window,
            cutoff: cutoff.digest,
            scores,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    async fn ruler(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
        cutoff: &Signed<Cutoff>,
    ) -> anyhow::Result<Ruler> {
        let count = self.run.manifest().scoring.sequences as usize;
        let ticket = Ticket {
            previous_seed: replica.previous_seed,
            // Nobody knows the cutoff before it is made, so nobody can train on the ruler.
            seed: Digest::of_parts("brigade ruler v1", &[&open.record.seed.0, &cutoff.digest.0]),
            draw: Draw::Unassigned,
        };
        let drawn = self.samples.draw(ticket, count).await?;
        let unassigned = Arc::new(batches(&drawn, MEASURE_BATCH, self.samples.sequence_length())?);
        let (theta, on) = (Arc::clone(&replica.theta), Arc::clone(&unassigned));
        let base = self.model.call(move |trainer| {
            trainer.load_parameters(theta.tensors())?;
            losses(trainer, &on)
        });
        let step = self.run.manifest().outer.learning_rate / cutoff.record.pinned.len().max(1) as f32;
        let theta = Arc::clone(&replica.theta);
        let base = Arc::new(base.await??);
        let is_sound = base.iter().all(|loss| loss.is_finite());
        Ok(Ruler { theta, step, unassigned, base, is_sound })
    }

    async fn score_one(
        &self,
        ruler: &Ruler,
        replica: &Replica,
        open: &Signed<Open>,
        pinned: &Pinned,
    ) -> anyhow::Result<PeerScore> {
        let peer = pinned.peer;
        let update = match self.checked(open, pinned).await? {
            Ok(update) => update,
            Err(fault) => {
                return Ok(PeerScore { peer, fault: Some(fault), assigned: None, unassigned: None });
            }
        };
        let manifest = self.run.manifest();
        let trained = manifest.training.inner_steps as usize * manifest.training.batch_size as usize;
        let ticket = Ticket {
            previous_seed: replica.previous_seed,
            seed: open.record.seed,
            draw: Draw::Assigned(peer),
        };
        let own = self.samples.draw_some(ticket, trained, manifest.scoring.sequences as usize).await?;
        let own = batches(&own, MEASURE_BATCH, self.samples.sequence_length())?;
        let (theta, step) = (Arc::clone(&ruler.theta), ruler.step);
        let (common, base) = (Arc::clone(&ruler.unassigned), Arc::clone(&ruler.base));
        let measured = self.model.call(move |trainer| -> anyhow::Result<_> {
            trainer.load_parameters(theta.tensors())?;
            let own_base = losses(trainer, &own)?;
            let mut stepped = theta.tensors().to_vec();
            update.add_scaled_into(-step, &mut stepped)?;
            trainer.load_parameters(&stepped)?;
            let assigned = improvement(&own_base, &losses(trainer, &own)?);
            Ok((assigned, improvement(&base, &losses(trainer, &common)?)))
        });
        let (assigned, unassigned) = measured.await??;
        // Only where θ itself has a loss is it the update that takes it away.
        let fault = (ruler.is_sound && (assigned.is_none() || unassigned.is_none())).then(|| {
            Exclusion::new(peer, Reason::Harmful, "the loss is no number once the update is applied")
        });
        Ok(PeerScore { peer, fault, assigned, unassigned })
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
        let peer = pinned.peer;
        let key = RunKey::Update { window: open.record.window, peer }.to_string();
        let pin = Pin { etag: None, sha256: pinned.update.sha256, size: pinned.update.size };
        let bytes = self.run.bucket().get_pinned(&key, &pin).await?;
        let binding = self.run.binding(&open.record, &peer);
        Ok(Update::parse(bytes, self.run.layout(), &self.run.codec(), &binding)
            .map_err(|error| Exclusion::new(peer, Reason::Malformed, error)))
    }
}

fn losses(trainer: &Trainer, batches: &[TokenBatch]) -> brigade_trainer::Result<Vec<f32>> {
    let losses = batches.iter().map(|batch| trainer.losses(batch)).collect::<Result<Vec<_>, _>>()?;
    Ok(losses.concat())
}

/// Mean and standard error of `before − after`, sequence by sequence; nothing when a loss is no number, which the
/// step made so.
fn improvement(before: &[f32], after: &[f32]) -> Option<Improvement> {
    let gains: Vec<f64> =
        before.iter().zip(after).map(|(before, after)| f64::from(*before) - f64::from(*after)).collect();
    let count = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / count;
    let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let standard_error = (variance / count).sqrt();
    (mean.is_finite() && standard_error.is_finite()).then_some(Improvement {
        mean,
        standard_error,
        sequences: gains.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn improvement_is_paired() {
        let measured = improvement(&[3.0, 1.0, 2.0], &[2.5, 0.5, 1.5]).unwrap();
        assert_eq!((measured.mean, measured.standard_error, measured.sequences), (0.5, 0.0, 3));
        let spread = improvement(&[1.0, 1.0], &[0.0, 2.0]).unwrap();
        assert_eq!((spread.mean, spread.standard_error), (0.0, 1.0));
        assert!(improvement(&[1.0], &[f32::NAN]).is_none());
        assert!(improvement(&[], &[]).is_none());
    }
}
