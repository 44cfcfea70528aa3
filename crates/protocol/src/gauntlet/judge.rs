//! The verdict of a window: a pure function of public records, so that every observer reaches the same.

use super::copies::{Sent, Voice, voices};
use super::gram::Gram;
use super::median::{FEWEST, lower_median, trust, upper_median};
use super::opinion::Opinion;
use super::rating::{Player, Rating, rate};
use super::robust;
use super::standing::Standing;
use crate::{Cutoff, Exclusion, Manifest, PeerId, Pinned, Reason, Scores, Share, Signed};

/// Standard errors of trace that are one where too few peers are there to compare with.
const LEAST_TRACE: f64 = 1.0;

/// What a window is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The terms.
    pub manifest: &'a Manifest,
    /// What was pinned.
    pub cutoff: &'a Cutoff,
    /// What validators say of it.
    pub heard: &'a [Signed<Scores>],
    /// Inner products of the pinned updates, in the order of the cutoff.
    pub gram: &'a Gram,
    /// Everybody's standing after the window before, ordered by peer.
    pub previous: &'a [Standing],
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What is merged, ordered by peer.
    pub shares: Vec<Share>,
    /// What is not although it was pinned, ordered by peer.
    pub excluded: Vec<Exclusion>,
    /// Everybody's standing, ordered by peer.
    pub standings: Vec<Standing>,
}

/// Judges a window.
///
/// An update is excluded by the first of these that holds: validators refuse it; its peer did not have θ; it was sent before; it is out of all
/// proportion; another peer sent it first; it raises the loss; it does far less than the others; its peer has for several
/// windows left no trace of training on what it was assigned. The rest are merged under the run's rule, each norm clipped to
/// the median.
#[must_use]
pub fn judge(case: &Case<'_>) -> Judgement {
    let pinned = &case.cutoff.pinned;
    let opinions: Vec<Opinion> =
        pinned.iter().map(|pinned| Opinion::of(case.manifest, case.heard, &pinned.peer)).collect();
    let count = pinned.len();
    let credits: Vec<f64> =
        pinned.iter().map(|pinned| known(case, &pinned.peer).map_or(0.0, |s| s.credit)).collect();
    let is_new = |pinned: &Pinned| {
        let grace = case.manifest.gauntlet.grace_windows;
        known(case, &pinned.peer).is_none_or(|standing| standing.windows < grace)
    };
    let newcomers: Vec<bool> = pinned.iter().map(is_new).collect();
    let work = work(&opinions, &credits, &newcomers);
    let (reasons, lenient) = (vec![None; count], vec![false; count]);
    let mut window =
        Window { case, opinions, credits, newcomers, work, reasons, voices: Vec::new(), lenient };
    window.refused();
    window.replayed();
    window.oversized();
    window.copied();
    window.scored();
    // What they did is known only now.
    let standings = window.standings();
    let shares = window.shares();
    Judgement { shares, excluded: window.reasons.into_iter().flatten().collect(), standings }
}

/// What was known of `peer` before the window.
fn known<'a>(case: &Case<'a>, peer: &PeerId) -> Option<&'a Standing> {
    let at = case.previous.binary_search_by_key(peer, |standing| standing.peer).ok()?;
    Some(&case.previous[at])
}

/// What work shows in this window, nats a token: the upper median of the traces of the peers that are known to work, since most
/// peers work, or of all that are no newcomers, if that is less. By the former alone, whose luck was bad would be known no more, and
/// count no more. Nothing of so few that two of them would set the measure for all.
fn work(opinions: &[Opinion], credits: &[f64], newcomers: &[bool]) -> Option<f64> {
    let traced: Vec<usize> = (0..opinions.len()).filter(|&number| opinions[number].trace.is_some()).collect();
    let settled: Vec<usize> = traced.iter().copied().filter(|&number| !newcomers[number]).collect();
    if traced.len() < FEWEST {
        return None;
    }
    let trace = |number: usize| opinions[number].trace.map_or(0.0, |trace| trace.mean);
    let trust = trust(&traced.iter().map(|&number| credits[number]).collect::<Vec<_>>());
    let of_known = upper_median(traced.iter().map(|&number| trace(number)).zip(trust))?;
    let of_settled = upper_median(settled.iter().map(|&number| (trace(number), 1)));
    let of_settled = of_settled.filter(|_| settled.len() >= FEWEST).unwrap_or(f64::INFINITY);
    Some(of_known.min(of_settled)).filter(|work| *work > 0.0)
}

