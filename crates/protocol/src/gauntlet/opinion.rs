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
    /// The mean in standard errors, as a normal variable would be, for what is paid: of two validators who disagree, the lower.
    pub(super) sigmas: f64,
    /// The same for what is blamed: of two the higher, and infinite from whoever was not heard.
    pub(super) best_sigmas: f64,
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
        let sigmas = manifest.scoring.harm_sigmas;
        let said = |of: &dyn Fn(&PeerScore) -> Option<f64>| -> Vec<(f64, u128)> {
            let said = votes.iter().filter_map(|(stake, score)| Some((of(score)?, *stake)));
            let said: Vec<(f64, u128)> = said.filter(|(value, _)| value.is_finite()).collect();
            let measured: u128 = said.iter().map(|(_, stake)| stake).sum();
            if measured * 2 > whole { said } else { Vec::new() }
        };
        // What a peer is blamed for takes half of the whole stake, however much of it was heard: who says nothing speaks for it.
        let best = |of: &dyn Fn(&PeerScore) -> Option<f64>| {
            let said = said(of);
            let silent = whole.saturating_sub(said.iter().map(|(_, stake)| stake).sum());
            let is_said = !said.is_empty();
            upper_median(said.into_iter().chain([(f64::INFINITY, silent)])).filter(|_| is_said)
        };
        let least_gap = best(&|score| Some(-score.start_gap?)).map(|gap| -gap);
        let trace = || {
            Some(Trace {
                mean: lower_median(said(&|score| Some(score.trace?.mean)))?,
                error: lower_median(said(&|score| Some(score.trace?.standard_error)))?,
                sigmas: lower_median(said(&|score| score.trace?.in_sigmas()))?,
                best_sigmas: best(&|score| score.trace?.in_sigmas())?,
            })
        };
        Self {
            fault: fault(&votes, whole),
            // Of two validators who disagree, none can have a peer excluded, and none can have it paid.
            best_gain: best(&|score| score.unassigned?.at_most(sigmas)),
            best_merit: best(&|score| score.merit?.at_most(sigmas)),
            gain: lower_median(said(&|score| Some(score.unassigned?.mean)))
                .zip(lower_median(said(&|score| Some(score.unassigned?.standard_error)))),
            trace: trace(),
            start_gap: least_gap,
        }
    }
}

/// The fault for which validators with more than half of the `whole` stake refuse an update: of the reasons that they give, the one with
/// the most stake, in the words of who gives it first.
fn fault(votes: &[(u128, &PeerScore)], whole: u128) -> Option<Exclusion> {
    let faults: Vec<(u128, &Exclusion)> =
        votes.iter().filter_map(|(stake, score)| Some((*stake, score.fault.as_ref()?))).collect();
    let stake_of =
        |faults: &mut dyn Iterator<Item = &(u128, &Exclusion)>| faults.map(|(stake, _)| stake).sum::<u128>();
    if stake_of(&mut faults.iter()) * 2 <= whole {
        return None;
    }
    let by_reason =
        |fault: &Exclusion| stake_of(&mut faults.iter().filter(|(_, other)| other.reason == fault.reason));
    // The first of equals; `max_by_key` would take the last.
    let (_, most) = faults.iter().rev().max_by_key(|(_, fault)| by_reason(fault))?;
    let first = faults.iter().find(|(_, fault)| fault.reason == most.reason)?.1;
    Some(Exclusion::new(votes[0].1.peer, first.reason, &first.detail))
}
