//! `brigade lab compression`: what the codes of updates and deltas, and the density of deltas, cost in bytes and in loss.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use brigade_codec::{
    Binding, CodeBits, CodecConfig, Delta, DeltaBinding, DeltaConfig, Layout, Update, compress, merge,
};
use brigade_protocol::{ModelConfig, Parameters};
use indicatif::ProgressBar;
use serde::Serialize;

use super::jobs;
use super::peers::Peers;
use super::text::Text;
use crate::demo::plan;

/// What to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the dataset.
    pub data: PathBuf,
    /// As of `brigade demo`.
    pub model: String,
    /// Windows of each run.
    pub windows: u64,
    /// Numbers of peers.
    pub peers: Vec<usize>,
    /// Numbers of the seeds: weights and text follow from them.
    pub seeds: u64,
    /// Which arms.
    pub question: Question,
    /// Runs at the same time.
    pub jobs: usize,
}

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Question {
    /// How updates are coded; everybody gets their exact mean.
    Update,
    /// How the delta is coded, and how dense it is.
    Delta,
}

/// How a peer's kept values reach the merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// As they are, in fp32.
    Exact,
    Coded(CodeBits),
}

/// How the merge reaches everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merged {
    /// Everybody fetches all updates and adds them up: nothing is coded a second time.
    ByReference,
    Coded(DeltaConfig),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arm {
    update: Values,
    delta: Merged,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.update {
            Values::Exact => write!(f, "update fp32, ")?,
            Values::Coded(bits) => write!(f, "update {} bit, ", bits as u8)?,
        }
        match self.delta {
            Merged::ByReference => write!(f, "delta by reference"),
            Merged::Coded(DeltaConfig { bits, top_k: None }) => write!(f, "delta {} bit", bits as u8),
            Merged::Coded(DeltaConfig { bits, top_k: Some(k) }) => {
                write!(f, "delta {} bit, top {k}", bits as u8)
            }
        }
    }
}

impl Question {
    /// The first arm is what the others are compared with.
    fn arms(self) -> Vec<Arm> {
        let (reference, one) = (Merged::ByReference, Values::Coded(CodeBits::One));
        let delta = |bits, top_k| Merged::Coded(DeltaConfig { bits, top_k });
        match self {
            Self::Update => [Values::Exact, one, Values::Coded(CodeBits::Two), Values::Coded(CodeBits::Four)]
                .map(|update| Arm { update, delta: reference })
                .to_vec(),
            Self::Delta => [
                reference,
                delta(CodeBits::Two, None),
                delta(CodeBits::One, None),
                delta(CodeBits::Two, Some(256)),
                delta(CodeBits::Two, Some(64)),
            ]
            .map(|delta| Arm { update: one, delta })
            .to_vec(),
        }
    }
}

/// One arm with one number of peers, over all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub arm: String,
    /// Peers.
    pub peers: usize,
    /// Held-out loss at the end, nats a token, by seed.
    pub heldout_loss: Vec<f64>,
    /// How much higher than in the first arm with the same seed, in per cent, by seed.
    pub above_percent: Vec<f64>,
    /// Bytes of an update, on average.
    pub bytes_up: f64,
    /// Bytes that everybody downloads for a window, on average.
    pub bytes_down: f64,
    /// Bits of an update for each value that it keeps.
    pub bits_per_kept_value: f64,
    /// Squared error over squared norm, on the kept values of updates.
    pub relative_mse: f64,
}

/// Runs all arms with all numbers of peers and all seeds.
///
/// # Errors
/// When there is no text, the model does not fit into memory, or training diverges.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let terms = plan::terms(&options.model, 1, options.windows);
    let length = terms.training.sequence_length as usize;
    let text = Text::open(&options.data, length, terms.scoring.heldout_sequences as usize).await?;
    let model = plan::model(&options.model, text.vocab_size)?;
    let arms = options.question.arms();
    let mut jobs = Vec::new();
    for &peers in &options.peers {
        for &arm in &arms {
            jobs.extend((0..options.seeds).map(|seed| Job { arm, peers, seed }));
        }
    }
    let setup = Setup { text: &text, model: &model, terms: &terms, windows: options.windows };
    let windows = jobs.len() as u64 * setup.windows;
    let outcomes = tokio::task::block_in_place(|| {
        jobs::all(&jobs, options.jobs, windows, |job, bar| {
            one(&setup, job, bar).with_context(|| format!("{}, {} peers", job.arm, job.peers))
        })
    })?;
    let per_arm = options.seeds as usize;
    let groups: Vec<(&Job, &[Outcome])> =
        jobs.iter().step_by(per_arm).zip(outcomes.chunks(per_arm)).collect();
    Ok(groups.chunks(arms.len()).flat_map(|arms| arms.iter().map(|arm| row(arm, arms[0].1))).collect())
}

/// What one run takes.
#[derive(Clone, Copy, Debug)]
struct Job {
    arm: Arm,
    peers: usize,
    seed: u64,
}

/// What all runs have in common.
struct Setup<'a> {
    text: &'a Text,
    model: &'a ModelConfig,
    terms: &'a plan::Terms,
    windows: u64,
}

/// What one run gives.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    heldout_loss: f64,
    bytes_up: f64,
    bytes_down: f64,
    kept: f64,
    squared_error: f64,
    squared_norm: f64,
}

