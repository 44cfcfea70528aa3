//! `brigade bench train`: what this machine trains.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use brigade_protocol::ModelConfig;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bench::train::{self, Options, Report, Terms};
use crate::config::Compute;
use crate::plan::Recompute;
use crate::shutdown::{Shutdown, Stopped};

/// Tokens of a step, unless somebody says otherwise.
const STEP_TOKENS: usize = 8192;

/// Arguments of `brigade bench train`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A preset, a JSON file with a model's shape, or a Hugging Face folder; when left out the run's, or `demo`.
    #[arg(long, value_name = "NAME|FILE|DIR")]
    model: Option<String>,
    /// Tokens in a sequence; when left out the run's, or the model's context, but at most 2048.
    #[arg(long, value_name = "TOKENS")]
    sequence_length: Option<usize>,
    /// Sequences of a step; when left out the run's, or some 8,192 tokens.
    #[arg(long, value_name = "SEQUENCES", value_parser = positive)]
    batch: Option<usize>,
    /// Sequences that go through the model at once; the whole batch when left out.
    #[arg(long, value_name = "SEQUENCES", value_parser = positive)]
    micro_batch: Option<usize>,
    /// How long steps are measured.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// `auto` (the first GPU, else the CPU), `cpu`, or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// `auto`, `float32` or `bfloat16`.
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Threads on the CPU; as many as there are cores when left out.
    #[arg(long)]
    threads: Option<usize>,
    /// Blocks that run again in their backward pass: `none` or `all`.
    #[arg(long, default_value = "none")]
    recompute: Recompute,
    /// Keep the optimiser's moments in the host's memory between steps.
    #[arg(long)]
    offload: bool,
    /// A run's settings (TOML) or its manifest (JSON): says whether this machine qualifies.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade bench train`.
///
/// # Errors
/// When the settings do not fit the model or the machine.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let options = options(&args)?;
    let bar = bar();
    let measured = super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(false)?;
        train::run(options, bar.clone(), shutdown).await
    });
    bar.finish_and_clear();
    let report = match measured {
        Err(error) if error.is::<Stopped>() => {
            tracing::info!("stopped");
            return Ok(());
        }
        report => report?,
    };
    super::answer(if args.json { serde_json::to_string_pretty(&report)? } else { describe(&report) })
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let terms = args.run.as_deref().map(Terms::read).transpose()?;
    let model = match (&args.model, &terms) {
        (None, Some(terms)) => terms.model.clone(),
        (name, _) => super::plan::model(name.as_deref().unwrap_or("demo"))?,
    };
    let said = terms.as_ref().map(|terms| &terms.training);
    let sequence_length = args.sequence_length.unwrap_or_else(|| {
        said.map_or(model.max_position_embeddings.min(2048), |said| said.sequence_length as usize)
    });
    check_length(&model, sequence_length)?;
    let batch = args.batch.unwrap_or_else(|| {
        said.map_or((STEP_TOKENS / sequence_length).max(1), |said| said.batch_size as usize)
    });
    let compute = Compute {
        device: Some(args.device.clone()),
        dtype: Some(args.dtype.clone()),
        threads: args.threads,
        micro_batch: args.micro_batch,
        offload: Some(args.offload),
        ..Compute::default()
    };
    let (recompute, seconds) = (args.recompute, f64::from(args.seconds));
    Ok(Options { model, compute, sequence_length, batch, recompute, seconds, terms })
}

fn check_length(model: &ModelConfig, length: usize) -> anyhow::Result<()> {
    let context = model.max_position_embeddings;
    anyhow::ensure!(
        (1..=context).contains(&length),
        "--sequence-length is {length}, must be from 1 to the model's context of {context}"
    );
    Ok(())
}

fn describe(report: &Report) -> String {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let row = |name: &str, value: String| format!("{name:<20} {value}");
    let mut lines = vec![
        row("model", format!("{:.1} M parameters", report.parameters as f64 / 1e6)),
        row("device", format!("{}, {:?}", report.device, report.dtype).to_lowercase()),
        row(
            "inner step",
            format!(
                "{:.3} s for {} × {} tokens, median of {}",
                report.step_seconds, report.batch, report.sequence_length, report.steps
            ),
        ),
        row("rate", format!("{:.0} tokens/s", report.tokens_per_second)),
        row(
            "utilisation (MFU)",
            format!(
                "{:.1} % of {:.2} TFLOP/s ({})",
                100.0 * report.mfu,
                report.peak_flops / 1e12,
                report.peak_source
            ),
        ),
        row(
            "most memory",
            format!("{:.3} GB, planned {:.3} GB", gb(report.peak_bytes), gb(report.planned_peak_bytes)),
        ),
        row("waiting for data", format!("{:.2} % of the time", 100.0 * report.data_wait_share)),
        row("gradient norm", format!("{:.4}", report.grad_norm)),
    ];
    if let (Some(qualifies), Some(reason)) = (report.qualifies, &report.reason) {
        lines.push(row("qualifies", format!("{}: {reason}", if qualifies { "yes" } else { "no" })));
    }
    lines.join("\n")
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1 << 20).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` must be from 1 to 1048576")),
    }
}

/// A bar on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let is_terminal = io::stderr().is_terminal();
    let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
