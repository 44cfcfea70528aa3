//! `brigade bench codec`: parameters a second, bits a value, error, memory.
//!
//! The pseudo-gradients are made up: normal values whose scale differs from tile to tile, a part in common to all
//! peers. Error feedback has been through a few windows, as in a run.

use std::time::Instant;

use brigade_codec::{
    Binding, CodeBits, CodecConfig, DeltaBinding, DeltaConfig, Layout, Update, compress, gram, merge,
};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;

use super::memory;

/// Columns of the matrices.
const COLUMNS: usize = 4096;
/// Rows of the largest matrix: one tensor has 67 million parameters.
const ROWS: usize = 16_384;
/// Windows that error feedback goes through before anything is measured.
const WARM_UP: usize = 3;
/// Times that everything is measured; the median counts.
const TIMES: usize = 5;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Parameters, rounded up to whole rows of tiles.
    pub parameters: usize,
    /// Updates that are merged.
    pub peers: usize,
    /// Values kept in 4096.
    pub top_k: u32,
    /// How a value is coded.
    pub bits: CodeBits,
}

/// What was measured. Rates are medians.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Parameters.
    pub params: u64,
    /// Updates that were merged.
    pub peers: usize,
    /// Threads.
    pub threads: usize,
    /// Values kept in 4096.
    pub top_k: u32,
    /// Bits of a value's code.
    pub bits: u8,
    /// Memory bandwidth.
    pub triad_bytes_per_second: f64,
    /// Error feedback, selection, quantiser, file.
    pub compress_params_per_second: f64,
    /// 16 bytes for each parameter compressed, over the memory bandwidth.
    pub compress_share_of_triad: f64,
    /// From a file's bytes, with all its checks, to dense fp32.
    pub decode_params_per_second: f64,
    /// Inner products, weights, mean, quantised delta.
    pub merge_params_per_second: f64,
    /// Of these the inner products alone.
    pub gram_params_per_second: f64,
    /// Most memory during a merge, all updates included, beside the delta and its error feedback.
    pub merge_peak_bytes: u64,
    /// The whole file.
    pub bits_per_kept_value: f64,
    /// Least for its positions, with codes and scales as they are.
    pub bound_bits_per_kept_value: f64,
    /// How many times smaller than fp32.
    pub ratio_fp32: f64,
    /// Squared error over squared norm, on the kept values.
    pub relative_mse: f64,
}

/// Measures.
///
/// # Errors
/// When the codec refuses what it made itself.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let progress = Progress::new((1 + WARM_UP + 3 * TIMES + options.peers) as u64);
    progress.step("memory bandwidth");
    let triad = memory::triad();
    let mut machine = Machine::new(options, progress)?;
    let (file, compress_seconds) = machine.compress()?;
    let update = machine.open(file.clone(), 0)?;
    let (stats, relative_mse) = (update.stats()?, relative_mse(&update, &machine.e)?);
    let decode_seconds = machine.decode(&file)?;
    let updates = machine.others(update)?;
    let merged = machine.merge(&updates)?;
    machine.progress.0.finish_and_clear();
    let parameters = machine.layout.num_parameters();
    let rate = |seconds: f64| parameters as f64 / seconds;
    Ok(Report {
        params: parameters,
        peers: options.peers,
        threads: rayon::current_num_threads(),
        top_k: options.top_k,
        bits: options.bits as u8,
        triad_bytes_per_second: triad,
        compress_params_per_second: rate(compress_seconds),
        compress_share_of_triad: 16.0 * rate(compress_seconds) / triad,
        decode_params_per_second: rate(decode_seconds),
        merge_params_per_second: rate(merged.seconds),
        gram_params_per_second: rate(merged.gram_seconds),
        merge_peak_bytes: merged.peak_bytes,
        bits_per_kept_value: stats.bits_per_kept(),
        bound_bits_per_kept_value: stats.bound_bits() / stats.kept as f64,
        ratio_fp32: stats.compression(),
        relative_mse,
    })
}

struct Progress(ProgressBar);