fn row((job, outcomes): &(&Job, &[Outcome]), first: &[Outcome]) -> Row {
    let mean = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
    let above =
        |(outcome, first): (&Outcome, &Outcome)| 100.0 * (outcome.heldout_loss / first.heldout_loss - 1.0);
    Row {
        arm: job.arm.to_string(),
        peers: job.peers,
        heldout_loss: outcomes.iter().map(|outcome| outcome.heldout_loss).collect(),
        above_percent: outcomes.iter().zip(first).map(above).collect(),
        bytes_up: mean(|outcome| outcome.bytes_up),
        bytes_down: mean(|outcome| outcome.bytes_down),
        bits_per_kept_value: 8.0 * mean(|outcome| outcome.bytes_up) / mean(|outcome| outcome.kept),
        relative_mse: mean(|outcome| outcome.squared_error) / mean(|outcome| outcome.squared_norm),
    }
}

/// One run, from its first weights to its last window.
fn one(setup: &Setup<'_>, job: &Job, bar: &ProgressBar) -> anyhow::Result<Outcome> {
    let Setup { text, model, terms, windows } = *setup;
    let mut peers = Peers::new(text, model, &terms.training, job.peers, job.seed)?;
    let tensors = model.tensors();
    let layout = Layout::new(tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)))?;
    let mut key = [0; 32];
    key[..8].copy_from_slice(&job.seed.to_le_bytes());
    let mut theta = Arc::new(Parameters::initialise(model, &key));
    let mut feedback = vec![layout.zeros(); job.peers];
    let mut merged_feedback = layout.zeros();
    let mut outcome = Outcome::default();
    let coefficient = terms.outer.learning_rate / job.peers as f32;
    for window in 0..windows {
        let mut mean = layout.zeros();
        let mut updates = Vec::new();
        for (peer, e) in feedback.iter_mut().enumerate() {
            let delta = peers.train(peer, window, &theta)?;
            let sender = Sender { layout: &layout, terms, values: job.arm.update, window };
            updates.push(sender.send(&delta, e, &mut outcome)?);
            sender.add(updates.last().context("just pushed")?, coefficient, &mut mean)?;
        }
        let shift = match job.arm.delta {
            Merged::ByReference => {
                outcome.bytes_down += updates.iter().map(|update| update.size).sum::<f64>();
                mean
            }
            Merged::Coded(config) => {
                let inputs: Vec<_> = updates.iter().map(|update| (&update.file, coefficient)).collect();
                let binding = DeltaBinding { run: [0; 32], window, start_state_root: [0; 32] };
                let bytes = merge(&layout, &binding, &config, &inputs, &mut merged_feedback)?;
                outcome.bytes_down += bytes.len() as f64;
                let mut shift = layout.zeros();
                Delta::parse(bytes, &layout, &config, &binding)?.apply(&mut shift)?;
                shift.iter_mut().flatten().for_each(|value| *value = -*value);
                shift
            }
        };
        for (theta, shift) in Arc::make_mut(&mut theta).tensors_mut().iter_mut().zip(&shift) {
            theta.iter_mut().zip(shift).for_each(|(theta, shift)| *theta -= shift);
        }
        bar.inc(1);
    }
    let sent = (windows * job.peers as u64) as f64;
    outcome.bytes_up /= sent;
    outcome.kept /= sent;
    outcome.bytes_down /= windows as f64;
    outcome.heldout_loss = peers.measure(&theta)?;
    Ok(outcome)
}

/// An update as it is in a file, and as it would be without its codes.
struct Sent {
    file: Update,
    /// Bytes that it takes.
    size: f64,
    /// By tensor: index and value of everything kept; none where the file's values are meant.
    exact: Option<Vec<Vec<(usize, f32)>>>,
}

struct Sender<'a> {
    layout: &'a Layout,
    terms: &'a plan::Terms,
    values: Values,
    window: u64,
}

impl Sender<'_> {
    /// Error feedback and update of one peer.
    fn send(&self, delta: &[Vec<f32>], e: &mut [Vec<f32>], outcome: &mut Outcome) -> anyhow::Result<Sent> {
        let compression = &self.terms.compression;
        let bits = match self.values {
            Values::Exact => CodeBits::Two,
            Values::Coded(bits) => bits,
        };
        let decay = compression.error_feedback_decay;
        let config = CodecConfig { top_k: compression.top_k, bits, error_feedback_decay: decay };
        let binding = Binding { run: [0; 32], window: self.window, peer: [0; 32], start_state_root: [0; 32] };
        let slices: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
        let bytes = compress(self.layout, &binding, &config, &slices, e)?;
        let file = Update::parse(bytes, self.layout, &config, &binding)?;
        let (stats, is_exact) = (file.stats()?, self.values == Values::Exact);
        // In fp32 there would be 32 bits in place of a sign, a level and a scale.
        let saved =
            if is_exact { 32.0 * stats.kept as f64 - stats.code_bits - stats.scale_bits } else { 0.0 };
        let size = stats.bytes as f64 + saved / 8.0;
        outcome.bytes_up += size;
        outcome.kept += stats.kept as f64;
        let mut exact = Vec::new();
        for (tensor, e) in e.iter_mut().enumerate() {
            let mut values = Vec::new();
            file.for_each(tensor, |index, value| {
                let whole = value + e[index];
                outcome.squared_error += if is_exact { 0.0 } else { f64::from(e[index]).powi(2) };
                outcome.squared_norm += f64::from(whole).powi(2);
                values.push((index, whole));
            })?;
            if is_exact {
                values.iter().for_each(|&(index, _)| e[index] = 0.0);
            }
            exact.push(values);
        }
        Ok(Sent { file, size, exact: is_exact.then_some(exact) })
    }

    fn add(&self, sent: &Sent, coefficient: f32, sum: &mut [Vec<f32>]) -> anyhow::Result<()> {
        let Some(exact) = &sent.exact else { return Ok(sent.file.add_scaled_into(coefficient, sum)?) };
        for (sum, values) in sum.iter_mut().zip(exact) {
            values.iter().for_each(|&(index, value)| sum[index] += coefficient * value);
        }
        Ok(())
    }
}
