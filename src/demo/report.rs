//! The rows of the table, folded from what the participants tell, and `report.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use brigade_protocol::{Exclusion, PeerId};
use serde::Serialize;

use super::cast::Cast;
use crate::events::Event;
use crate::lab::attacks::Attack;

/// `report.json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Parameters of the model.
    pub(super) params: usize,
    /// The Hugging Face folder.
    pub(super) checkpoint: PathBuf,
    /// The picture.
    pub(super) loss_curve: PathBuf,
    /// Everybody's weight by window, where some cheat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weights_curve: Option<PathBuf>,
    /// How cheats cheat, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attacks: BTreeMap<String, Attack>,
    /// What the model writes.
    pub(super) sample: String,
    /// A row a window.
    pub(super) windows: Vec<Row>,
    /// Held-out losses of the baselines, if they were run: after every window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) baselines: Option<BTreeMap<String, Vec<f64>>>,
}

/// One window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) window: u64,
    /// Mean over the honest miners, nats a token.
    pub(super) train_loss: Option<f64>,
    /// After the window, nats a token.
    pub(super) heldout_loss: Option<f64>,
    pub(super) bits_per_byte: Option<f64>,
    /// HTTP body bytes that an honest miner sent and received for the exchange, on average.
    pub(super) bytes_up_per_peer: Option<f64>,
    pub(super) bytes_down_per_peer: Option<f64>,
    /// Dense bytes of the pseudo-gradient ÷ bytes sent.
    pub(super) ratio_fp32: Option<f64>,
    pub(super) ratio_bf16: Option<f64>,
    /// Averages over the honest miners.
    pub(super) compute_seconds: Option<f64>,
    pub(super) exchange_seconds: Option<f64>,
    /// Compute ÷ wall.
    pub(super) utilization: Option<f64>,
    /// Of all honest miners together.
    pub(super) tokens_per_second: Option<f64>,
    pub(super) accepted: Vec<PeerId>,
    pub(super) excluded: Vec<Exclusion>,
    /// Shares of the reward, by name.
    pub(super) weights: Option<BTreeMap<String, f64>>,
    /// How cheats cheat, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attacks: BTreeMap<String, Attack>,
}

/// What is known of a window so far.
#[derive(Clone, Debug, Default)]
struct Window {
    closed: Option<(Vec<PeerId>, Vec<Exclusion>)>,
    judged: Option<BTreeMap<PeerId, f64>>,
    evaluated: Option<(f64, f64)>,
    passed: BTreeMap<String, Passed>,
}

#[derive(Clone, Debug)]
struct Passed {
    train_loss: f64,
    tokens: u64,
    compute: f64,
    exchange: f64,
    wall: f64,
    up: u64,
    down: u64,
}

/// Everything that was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    cast: Cast,
    windows: BTreeMap<u64, Window>,
}

impl Story {
    pub(super) fn new(cast: Cast) -> Self {
        Self { cast, windows: BTreeMap::new() }
    }

    /// Who plays in it.
    pub(super) fn cast(&self) -> &Cast {
        &self.cast
    }

    /// Takes in what `who` tells.
    pub(super) fn hear(&mut self, who: &str, event: &Event) {
        match event {
            Event::Closed { window, accepted, excluded, .. } => {
                let closed = &mut self.windows.entry(*window).or_default().closed;
                *closed = Some((accepted.clone(), excluded.clone()));
            }
            Event::Judged { window, weights } => {
                self.windows.entry(*window).or_default().judged = Some(weights.clone());
            }
            Event::Evaluated { window, heldout_loss, bits_per_byte } => {
                self.windows.entry(*window).or_default().evaluated = Some((*heldout_loss, *bits_per_byte));
            }
            Event::Passed {
                window,
                train_loss,
                tokens,
                compute_seconds,
                exchange_seconds,
                wall_seconds,
                bytes_up,
                bytes_down,
                ..
            } => {
                let passed = Passed {
                    train_loss: *train_loss,
                    tokens: *tokens,
                    compute: *compute_seconds,
                    exchange: *exchange_seconds,
                    wall: *wall_seconds,
                    up: *bytes_up,
                    down: *bytes_down,
                };
                self.windows.entry(*window).or_default().passed.insert(who.to_owned(), passed);
            }
            _ => {}
        }
    }

    /// The rows of all closed windows, in order.
    pub(super) fn rows(&self, params: usize) -> Vec<Row> {
        self.windows.iter().filter_map(|(window, known)| known.row(*window, params, &self.cast)).collect()
    }

    /// The row of `window` if nothing more is to come: closed, measured, and passed by all whose update was merged.
    pub(super) fn whole_row(&self, window: u64, params: usize) -> Option<Row> {
        let known = self.windows.get(&window)?;
        let (accepted, _) = known.closed.as_ref()?;
        // A miner that was started anew tells nothing of the window before; a later one ends the wait.
        let is_past = self.windows.range(window + 1..).any(|(_, later)| later.closed.is_some());
        let have_passed = accepted.iter().all(|peer| known.passed.contains_key(&self.cast.name(peer)));
        let is_whole = is_past || (known.evaluated.is_some() && have_passed);
        is_whole.then(|| known.row(window, params, &self.cast)).flatten()
    }
}

