//! Loss scores: what a window's updates do to the loss, one by one (Gauntlet, arXiv 2505.21684).
//!
//! Every update is measured on sequences that nobody was assigned, the same for all, and on some that its own peer was. Work shows on
//! both; that the peer worked on what it was assigned shows in the difference: what it trained on improves by more than its effect
//! elsewhere, and the others' effect here, let expect. And a receipt's losses of θ show that its peer had it.

use brigade_codec::Update;
use brigade_protocol::gauntlet::Standing;
use brigade_protocol::gauntlet::median::{lower_median, trust, upper_median};
use brigade_protocol::{Digest, Exclusion, Improvement, Manifest, PeerId, PeerScore, Reason, Scoring};
use brigade_trainer::{Result, TokenBatch, Trainer};

/// What a receipt says of θ.
pub(crate) struct Start {
    /// The first sequences that the peer was assigned.
    pub(crate) sequences: TokenBatch,
    /// What it says that θ's losses on them are.
    pub(crate) losses: Vec<f32>,
}

/// With no more updates than this, each is compared with the mean of all others; with more, all with the mean of all, in which one
/// is hardly felt, and which is loaded once.
const FEW: usize = 8;

/// Sequences of a stage of the measurement.
pub(crate) struct Stage {
    /// That nobody was assigned.
    pub(crate) unassigned: Vec<TokenBatch>,
    /// Of each candidate's own.
    pub(crate) own: Vec<Vec<TokenBatch>>,
}

/// An update to be measured.
pub(crate) struct Candidate {
    pub(crate) peer: PeerId,
    /// The update, or why it cannot be read.
    pub(crate) update: std::result::Result<Update, Exclusion>,
    pub(crate) start: Start,
    /// Its credit before the window, nats.
    credit: f64,
    /// The share of the median peer's improvement that is demanded of it.
    least_merit: f64,
    /// Whether it is known to work and not looked at closely in this window.
    is_spared: bool,
}

impl Candidate {
    /// What is demanded of `peer`, and how closely it is looked at, follows from its `standing` before the window. Whom it spares
    /// nobody knows before the `cutoff`.
    pub(crate) fn new(
        manifest: &Manifest,
        cutoff: Digest,
        standing: Option<&Standing>,
        peer: PeerId,
        update: std::result::Result<Update, Exclusion>,
        start: Start,
    ) -> Self {
        let (scoring, gauntlet) = (&manifest.scoring, &manifest.gauntlet);
        let is_new = standing.is_none_or(|standing| standing.windows < gauntlet.grace_windows);
        let is_known = standing.is_some_and(|standing| standing.credit > gauntlet.credit_limit / 2.0);
        let chance = Digest::of_parts("brigade inspect v1", &[&cutoff.0, &peer.0]).0;
        let chance = u64::from_le_bytes(chance[..8].try_into().expect("8 of 32 bytes"));
        let is_spared = is_known && !is_new && !chance.is_multiple_of(u64::from(scoring.inspect_every));
        let least_merit = if is_new { scoring.newcomer_merit } else { scoring.least_merit };
        let credit = standing.map_or(0.0, |standing| standing.credit);
        Self { peer, update, start, credit, least_merit, is_spared }
    }
}

/// What was found of a candidate.
pub(crate) struct Measured {
    pub(crate) score: PeerScore,
    /// Improvements on the unassigned sequences, one by one, nats a token.
    pub(crate) gains: Vec<f64>,
}

/// What a window's updates are measured with.
pub(crate) struct Exam<'a> {
    pub(crate) scoring: &'a Scoring,
    pub(crate) theta: &'a [Vec<f32>],
    /// What a single update is multiplied by: its share of the merge, α ÷ number of updates.
    pub(crate) step: f32,
    pub(crate) candidates: &'a [Candidate],
}

/// Improvements of one candidate, a number a sequence: its own update's and the reference's.
#[derive(Clone, Debug, Default)]
struct Gains {
    common: Vec<f64>,
    own: Vec<f64>,
    common_by_reference: Vec<f64>,
    own_by_reference: Vec<f64>,
}

