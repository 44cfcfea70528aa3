//! The constants of a run's judgements.

use serde::{Deserialize, Serialize};

use super::rating::Skill;
use super::robust::Rule;
use crate::Error;

/// How windows are judged. Every constant is a term of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gauntlet {
    /// How the updates become one.
    pub rule: Rule,
    /// The share of the updates that the rule takes for hostile.
    pub faulty_share: f64,
    /// Updates are copies whose cosine is farther than this on the way from what is usual in the window to 1.
    pub copy_cosine: f64,
    /// How many times the median norm an update may have.
    pub max_norm_ratio: f64,
    /// Windows for which an update must not be sent again.
    pub replay_windows: u32,
    /// The most standard errors of trace that a window may demand for a peer's credit to grow; it demands half of what
    /// work shows in it.
    pub trace_sigmas: f64,
    /// Credit, in nats of evidence, never exceeds it, nor falls below its negative. A peer has weight while it has credit.
    pub credit_limit: f64,
    /// Windows in which a newcomer may do less than the others, its error feedback being empty, or be like them.
    pub grace_windows: u32,
    /// Weights are skill to this power, times credit.
    pub skill_power: f64,
    /// The rating.
    pub skill: Skill,
}

impl Default for Gauntlet {
    fn default() -> Self {
        Self {
            rule: Rule::Mean,
            faulty_share: 0.25,
            copy_cosine: 0.35,
            max_norm_ratio: 4.0,
            replay_windows: 32,
            trace_sigmas: 2.0,
            credit_limit: 8.0,
            grace_windows: 3,
            skill_power: 2.0,
            skill: Skill::default(),
        }
    }
}

impl Gauntlet {
    /// # Errors
    /// [`Error::Manifest`] names the field and what it must be.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let bounded = [
            ("gauntlet.faulty_share", self.faulty_share, 0.0, 0.5),
            ("gauntlet.copy_cosine", self.copy_cosine, 0.0, 1.0),
            ("gauntlet.max_norm_ratio", self.max_norm_ratio, 1.0, 1e6),
            ("gauntlet.replay_windows", f64::from(self.replay_windows), 0.0, 256.0),
            ("gauntlet.trace_sigmas", self.trace_sigmas, 0.0, 2.5),
            ("gauntlet.credit_limit", self.credit_limit, 1e-3, 1e6),
            ("gauntlet.skill_power", self.skill_power, 0.0, 16.0),
            ("gauntlet.skill.beta", self.skill.beta, 0.5, 1e6),
            ("gauntlet.skill.tau", self.skill.tau, 0.0, 1e6),
        ];
        for (field, value, low, high) in bounded {
            if !(low..=high).contains(&value) {
                return Err(Error::manifest(field, format!("is {value}, must be from {low} to {high}")));
            }
        }
        Ok(())
    }
}