impl Progress {
    fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {msg}");
        Self(ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn step(&self, message: &'static str) {
        self.0.inc(1);
        self.0.set_message(message);
    }
}

/// What is measured, and the tensors that it works on.
struct Machine {
    layout: Layout,
    config: CodecConfig,
    peers: usize,
    /// A pseudo-gradient, or what was decoded.
    dense: Vec<Vec<f32>>,
    e: Vec<Vec<f32>>,
    progress: Progress,
}

impl Machine {
    fn new(options: &Options, progress: Progress) -> anyhow::Result<Self> {
        let layout = layout(options.parameters)?;
        let config = CodecConfig { top_k: options.top_k, bits: options.bits, error_feedback_decay: 0.95 };
        let (dense, e) = (layout.zeros(), layout.zeros());
        Ok(Self { layout, config, peers: options.peers.max(1), dense, e, progress })
    }

    /// One peer's file of `window`, and the seconds that it took; error feedback goes on.
    fn compress_once(&mut self, window: usize, peer: u8) -> anyhow::Result<(Bytes, f64)> {
        fill(&mut self.dense, window as u64, peer.into());
        let slices: Vec<&[f32]> = self.dense.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        let file = compress(&self.layout, &binding(peer), &self.config, &slices, &mut self.e)?;
        Ok((file.into(), start.elapsed().as_secs_f64()))
    }

    /// The first peer's file after some windows, and how long the later ones took.
    fn compress(&mut self) -> anyhow::Result<(Bytes, f64)> {
        let (mut file, mut seconds) = (Bytes::new(), Vec::new());
        for window in 0..WARM_UP + TIMES {
            self.progress.step("compress");
            let (bytes, time) = self.compress_once(window, 0)?;
            file = bytes;
            seconds.extend((window >= WARM_UP).then_some(time));
        }
        Ok((file, median(&mut seconds)))
    }

    fn open(&self, file: Bytes, peer: u8) -> anyhow::Result<Update> {
        Ok(Update::parse(file, &self.layout, &self.config, &binding(peer))?)
    }