impl Exam<'_> {
    /// Measures all candidates on the first stage, and on the next one whom that does not decide.
    ///
    /// `proceed` is asked before every candidate; once it says no, whoever is left has no figures. The order is that of the
    /// candidates, beginning with number `first`.
    ///
    /// # Errors
    /// Those of the trainer, whose parameters are others afterwards.
    pub(crate) fn measure(
        &self,
        trainer: &mut Trainer,
        stages: &[Stage],
        first: usize,
        mut proceed: impl FnMut() -> bool,
    ) -> Result<Vec<Measured>> {
        let count = self.candidates.len();
        let order: Vec<usize> = (0..count).map(|n| (n + first) % count).collect();
        let mut gaps: Vec<Option<f64>> = vec![None; count];
        trainer.load_parameters(self.theta)?;
        for &n in order.iter().take_while(|_| proceed()) {
            gaps[n] = self.candidates[n].start.gap(trainer)?;
        }
        let mut gains: Vec<Option<Gains>> = vec![None; count];
        let mut is_sound = true;
        for stage in stages {
            let left: Vec<usize> = order
                .iter()
                .copied()
                .filter(|&n| self.candidates[n].update.is_ok())
                .filter(|&n| gains[n].as_ref().is_none_or(|so_far| !self.is_decided(n, so_far, &gains)))
                .collect();
            if !self.measure_stage(trainer, stage, &left, &mut gains, &mut proceed)? {
                is_sound = false;
                break;
            }
        }
        let measured = |n: usize| Measured {
            score: PeerScore {
                start_gap: gaps[n],
                passes: self.passes(n, gaps[n].is_some(), gains[n].as_ref()),
                ..self.score(n, gains[n].as_ref(), &gains, is_sound)
            },
            gains: gains[n].as_ref().map(|gains| gains.common.clone()).unwrap_or_default(),
        };
        Ok((0..count).map(measured).collect())
    }

    /// Adds the gains of a stage. False if θ has no loss on some of it, which is no update's fault.
    fn measure_stage(
        &self,
        trainer: &mut Trainer,
        stage: &Stage,
        left: &[usize],
        gains: &mut [Option<Gains>],
        proceed: &mut impl FnMut() -> bool,
    ) -> Result<bool> {
        trainer.load_parameters(self.theta)?;
        let common = losses(trainer, &stage.unassigned)?;
        let mut own = Vec::new();
        for &n in left {
            if !proceed() {
                break;
            }
            own.push(losses(trainer, &stage.own[n])?);
        }
        if !common.iter().chain(own.iter().flatten()).all(|loss| loss.is_finite()) {
            return Ok(false);
        }
        let all: Vec<usize> = (0..self.candidates.len()).collect();
        let median = self.median_norm(&all);
        let mut measured = Vec::new();
        for (&n, own) in left.iter().zip(&own) {
            if !proceed() {
                break;
            }
            if let Ok(update) = &self.candidates[n].update {
                let mut stepped = self.theta.to_vec();
                update.add_scaled_into(-self.step * clip(update, median), &mut stepped)?;
                trainer.load_parameters(&stepped)?;
                let gained = gains[n].get_or_insert_default();
                gained.common.extend(difference(&common, &losses(trainer, &stage.unassigned)?));
                gained.own.extend(difference(own, &losses(trainer, &stage.own[n])?));
                measured.push((n, own));
            }
        }
        let references = self.references(gains);
        let mut shared: Option<Vec<f64>> = None;
        for (n, own) in measured {
            if !proceed() {
                break;
            }
            let is_alone = references.len() <= FEW;
            let by_reference = match shared.take().filter(|_| !is_alone) {
                Some(found) => found,
                None => {
                    let without = is_alone.then_some(n);
                    trainer.load_parameters(&self.reference(&references, without)?)?;
                    difference(&common, &losses(trainer, &stage.unassigned)?)
                }
            };
            let gained = gains[n].get_or_insert_default();
            gained.common_by_reference.extend(&by_reference);
            gained.own_by_reference.extend(difference(own, &losses(trainer, &stage.own[n])?));
            shared = Some(by_reference);
        }
        Ok(true)
    }

    /// The updates that the others are compared with: those that help, of the peers that are known to work. What newcomers train on
    /// somebody's sequences must not hide that it has trained on them.
    fn references(&self, gains: &[Option<Gains>]) -> Vec<(usize, &Update)> {
        let helps = |n: &usize| gains[*n].as_ref().is_some_and(|gains| mean(&gains.common) > 0.0);
        let helpful: Vec<usize> = (0..self.candidates.len()).filter(helps).collect();
        let trusted =
            helpful.iter().zip(self.trust(&helpful)).filter(|(_, trust)| *trust > 0).map(|(n, _)| *n);
        trusted.filter_map(|n| Some((n, self.candidates[n].update.as_ref().ok()?))).collect()
    }

    /// θ after a step along the mean of the references but `without`, each as long as the median one at most.
    fn reference(&self, references: &[(usize, &Update)], without: Option<usize>) -> Result<Vec<Vec<f32>>> {
        let mut stepped = self.theta.to_vec();
        let some: Vec<(usize, &Update)> =
            references.iter().filter(|(n, _)| Some(*n) != without).copied().collect();
        let numbers: Vec<usize> = some.iter().map(|(n, _)| *n).collect();
        let median = self.median_norm(&numbers);
        for (_, update) in &some {
            let step = self.step * clip(update, median) / some.len() as f32;
            update.add_scaled_into(-step, &mut stepped)?;
        }
        Ok(stepped)
    }

    /// The norm to which `numbers` of the candidates are clipped, as in the merge.
    fn median_norm(&self, numbers: &[usize]) -> f64 {
        let norm = |&n: &usize| self.candidates[n].update.as_ref().ok().map(Update::norm);
        let readable: Vec<usize> = numbers.iter().copied().filter(|n| norm(n).is_some()).collect();
        lower_median(readable.iter().filter_map(norm).zip(self.trust(&readable))).unwrap_or(0.0)
    }

    /// How much each of `numbers` counts when it is asked what is usual among them.
    fn trust(&self, numbers: &[usize]) -> Vec<u128> {
        trust(&numbers.iter().map(|&n| self.candidates[n].credit).collect::<Vec<_>>())
    }

    /// Whether more sequences could hardly change what is thought of candidate `n`, be it good or bad.
    fn is_decided(&self, n: usize, gains: &Gains, all: &[Option<Gains>]) -> bool {
        let (gain, merit) = (improvement(&gains.common), self.merit(n, gains, all));
        let sigmas = self.scoring.harm_sigmas;
        let is_below = |measured: Option<Improvement>| {
            measured.and_then(|found| found.at_most(sigmas)).is_some_and(|bound| bound < 0.0)
        };
        // Who has credit may yet show by its trace that it has worked.
        if self.candidates[n].credit <= 0.0 && (is_below(gain) || is_below(merit)) {
            return true;
        }
        let at_least = |sigmas: f64, measured: Option<Improvement>| {
            measured.is_some_and(|found| found.mean > sigmas * found.standard_error)
        };
        if self.candidates[n].is_spared {
            return at_least(0.0, gain) && at_least(0.0, merit);
        }
        at_least(sigmas, gain) && at_least(sigmas, merit) && at_least(SURE, trace(gains))
    }

    /// What the gain of candidate `n` exceeds the demanded share of the median gain by.
    fn merit(&self, n: usize, gains: &Gains, all: &[Option<Gains>]) -> Option<Improvement> {
        let mean_of =
            |n: &usize| all[*n].as_ref().map(|gains| mean(&gains.common)).filter(|mean| mean.is_finite());
        let measured: Vec<usize> = (0..all.len()).filter(|n| mean_of(n).is_some()).collect();
        let means = measured.iter().filter_map(mean_of).zip(self.trust(&measured));
        // The upper one of two: where half of the peers do next to nothing, that is not what is usual.
        let median = upper_median(means).unwrap_or(0.0).max(0.0);
        let found = improvement(&gains.common)?;
        Some(Improvement { mean: found.mean - self.candidates[n].least_merit * median, ..found })
    }

    /// Sequences that went through the model for candidate `n` alone.
    fn passes(&self, n: usize, has_gap: bool, gains: Option<&Gains>) -> u32 {
        let start = if has_gap { self.candidates[n].start.losses.len() } else { 0 };
        let of = |gains: &Gains| {
            let by_update = gains.own.len() + gains.common.len();
            gains.own.len() + by_update + gains.own_by_reference.len() + gains.common_by_reference.len()
        };
        (start + gains.map_or(0, of)) as u32
    }

    fn score(&self, n: usize, gains: Option<&Gains>, all: &[Option<Gains>], is_sound: bool) -> PeerScore {
        let candidate = &self.candidates[n];
        let peer = candidate.peer;
        let mut score = PeerScore {
            peer,
            fault: candidate.update.as_ref().err().cloned(),
            assigned: None,
            unassigned: None,
            merit: None,
            trace: None,
            start_gap: None,
            passes: 0,
        };
        let Some(gains) = gains else { return score };
        if !gains.own.iter().chain(&gains.common).all(|gain| gain.is_finite()) {
            // Only where θ itself has a loss is it the update that takes it away.
            let detail = "the loss is no number once the update is applied";
            score.fault = is_sound.then(|| Exclusion::new(peer, Reason::Harmful, detail));
            return score;
        }
        (score.assigned, score.unassigned) = (improvement(&gains.own), improvement(&gains.common));
        (score.merit, score.trace) = (self.merit(n, gains, all), trace(gains));
        score
    }
}

