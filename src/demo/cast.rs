//! Who plays which part: the miners of a demo, and those of them that cheat.

use std::collections::BTreeMap;
use std::str::FromStr;

use brigade_protocol::PeerId;
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::report::Row;
use crate::lab::attacks::Attack;

/// So many miners that cheat in one way, as `NAME=COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The cheat.
    pub attack: Attack,
    /// Miners that do it.
    pub count: u32,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.attack, self.count)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, count) =
            text.split_once('=').ok_or("give the cheat and how many miners do it, such as sign_flip=1")?;
        let attack: Attack = name.parse()?;
        if !attack.is_of_one_miner() {
            return Err(format!(
                "{attack} is nothing that a miner does alone; `brigade lab attacks --attack {attack}` shows it"
            ));
        }
        match count.parse() {
            Ok(count) if count > 0 => Ok(Self { attack, count }),
            _ => Err(format!("`{count}` miners: give a number above 0")),
        }
    }
}

/// The miners by name, and what the last of them do.
#[derive(Clone, Debug, Default)]
pub(super) struct Cast {
    /// In order.
    miners: Vec<String>,
    names: BTreeMap<PeerId, String>,
    attacks: BTreeMap<String, Attack>,
}

impl Cast {
    /// # Errors
    /// When nobody honest is left.
    pub(super) fn new(miners: u32, parts: &[Part]) -> anyhow::Result<Self> {
        let cheats: Vec<Attack> = parts
            .iter()
            .flat_map(|part| (0..part.count).map(|_| part.attack))
            .take(miners as usize)
            .collect();
        let honest = miners as usize - cheats.len();
        let all: u64 = parts.iter().map(|part| u64::from(part.count)).sum();
        anyhow::ensure!(
            honest > 0,
            "--attack: {all} cheats among {miners} miners leave nobody honest; give --miners {} or more, of whom the honest \
             should be most",
            all + 1
        );
        let miners: Vec<String> = (0..miners).map(|number| format!("miner-{number}")).collect();
        let attacks = miners[honest..].iter().cloned().zip(cheats).collect();
        Ok(Self { miners, names: BTreeMap::new(), attacks })
    }

    /// Learns by which keys the miners are known.
    ///
    /// # Errors
    /// When an identity cannot be read.
    pub(super) fn meet(&mut self, place: &Place) -> anyhow::Result<()> {
        for name in &self.miners {
            self.names.insert(place.identity(name)?.id(), name.clone());
        }
        Ok(())
    }

    /// Learns of one miner by which key it is known.
    #[cfg(test)]
    pub(super) fn with(mut self, name: &str, peer: PeerId) -> Self {
        self.names.insert(peer, name.to_owned());
        self
    }

    /// The cheats by name.
    pub(super) fn attacks(&self) -> &BTreeMap<String, Attack> {
        &self.attacks
    }

    /// Names of all miners, in order.
    pub(super) fn miners(&self) -> &[String] {
        &self.miners
    }

    /// The name of a miner; of a stranger its key.
    pub(super) fn name(&self, peer: &PeerId) -> String {
        self.names.get(peer).cloned().unwrap_or_else(|| peer.short().to_string())
    }

    /// A miner's name, and what it does if it cheats.
    pub(super) fn label(&self, name: &str) -> String {
        match self.attacks.get(name) {
            Some(attack) => format!("{name} ({attack})"),
            None => name.to_owned(),
        }
    }

    /// Everybody's weight, by name; who has never sent anything has none.
    pub(super) fn weights(&self, of: &BTreeMap<PeerId, f64>) -> BTreeMap<String, f64> {
        let known = of.iter().map(|(peer, weight)| (self.name(peer), *weight));
        self.miners.iter().map(|name| (name.clone(), 0.0)).chain(known).collect()
    }

    /// What the table says below the row of a window: each on a line of its own.
    pub(super) fn remarks(&self, row: &Row) -> String {
        let mut out = String::new();
        for exclusion in &row.excluded {
            let label = self.label(&self.name(&exclusion.peer));
            out += &format!("\n       {label} not merged: {}", exclusion.detail);
        }
        if let Some(weights) = row.weights.as_ref().filter(|_| !self.attacks.is_empty()) {
            let weight =
                |name: &String| format!("{} {}", self.label(name), percent(weights.get(name).copied()));
            let weights: Vec<String> = self.miners.iter().map(weight).collect();
            out += &format!("\n       weights: {}", weights.join("  "));
        }
        out
    }
}

/// A weight is shown as nothing only where it is nothing.
fn percent(weight: Option<f64>) -> String {
    match weight.unwrap_or_default() * 100.0 {
        percent if percent > 0.0 && percent < 0.5 => "< 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_a_name_and_a_number() {
        assert_eq!("sign_flip=2".parse(), Ok(Part { attack: Attack::SignFlip, count: 2 }));
        assert_eq!("sign_flip=2".parse::<Part>().unwrap().to_string(), "sign_flip=2");
        for (text, says) in [
            ("sign_flip", "sign_flip=1"),
            ("sign_flip=", "above 0"),
            ("sign_flip=0", "above 0"),
            ("sign_flip=-1", "above 0"),
            ("sign=1", "no attack `sign`"),
            ("colluders=2", "brigade lab attacks"),
            ("sybil_split=2", "brigade lab attacks"),
            ("lying_validator=1", "brigade lab attacks"),
        ] {
            let error = text.parse::<Part>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_miners_cheat_and_one_is_honest() {
        let parts = ["sign_flip=1", "copy=2"].map(|text| text.parse().unwrap());
        let cast = Cast::new(5, &parts).unwrap();
        let cheats: Vec<String> = cast.miners().iter().map(|name| cast.label(name)).collect();
        assert_eq!(cheats, ["miner-0", "miner-1", "miner-2 (sign_flip)", "miner-3 (copy)", "miner-4 (copy)"]);
        for miners in [1, 3] {
            let error = Cast::new(miners, &parts).unwrap_err().to_string();
            assert!(error.contains("give --miners 4"), "{error}");
        }
        let huge = Part { count: u32::MAX, ..parts[0] };
        assert!(Cast::new(3, &[huge, huge]).is_err());
        assert!(Cast::new(1, &[]).unwrap().attacks().is_empty());
    }

    #[test]
    fn only_nothing_is_shown_as_nothing() {
        let shown = [0.0, 1e-4, 0.004, 0.006, 0.26, 1.0].map(|weight| percent(Some(weight)));
        assert_eq!(shown, ["0 %", "< 1 %", "< 1 %", "1 %", "26 %", "100 %"]);
    }
}