/// A window under judgement. Everything is in the order of the cutoff.
struct Window<'a> {
    case: &'a Case<'a>,
    opinions: Vec<Opinion>,
    /// Credit before the window.
    credits: Vec<f64>,
    /// Whether the peer is in its windows of grace.
    newcomers: Vec<bool>,
    /// What work shows, nats a token of trace.
    work: Option<f64>,
    reasons: Vec<Option<Exclusion>>,
    voices: Vec<Voice>,
    /// Whose update raises the loss, and is merged all the same.
    lenient: Vec<bool>,
}

impl Window<'_> {
    fn pinned(&self) -> &[Pinned] {
        &self.case.cutoff.pinned
    }

    /// Of `number`, unless it is excluded already.
    fn exclude(&mut self, number: usize, reason: Reason, detail: impl std::fmt::Display) {
        let peer = self.pinned()[number].peer;
        self.reasons[number].get_or_insert_with(|| Exclusion::new(peer, reason, detail));
    }

    /// The numbers that are not excluded yet.
    fn left(&self) -> Vec<usize> {
        (0..self.reasons.len()).filter(|&number| self.reasons[number].is_none()).collect()
    }

    fn before(&self, number: usize) -> Option<&Standing> {
        known(self.case, &self.pinned()[number].peer)
    }

    /// How much each of `numbers` counts when it is asked what is usual among them.
    fn trust(&self, numbers: &[usize]) -> Vec<u128> {
        trust(&numbers.iter().map(|&number| self.credits[number]).collect::<Vec<_>>())
    }

    fn refused(&mut self) {
        let tolerance = self.case.manifest.scoring.start_tolerance;
        for number in self.left() {
            self.reasons[number] = self.opinions[number].fault.take();
            if let Some(gap) = self.opinions[number].start_gap.filter(|gap| *gap > tolerance) {
                let detail =
                    format!("its losses before the first step are {gap:.3} nats a token from those of θ");
                self.exclude(number, Reason::WrongStart, detail);
            }
        }
    }

    fn replayed(&mut self) {
        for number in self.left() {
            let content = self.pinned()[number].content;
            let sent = self.case.previous.iter().find(|standing| standing.contents.contains(&content));
            if let Some(standing) = sent {
                let detail = format!("{} has sent it in an earlier window", standing.peer.short());
                self.exclude(number, Reason::Replayed, detail);
            }
        }
    }

    fn oversized(&mut self) {
        let (left, gram) = (self.left(), self.case.gram);
        // The upper one of two: who sends next to nothing must not make the others long.
        let norms = left.iter().map(|&number| gram.norm(number)).zip(self.trust(&left));
        let Some(median) = upper_median(norms).filter(|median| left.len() >= FEWEST && *median > 0.0) else {
            return;
        };
        let most = self.case.manifest.gauntlet.max_norm_ratio * median;
        for number in left {
            let norm = gram.norm(number);
            if norm > most {
                self.exclude(
                    number,
                    Reason::Oversized,
                    format!("{:.1} times the median norm", norm / median),
                );
            }
        }
    }

    fn copied(&mut self) {
        let left = self.left();
        let sent: Vec<Sent> = left
            .iter()
            .map(|&number| &self.pinned()[number])
            .map(|pinned| Sent { received_at: pinned.received_at, mirrored_at: pinned.mirrored_at })
            .collect();
        let gram = self.case.gram.of(&left);
        for voice in voices(&gram, self.likeness(&gram, &left), &sent) {
            let number = |members: &[usize]| members.iter().map(|&member| left[member]).collect::<Vec<_>>();
            let (mut first, copies) = (number(&voice.first), number(&voice.copies));
            // At the start of a run everybody's updates are alike. Newcomers share a voice, which earns a copier nothing.
            let (new, copies): (Vec<usize>, Vec<usize>) =
                copies.into_iter().partition(|&n| self.newcomers[n]);
            first.extend(new);
            let voice = Voice { first, copies };
            for &copy in &voice.copies {
                let first = voice.first.first().map(|&first| self.pinned()[first].peer.short());
                let detail = format!("{} sent nearly the same before", first.unwrap_or_default());
                self.exclude(copy, Reason::Copied, detail);
            }
            self.voices.push(voice);
        }
    }

    /// How many standard errors of trace are demanded of `number`: half of what work would show on the sequences that it was measured
    /// on. The fewer those are, the less is demanded, and the less follows from it.
    fn demanded(&self, number: usize) -> Option<f64> {
        let expected = self.work? / self.opinions[number].trace?.error.max(f64::MIN_POSITIVE);
        Some(self.case.manifest.gauntlet.trace_sigmas.min(expected / 2.0))
    }

    /// The cosine beyond which two updates are copies: `copy_cosine` of the way from what is usual in this window to 1. At the start
    /// of a run all point the same way.
    fn likeness(&self, gram: &Gram, left: &[usize]) -> f64 {
        let pairs = (0..gram.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let trust = self.trust(left);
        let cosine = |(i, j): (usize, usize)| (gram.cosine(i, j), trust[i] * trust[j]);
        let usual = lower_median(pairs.map(cosine)).filter(|_| gram.len() >= FEWEST);
        let usual = usual.unwrap_or(0.0).max(0.0);
        usual + (1.0 - usual) * self.case.manifest.gauntlet.copy_cosine
    }

    fn scored(&mut self) {
        let terms = &self.case.manifest.gauntlet;
        for number in self.left() {
            let Opinion { best_gain, best_merit, trace, .. } = self.opinions[number];
            let before = self.before(number);
            let has_no_credit = before.is_some_and(|standing| standing.credit <= -terms.credit_limit);
            let demanded = self.demanded(number);
            let both = trace.zip(demanded);
            let shows = both.is_some_and(|(trace, demanded)| trace.sigmas >= demanded);
            let lacks = both.is_some_and(|(trace, demanded)| trace.best_sigmas < demanded);
            // Where the outer step overshoots, honest work may raise the loss when it is alone. Who is known to work, and shows that
            // it did, has such a window now and then; every one of them costs credit.
            let is_trusted = before.is_some_and(|standing| standing.credit > 0.0);
            let is_lenient = is_trusted && shows;
            let is_below = |bound: Option<f64>| bound.is_some_and(|bound| bound < 0.0);
            if is_below(best_gain) && is_lenient {
                self.lenient[number] = true;
            } else if is_below(best_gain) {
                let least = -best_gain.unwrap_or_default();
                let detail = format!("raises the loss by at least {least:.2e} nats a token");
                self.exclude(number, Reason::Harmful, detail);
            } else if is_below(best_merit) && !is_trusted {
                self.exclude(number, Reason::Idle, "improves the loss far less than the median peer");
            } else if has_no_credit && lacks {
                let detail = "no trace of its assigned sequences in the last windows";
                self.exclude(number, Reason::Untraced, detail);
            }
        }
    }

    /// Everybody's standing after this window.
    fn standings(&self) -> Vec<Standing> {
        let terms = &self.case.manifest.gauntlet;
        let mut all = self.case.previous.to_vec();
        for standing in &mut all {
            standing.is_scored = false;
        }
        for pinned in self.pinned() {
            if let Err(at) = all.binary_search_by_key(&pinned.peer, |standing| standing.peer) {
                all.insert(at, Standing::new(pinned.peer));
            }
        }
        let places: Vec<usize> = self
            .pinned()
            .iter()
            .map(|pinned| all.partition_point(|standing| standing.peer < pinned.peer))
            .collect();
        for (number, rating) in self.ratings(&places, &all) {
            all[places[number]].rating = rating;
        }
        for (number, &place) in places.iter().enumerate() {
            let standing = &mut all[place];
            standing.windows = standing.windows.saturating_add(1);
            standing.contents.push(self.pinned()[number].content);
            let surplus = standing.contents.len().saturating_sub(terms.replay_windows as usize);
            standing.contents.drain(..surplus);
            let opinion = &self.opinions[number];
            match &self.reasons[number] {
                // What is left is mended by leaving traces again.
                None => {}
                Some(exclusion) if matches!(exclusion.reason, Reason::Untraced | Reason::Oversized) => {}
                Some(exclusion) if exclusion.reason == Reason::Harmful => {
                    // It may have been a bad window, which shows in that it worked. Then what it costs is that window.
                    if let (Some(trace), Some(demanded)) = (opinion.trace, self.demanded(number)) {
                        standing.learn(f64::NEG_INFINITY, trace.best_sigmas, demanded, terms);
                    }
                    continue;
                }
                Some(_) => {
                    standing.distrust(terms);
                    continue;
                }
            }
            match (opinion.trace, self.demanded(number)) {
                _ if self.lenient[number] => standing.warn(terms),
                (Some(trace), Some(demanded)) => {
                    standing.learn(trace.sigmas, trace.best_sigmas, demanded, terms);
                }
                // Where nobody can be blamed, a trace that is plain to see is still one.
                (Some(trace), None) if trace.sigmas >= LEAST_TRACE => {
                    standing.learn(trace.sigmas, trace.sigmas, LEAST_TRACE / 2.0, terms);
                }
                _ => {}
            }
            standing.is_scored =
                opinion.trace.is_some() && opinion.gain.is_some() && self.reasons[number].is_none();
        }
        let merits: Vec<f64> = all.iter().map(|standing| standing.merit(terms)).collect();
        let sum: f64 = merits.iter().sum();
        for (standing, merit) in all.iter_mut().zip(merits) {
            standing.weight = if sum > 0.0 { merit / sum } else { 0.0 };
        }
        all
    }

    /// New ratings of everybody whose update was measured or found out; who was found out has lost.
    fn ratings(&self, places: &[usize], standings: &[Standing]) -> Vec<(usize, Rating)> {
        let score = |number: usize| match (&self.reasons[number], self.opinions[number].gain) {
            (Some(_), _) => Some((f64::MIN, 0.0)),
            (None, gain) => gain,
        };
        let mut played: Vec<(usize, Player)> = (0..places.len())
            .filter_map(|number| {
                let ((score, error), rating) = (score(number)?, standings[places[number]].rating);
                Some((number, Player { rating, score, error, counts: true }))
            })
            .collect();
        let numbers: Vec<usize> = played.iter().map(|(number, _)| *number).collect();
        for ((_, player), trust) in played.iter_mut().zip(self.trust(&numbers)) {
            player.counts = trust > 0;
        }
        let players: Vec<Player> = played.iter().map(|&(_, player)| player).collect();
        let after = rate(&players, self.case.manifest.gauntlet.skill);
        played.into_iter().map(|(number, _)| number).zip(after).collect()
    }

    /// What is merged: weights by the run's rule and by voices, each norm clipped to the median.
    ///
    /// coefficient = α · weight · min(1, median ÷ norm). In f64 and rounded once, so that every observer gets the same f32.
    fn shares(&self) -> Vec<Share> {
        let (left, manifest) = (self.left(), self.case.manifest);
        let gram = self.case.gram.of(&left);
        let faulty = (manifest.gauntlet.faulty_share * left.len() as f64) as usize;
        let mut weights = robust::weights(manifest.gauntlet.rule, &gram, faulty);
        for (weight, number) in weights.iter_mut().zip(&left) {
            let is_in = |voice: &&Voice| voice.first.contains(number);
            let members = |voice: &Voice| voice.first.iter().filter(|member| left.contains(member)).count();
            let mouths = self.voices.iter().find(is_in).map_or(1, members);
            *weight /= mouths.max(1) as f64;
        }
        let sum: f64 = weights.iter().sum();
        // The lower median: of two peers, or where half of them scale theirs up, the larger is clipped to the smaller, never the other way round.
        let norms = (0..gram.len()).map(|i| gram.norm(i)).zip(self.trust(&left));
        let median = lower_median(norms).unwrap_or(0.0);
        let share = |(i, weight): (usize, f64)| {
            let (norm, weight) = (gram.norm(i), weight / sum);
            let clips = manifest.outer.clip_to_median_norm && norm > median;
            let clip = if clips { median / norm } else { 1.0 };
            let coefficient = (f64::from(manifest.outer.learning_rate) * weight * clip) as f32;
            Share { peer: self.pinned()[left[i]].peer, weight, norm, coefficient }
        };
        // Whom the rule gives no weight has delivered all the same, and is not absent.
        weights.into_iter().enumerate().map(share).collect()
    }
}