impl Start {
    /// How far what is said is from the losses of the trainer's parameters, root mean square; nothing where those have none.
    fn gap(&self, trainer: &Trainer) -> Result<Option<f64>> {
        let found = trainer.losses(&self.sequences)?;
        let squares = difference(&self.losses, &found).into_iter().map(|off| off * off);
        let gap = (squares.sum::<f64>() / found.len() as f64).sqrt();
        Ok(gap.is_finite().then_some(gap))
    }
}

/// Standard errors of trace beyond which no more are looked for.
const SURE: f64 = 4.0;

/// How much more an update improves its own sequences than what the reference does there, and what it is to the reference
/// elsewhere, let expect.
///
/// With x the reference's gains and y the update's: a = Σxy ÷ Σx² over the unassigned sequences, and the trace is
/// mean(y − a·x) over its own minus that over the unassigned ones. The error is that of a difference of two means; where the
/// reference does nothing, a is 0.
fn trace(gains: &Gains) -> Option<Improvement> {
    let products = gains.common.iter().zip(&gains.common_by_reference);
    let (along, square) =
        products.fold((0.0, 0.0), |(along, square), (y, x)| (along + x * y, square + x * x));
    let slope = if square > 0.0 { along / square } else { 0.0 };
    let rest = |y: &[f64], x: &[f64]| -> Vec<f64> { y.iter().zip(x).map(|(y, x)| y - slope * x).collect() };
    let own = improvement(&rest(&gains.own, &gains.own_by_reference))?;
    let common = improvement(&rest(&gains.common, &gains.common_by_reference))?;
    let standard_error = own.standard_error.hypot(common.standard_error);
    let sequences = own.sequences.min(common.sequences);
    Some(Improvement { mean: own.mean - common.mean, standard_error, sequences })
}

