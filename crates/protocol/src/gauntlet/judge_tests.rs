#![allow(clippy::unwrap_used)]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::*;
use crate::gauntlet::rating::Rating;
use crate::{
    Cutoff, Digest, Envelope, Exclusion, FilePin, Improvement, Manifest, PeerId, PeerScore, Pinned, Reason,
    Scores, Signed, SigningKey, Timestamp, fixtures,
};

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

/// What one update is like. Peer `n` is the one at place `n`.
#[derive(Clone, Copy)]
struct Sketch {
    norm: f64,
    gain: f64,
    merit: f64,
    trace: f64,
    start_gap: f64,
    content: u8,
    at: u64,
}

const HONEST: Sketch =
    Sketch { norm: 1.0, gain: 0.1, merit: 0.08, trace: 0.05, start_gap: 0.001, content: 0, at: 0 };

/// A window of updates that have a cosine of 0.05, but for those of `alike`, which have 0.9.
struct World {
    manifest: Manifest,
    sketches: Vec<Sketch>,
    alike: Vec<(usize, usize)>,
    standings: Vec<Standing>,
    window: u64,
}

impl World {
    fn new(sketches: &[Sketch]) -> Self {
        let manifest = fixtures::manifest(&[1, 2, 3]);
        let (sketches, alike, standings) = (sketches.to_vec(), Vec::new(), Vec::new());
        Self { manifest, sketches, alike, standings, window: 0 }
    }

    fn cutoff(&self) -> Cutoff {
        let zero = Digest([0; 32]);
        let pinned = |(n, sketch): (usize, &Sketch)| Pinned {
            peer: peer(n as u8),
            update: FilePin { key: "u".into(), size: 1, sha256: zero, frame: zero },
            etag: "e".into(),
            receipt: zero,
            received_at: Timestamp(sketch.at),
            mirrored_at: Timestamp(sketch.at + 1),
            content: match sketch.content {
                0 => Digest::of([n as u8, self.window as u8]),
                same => Digest([same; 32]),
            },
            start_losses: Vec::new(),
        };
        let pinned = self.sketches.iter().enumerate().map(pinned).collect();
        let window = self.window;
        Cutoff { run: zero, window, epoch: 0, open: zero, cut_at: Timestamp(0), pinned, excluded: Vec::new() }
    }

    /// What validator `v` says.
    fn scores(&self, v: u8, change: impl Fn(&mut PeerScore)) -> Signed<Scores> {
        let measured = |mean| Some(Improvement { mean, standard_error: 0.01, sequences: 32 });
        let score = |(n, sketch): (usize, &Sketch)| {
            let (unassigned, merit, trace) =
                (measured(sketch.gain), measured(sketch.merit), measured(sketch.trace));
            let fault = None;
            let mut score = PeerScore {
                peer: peer(n as u8),
                fault,
                assigned: None,
                unassigned,
                merit,
                trace,
                start_gap: Some(sketch.start_gap),
                passes: 1,
            };
            change(&mut score);
            score
        };
        let scores = self.sketches.iter().enumerate().map(score).collect();
        let (run, cutoff) = (Digest([0; 32]), Digest([0; 32]));
        let scores = Scores { run, window: self.window, cutoff, scores, seconds: 0.0 };
        Envelope::sign(scores, &SigningKey::from_seed(&[v; 32])).unwrap().1
    }

    fn gram(&self) -> Gram {
        let g = self.sketches.len();
        let product = |i: usize, j: usize| {
            let is_alike = self.alike.contains(&(i, j)) || self.alike.contains(&(j, i));
            let cosine = if i == j {
                1.0
            } else if is_alike {
                0.9
            } else {
                0.05
            };
            cosine * self.sketches[i].norm * self.sketches[j].norm
        };
        Gram::new((0..g * g).map(|n| product(n / g, n % g)).collect()).unwrap()
    }

