//! `brigade lab attacks`: what each cheat costs the honest, and what it gets.
//!
//! | module | role |
//! | --- | --- |
//! | `attack` | the cheats |
//! | `deliver` | what each sends |
//! | `run` | one run under attack, through the real records, codec, checks, scores, judgement and merge |
//! | `cheat` | the same cheats as miners of a real run |
//! | `officials` | what the aggregator and the validators do in it |
//! | `outcome` | what was seen of everybody, and the figures that follow |
//! | `table`, `picture` | for a person |

mod attack;
mod cheat;
mod deliver;
mod officials;
mod outcome;
mod picture;
mod run;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::gauntlet::Gauntlet;
use brigade_protocol::{Digest, FORMAT_VERSION, Manifest, Official, Timestamp, Validator};
use serde::Serialize;

pub use attack::Attack;
pub(crate) use cheat::{Cheat, Stage};
use outcome::Outcome;
pub use picture::draw;
use run::{Run, Setting, VALIDATORS, key};
pub use table::table;

use super::jobs;
use super::text::Text;
use crate::demo::plan;
use crate::spelling::word;

/// Numbers of sequences for which a row says how well they separate.
const SEPARATED_BY: [usize; 6] = [2, 4, 8, 12, 16, 24];

/// What to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the dataset.
    pub data: PathBuf,
    /// As of `brigade demo`.
    pub model: String,
    /// Windows of each run.
    pub windows: u64,
    /// Honest peers and cheats together.
    pub peers: usize,
    /// Which cheats.
    pub attacks: Vec<Attack>,
    /// Shares of the peers that cheat.
    pub fractions: Vec<f64>,
    /// Numbers of the seeds: weights and text follow from them.
    pub seeds: u64,
    /// The constants of the judgement.
    pub gauntlet: Gauntlet,
    /// α of the run.
    pub alpha: f32,
    /// Runs at the same time.
    pub jobs: usize,
    /// A file for all that was seen: a line of JSON for every peer and window of every run.
    pub log: Option<PathBuf>,
}

/// One attack by one share of the peers with one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The cheat; none in a run of honest peers only.
    pub attack: Option<Attack>,
    /// Share of the peers that cheat.
    pub fraction: f64,
    /// The rule by which updates become one.
    pub rule: String,
    /// The seed.
    pub seed: u64,
    /// Held-out loss at the end, nats a token.
    pub loss: f64,
    /// The same after each window.
    pub losses: Vec<f64>,
    /// That loss ÷ the loss of a run with only the honest peers.
    pub loss_ratio: f64,
    /// Windows from the first cheat until no cheat has any weight again; null if that never happens.
    pub windows_to_zero_weight: Option<u64>,
    /// Honest updates that were excluded.
    pub honest_excluded: u64,
    /// Honest updates.
    pub honest_updates: u64,
    /// Share of the reward, from the first cheat on, that cheats got.
    pub cheat_reward_share: f64,
    /// Sequences that went through a validator's model for a peer and a window.
    pub passes: f64,
    /// By sequences measured: how surely the mean gain on so many tells an honest peer from a cheat of the same window (area under
    /// the ROC curve).
    pub separation: BTreeMap<usize, f64>,
    /// Why cheats were excluded, and how often.
    pub reasons: BTreeMap<String, u64>,
    /// Why the honest were, window by window.
    pub blamed: Vec<String>,
}

