//! What came of a run under attack: what was seen of every peer in every window, and the figures that follow from it.

use brigade_protocol::{Exclusion, Reason};
use serde::Serialize;

/// One peer in one window.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Seen {
    pub(super) window: u64,
    pub(super) peer: usize,
    /// Whether it does what the attack is.
    pub(super) cheats: bool,
    /// Improvement of the loss on sequences that nobody was assigned, nats a token, and its standard error.
    pub(super) gain: Option<f64>,
    pub(super) gain_error: Option<f64>,
    /// The trace of its assigned sequences, nats a token, and its standard error.
    pub(super) trace: Option<f64>,
    pub(super) trace_error: Option<f64>,
    pub(super) start_gap: Option<f64>,
    /// Sequences that went through the validator's model for it.
    pub(super) passes: u32,
    pub(super) excluded: Option<Exclusion>,
    pub(super) credit: f64,
    /// μ − 3σ.
    pub(super) skill: f64,
    pub(super) weight: f64,
    /// `gain`, sequence by sequence.
    pub(super) gains: Vec<f64>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Held-out loss after each window, nats a token; the last is no number if training diverged.
    pub(super) losses: Vec<f64>,
    /// The first window in which somebody cheated.
    pub(super) begins: u64,
    /// How many of the cheats' shares are due to them all the same: colluders and Sybils have done the work of one.
    pub(super) due: usize,
    /// In the order of windows, then of peers.
    pub(super) seen: Vec<Seen>,
}

impl Outcome {
    /// Held-out loss at the end, nats a token.
    pub(super) fn loss(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::NAN)
    }

    fn attacked(&self) -> impl Iterator<Item = &[Seen]> {
        self.windows().filter(|window| window[0].window >= self.begins)
    }

    fn windows(&self) -> impl Iterator<Item = &[Seen]> {
        self.seen.chunk_by(|a, b| a.window == b.window)
    }

    /// What the cheats of a window get beyond what is due to them: the weights of all but the best paid, as many as are due.
    fn undue(&self, window: &[Seen]) -> f64 {
        let cheats = window.iter().filter(|seen| seen.cheats);
        let mut weights: Vec<f64> = cheats.map(|seen| seen.weight).collect();
        weights.sort_by(|a, b| b.total_cmp(a));
        weights.iter().skip(self.due).sum()
    }

    /// Windows from the first cheat until no cheat gets any more than its due; `None` if that never happens.
    pub(super) fn windows_to_zero_weight(&self) -> Option<u64> {
        let last = self.attacked().filter(|window| self.undue(window) > 0.0).last();
        let zero = last.map_or(0, |window| window[0].window + 1 - self.begins);
        (zero < self.attacked().count() as u64).then_some(zero)
    }

    /// Share of all weights, from the first cheat on, that cheats got beyond their due.
    pub(super) fn cheat_reward_share(&self) -> f64 {
        let all: f64 = self.attacked().flatten().map(|seen| seen.weight).sum();
        let undue: f64 = self.attacked().map(|window| self.undue(window)).sum();
        // The sum of nothing is −0.
        if all > 0.0 { undue / all + 0.0 } else { 0.0 }
    }

    /// Honest updates that were excluded.
    pub(super) fn blamed(&self) -> impl Iterator<Item = (u64, &Exclusion)> {
        let honest = self.seen.iter().filter(|seen| !seen.cheats);
        honest.filter_map(|seen| Some((seen.window, seen.excluded.as_ref()?)))
    }

    /// Why cheats were excluded.
    pub(super) fn reasons(&self) -> impl Iterator<Item = Reason> {
        let cheats = self.seen.iter().filter(|seen| seen.cheats);
        cheats.filter_map(|seen| Some(seen.excluded.as_ref()?.reason))
    }

    /// Sequences that went through the model for a peer and a window, on average.
    pub(super) fn passes(&self) -> f64 {
        let measured: Vec<f64> =
            self.seen.iter().filter(|seen| seen.passes > 0).map(|seen| f64::from(seen.passes)).collect();
        measured.iter().sum::<f64>() / measured.len().max(1) as f64
    }

    /// How well `sequences` of them tell the honest from cheats by the mean gain: the probability that an honest peer's is
    /// above a cheat's of the same window, ties counting half (area under the ROC curve). Who was measured on fewer, being
    /// decided, has the mean of those. `None` without both.
    pub(super) fn separation(&self, sequences: usize) -> Option<f64> {
        let mean = |seen: &Seen| {
            let first = &seen.gains[..seen.gains.len().min(sequences)];
            (!first.is_empty()).then(|| first.iter().sum::<f64>() / first.len() as f64)
        };
        let (mut won, mut pairs) = (0.0, 0.0);
        for window in self.attacked() {
            let of = |cheats: bool| window.iter().filter(move |seen| seen.cheats == cheats).filter_map(mean);
            for honest in of(false) {
                for cheat in of(true) {
                    pairs += 1.0;
                    won += if honest > cheat {
                        1.0
                    } else if honest == cheat {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
        }
        (pairs > 0.0).then(|| won / pairs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn outcome(due: usize, windows: &[[(bool, f64); 3]]) -> Outcome {
        let seen = |window: usize, peer: usize, (cheats, weight): (bool, f64)| Seen {
            window: window as u64,
            peer,
            cheats,
            gain: None,
            gain_error: None,
            trace: None,
            trace_error: None,
            start_gap: None,
            passes: 0,
            excluded: None,
            credit: 0.0,
            skill: 0.0,
            weight,
            gains: vec![if cheats { 0.1 } else { 0.1 + window as f64 }],
        };
        let seen = windows.iter().enumerate().flat_map(|(window, peers)| {
            peers.iter().enumerate().map(move |(peer, one)| seen(window, peer, *one))
        });
        Outcome { losses: vec![1.0], begins: 1, due, seen: seen.collect() }
    }

    #[test]
    fn weights_count_from_the_first_cheat_on() {
        let (honest, zero) = ((false, 0.5), (true, 0.0));
        let windows = [[honest, (true, 0.3), (true, 0.6)], [honest, zero, (true, 0.5)], [honest, zero, zero]];
        let found = outcome(0, &windows);
        assert_eq!(found.windows_to_zero_weight(), Some(1));
        assert!((found.cheat_reward_share() - 1.0 / 3.0).abs() < 1e-12);
        // Of one peer's work, one peer's share is due.
        assert_eq!(outcome(1, &windows).windows_to_zero_weight(), Some(0));
        assert_eq!(outcome(1, &windows).cheat_reward_share(), 0.0);
        assert_eq!(outcome(0, &windows[..2]).windows_to_zero_weight(), None);
    }

    #[test]
    fn separation_is_the_share_of_pairs_in_order() {
        let (honest, cheat) = ((false, 0.5), (true, 0.0));
        let found = outcome(0, &[[honest, honest, cheat]; 2]);
        assert_eq!((found.separation(1), found.separation(2)), (Some(1.0), Some(1.0)));
        let equal = outcome(0, &[[honest; 3]; 2]);
        assert_eq!(equal.separation(1), None);
    }
}
