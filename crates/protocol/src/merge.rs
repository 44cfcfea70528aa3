//! From scores to shares: which updates are merged, and with what coefficient.

use crate::{Cutoff, Exclusion, Improvement, Manifest, PeerId, Reason, Scores, Share, Signed};

/// One update that is about to be merged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The peer.
    pub peer: PeerId,
    /// L2 norm of the decoded update.
    pub norm: f64,
}

/// The pinned peers whom the validators exclude, by stake-weighted majority.
///
/// A peer is excluded as malformed when validators with more than half of the stake heard report a fault, and
/// as harmful when the stake-weighted median of their upper bounds on the improvement is below zero: an honest peer
/// is not hurt by noise.
pub fn exclusions(manifest: &Manifest, cutoff: &Cutoff, heard: &[Signed<Scores>]) -> Vec<Exclusion> {
    cutoff
        .pinned
        .iter()
        .filter_map(|pinned| {
            let votes: Vec<_> = heard
                .iter()
                .filter_map(|scores| {
                    let stake = manifest.validator(&scores.signer)?.stake;
                    Some((stake, scores.record.scores.iter().find(|score| score.peer == pinned.peer)?))
                })
                .collect();
            let stake: u64 = votes.iter().map(|(stake, _)| stake).sum();
            let faults: Vec<_> =
                votes.iter().filter_map(|(stake, score)| Some((*stake, score.fault.as_ref()?))).collect();
            if faults.iter().map(|(stake, _)| stake).sum::<u64>() * 2 > stake {
                let (_, fault) = faults[0];
                return Some(Exclusion::new(pinned.peer, fault.reason, &fault.detail));
            }
            let bounds = votes.iter().filter_map(|(stake, score)| {
                let bound = upper_bound(&score.unassigned?, manifest.scoring.harm_sigmas)?;
                bound.is_finite().then_some((bound, *stake))
            });
            let bound = weighted_median(bounds.collect())?;
            let detail = || format!("raises the loss by at least {:.2e} nats a token", -bound);
            (bound < 0.0).then(|| Exclusion::new(pinned.peer, Reason::Harmful, detail()))
        })
        .collect()
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

/// The value at which half of the weight is reached; the lower one of two when the weight splits evenly.
fn weighted_median(mut values: Vec<(f64, u64)>) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = values.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0;
    for (value, weight) in values {
        reached += weight;
        if weight > 0 && reached * 2 >= total {
            return Some(value);
        }
    }
    None
}