impl Window {
    fn row(&self, window: u64, params: usize, cast: &Cast) -> Option<Row> {
        let (accepted, excluded) = self.closed.clone()?;
        // Cheats say what they like.
        let is_honest = |(name, _): &(&String, &Passed)| !cast.attacks().contains_key(*name);
        let passed: Vec<&Passed> = self.passed.iter().filter(is_honest).map(|(_, passed)| passed).collect();
        let mean = |of: fn(&Passed) -> f64| {
            let values: Vec<f64> = passed.iter().map(|passed| of(passed)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let up = mean(|passed| passed.up as f64);
        let tokens: u64 = passed.iter().map(|passed| passed.tokens).sum();
        let wall = passed.iter().map(|passed| passed.wall).fold(0.0, f64::max);
        Some(Row {
            window,
            train_loss: mean(|passed| passed.train_loss),
            heldout_loss: self.evaluated.map(|(loss, _)| loss),
            bits_per_byte: self.evaluated.map(|(_, bits)| bits),
            bytes_up_per_peer: up,
            bytes_down_per_peer: mean(|passed| passed.down as f64),
            ratio_fp32: up.map(|up| 4.0 * params as f64 / up),
            ratio_bf16: up.map(|up| 2.0 * params as f64 / up),
            compute_seconds: mean(|passed| passed.compute),
            exchange_seconds: mean(|passed| passed.exchange),
            utilization: mean(|passed| passed.compute / passed.wall),
            tokens_per_second: (wall > 0.0).then(|| tokens as f64 / wall),
            accepted,
            excluded,
            weights: self.judged.as_ref().map(|weights| cast.weights(weights)),
            attacks: cast.attacks().clone(),
        })
    }
}

/// The head of the table.
pub(super) const HEAD: &str =
    "window   train held-out bits/B   up KB  down KB  ÷fp32 ÷bf16 compute exchange  util   tok/s  merged";

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |value: Option<f64>, width: usize, digits: usize| match value {
            Some(value) => format!("{value:>width$.digits$}"),
            None => format!("{:>width$}", "–"),
        };
        let kilo = |bytes: Option<f64>| bytes.map(|bytes| bytes / 1000.0);
        write!(
            f,
            "{:>6} {} {} {} {} {} {} {} {}s {}s {}% {} {:>3}/{}",
            self.window,
            cell(self.train_loss, 7, 4),
            cell(self.heldout_loss, 8, 4),
            cell(self.bits_per_byte, 6, 4),
            cell(kilo(self.bytes_up_per_peer), 7, 1),
            cell(kilo(self.bytes_down_per_peer), 8, 1),
            cell(self.ratio_fp32, 6, 0),
            cell(self.ratio_bf16, 5, 0),
            cell(self.compute_seconds, 6, 1),
            cell(self.exchange_seconds, 7, 1),
            cell(self.utilization.map(|share| share * 100.0), 4, 0),
            cell(self.tokens_per_second, 7, 0),
            self.accepted.len(),
            self.accepted.len() + self.excluded.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brigade_protocol::Digest;

    fn passed(window: u64, up: u64, compute: f64) -> Event {
        Event::Passed {
            window,
            accepted: true,
            train_loss: 2.0,
            tokens: 100,
            compute_seconds: compute,
            exchange_seconds: 10.0 - compute,
            wall_seconds: 10.0,
            bytes_up: up,
            bytes_down: 50,
        }
    }

    #[test]
    fn a_row_is_whole_when_everybody_has_spoken() {
        let peers = vec![PeerId([1; 32]), PeerId([2; 32])];
        let cheat = PeerId([3; 32]);
        let cast = Cast::new(3, &["zeros=1".parse().unwrap()]).unwrap();
        let cast = cast.with("miner-0", peers[0]).with("miner-1", peers[1]).with("miner-2", cheat);
        let mut story = Story::new(cast);
        let weights = [(peers[0], 0.75), (peers[1], 0.25)].into();
        story.hear("aggregator", &Event::Judged { window: 0, weights });
        story.hear(
            "aggregator",
            &Event::Closed {
                window: 0,
                state_root: Digest([0; 32]),
                accepted: peers.clone(),
                excluded: vec![Exclusion::new(cheat, brigade_protocol::Reason::Idle, "improves nothing")],
                delta_bytes: 7,
            },
        );
        story.hear("miner-0", &passed(0, 100, 8.0));
        // One whose update was not merged is neither waited for nor counted.
        story.hear("miner-2", &passed(0, 9000, 1.0));
        story.hear("validator", &Event::Evaluated { window: 0, heldout_loss: 3.0, bits_per_byte: 1.5 });
        assert!(story.whole_row(0, 1000).is_none());
        story.hear("miner-1", &passed(0, 300, 6.0));
        let row = story.whole_row(0, 1000).unwrap();
        assert_eq!(row.bytes_up_per_peer, Some(200.0));
        assert_eq!((row.ratio_fp32, row.ratio_bf16), (Some(20.0), Some(10.0)));
        assert_eq!(row.utilization, Some(0.7));
        assert_eq!(row.tokens_per_second, Some(20.0));
        assert_eq!(row.accepted, peers);
        let remarks = "\n       miner-2 (zeros) not merged: improves nothing\
                       \n       weights: miner-0 75 %  miner-1 25 %  miner-2 (zeros) 0 %";
        assert_eq!(story.cast().remarks(&row), remarks);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["weights"]["miner-2"], 0.0);
        assert_eq!(json["attacks"]["miner-2"], "zeros");
        assert_eq!(story.rows(1000), [row]);
    }

    #[test]
    fn a_window_that_is_not_closed_has_no_row() {
        let mut story = Story::default();
        story.hear("miner-0", &passed(4, 100, 8.0));
        assert!(story.rows(1000).is_empty());
    }
}
