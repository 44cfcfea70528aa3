//! What the validators together say of one update: stake-weighted medians, and nothing unless validators with more than half of the
//! run's stake have measured it, so that a minority of the stake moves none of it beyond what an honest validator measured.

use crate::{Exclusion, Improvement, Manifest, PeerId, PeerScore, Scores, Signed};

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
            best_gain: upper_median(said(&|score| upper_bound(&score.unassigned?, sigmas))),
            best_merit: upper_median(said(&|score| upper_bound(&score.merit?, sigmas))),
            gain: weighted_median(said(&|score| Some(score.unassigned?.mean)))
                .zip(weighted_median(said(&|score| Some(score.unassigned?.standard_error)))),
            trace: (|| {
                Some(Trace {
                    mean: weighted_median(said(&|score| Some(score.trace?.mean)))?,
                    error: weighted_median(said(&|score| Some(score.trace?.standard_error)))?,
                    sigmas: weighted_median(said(&|score| in_sigmas(&score.trace?)))?,
                })
            })(),
            start_gap: weighted_median(said(&|score| score.start_gap)),
        }
    }
}

/// How many standard errors the mean is above 0, as a normal variable would be: of few sequences the same quotient tells less.
/// Nothing after one sequence.
fn in_sigmas(improvement: &Improvement) -> Option<f64> {
    let freedom = f64::from(improvement.sequences.checked_sub(1).filter(|freedom| *freedom > 0)?);
    let t = improvement.mean / improvement.standard_error.max(f64::MIN_POSITIVE);
    // Wallace's bound of the normal quantile (Biometrika 46:1124), within 2 % from three degrees of freedom on.
    let z = ((freedom * (t * t / freedom).ln_1p()).max(0.0)).sqrt() * (8.0 * freedom + 1.0)
        / (8.0 * freedom + 3.0);
    Some(if t < 0.0 { -z } else { z })
}

/// What the true improvement exceeds as seldom as a normal variable exceeds `sigmas`; nothing after one sequence.
///
/// The standard error is itself estimated from the same few sequences, so it is Student's t that tells how far the mean
/// may be off: of four, three sigmas are 8.5 standard errors, and taken as three they blame 1 in 35 who did no harm.
fn upper_bound(improvement: &Improvement, sigmas: f64) -> Option<f64> {
    let freedom = improvement.sequences.checked_sub(1).filter(|freedom| *freedom > 0)?;
    Some(improvement.mean + student_t(sigmas, f64::from(freedom)) * improvement.standard_error)
}

/// The quantile of Student's t with `freedom` degrees that lies where `z` lies in the normal distribution: the expansion
/// of Cornish and Fisher (Abramowitz and Stegun 26.7.5). Sums and products alone, so that every observer gets the same.
fn student_t(z: f64, freedom: f64) -> f64 {
    let square = z * z;
    let first = (square + 1.0) * z / 4.0;
    let second = ((5.0 * square + 16.0) * square + 3.0) * z / 96.0;
    let third = (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) * z / 384.0;
    z + (first + (second + third / freedom) / freedom) / freedom
}

/// The value at which half of the weight is reached, from below; so it is the lower one of two when the weight splits evenly.
fn weighted_median(mut values: Vec<(f64, u128)>) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u128 = values.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0;
    for (value, weight) in values {
        reached += weight;
        if weight > 0 && reached * 2 >= total {
            return Some(value);
        }
    }
    None
}

/// The same from above.
fn upper_median(values: Vec<(f64, u128)>) -> Option<f64> {
    weighted_median(values.into_iter().map(|(value, weight)| (-value, weight)).collect()).map(|value| -value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sequences_prove_little() {
        let measured = |sequences| Improvement { mean: -0.4, standard_error: 0.1, sequences };
        assert_eq!(upper_bound(&measured(0), 3.0), None);
        assert_eq!(upper_bound(&measured(1), 3.0), None);
        assert!(upper_bound(&measured(4), 3.0).unwrap() > 0.0);
        assert!(upper_bound(&measured(64), 3.0).unwrap() < 0.0);
        // From tables of the distribution, at the normal's 3 and 1.96 sigmas.
        for (z, freedom, t) in
            [(3.0, 7.0, 4.530), (3.0, 63.0, 3.113), (1.96, 3.0, 3.182), (1.96, 30.0, 2.042)]
        {
            let found = student_t(z, freedom);
            assert!((found / t - 1.0_f64).abs() < 0.01, "{z} {freedom} {found}");
        }
    }

    #[test]
    fn standard_errors_of_few_sequences_are_fewer_sigmas() {
        for (t, freedom, z) in [(4.530, 7, 3.0), (3.113, 63, 3.0), (-3.182, 3, -1.96), (2.042, 30, 1.96)] {
            let measured = Improvement { mean: t, standard_error: 1.0, sequences: freedom + 1 };
            let found = in_sigmas(&measured).unwrap();
            assert!((found / z - 1.0_f64).abs() < 0.03, "{t} {freedom}: {found}, not {z}");
        }
        assert_eq!(in_sigmas(&Improvement { mean: 1.0, standard_error: 0.0, sequences: 1 }), None);
        let exact = Improvement { mean: 0.0, standard_error: 0.0, sequences: 8 };
        assert_eq!(in_sigmas(&exact), Some(0.0));
    }

    #[test]
    fn of_two_the_median_is_the_one_asked_for() {
        let values = || vec![(3.0, 1), (1.0, 1)];
        assert_eq!((weighted_median(values()), upper_median(values())), (Some(1.0), Some(3.0)));
        let values = || vec![(5.0, 1), (-9.0, 1), (4.0, 1)];
        assert_eq!((weighted_median(values()), upper_median(values())), (Some(4.0), Some(4.0)));
        assert_eq!(upper_median(vec![(1.0, 3), (2.0, 1), (3.0, 1)]), Some(1.0));
        assert_eq!(weighted_median(Vec::new()), None);
    }
}
