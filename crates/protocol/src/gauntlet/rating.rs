//! Skill ratings: what a peer's placings over many windows say of it.

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

/// Standard errors by which scores must differ, or it is a draw.
const CLEAR: f64 = 2.0;

/// How somebody played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Player {
    /// Its rating before.
    pub rating: Rating,
    /// What it scored.
    pub score: f64,
    /// Standard error of that.
    pub error: f64,
    /// Whether it says something of the others how they did against it.
    pub counts: bool,
}

impl Player {
    /// How it did against `other`. Who is not clearly better is no better: ranks of equals would be chance, and one peer's chance
    /// another's loss.
    fn against(&self, other: &Self) -> Outcomes {
        let (ahead, clear) = (self.score - other.score, CLEAR * self.error.hypot(other.error));
        if ahead > clear {
            Outcomes::WIN
        } else if -ahead > clear {
            Outcomes::LOSS
        } else {
            Outcomes::DRAW
        }
    }
}

/// A window as a match: the ratings afterwards, in the order of `players`. Without an opponent that counts nothing is learned.
///
/// Weng and Lin's rule for two players (JMLR 12:267, algorithm 1), which OpenSkill is made of too, against every opponent that counts;
/// what that does to μ, and to the logarithm of σ, is averaged over the opponents and counts for at most four games.
#[must_use]
pub fn rate(players: &[Player], skill: Skill) -> Vec<Rating> {
    let config = WengLinConfig { beta: skill.beta, ..WengLinConfig::new() };
    let before = |rating: &Rating| WengLinRating {
        rating: rating.mu,
        uncertainty: (rating.sigma * rating.sigma + skill.tau * skill.tau).sqrt(),
    };
    let after = |(n, player): (usize, &Player)| {
        let own = before(&player.rating);
        let (mut gained, mut sharpened, mut opponents) = (0.0, 0.0, 0.0);
        for (_, other) in players.iter().enumerate().filter(|(m, other)| *m != n && other.counts) {
            let (then, _) = weng_lin(&own, &before(&other.rating), &player.against(other), &config);
            gained += then.rating - own.rating;
            sharpened += (then.uncertainty / own.uncertainty).ln();
            opponents += 1.0;
        }
        if opponents < 1.0 {
            return player.rating;
        }
        let share = f64::min(opponents, GAMES) / opponents;
        let (mu, sigma) = (own.rating + share * gained, own.uncertainty * (share * sharpened).exp());
        if mu.is_finite() && sigma.is_finite() { Rating { mu, sigma } } else { player.rating }
    };
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
            let players: Vec<Player> = ratings
                .into_iter()
                .zip(scores)
                .map(|(rating, score)| Player { rating, score, error: 0.0, counts: true })
                .collect();
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
                let player = |(n, rating): (usize, &Rating)| Player {
                    rating: *rating,
                    score: score(n),
                    error: 0.0,
                    counts: true,
                };
                let players: Vec<Player> = ratings.iter().enumerate().map(player).collect();
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
        let player = |score| Player { rating: Rating::default(), score, error: 0.1, counts: true };
        // Not clearly apart: what is between them is chance.
        let players = [player(1.0), player(1.2)];
        for rating in rate(&players, Skill::default()) {
            assert!((rating.mu - 25.0).abs() < 1e-9 && rating.ordinal() > 0.0);
        }
        let [worse, better] = rate(&[player(1.0), player(1.3)], Skill::default())[..] else { panic!() };
        assert!(worse.mu < 25.0 && better.mu > 25.0);
        assert_eq!(rate(&players[..1], Skill::default()), [Rating::default()]);
    }

    #[test]
    fn to_win_against_who_does_not_count_is_nothing() {
        let player = |score, counts| Player { rating: Rating::default(), score, error: 0.1, counts };
        let few = [player(1.0, true), player(2.0, true)];
        let many: Vec<Player> = few.into_iter().chain([player(0.0, false); 40]).collect();
        let (few, many) = (rate(&few, Skill::default()), rate(&many, Skill::default()));
        assert_eq!(few, many[..2]);
        assert!(many[2].mu < 25.0, "and yet it has lost itself");
    }
}