/// The shares of `candidates`: equal weights, the mean over R, each norm clipped to the median norm.
///
/// coefficient = α · 1/R · min(1, median ÷ norm). In f64 and rounded once, so that every observer gets the
/// same f32.
pub fn shares(manifest: &Manifest, candidates: &[Candidate]) -> Vec<Share> {
    let mut norms: Vec<f64> = candidates.iter().map(|candidate| candidate.norm).collect();
    norms.sort_by(f64::total_cmp);
    // The lower median: of two peers the larger is clipped to the smaller, never the other way round.
    let median = norms.get(norms.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    let weight = 1.0 / candidates.len().max(1) as f64;
    candidates
        .iter()
        .map(|candidate| {
            let clips = manifest.outer.clip_to_median_norm && candidate.norm > median;
            let clip = if clips { median / candidate.norm } else { 1.0 };
            let coefficient = (f64::from(manifest.outer.learning_rate) * weight * clip) as f32;
            Share { peer: candidate.peer, weight, norm: candidate.norm, coefficient }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::{Digest, Envelope, FilePin, PeerScore, Pinned, SigningKey, Timestamp};

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn cutoff(peers: &[u8]) -> Cutoff {
        let pinned = |n: &u8| Pinned {
            peer: peer(*n),
            update: FilePin { key: "u".into(), size: 1, sha256: Digest([0; 32]), frame: Digest([0; 32]) },
            etag: "e".into(),
            receipt: Digest([0; 32]),
            received_at: Timestamp(0),
        };
        Cutoff {
            run: Digest([0; 32]),
            window: 0,
            epoch: 0,
            open: Digest([0; 32]),
            cut_at: Timestamp(0),
            pinned: peers.iter().map(pinned).collect(),
            excluded: Vec::new(),
        }
    }

    /// Scores by validator `v` with (peer, mean improvement); a mean of NaN stands for a fault.
    fn scores(v: u8, entries: &[(u8, f64)]) -> Signed<Scores> {
        let score = |(n, mean): &(u8, f64)| PeerScore {
            peer: peer(*n),
            fault: mean.is_nan().then(|| Exclusion::new(peer(*n), Reason::Malformed, "torn")),
            assigned: None,
            unassigned: (!mean.is_nan()).then_some(Improvement {
                mean: *mean,
                standard_error: 0.1,
                sequences: 8,
            }),
        };
        let scores = Scores {
            run: Digest([0; 32]),
            window: 0,
            cutoff: Digest([0; 32]),
            scores: entries.iter().map(score).collect(),
            seconds: 0.0,
        };
        Envelope::sign(scores, &SigningKey::from_seed(&[v; 32])).unwrap().1
    }

    #[test]
    fn harm_must_be_certain_and_agreed() {
        let manifest = fixtures::manifest(&[1, 2, 3]);
        let cutoff = cutoff(&[10, 11, 12]);
        // Peer 10 is slightly bad within noise, peer 11 plainly bad for all, peer 12 bad for one liar only.
        let heard = [
            scores(1, &[(10, -0.2), (11, -0.5), (12, 0.5)]),
            scores(2, &[(10, -0.2), (11, -0.6), (12, 0.5)]),
            scores(3, &[(10, -0.2), (11, -0.7), (12, -9.0)]),
        ];
        let excluded = exclusions(&manifest, &cutoff, &heard);
        assert_eq!(excluded.len(), 1);
        assert_eq!((excluded[0].peer, excluded[0].reason), (peer(11), Reason::Harmful));
    }

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
            assert!(
                (student_t(z, freedom) / t - 1.0_f64).abs() < 0.01,
                "{z} {freedom} {}",
                student_t(z, freedom)
            );
        }
    }

    #[test]
    fn faults_need_a_majority_and_strangers_have_no_say() {
        let manifest = fixtures::manifest(&[1, 2, 3]);
        let cutoff = cutoff(&[10]);
        let fault = |v| scores(v, &[(10, f64::NAN)]);
        let fine = |v| scores(v, &[(10, 1.0)]);
        assert_eq!(exclusions(&manifest, &cutoff, &[fault(1), fine(2), fine(3)]), []);
        assert_eq!(exclusions(&manifest, &cutoff, &[fault(1), fault(2), fine(3)]).len(), 1);
        assert_eq!(exclusions(&manifest, &cutoff, &[fault(7), fault(8), fine(3)]), []);
        assert_eq!(exclusions(&manifest, &cutoff, &[]), []);
    }

    #[test]
    fn shares_are_the_mean_with_large_norms_clipped() {
        let mut manifest = fixtures::manifest(&[1]);
        manifest.outer.learning_rate = 3.0;
        let candidates = [1.0, 2.0, 200.0].map(|norm| Candidate { peer: peer(norm as u8), norm });
        let shares = shares(&manifest, &candidates);
        assert_eq!(shares.iter().map(|share| share.weight).sum::<f64>(), 1.0);
        assert_eq!(shares.iter().map(|share| share.coefficient).collect::<Vec<_>>(), [1.0, 1.0, 0.01]);
    }

    #[test]
    fn nothing_to_merge_is_no_panic() {
        assert_eq!(shares(&fixtures::manifest(&[1]), &[]), []);
        let zero = [Candidate { peer: peer(1), norm: 0.0 }];
        assert!(shares(&fixtures::manifest(&[1]), &zero)[0].coefficient.is_finite());
    }
}