    fn judge(&mut self, heard: &[Signed<Scores>]) -> Judgement {
        let (cutoff, gram) = (self.cutoff(), self.gram());
        let case =
            Case { manifest: &self.manifest, cutoff: &cutoff, heard, gram: &gram, previous: &self.standings };
        let judgement = judge(&case);
        self.standings.clone_from(&judgement.standings);
        self.window += 1;
        judgement
    }

    /// A window in which all three validators measure the same.
    fn next(&mut self) -> Judgement {
        let heard = [1, 2, 3].map(|v| self.scores(v, |_| {}));
        self.judge(&heard)
    }
}

fn reasons(judgement: &Judgement) -> Vec<(u8, Reason)> {
    judgement.excluded.iter().map(|exclusion| (exclusion.peer.0[0], exclusion.reason)).collect()
}

fn weights(judgement: &Judgement) -> Vec<f64> {
    judgement.standings.iter().map(|standing| standing.weight).collect()
}

#[test]
fn the_honest_are_merged_alike_and_share_the_reward() {
    let mut world = World::new(&[HONEST; 4]);
    for _ in 0..50 {
        let judgement = world.next();
        assert_eq!(reasons(&judgement), []);
        assert!(judgement.shares.iter().all(|share| (share.weight - 0.25).abs() < 1e-12));
    }
    let last = world.next();
    assert!((weights(&last).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(weights(&last).iter().all(|weight| *weight > 0.2), "{:?}", weights(&last));
}

#[test]
fn shares_are_the_mean_with_large_norms_clipped() {
    let mut world = World::new(&[1.0, 2.0, 3.0].map(|norm| Sketch { norm, ..HONEST }));
    world.manifest.outer.learning_rate = 3.0;
    let coefficients: Vec<f32> = world.next().shares.iter().map(|share| share.coefficient).collect();
    assert_eq!(coefficients, [1.0, 1.0, 2.0 / 3.0]);
    let mut empty = World::new(&[]);
    assert_eq!(empty.next(), Judgement { shares: vec![], excluded: vec![], standings: vec![] });
    let mut zero = World::new(&[Sketch { norm: 0.0, ..HONEST }]);
    assert!(zero.next().shares[0].coefficient.is_finite());
}

#[test]
fn each_cheat_is_excluded_for_what_it_is_and_has_no_weight() {
    let cheats = [
        (Sketch { norm: 10.0, ..HONEST }, Reason::Oversized),
        (Sketch { gain: -0.1, merit: -0.2, ..HONEST }, Reason::Harmful),
        (Sketch { at: 99, ..HONEST }, Reason::Copied),
        (Sketch { content: 7, ..HONEST }, Reason::Replayed),
        (Sketch { gain: 0.0, merit: -0.05, trace: 0.0, ..HONEST }, Reason::Idle),
        (Sketch { trace: 0.0, ..HONEST }, Reason::Untraced),
    ];
    for (cheat, expected) in cheats {
        let mut world = World::new(&[HONEST; 5]);
        // Honest until they have something to lose.
        (0..10).for_each(|_| drop(world.next()));
        world.sketches[2] = cheat;
        if expected == Reason::Copied {
            world.alike.push((2, 4));
        }
        let mut last = world.next();
        for _ in 0..2 {
            last = world.next();
        }
        assert_eq!(weights(&last)[2], 0.0, "{expected:?}");
        let late = (0..3).map(|_| reasons(&world.next())).last().unwrap();
        assert_eq!(late, [(2, expected)]);
        assert!((weights(&last).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_newcomer_may_do_little_and_earns_nothing_before_it_leaves_traces() {
    let mut world = World::new(&[HONEST; 3]);
    (0..5).for_each(|_| drop(world.next()));
    // Merit is measured against what is demanded of a newcomer.
    world.sketches.push(Sketch { gain: 0.02, merit: 0.015, trace: 0.0, ..HONEST });
    let first = world.next();
    assert_eq!((reasons(&first), weights(&first)[3]), (vec![], 0.0));
    world.sketches[3] = HONEST;
    (0..8).for_each(|_| drop(world.next()));
    assert!(weights(&world.next())[3] > 0.0);
}

/// Newcomers cost nothing, so there may be any number of them.
#[test]
fn a_wave_of_newcomers_moves_nothing_that_others_are_measured_by() {
    let mut world = World::new(&[HONEST; 5]);
    (0..5).for_each(|_| drop(world.next()));
    let before = world.next().shares;
    for cheat in [
        // So short that everybody would be clipped to nothing, and long beside it.
        Sketch { norm: 0.01, trace: 0.0, ..HONEST },
        // So long that nothing would be.
        Sketch { norm: 100.0, ..HONEST },
        // Traces by which nobody else would seem to work.
        Sketch { trace: 5.0, ..HONEST },
    ] {
        let mut wave = World::new(&world.sketches);
        (wave.standings, wave.window) = (world.standings.clone(), world.window);
        wave.sketches.extend([cheat; 20]);
        let found = wave.next();
        assert!(reasons(&found).iter().all(|(peer, _)| *peer >= 5), "{:?}", reasons(&found));
        let left = found.shares.len() as f32;
        for (now, before) in found.shares.iter().zip(&before) {
            assert!((now.coefficient / before.coefficient * left / 5.0 - 1.0).abs() < 1e-5, "{now:?}");
        }
        assert!(
            found.standings[..5]
                .iter()
                .zip(&world.standings)
                .all(|(now, before)| now.credit >= before.credit)
        );
    }
}

/// Where the outer step overshoots, honest work may raise the loss when it is alone.
#[test]
fn who_is_known_to_work_may_raise_the_loss_now_and_then_and_no_more() {
    let mut world = World::new(&[HONEST; 6]);
    (0..3).for_each(|_| drop(world.next()));
    let harmful = Sketch { gain: -0.1, merit: -0.12, ..HONEST };
    for _ in 0..3 {
        world.sketches[2] = harmful;
        assert_eq!(reasons(&world.next()), vec![]);
        world.sketches[2] = HONEST;
        (0..2).for_each(|_| drop(world.next()));
    }
    world.sketches[2] = harmful;
    let found: Vec<_> = (0..4).map(|_| reasons(&world.next())).collect();
    let harm = vec![(2, Reason::Harmful)];
    assert_eq!(found, [vec![], vec![], harm.clone(), harm.clone()]);
    // Who shows no trace of work is never given the benefit of the doubt.
    world.sketches[3] = Sketch { trace: 0.0, ..harmful };
    assert!(reasons(&world.next()).contains(&(3, Reason::Harmful)));
}

#[test]
fn losses_of_another_theta_are_no_start() {
    let mut world = World::new(&[HONEST; 5]);
    (0..3).for_each(|_| drop(world.next()));
    world.sketches[1].start_gap = 0.2;
    let found = world.next();
    assert_eq!((reasons(&found), weights(&found)[1]), (vec![(1, Reason::WrongStart)], 0.0));
    // A minority of the stake cannot say so of anybody.
    world.sketches[1].start_gap = 0.001;
    let lie = |score: &mut PeerScore| score.start_gap = Some(9.0);
    let heard = [world.scores(1, |_| {}), world.scores(2, lie), world.scores(3, |_| {})];
    assert_eq!(reasons(&world.judge(&heard)), vec![]);
}

#[test]
fn one_liar_of_three_validators_moves_nothing() {
    let lie = |score: &mut PeerScore| {
        let mean = if score.peer == peer(0) { -9.0 } else { 9.0 };
        let lie = Some(Improvement { mean, standard_error: 0.01, sequences: 32 });
        (score.unassigned, score.merit, score.trace) = (lie, lie, lie);
        score.fault = (score.peer == peer(1)).then(|| Exclusion::new(peer(1), Reason::Malformed, "a lie"));
    };
    let idle = Sketch { gain: 0.0, merit: -0.05, trace: 0.0, ..HONEST };
    let mut world = World::new(&[HONEST, HONEST, HONEST, idle]);
    let (mut last, mut truth) = (world.next(), World::new(&world.sketches));
    let mut expected = truth.next();
    for _ in 0..8 {
        let heard = [world.scores(1, |_| {}), world.scores(2, lie), world.scores(3, |_| {})];
        (last, expected) = (world.judge(&heard), truth.next());
        assert_eq!((&last.shares, reasons(&last)), (&expected.shares, reasons(&expected)));
    }
    assert_eq!(weights(&last), weights(&expected));
}

/// What a peer is blamed for takes more than half of the whole stake, whoever is heard.
#[test]
fn half_of_the_stake_damns_nobody() {
    let lie = |score: &mut PeerScore| {
        if score.peer == peer(0) {
            let lie = Some(Improvement { mean: -9.0, standard_error: 0.01, sequences: 32 });
            (score.unassigned, score.merit, score.trace) = (lie, lie, lie);
            score.fault = Some(Exclusion::new(peer(0), Reason::Malformed, "a lie"));
            score.start_gap = Some(9.0);
        }
    };
    // One of two, two of four, and two of five of whom two are silent.
    for (all, liars, honest) in [(2, 1, 1), (4, 2, 2), (5, 2, 1)] {
        let mut world = World::new(&[HONEST; 5]);
        let names: Vec<u8> = (1..=all).collect();
        world.manifest = fixtures::manifest(&names);
        for _ in 0..5 {
            let heard: Vec<_> = names.iter().map(|v| world.scores(*v, |_| {})).collect();
            world.judge(&heard);
        }
        let before = world.standings[0].credit;
        for _ in 0..4 {
            let lies = names[..liars].iter().map(|v| world.scores(*v, lie));
            let truths = names[liars..liars + honest].iter().map(|v| world.scores(*v, |_| {}));
            let heard: Vec<_> = lies.chain(truths).collect();
            let found = world.judge(&heard);
            assert_eq!(reasons(&found), [], "{liars} of {all}");
            assert_eq!(found.standings[0].credit, before, "{liars} of {all}");
        }
    }
}

#[test]
fn the_reason_of_a_fault_is_what_most_say() {
    let fault =
        |reason| move |score: &mut PeerScore| score.fault = Some(Exclusion::new(score.peer, reason, "said"));
    let mut world = World::new(&[HONEST; 5]);
    let heard = [
        world.scores(1, fault(Reason::Harmful)),
        world.scores(2, fault(Reason::Malformed)),
        world.scores(3, fault(Reason::Malformed)),
    ];
    assert!(reasons(&world.judge(&heard)).iter().all(|(_, reason)| *reason == Reason::Malformed));
}

#[test]
fn faults_need_a_majority_and_strangers_have_no_say() {
    let fault = |score: &mut PeerScore| {
        score.fault = Some(Exclusion::new(score.peer, Reason::Malformed, "torn"));
    };
    let mut world = World::new(&[HONEST]);
    let (one, two, three, stranger) =
        (world.scores(1, fault), world.scores(2, fault), world.scores(3, |_| {}), world.scores(7, fault));
    let fine = world.scores(2, |_| {});
    assert_eq!(reasons(&world.judge(&[one.clone(), fine.clone(), three.clone()])), []);
    assert_eq!(reasons(&world.judge(&[stranger, fine, three.clone()])), []);
    assert_eq!(reasons(&world.judge(&[one, two, three])), [(0, Reason::Malformed)]);
    assert_eq!(reasons(&world.judge(&[])), []);
}

#[test]
fn a_validator_that_is_heard_alone_decides_nothing() {
    let damn = |score: &mut PeerScore| {
        let lie = Some(Improvement { mean: -9.0, standard_error: 0.01, sequences: 32 });
        (score.unassigned, score.merit, score.trace) = (lie, lie, lie);
    };
    let mut world = World::new(&[HONEST; 4]);
    (0..5).for_each(|_| drop(world.next()));
    let heard = [world.scores(2, damn)];
    let judgement = world.judge(&heard);
    assert_eq!((reasons(&judgement), judgement.shares.len()), (vec![], 4));
    assert!(judgement.standings.iter().all(|standing| standing.weight == 0.0 && standing.credit > 0.0));
    // Nor where the others have no figures of a peer.
    let silent = |score: &mut PeerScore| (score.unassigned, score.merit, score.trace) = (None, None, None);
    let heard = [world.scores(1, silent), world.scores(2, damn), world.scores(3, silent)];
    assert_eq!(reasons(&world.judge(&heard)), []);
}

#[test]
fn of_two_or_three_peers_none_is_blamed_for_what_the_others_are() {
    for count in [2, 3] {
        let mut world = World::new(&vec![HONEST; count]);
        world.sketches[0] = Sketch { norm: 1e-6, trace: 9.0, ..HONEST };
        for _ in 0..20 {
            assert_eq!(reasons(&world.next()), [], "{count}");
        }
        assert!(world.standings[1].weight > 0.0);
    }
}

#[test]
fn who_is_not_scored_has_no_weight_in_that_window() {
    let mut world = World::new(&[HONEST; 3]);
    (0..5).for_each(|_| drop(world.next()));
    let forget = |score: &mut PeerScore| {
        if score.peer == peer(1) {
            (score.trace, score.merit, score.unassigned) = (None, None, None);
        }
    };
    let heard = [1, 2, 3].map(|v| world.scores(v, forget));
    let judgement = world.judge(&heard);
    assert_eq!((reasons(&judgement), weights(&judgement)[1]), (vec![], 0.0));
    assert_eq!(judgement.shares.len(), 3);
    world.sketches.pop();
    assert_eq!(weights(&world.next())[2], 0.0, "absent");
}

#[test]
fn at_the_start_nobody_is_blamed_for_likeness() {
    let mut world = World::new(&[HONEST; 4]);
    world.sketches[1].at = 99;
    world.alike.push((0, 1));
    for window in 0..6 {
        let expected = if window < 3 { vec![] } else { vec![(1, Reason::Copied)] };
        assert_eq!(reasons(&world.next()), expected, "window {window}");
    }
}

#[test]
fn a_shared_voice_counts_once_and_nobody_is_blamed() {
    let mut world = World::new(&[HONEST; 4]);
    world.alike.push((0, 1));
    let judgement = world.next();
    assert_eq!(reasons(&judgement), []);
    let merged: Vec<f64> = judgement.shares.iter().map(|share| 6.0 * share.weight).collect();
    let expected = [1.0, 1.0, 2.0, 2.0];
    assert!(merged.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{merged:?}");
}

#[test]
fn weights_are_exported_for_whom_a_number_is_known() {
    let mut world = World::new(&[HONEST; 3]);
    (0..9).for_each(|_| drop(world.next()));
    let standings = world.next().standings;
    let exported = set_weights(&standings, &[(peer(2), 40), (peer(0), 7)]);
    assert_eq!(exported.len(), 2);
    assert_eq!(exported.iter().map(|(_, weight)| *weight).max(), Some(u16::MAX));
    assert_eq!(exported.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), [7, 40]);
    assert_eq!(set_weights(&[], &[]), []);
}

/// Sums of twelve uniform numbers, which are about normal.
struct Chance(ChaCha8Rng);

impl Chance {
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| f64::from(self.0.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }
}

#[test]
fn however_little_a_window_can_tell_the_honest_are_not_blamed() {
    let mut chance = Chance(ChaCha8Rng::from_seed([7; 32]));
    // A thousand peer-windows each; the traces are in standard errors.
    for power in [0.0, 0.5, 1.0, 2.0, 4.0, 8.0] {
        let mut world = World::new(&[HONEST; 20]);
        for window in 0..50 {
            for sketch in &mut world.sketches {
                sketch.trace = 0.01 * (power + chance.normal());
            }
            let judgement = world.next();
            assert_eq!(reasons(&judgement), [], "{power} standard errors, window {window}");
            // Where it can tell, it pays, too.
            let paid = weights(&judgement).iter().filter(|weight| **weight > 0.0).count();
            assert!(power < 3.0 || window < 10 || paid == 20, "{power} standard errors: {paid} are paid");
        }
    }
}

#[test]
fn who_stops_to_work_is_unpaid_within_three_windows() {
    let mut chance = Chance(ChaCha8Rng::from_seed([8; 32]));
    let (mut late, mut cheats) = (0, 0);
    for _ in 0..50 {
        let mut world = World::new(&[HONEST; 8]);
        let mut last = vec![];
        for window in 0..13 {
            for (n, sketch) in world.sketches.iter_mut().enumerate() {
                let power = if n < 2 && window >= 10 { 0.0 } else { 6.0 };
                sketch.trace = 0.01 * (power + chance.normal());
            }
            last = weights(&world.next());
        }
        late += last[..2].iter().filter(|weight| **weight > 0.0).count();
        cheats += 2;
    }
    assert!(late * 33 <= cheats, "{late} of {cheats}");
}

/// Numbers that break arithmetic, and some that do not.
fn any_number(chance: &mut ChaCha8Rng) -> f64 {
    const NUMBERS: [f64; 14] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.1,
        1e-300,
        -1e-300,
        1e300,
        -1e300,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    NUMBERS[chance.next_u32() as usize % NUMBERS.len()]
}

#[test]
fn whatever_numbers_validators_sign_the_verdict_has_numbers() {
    let mut chance = ChaCha8Rng::from_seed([9; 32]);
    for case in 0..400 {
        let mut world = World::new(&[HONEST; 6]);
        for _ in 0..6 {
            let mut any = |from: Option<Improvement>| match chance.next_u32() % 4 {
                0 => from,
                1 => None,
                _ => Some(Improvement {
                    mean: any_number(&mut chance),
                    standard_error: any_number(&mut chance),
                    sequences: [0, 1, 2, 32, u32::MAX][chance.next_u32() as usize % 5],
                }),
            };
            let mut heard = [1, 2, 3].map(|v| world.scores(v, |_| {}));
            for score in heard.iter_mut().flat_map(|scores| &mut scores.record.scores) {
                (score.unassigned, score.merit) = (any(score.unassigned), any(score.merit));
                (score.assigned, score.trace) = (any(score.assigned), any(score.trace));
                score.start_gap = score.trace.map(|trace| trace.mean);
            }
            let found = world.judge(&heard);
            let limit = world.manifest.gauntlet.credit_limit;
            for standing in &found.standings {
                assert!(
                    standing.rating.mu.is_finite() && standing.rating.sigma > 0.0,
                    "{case}: {standing:?}"
                );
                assert!(standing.credit.abs() <= limit, "{case}: {standing:?}");
                assert!((0.0..=1.0).contains(&standing.weight), "{case}: {standing:?}");
            }
            let sum: f64 = weights(&found).iter().sum();
            assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{case}: {sum}");
            assert!(
                found.shares.iter().all(|share| (0.0..=1.0).contains(&share.coefficient)),
                "{case}: {found:?}"
            );
        }
    }
}

/// Those before are the aggregator's word, and an auditor reads them before it knows whether they are true.
#[test]
fn no_standing_makes_a_judge_panic() {
    let mut chance = ChaCha8Rng::from_seed([10; 32]);
    for _ in 0..2_000 {
        let mut world = World::new(&[HONEST; 6]);
        world.next();
        for standing in &mut world.standings {
            standing.credit = any_number(&mut chance);
            standing.rating = Rating { mu: any_number(&mut chance), sigma: any_number(&mut chance) };
            standing.windows = [0, 3, u32::MAX][chance.next_u32() as usize % 3];
        }
        if chance.next_u32().is_multiple_of(2) {
            world.standings.reverse();
        }
        assert_eq!(world.next().shares.len() + world.next().excluded.len(), 6);
    }
}