/// Runs all attacks by all shares with all seeds, and the honest alone.
///
/// # Errors
/// When there is no text, or the model does not fit into memory.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let terms = terms(options);
    let length = terms.training.sequence_length as usize;
    let text = Text::open(&options.data, length, terms.scoring.heldout_sequences as usize).await?;
    let manifest = manifest(options, &terms, text.vocab_size)?;
    let cheats = |fraction: f64| (fraction * options.peers as f64).round() as usize;
    let mut settings = Vec::new();
    for seed in 0..options.seeds {
        let mut numbers: Vec<usize> = options.fractions.iter().map(|fraction| cheats(*fraction)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for cheats in numbers {
            let alone = Setting {
                attack: None,
                honest: options.peers - cheats,
                cheats: 0,
                seed,
                windows: options.windows,
            };
            settings.push(alone);
            let attacks = options.attacks.iter().filter(|_| cheats > 0);
            settings.extend(attacks.map(|&attack| Setting { attack: Some(attack), cheats, ..alone }));
        }
    }
    let windows = settings.len() as u64 * options.windows;
    let outcomes = tokio::task::block_in_place(|| {
        jobs::all(&settings, options.jobs, windows, |setting, bar| {
            let what = || format!("{}, seed {}", name(setting.attack), setting.seed);
            Run::new(&manifest, &text, *setting)?.run(|| bar.inc(1)).with_context(what)
        })
    })?;
    if let Some(path) = &options.log {
        write_log(path, &settings, &outcomes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(settings
        .iter()
        .zip(&outcomes)
        .map(|(setting, outcome)| {
            let is_alone = |(other, _): &(&Setting, &Outcome)| {
                other.attack.is_none() && other.seed == setting.seed && other.honest == setting.honest
            };
            let alone =
                settings.iter().zip(&outcomes).find(is_alone).map_or(f64::NAN, |(_, alone)| alone.loss());
            row(options, setting, outcome, alone)
        })
        .collect())
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    attack: Option<Attack>,
    honest: usize,
    cheaters: usize,
    seed: u64,
    #[serde(flatten)]
    seen: &'a outcome::Seen,
}

/// Those of the demo; but four steps, which the demo's tests make do with, train nobody enough to leave a trace.
fn terms(options: &Options) -> plan::Terms {
    let mut terms = plan::terms(&options.model, options.peers as u32, options.windows);
    let training = &mut terms.training;
    let steps = training.inner_steps.max(12);
    training.warmup_steps = training.warmup_steps / u64::from(training.inner_steps) * u64::from(steps);
    training.decay_steps = training.decay_steps / u64::from(training.inner_steps) * u64::from(steps);
    training.inner_steps = steps;
    terms.outer.learning_rate = options.alpha;
    terms
}

fn write_log(path: &Path, settings: &[Setting], outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (setting, outcome) in settings.iter().zip(outcomes) {
        let &Setting { attack, honest, cheats: cheaters, seed, .. } = setting;
        for seen in &outcome.seen {
            serde_json::to_writer(&mut file, &Line { attack, honest, cheaters, seed, seen })?;
            file.write_all(b"\n")?;
        }
    }
    Ok(file.flush()?)
}

/// What a row calls an attack.
#[must_use]
pub fn name(attack: Option<Attack>) -> String {
    attack.map_or_else(|| "honest".to_owned(), |attack| attack.to_string())
}

fn row(options: &Options, setting: &Setting, outcome: &Outcome, alone: f64) -> Row {
    let mut reasons = BTreeMap::new();
    for reason in outcome.reasons() {
        *reasons.entry(word(&reason)).or_insert(0) += 1;
    }
    Row {
        attack: setting.attack,
        fraction: setting.cheats as f64 / options.peers as f64,
        rule: word(&options.gauntlet.rule),
        seed: setting.seed,
        loss: outcome.loss(),
        losses: outcome.losses.clone(),
        loss_ratio: outcome.loss() / alone,
        windows_to_zero_weight: outcome.windows_to_zero_weight(),
        honest_excluded: outcome.blamed().count() as u64,
        honest_updates: setting.honest as u64 * setting.windows,
        cheat_reward_share: outcome.cheat_reward_share(),
        passes: outcome.passes(),
        separation: SEPARATED_BY.iter().filter_map(|&n| Some((n, outcome.separation(n)?))).collect(),
        reasons,
        blamed: outcome
            .blamed()
            .map(|(window, blamed)| format!("window {window}: {}, {}", word(&blamed.reason), blamed.detail))
            .collect(),
    }
}

fn manifest(options: &Options, terms: &plan::Terms, vocab_size: u32) -> anyhow::Result<Manifest> {
    let id = |n: usize| key(n).peer_id();
    let manifest = Manifest {
        version: FORMAT_VERSION,
        name: "lab".into(),
        created_at: Timestamp(0),
        aggregator: Official { id: id(VALIDATORS[0]), seal_to: String::new() },
        validators: VALIDATORS.map(|n| Validator { id: id(n), seal_to: String::new(), stake: 1 }).to_vec(),
        model: plan::model(&options.model, vocab_size)?,
        dataset: Digest([0; 32]),
        training: terms.training.clone(),
        compression: terms.compression.clone(),
        outer: terms.outer.clone(),
        windows: terms.windows.clone(),
        scoring: terms.scoring.clone(),
        gauntlet: options.gauntlet.clone(),
        initial_state_root: Digest([0; 32]),
    };
    manifest.validate()?;
    Ok(manifest)
}
