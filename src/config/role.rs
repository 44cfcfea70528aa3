//! What a participant is to a run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a participant is to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains.
    Miner,
    /// Scores.
    Validator,
    /// Opens and closes windows.
    Aggregator,
}

impl Role {
    /// As the command is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Miner => "miner",
            Self::Validator => "validator",
            Self::Aggregator => "aggregator",
        }
    }
}

/// With its article: `a miner`, `an aggregator`.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let article = if *self == Self::Aggregator { "an" } else { "a" };
        write!(f, "{article} {}", self.name())
    }
}