/// What makes an update no longer than `median`, as in the merge.
fn clip(update: &Update, median: f64) -> f32 {
    if update.norm() > median { (median / update.norm()) as f32 } else { 1.0 }
}

fn losses(trainer: &Trainer, batches: &[TokenBatch]) -> Result<Vec<f32>> {
    let losses = batches.iter().map(|batch| trainer.losses(batch)).collect::<Result<Vec<_>>>()?;
    Ok(losses.concat())
}

fn difference(before: &[f32], after: &[f32]) -> Vec<f64> {
    before.iter().zip(after).map(|(before, after)| f64::from(*before) - f64::from(*after)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and standard error; nothing of fewer than two, or when one is no number.
fn improvement(gains: &[f64]) -> Option<Improvement> {
    let (count, mean) = (gains.len() as f64, mean(gains));
    let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let standard_error = (variance / count).sqrt();
    (gains.len() > 1 && mean.is_finite() && standard_error.is_finite()).then_some(Improvement {
        mean,
        standard_error,
        sequences: gains.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn improvement_is_paired() {
        let measured = improvement(&difference(&[3.0, 1.0, 2.0], &[2.5, 0.5, 1.5])).unwrap();
        assert_eq!((measured.mean, measured.standard_error, measured.sequences), (0.5, 0.0, 3));
        let spread = improvement(&difference(&[1.0, 1.0], &[0.0, 2.0])).unwrap();
        assert_eq!((spread.mean, spread.standard_error), (0.0, 1.0));
        assert!(improvement(&difference(&[1.0, 1.0], &[f32::NAN, 0.0])).is_none());
        assert!(improvement(&[]).is_none() && improvement(&[1.0]).is_none());
    }

    #[test]
    fn a_trace_is_what_the_reference_does_not_explain() {
        // Twice the reference everywhere, and 0.3 more where it was trained.
        let gains = Gains {
            common: vec![0.2, 0.4, 0.6, 0.8],
            own: vec![0.5, 0.9, 1.1],
            common_by_reference: vec![0.1, 0.2, 0.3, 0.4],
            own_by_reference: vec![0.1, 0.3, 0.4],
        };
        let found = trace(&gains).unwrap();
        assert!((found.mean - 0.3).abs() < 1e-12 && found.standard_error < 1e-12, "{found:?}");
        assert_eq!(found.sequences, 3);
        // The same effect everywhere is none, however good the update is.
        let untraced = Gains { own: vec![0.2, 0.6, 0.8], ..gains.clone() };
        assert!(trace(&untraced).unwrap().mean.abs() < 1e-12);
        // A peer that is alone is compared with itself elsewhere.
        let alone = Gains { common_by_reference: vec![0.0; 4], own_by_reference: vec![0.0; 3], ..gains };
        assert!((trace(&alone).unwrap().mean - (2.5 / 3.0 - 0.5)).abs() < 1e-12);
        assert_eq!(trace(&Gains::default()), None);
    }
}
