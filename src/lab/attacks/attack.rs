//! The cheats, and what each sends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// The honest update times 10.
    Scale10,
    /// The honest update times 100.
    Scale100,
    /// The honest update times 1000.
    Scale1000,
    /// The honest update times −1.
    SignFlip,
    /// The honest update times −10.
    SignFlip10,
    /// Normal values of the honest updates' norm.
    Noise,
    /// The honest mean less one standard deviation, coordinate by coordinate (ALIE, arXiv 1902.06156).
    Alie,
    /// The negative honest mean, as long as an honest update (inner-product manipulation, arXiv 1903.03936).
    InnerProduct,
    /// Nothing, in a proper file.
    Zeros,
    /// An honest peer's update, sent after it.
    Copy,
    /// The same, with as much noise.
    NoisyCopy,
    /// Its own update of the window before, under a new header.
    Replay,
    /// Trained from the θ of the window before.
    StaleStart,
    /// Trained on other sequences than it was assigned.
    RandomData,
    /// One inner step.
    PartialWork,
    /// Large values where no honest peer has any.
    IndexTakeover,
    /// Honest for ten windows, then the sign is turned.
    Sleeper,
    /// The file is not the one that the receipt names.
    TwoFaced,
    /// The receipt comes after the deadline.
    Late,
    /// All send the run that one of them has made, with noise.
    Colluders,
    /// One run, cut into as many updates as there are cheats.
    SybilSplit,
    /// One of three validators praises the cheats, who send nothing of worth, and damns the honest.
    LyingValidator,
    /// Files that break the format, a new kind in every window.
    Malformed,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Scale10,
        Self::Scale100,
        Self::Scale1000,
        Self::SignFlip,
        Self::SignFlip10,
        Self::Noise,
        Self::Alie,
        Self::InnerProduct,
        Self::Zeros,
        Self::Copy,
        Self::NoisyCopy,
        Self::Replay,
        Self::StaleStart,
        Self::RandomData,
        Self::PartialWork,
        Self::IndexTakeover,
        Self::Sleeper,
        Self::TwoFaced,
        Self::Late,
        Self::Colluders,
        Self::SybilSplit,
        Self::LyingValidator,
        Self::Malformed,
    ];

    /// Whether a miner can do it alone. The others need cheats that share their work, or a validator that lies.
    pub(crate) fn is_of_one_miner(self) -> bool {
        !matches!(self, Self::Colluders | Self::SybilSplit | Self::LyingValidator)
    }

    /// Whether it does nothing itself, of what one miner does alone.
    pub(super) fn is_idle(self) -> bool {
        self == Self::Zeros || self.follows()
    }

    /// Whether it is made from what others have sent.
    pub(super) fn follows(self) -> bool {
        matches!(self, Self::Copy | Self::NoisyCopy | Self::Alie | Self::InnerProduct | Self::IndexTakeover)
    }

    /// The first window in which somebody cheats.
    pub(super) fn begins(self) -> u64 {
        match self {
            Self::Sleeper => 10,
            // There is nothing to be replayed, or to be stale, before.
            Self::Replay | Self::StaleStart => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).ok();
        f.write_str(name.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?"))
    }
}

impl std::str::FromStr for Attack {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|attack| attack.to_string()).join(", ");
        Self::ALL
            .into_iter()
            .find(|attack| attack.to_string() == name)
            .ok_or_else(|| format!("no attack `{name}`; there are {}", known()))
    }
}
