//! What the validators together say of one update: stake-weighted medians, and nothing unless validators with more than half of the
//! run's stake have measured it, so that a minority of the stake moves none of it beyond what an honest validator measured.

use super::median::{lower_median, upper_median};
use crate::{Exclusion, Manifest, PeerId, PeerScore, Scores, Signed};

/// How plainly an update bears the trace of its assigned sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trace {
    /// Nats a token.
    pub(super) mean: f64,
    /// Standard error of that.
    pub(super) error: f64,
    /// The mean in standard errors, as a normal variable would be.
    pub(super) sigmas: f64,
}

impl Trace {
    /// From the figures that validators `said`.
    fn of(said: impl Fn(&dyn Fn(&PeerScore) -> Option<f64>) -> Vec<(f64, u128)>) -> Option<Self> {
        Some(Self {
            mean: lower_median(said(&|score| Some(score.trace?.mean)))?,
            error: lower_median(said(&|score| Some(score.trace?.standard_error)))?,
            sigmas: lower_median(said(&|score| score.trace?.in_sigmas()))?,
        })
    }
}

/// What the validators say of one update.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Opinion {
    /// Why validators with more than half of the stake heard refuse it.
    pub(super) fault: Option<Exclusion>,
    /// What its improvement of the loss exceeds almost surely not, nats a token.
    pub(super) best_gain: Option<f64>,
    /// The same of what it improves beyond the demanded share of the median.
    pub(super) best_merit: Option<f64>,
    /// Mean improvement, nats a token, and its standard error.
    pub(super) gain: Option<(f64, f64)>,
    /// Trace of its assigned sequences.
    pub(super) trace: Option<Trace>,
    /// How far its receipt's losses of θ are from what they are, nats a token.
    pub(super) start_gap: Option<f64>,
}

impl Opinion {
    pub(super) fn of(manifest: &Manifest, heard: &[Signed<Scores>], peer: &PeerId) -> Self {
        let votes: Vec<(u128, &PeerScore)> = heard
            .iter()
            .filter_map(|scores| {
                let stake = u128::from(manifest.validator(&scores.signer)?.stake);
                Some((stake, scores.record.scores.iter().find(|score| score.peer == *peer)?))
            })
            .collect();
        let stake: u128 = votes.iter().map(|(stake, _)| stake).sum();
        // With too few heard, a minority would speak for all.
        let whole: u128 = manifest
            .validators
            .iter()
            .filter_map(|entry| manifest.validator(&entry.id))
            .map(|validator| u128::from(validator.stake))
            .sum();
        if stake * 2 <= whole {
            return Self::default();
        }
        let faults: Vec<_> =
            votes.iter().filter_map(|(stake, score)| Some((*stake, score.fault.as_ref()?))).collect();
        let is_refused = faults.iter().map(|(stake, _)| stake).sum::<u128>() * 2 > stake;
        let fault = is_refused.then(|| Exclusion::new(*peer, faults[0].1.reason, &faults[0].1.detail));
        let sigmas = manifest.scoring.harm_sigmas;
        let said = |of: &dyn Fn(&PeerScore) -> Option<f64>| -> Vec<(f64, u128)> {
            let said = votes.iter().filter_map(|(stake, score)| Some((of(score)?, *stake)));
            let said: Vec<(f64, u128)> = said.filter(|(value, _)| value.is_finite()).collect();
            let measured: u128 = said.iter().map(|(_, stake)| stake).sum();
            if measured * 2 > whole { said } else { Vec::new() }
        };
        Self {
            fault,
            // Of two validators who disagree, none can have a peer excluded, and none can have it paid.
            best_gain: upper_median(said(&|score| score.unassigned?.at_most(sigmas))),
            best_merit: upper_median(said(&|score| score.merit?.at_most(sigmas))),
            gain: lower_median(said(&|score| Some(score.unassigned?.mean)))
                .zip(lower_median(said(&|score| Some(score.unassigned?.standard_error)))),
            trace: Trace::of(&said),
            start_gap: lower_median(said(&|score| score.start_gap)),
        }
    }
}
