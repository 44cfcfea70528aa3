//! Skill ratings: what a peer's placings over many windows say of it.

use serde::{Deserialize, Serialize};
use skillratings::MultiTeamOutcome;
use skillratings::weng_lin::{WengLinConfig, WengLinRating, weng_lin_multi_team};

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

/// A window as a match: the ratings afterwards, in the order of `players`, each with its score; the highest wins, equal scores
/// are draws. With fewer than two players nothing is learned.
///
/// Weng and Lin's rule for several players (JMLR 12:267, algorithm 1), which OpenSkill is made of too.
#[must_use]
pub fn rate(players: &[(Rating, f64)], skill: Skill) -> Vec<Rating> {
    if players.len() < 2 {
        return players.iter().map(|(rating, _)| *rating).collect();
    }
    let before: Vec<[WengLinRating; 1]> = players
        .iter()
        .map(|(Rating { mu, sigma }, _)| {
            [WengLinRating { rating: *mu, uncertainty: (sigma * sigma + skill.tau * skill.tau).sqrt() }]
        })
        .collect();
    let place = |score: f64| 1 + players.iter().filter(|(_, other)| other.total_cmp(&score).is_gt()).count();
    let teams: Vec<(&[WengLinRating], MultiTeamOutcome)> = before
        .iter()
        .zip(players)
        .map(|(rating, (_, score))| (&rating[..], MultiTeamOutcome::new(place(*score))))
        .collect();
    let config = WengLinConfig { beta: skill.beta, ..WengLinConfig::new() };
    let after = weng_lin_multi_team(&teams, &config).into_iter().flatten();
    after.map(|WengLinRating { rating, uncertainty }| Rating { mu: rating, sigma: uncertainty }).collect()
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
    fn a_draw_of_equals_moves_nobody() {
        let players = [(Rating::default(), 1.0), (Rating::default(), 1.0)];
        for rating in rate(&players, Skill::default()) {
            assert!((rating.mu - 25.0).abs() < 1e-9);
        }
        assert_eq!(rate(&players[..1], Skill::default()), [Rating::default()]);
    }
}
