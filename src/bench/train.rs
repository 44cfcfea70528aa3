//! `brigade bench train`: what this machine trains, in about a minute.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use brigade_protocol::{Envelope, Manifest, ModelConfig, TensorSpec, Training};
use brigade_trainer::{TokenBatch, Trainer, TrainerConfig};
use indicatif::ProgressBar;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::Serialize;
use tokio::sync::oneshot;

use super::memory;
use super::tokens::{Folder, Shape, batches};
use crate::config::{self, Compute, ModelSection, RunSettings};
use crate::plan::{self, DeviceKind, Memory, Precision, Recompute, Setup};
use crate::roles::model::device_config;
use crate::shutdown::{Shutdown, Stopped};
use crate::throughput::{Peak, gpu_name};

/// Learning rate: small, because the tokens are random.
const LEARNING_RATE: f64 = 1e-4;

/// Random numbers that weights are made of, over and over: an odd number, so that no two rows are the same.
const NOISE: usize = 65_521;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model.
    pub model: ModelConfig,
    /// Where it computes, and how.
    pub compute: Compute,
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Which blocks run again in their backward pass.
    pub recompute: Recompute,
    /// How long steps are measured, in seconds; one at least is.
    pub seconds: f64,
    /// The run that this machine would take part in.
    pub terms: Option<Terms>,
}

/// What a run asks of a miner.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Its model.
    pub model: ModelConfig,
    /// How a peer trains.
    pub training: Training,
    /// Seconds from a window's opening to its deadline.
    pub train_seconds: u64,
}

impl Terms {
    /// From the settings behind `brigade run create`, or from a run's manifest.
    ///
    /// # Errors
    /// When the file is neither, or says what no run can have.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let terms = if is_json {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let open = || anyhow::Ok(Envelope::from_bytes(&bytes)?.open::<Manifest>()?.record);
            let manifest = open().with_context(|| format!("{} is no run's manifest", path.display()))?;
            let (model, training) = (manifest.model, manifest.training);
            Self { model, training, train_seconds: manifest.windows.train_seconds }
        } else {
            let run: RunSettings = config::read(path)?;
            let model = match run.model {
                ModelSection::Shape(model) => model,
                ModelSection::From(folder) => {
                    crate::folder::Folder::open_shape(&path.parent().unwrap_or(Path::new("")).join(folder))?
                }
            };
            Self { model, training: run.training, train_seconds: run.windows.train_seconds }
        };
        terms.model.validate().with_context(|| path.display().to_string())?;
        Ok(terms)
    }

    /// Whether steps of `step_seconds` fit the window, and the reason in words.
    fn qualifies(&self, step_seconds: f64) -> (bool, String) {
        let (steps, window) = (self.training.inner_steps, self.train_seconds);
        let seconds = f64::from(steps) * step_seconds;
        let verdict = if seconds <= window as f64 { "fit" } else { "do not fit" };
        let reason =
            format!("{steps} inner steps take {seconds:.1} s, which {verdict} the window's {window} s");
        (seconds <= window as f64, reason)
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Parameters of the model.
    pub parameters: u64,
    /// Where it was trained.
    pub device: String,
    /// In which precision.
    pub dtype: Precision,
    /// Sequences of a step.
    pub batch: usize,
    /// Sequences that went through the model at once.
    pub micro_batch: usize,
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// Steps that were measured.
    pub steps: usize,
    /// Of all measured steps, waiting for data included.
    pub tokens_per_second: f64,
    /// Share of `peak_flops` that the model's arithmetic came to; what is recomputed does not count.
    pub mfu: f64,
    /// What the device can do, in FLOP/s.
    pub peak_flops: f64,
    /// How that is known.
    pub peak_source: String,
    /// The most memory that training took: on a CPU of the process, above what it had before; on a GPU of the allocator.
    pub peak_bytes: u64,
    /// What `brigade plan` says of the same.
    pub planned_peak_bytes: u64,
    /// The same by kind.
    pub planned: Memory,
    /// Median seconds of an inner step, waiting for data not included.
    pub step_seconds: f64,
    /// Share of the time that went into waiting for data.
    pub data_wait_share: f64,
    /// Of the last step, before it was clipped.
    pub grad_norm: f32,
    /// Whether this machine can take part in the run; `None` without one.
    pub qualifies: Option<bool>,
    /// Why.
    pub reason: Option<String>,
}

