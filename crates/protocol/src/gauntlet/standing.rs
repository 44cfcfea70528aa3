//! What is known of a peer from all windows so far.

use serde::{Deserialize, Serialize};

use super::rating::Rating;
use super::terms::Gauntlet;
use crate::{Digest, PeerId};

/// A peer's standing after a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The peer.
    pub peer: PeerId,
    /// How good its updates are, compared with the others'.
    pub rating: Rating,
    /// How much likelier it is that the peer trains on what it is assigned than that it does not, in nats; it has weight only
    /// while this is above 0.
    pub credit: f64,
    /// Windows in which an update of it was pinned.
    pub windows: u32,
    /// Whether every figure that the weight needs was measured in this window.
    pub is_scored: bool,
    /// Its share of the reward; all shares sum to 1, or to 0 if nobody has earned any.
    pub weight: f64,
    /// The contents of its last updates, the newest last.
    #[serde(default)]
    pub contents: Vec<Digest>,
}

impl Standing {
    /// Of somebody who is seen for the first time.
    #[must_use]
    pub fn new(peer: PeerId) -> Self {
        Self {
            peer,
            rating: Rating::default(),
            credit: 0.0,
            windows: 0,
            is_scored: false,
            weight: 0.0,
            contents: Vec::new(),
        }
    }

    /// What a window's trace, in standard errors, does to the credit, where who works shows about twice `demanded` and who
    /// does not shows 0, each give or take 1: the logarithm of how much likelier such a trace is of the former (Wald's
    /// sequential test, Annals of Mathematical Statistics 16:117). No window tells more than those two means would.
    ///
    /// It grows by what the `worst` of two validators who disagree says, and falls by what the `best` says.
    pub(super) fn learn(&mut self, worst: f64, best: f64, demanded: f64, terms: &Gauntlet) {
        let told = |sigmas: f64| 2.0 * demanded * (sigmas.clamp(-2.0 * demanded, 2.0 * demanded) - demanded);
        let credit = self.credit + told(worst).max(0.0) + told(best).min(0.0);
        self.credit = credit.clamp(-terms.credit_limit, terms.credit_limit);
    }

    /// An update that raises the loss costs half of the credit that can be had: two in a row, all of it.
    pub(super) fn warn(&mut self, terms: &Gauntlet) {
        self.credit -= terms.credit_limit / 2.0;
    }

    /// All credit is gone, and as much again is to be earned.
    pub(super) fn distrust(&mut self, terms: &Gauntlet) {
        self.credit = -terms.credit_limit;
    }

    /// The share of the reward before it is divided by everybody's: skill × trace, the published formula with the trace in place of
    /// the running sign of assigned against unassigned.
    pub(super) fn merit(&self, terms: &Gauntlet) -> f64 {
        if !self.is_scored {
            return 0.0;
        }
        let skill = self.rating.ordinal().max(0.0).powf(terms.skill_power);
        skill * (self.credit / terms.credit_limit).clamp(0.0, 1.0)
    }
}

/// The weights as Bittensor's `set_weights` takes them: for every peer that has any, its place among `uids` and its weight, of
/// which the largest is 65535.
#[must_use]
pub fn set_weights(standings: &[Standing], uids: &[(PeerId, u16)]) -> Vec<(u16, u16)> {
    let largest = standings.iter().map(|standing| standing.weight).fold(0.0, f64::max);
    let of = |standing: &Standing| {
        let (_, uid) = uids.iter().find(|(peer, _)| *peer == standing.peer)?;
        let weight = (standing.weight / largest * f64::from(u16::MAX)).round() as u16;
        (weight > 0).then_some((*uid, weight))
    };
    standings.iter().filter_map(of).collect()
}