    fn decode(&mut self, file: &Bytes) -> anyhow::Result<f64> {
        let mut seconds = Vec::new();
        for _ in 0..TIMES {
            self.progress.step("decode");
            let start = Instant::now();
            self.open(file.clone(), 0)?.decode_into(&mut self.dense)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(median(&mut seconds))
    }

    /// `first`, and the other peers' updates.
    fn others(&mut self, first: Update) -> anyhow::Result<Vec<Update>> {
        let mut updates = vec![first];
        for peer in 1..self.peers as u8 {
            self.progress.step("the other peers' updates");
            self.e.iter_mut().for_each(|tensor| tensor.fill(0.0));
            let (file, _) = self.compress_once(WARM_UP, peer)?;
            updates.push(self.open(file, peer)?);
        }
        Ok(updates)
    }

    /// How long a merge takes, and how much memory.
    fn merge(&mut self, updates: &[Update]) -> anyhow::Result<Merged> {
        self.dense = Vec::new();
        self.e.iter_mut().for_each(|tensor| tensor.fill(0.0));
        let inputs: u64 = updates.iter().map(|update| update.frame().file_len()).sum();
        let (before, _) = memory::resident();
        memory::forget_peak();
        let (mut seconds, mut gram_seconds, mut delta_bytes) = (Vec::new(), Vec::new(), 0);
        let all: Vec<&Update> = updates.iter().collect();
        for _ in 0..TIMES {
            self.progress.step("merge");
            let start = Instant::now();
            let products = gram(&all)?;
            gram_seconds.push(start.elapsed().as_secs_f64());
            delta_bytes = join(&self.layout, updates, &products, &mut self.e)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let (_, peak) = memory::resident();
        let peak_bytes = (peak.saturating_sub(before) + inputs).saturating_sub(delta_bytes);
        Ok(Merged { seconds: median(&mut seconds), gram_seconds: median(&mut gram_seconds), peak_bytes })
    }
}

/// One matrix after the other, as many as it takes.
fn layout(parameters: usize) -> anyhow::Result<Layout> {
    let rows = parameters.div_ceil(64 * COLUMNS) * 64;
    let tensors =
        (0..rows).step_by(ROWS).map(|first| (format!("t{first}"), vec![ROWS.min(rows - first), COLUMNS]));
    Ok(Layout::new(tensors)?)
}

fn binding(peer: u8) -> Binding {
    Binding { run: [1; 32], window: 7, peer: [peer; 32], start_state_root: [3; 32] }
}

/// How long a merge took, and how much memory.
struct Merged {
    seconds: f64,
    gram_seconds: f64,
    peak_bytes: u64,
}

/// What an aggregator does with a window's updates and their inner products; returns the size of the delta.
fn join(layout: &Layout, updates: &[Update], products: &[f64], e: &mut [Vec<f32>]) -> anyhow::Result<u64> {
    let g = updates.len();
    let norms: Vec<f64> = (0..g).map(|i| products[i * g + i].sqrt()).collect();
    let mut sorted = norms.clone();
    let median = median(&mut sorted);
    let clip = |norm: f64| (median / norm).min(1.0) / g as f64;
    let inputs: Vec<_> =
        updates.iter().zip(&norms).map(|(update, norm)| (update, clip(*norm) as f32)).collect();
    let binding = DeltaBinding { run: [1; 32], window: 7, start_state_root: [3; 32] };
    Ok(merge(layout, &binding, &DeltaConfig::default(), &inputs, e)?.len() as u64)
}

fn relative_mse(update: &Update, e: &[Vec<f32>]) -> anyhow::Result<f64> {
    let (mut error, mut norm) = (0.0, 0.0);
    for (tensor, e) in e.iter().enumerate() {
        update.for_each(tensor, |index, value| {
            error += f64::from(e[index]).powi(2);
            norm += f64::from(value + e[index]).powi(2);
        })?;
    }
    Ok(error / norm)
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// A pseudo-gradient: for every tile a scale e^(z/2), and in it normal values, of which a third of the variance is the
/// same for all peers.
fn fill(tensors: &mut [Vec<f32>], window: u64, peer: u64) {
    for (number, tensor) in tensors.iter_mut().enumerate() {
        tensor.par_chunks_mut(64 * COLUMNS).enumerate().for_each(|(band, values)| {
            let seed = (number as u64) << 32 | (band as u64) << 8;
            let mut shape = Random::new(seed);
            let scales: Vec<f32> = (0..COLUMNS / 64).map(|_| 1e-3 * (0.5 * shape.normal()).exp()).collect();
            let mut common = Random::new(seed ^ (window + 1) << 48);
            let mut own = Random::new(seed ^ (window + 1) << 48 ^ (peer + 1) << 56);
            for row in values.chunks_exact_mut(COLUMNS) {
                for (tile, scale) in row.chunks_exact_mut(64).zip(&scales) {
                    tile.fill_with(|| scale * (0.577 * common.normal() + 0.816 * own.normal()));
                }
            }
        });
    }
}

/// SplitMix64 (Steele, Lea and Flood).
struct Random {
    state: u64,
    spare: Option<f32>,
}

impl Random {
    fn new(seed: u64) -> Self {
        // One step, so that seeds which are near each other do not give shifted copies of one sequence.
        let mut random = Self { state: seed, spare: None };
        random.state = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A standard normal by Box and Muller.
    fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let bits = self.next();
        let radius = (-2.0 * (((bits >> 40) as f32 + 0.5) / 16_777_216.0).ln()).sqrt();
        let angle = std::f32::consts::TAU * (((bits & 0xff_ffff) as f32) / 16_777_216.0);
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_measurement_has_all_its_figures() {
        let options = Options { parameters: 1 << 20, peers: 3, top_k: 64, bits: CodeBits::Two };
        let report = run(&options).unwrap();
        assert_eq!(report.params, 1 << 20);
        for figure in [
            report.triad_bytes_per_second,
            report.compress_params_per_second,
            report.decode_params_per_second,
        ] {
            assert!(figure.is_finite() && figure > 0.0, "{report:?}");
        }
        assert!(report.merge_params_per_second > 0.0);
        assert!(report.bits_per_kept_value > report.bound_bits_per_kept_value);
        assert!((150.0..250.0).contains(&report.ratio_fp32) && report.relative_mse < 0.005, "{report:?}");
    }

    #[test]
    fn peers_have_a_third_of_their_variance_in_common() {
        let mut two = [vec![vec![0.0; 64 * COLUMNS]], vec![vec![0.0; 64 * COLUMNS]]];
        (0..2).for_each(|peer| fill(&mut two[peer], 0, peer as u64));
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let [a, b] = [&two[0][0], &two[1][0]];
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        assert!((cosine - 1.0 / 3.0).abs() < 0.03, "{cosine}");
    }
}