/// Measures, on a thread of its own, until it is done or somebody wants it to stop.
///
/// # Errors
/// When the settings do not fit the model or the machine; [`Stopped`].
pub async fn run(options: Options, bar: ProgressBar, shutdown: Shutdown) -> anyhow::Result<Report> {
    let config = trainer_config(&options)?;
    let (answer, answered) = oneshot::channel();
    // As in a miner: libtorch keeps its threads by the thread that calls it, and glibc its heaps.
    std::thread::Builder::new().name("trainer".into()).spawn(move || {
        drop(answer.send(measure(&options, config, &bar, &shutdown)));
    })?;
    answered.await.context("the trainer's thread ended")?
}

/// What the trainer is told.
fn trainer_config(options: &Options) -> anyhow::Result<TrainerConfig> {
    let recompute = match options.recompute {
        Recompute::None => brigade_trainer::Recompute::None,
        Recompute::All => brigade_trainer::Recompute::All,
        Recompute::Every(n) => {
            let n = usize::try_from(n).ok().and_then(NonZeroUsize::new);
            brigade_trainer::Recompute::Every(
                n.context("--recompute is none, all, or a number of at least 1")?,
            )
        }
    };
    Ok(TrainerConfig { recompute, ..device_config(&options.model, &options.compute)? })
}

/// The same as the plan wants to be told.
fn setup(options: &Options, trainer: &Trainer) -> Setup {
    let is_wide = trainer.compute_kind().elt_size_in_bytes() == 4;
    Setup {
        model: options.model.clone(),
        device: if trainer.device().is_cuda() { DeviceKind::Cuda } else { DeviceKind::Cpu },
        gpus: 1,
        precision: if is_wide { Precision::Float32 } else { Precision::BFloat16 },
        is_widened: !is_wide && trainer.product_dtype() == "float32",
        sequence_length: options.sequence_length as u64,
        batch: options.batch as u64,
        micro_batch: micro_batch(options) as u64,
        recompute: options.recompute,
        offload: options.compute.offload.unwrap_or(false),
    }
}

fn micro_batch(options: &Options) -> usize {
    options.compute.micro_batch.unwrap_or(options.batch).min(options.batch)
}

fn measure(
    options: &Options,
    config: TrainerConfig,
    bar: &ProgressBar,
    shutdown: &Shutdown,
) -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    let Options { sequence_length, batch, .. } = *options;
    let source = batches(&folder, Shape { vocab_size: options.model.vocab_size, batch, sequence_length })?;
    bar.set_message("starting");
    let small = start_libtorch(&config)?;
    let first = take(&source)?;
    small.forget_peak()?;
    let (before, _) = memory::resident();
    memory::forget_peak();

    let mut trainer = Trainer::new(config)?;
    load(&mut trainer, &options.model)?;
    trainer.prepare_training()?;
    bar.set_message("warm-up");
    trainer.inner_step(&first, LEARNING_RATE)?;
    if shutdown.is_requested() {
        return Err(Stopped.into());
    }
    let timed = steps(&mut trainer, &source, options.seconds, bar, shutdown)?;
    let peak_bytes = match trainer.peak_device_bytes()? {
        Some(bytes) => bytes,
        None => memory::resident().1.saturating_sub(before),
    };
    let setup = setup(options, &trainer);
    drop(trainer);
    report(options, &setup, &small, timed, peak_bytes)
}

/// A trainer that does a step of next to nothing, so that libtorch is loaded and has its threads.
fn start_libtorch(config: &TrainerConfig) -> anyhow::Result<Trainer> {
    let model = ModelConfig {
        vocab_size: 512,
        num_hidden_layers: 1,
        hidden_size: 256,
        intermediate_size: 704,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: None,
        max_position_embeddings: 128,
        ..config.model.clone()
    };
    let mut trainer = Trainer::new(TrainerConfig { model, ..config.clone() })?;
    trainer.inner_step(&TokenBatch::new(vec![1; 129], 1, 128)?, LEARNING_RATE)?;
    Ok(trainer)
}

