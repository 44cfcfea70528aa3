//! Skill ratings: what a peer's placings over many windows say of it.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use skillratings::Outcomes;
use skillratings::weng_lin::{WengLinConfig, WengLinRating, weng_lin};

/// A belief about how good a peer's updates are: normal, with mean μ and deviation σ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rating {
    /// μ.
    pub mu: f64,
    /// σ.
    pub sigma: f64,
}

impl Default for Rating {
    /// Of somebody who has not been seen yet: [`Rating::ordinal`] is 0.
    fn default() -> Self {
        Self { mu: 25.0, sigma: 25.0 / 3.0 }
    }
}

impl Rating {
    /// What the peer's skill exceeds almost surely: μ − 3σ.
    #[must_use]
    pub fn ordinal(&self) -> f64 {
        self.mu - 3.0 * self.sigma
    }
}

/// Constants of the rating.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Skill {
    /// How far apart two peers are of whom the better wins two of three times.
    pub beta: f64,
    /// How much σ² grows by in every window, as its square root: peers change.
    pub tau: f64,
}

impl Default for Skill {
    /// Those of Covenant-72B.
    fn default() -> Self {
        Self { beta: 7.0, tau: 0.1 }
    }
}

/// How many games a window counts for, however many opponents there are: all were decided by the same few sequences.
const GAMES: f64 = 4.0;

/// A window as a match: the ratings afterwards, in the order of `players`, each with its score; the higher one wins, equal scores
/// are a draw. With fewer than two players nothing is learned.
///
/// Weng and Lin's rule for two players (JMLR 12:267, algorithm 1), which OpenSkill is made of too, against every opponent; what that
/// does to μ, and to the logarithm of σ, is averaged over the opponents and counts for at most four games.
#[must_use]
pub fn rate(players: &[(Rating, f64)], skill: Skill) -> Vec<Rating> {
    let opponents = players.len().saturating_sub(1) as f64;
    let share = opponents.min(GAMES) / opponents.max(1.0);
    let config = WengLinConfig { beta: skill.beta, ..WengLinConfig::new() };
    let before = |rating: &Rating| WengLinRating {
        rating: rating.mu,
        uncertainty: (rating.sigma * rating.sigma + skill.tau * skill.tau).sqrt(),
    };
    let after = |(n, (rating, score)): (usize, &(Rating, f64))| {
        let own = before(rating);
        let (mut gained, mut sharpened) = (0.0, 0.0);
        for (m, (other, other_score)) in players.iter().enumerate() {
            if m != n {
                let outcome = match score.total_cmp(other_score) {
                    Ordering::Greater => Outcomes::WIN,
                    Ordering::Less => Outcomes::LOSS,
                    Ordering::Equal => Outcomes::DRAW,
                };
                let (then, _) = weng_lin(&own, &before(other), &outcome, &config);
                gained += then.rating - own.rating;
                sharpened += (then.uncertainty / own.uncertainty).ln();
            }
        }
        let (mu, sigma) = (own.rating + share * gained, own.uncertainty * (share * sharpened).exp());
        if mu.is_finite() && sigma.is_finite() { Rating { mu, sigma } } else { *rating }
    };
    if opponents < 1.0 {
        return players.iter().map(|(rating, _)| *rating).collect();
    }
    players.iter().enumerate().map(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wins_rises_and_who_is_seen_is_known_better() {
        let mut ratings = [Rating::default(); 3];
        for _ in 0..20 {
            let scores = [3.0, 2.0, 1.0];
            let players: Vec<_> = ratings.into_iter().zip(scores).collect();
            ratings = rate(&players, Skill::default()).try_into().unwrap();
        }
        assert!(ratings[0].mu > ratings[1].mu && ratings[1].mu > ratings[2].mu, "{ratings:?}");
        assert!((ratings[1].mu - 25.0).abs() < 1.0, "{ratings:?}");
        assert!(ratings.iter().all(|rating| rating.sigma < 7.0), "{ratings:?}");
        assert!(ratings[0].ordinal() > 5.0 && ratings[2].ordinal() < 1.0, "{ratings:?}");
    }

    #[test]
    fn of_many_one_window_decides_little_and_who_gets_better_overtakes() {
        for count in [2, 8, 30, 200] {
            let mut ratings = vec![Rating::default(); count];
            let mut play = |is_reversed: bool| {
                let score = |n: usize| if is_reversed { n as f64 } else { -(n as f64) };
                let players: Vec<_> =
                    ratings.iter().enumerate().map(|(n, rating)| (*rating, score(n))).collect();
                ratings = rate(&players, Skill::default());
                (ratings[0], ratings[count - 1])
            };
            let (first, last) = play(false);
            assert!(first.sigma > 5.0 && first.mu - last.mu < 40.0, "{count}: {first:?} {last:?}");
            for _ in 1..10 {
                play(false);
            }
            let overtaken = (0..60).position(|_| {
                let (first, last) = play(true);
                first.mu < last.mu
            });
            assert!(overtaken.is_some_and(|windows| windows < 40), "{count}: {overtaken:?}");
        }
    }

    #[test]
    fn a_draw_of_equals_moves_nobody() {
        let players = [(Rating::default(), 1.0), (Rating::default(), 1.0)];
        for rating in rate(&players, Skill::default()) {
            assert!((rating.mu - 25.0).abs() < 1e-9);
        }
        assert_eq!(rate(&players[..1], Skill::default()), [Rating::default()]);
    }
}