/// Weights as wide as a run's first ones. All are cut from one piece, so that they take no room beside the model's own.
fn load(trainer: &mut Trainer, model: &ModelConfig) -> anyhow::Result<()> {
    let specs = model.tensors();
    let longest = specs.iter().map(TensorSpec::numel).max().unwrap_or(0);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    // Uniform, with the standard deviation of a run's normal ones.
    let width = 12.0_f32.sqrt() * model.initializer_range as f32;
    let noise: Vec<f32> =
        (0..NOISE).map(|_| (random.next_u32() as f32 / u32::MAX as f32 - 0.5) * width).collect();
    let mut weights = Vec::with_capacity(longest);
    while weights.len() < longest {
        weights.extend_from_slice(&noise[..NOISE.min(longest - weights.len())]);
    }
    let ones = vec![1.0; model.hidden_size.max(model.intermediate_size)];
    let of = |spec: &TensorSpec| match spec.shape.len() {
        1 if spec.name.ends_with("norm.weight") => &ones[..spec.numel()],
        _ => &weights[..spec.numel()],
    };
    Ok(trainer.load_parameters(&specs.iter().map(of).collect::<Vec<_>>())?)
}

fn take(source: &Receiver<anyhow::Result<TokenBatch>>) -> anyhow::Result<TokenBatch> {
    source.recv().context("the thread that reads data ended")?
}

/// What the steps came to.
struct Timed {
    /// Seconds of every step.
    steps: Vec<f64>,
    /// Seconds of waiting for data.
    waited: f64,
    grad_norm: f32,
}

fn steps(
    trainer: &mut Trainer,
    source: &Receiver<anyhow::Result<TokenBatch>>,
    seconds: f64,
    bar: &ProgressBar,
    shutdown: &Shutdown,
) -> anyhow::Result<Timed> {
    let mut timed = Timed { steps: Vec::new(), waited: 0.0, grad_norm: 0.0 };
    let started = Instant::now();
    bar.set_length(Duration::from_secs_f64(seconds).as_millis() as u64);
    bar.set_message("training");
    while timed.steps.is_empty() || started.elapsed().as_secs_f64() < seconds {
        let waiting = Instant::now();
        let batch = take(source)?;
        let stepping = Instant::now();
        timed.waited += (stepping - waiting).as_secs_f64();
        let stats = trainer.inner_step(&batch, LEARNING_RATE)?;
        timed.steps.push(stepping.elapsed().as_secs_f64());
        timed.grad_norm = stats.grad_norm;
        let rate = stats.tokens as f64 / stepping.elapsed().as_secs_f64();
        bar.set_position(started.elapsed().as_millis() as u64);
        bar.set_message(format!("training, {rate:.0} tokens/s"));
        if shutdown.is_requested() {
            return Err(Stopped.into());
        }
    }
    Ok(timed)
}

fn report(
    options: &Options,
    setup: &Setup,
    device: &Trainer,
    mut timed: Timed,
    peak_bytes: u64,
) -> anyhow::Result<Report> {
    let elapsed = timed.steps.iter().sum::<f64>() + timed.waited;
    let tokens = options.batch * options.sequence_length;
    let tokens_per_second = (tokens * timed.steps.len()) as f64 / elapsed;
    timed.steps.sort_by(f64::total_cmp);
    let step_seconds = timed.steps[timed.steps.len() / 2];
    let gpu = device.is_on_gpu().then(gpu_name).flatten();
    let peak = Peak::new(device.product_dtype(), gpu.as_deref(), || device.measure_matmul())?;
    let planned = plan::memory(setup);
    // The allocator knows nothing of CUDA's own.
    let hidden = if setup.device == DeviceKind::Cuda { planned.workspace } else { 0 };
    let verdict = options.terms.as_ref().map(|terms| terms.qualifies(step_seconds));
    let (qualifies, reason) = verdict.unzip();
    Ok(Report {
        parameters: options.model.num_parameters() as u64,
        device: format!("{:?}", device.device()).to_lowercase(),
        dtype: setup.precision,
        batch: options.batch,
        micro_batch: micro_batch(options),
        sequence_length: options.sequence_length,
        steps: timed.steps.len(),
        tokens_per_second,
        mfu: tokens_per_second * plan::flops_per_token(setup) / peak.flops_per_second,
        peak_flops: peak.flops_per_second,
        peak_source: peak.source,
        peak_bytes,
        planned_peak_bytes: planned.total() - hidden,
        planned,
        step_seconds,
        data_wait_share: timed.waited / elapsed,
        grad_norm: timed.grad_norm,
        qualifies,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_long_enough_or_it_is_not() {
        let training = Training { inner_steps: 30, ..Training::default() };
        let terms = Terms { model: ModelConfig::preset("demo").unwrap(), training, train_seconds: 60 };
        assert!(terms.qualifies(2.0).0);
        let (qualifies, reason) = terms.qualifies(2.1);
        assert!(!qualifies && reason.contains("30 inner steps take 63.0 s"), "{reason}");
    }
}
