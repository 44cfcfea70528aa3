//! `brigade plan`: what a peer will need, before it has it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use brigade_protocol::ModelConfig;
use serde::Serialize;

use crate::folder::Folder;
use crate::plan::{
    self, DeviceKind, Exchange, HostMemory, Link, Memory, Precision, Recompute, Setup, advise,
};

/// The largest model file that is read, in bytes.
const MAX_MODEL_BYTES: u64 = 1 << 20;

/// Arguments of `brigade plan`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A preset (`demo`, `150m`, `1b`, `8b`, `covenant-72b`), a JSON file with a model's shape, or a Hugging Face folder.
    #[arg(long, value_name = "NAME|FILE|DIR")]
    model: String,
    /// GPUs of the peer, which share the model.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1024))]
    gpus: u64,
    /// Memory of one GPU: `80GB`, `80GiB`, or a number of GB.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    gpu_memory: u64,
    /// Upload, in Mbit/s.
    #[arg(long, value_name = "MBIT", value_parser = positive)]
    up: f64,
    /// Download, in Mbit/s.
    #[arg(long, value_name = "MBIT", value_parser = positive)]
    down: f64,
    /// Tokens in a sequence.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    sequence_length: u64,
    /// Sequences that go through a GPU at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    micro_batch: u64,
    /// Tokens of an inner step of the whole peer.
    #[arg(long, default_value_t = 192 * 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    batch_tokens: u64,
    /// H: inner steps in a window.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    inner_steps: u64,
    /// Blocks that run again in their backward pass: `none`, `all`, or N for every N-th.
    #[arg(long, value_name = "none|all|N", default_value = "none")]
    recompute: Recompute,
    /// Keep Adam's moments in host memory between steps.
    #[arg(long)]
    offload: bool,
    /// What one GPU can do in bf16, in TFLOP/s without sparsity. The default is an H100's.
    #[arg(long, value_name = "TFLOPS", default_value_t = 989.0, value_parser = positive)]
    flops: f64,
    /// Share of that which training reaches.
    #[arg(long, default_value_t = 0.4, value_parser = share)]
    mfu: f64,
    /// Miners of the run: their updates make a delta.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    peers: u64,
    #[command(flatten)]
    codes: Codes,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// How updates and the delta are coded.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Codes {
    /// Values that an update keeps of every 4096.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    top_k: u64,
    /// Bits of an update's code, its sign included.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    bits: u8,
    /// Values that the delta keeps of every 4096; 0: all that an update has kept.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=4096))]
    delta_top_k: u64,
    /// Bits of the delta's code, its sign included.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    delta_bits: u8,
}

impl Codes {
    /// A line of `up` and `down` bits a second, in a run of so many `peers`.
    pub(super) fn link(self, up: f64, down: f64, peers: u64) -> Link {
        let Self { top_k, bits, delta_top_k, delta_bits } = self;
        Link { up, down, peers, top_k, bits, delta_bits, delta_top_k }
    }
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Plan {
    parameters: u64,
    gpus: u64,
    fits: bool,
    gpu_memory_bytes: u64,
    gpu_bytes: u64,
    gpu: Memory,
    host_bytes: u64,
    host: HostMemory,
    step_seconds: f64,
    tokens_per_second: f64,
    compute_seconds: f64,
    #[serde(flatten)]
    exchange: Exchange,
    exchange_seconds: f64,
    utilisation: f64,
    /// What to add to the command so that it fits; nothing if it does, `None` if nothing helps.
    change: Option<Vec<String>>,
    /// Bytes on each GPU after the change.
    gpu_bytes_changed: Option<u64>,
}

/// Runs `brigade plan`.
///
/// # Errors
/// When there is no such model, or the sequences are too long for it.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let plan = make(&args)?;
    super::answer(if args.json { serde_json::to_string_pretty(&plan)? } else { describe(&args, &plan) })
}

fn make(args: &Args) -> anyhow::Result<Plan> {
    let setup = setup(args)?;
    let (gpu, host) = (plan::memory(&setup), plan::host_memory(&setup));
    let step_seconds = plan::step_seconds(&setup, args.batch_tokens, args.flops * 1e12, args.mfu);
    let link = args.codes.link(args.up * 1e6, args.down * 1e6, args.peers);
    let exchange = plan::exchange(&setup, &link);
    let compute_seconds = step_seconds * args.inner_steps as f64;
    let exchange_seconds = exchange.up_seconds + exchange.down_seconds;
    let advice = advise(&setup, args.gpu_memory);
    Ok(Plan {
        parameters: setup.model.num_parameters() as u64,
        gpus: args.gpus,
        fits: gpu.total() <= args.gpu_memory,
        gpu_memory_bytes: args.gpu_memory,
        gpu_bytes: gpu.total(),
        gpu,
        host_bytes: host.total(),
        host,
        step_seconds,
        tokens_per_second: args.batch_tokens as f64 / step_seconds,
        compute_seconds,
        exchange,
        exchange_seconds,
        utilisation: compute_seconds / (compute_seconds + exchange_seconds),
        gpu_bytes_changed: advice.as_ref().map(|advice| plan::memory(&advice.setup).total()),
        change: advice.map(|advice| advice.changes),
    })
}

fn setup(args: &Args) -> anyhow::Result<Setup> {
    let model = model(&args.model)?;
    let longest = model.max_position_embeddings as u64;
    anyhow::ensure!(
        args.sequence_length <= longest,
        "--sequence-length is {}, the model's context is {longest}",
        args.sequence_length
    );
    let batch = args.batch_tokens.div_ceil(args.sequence_length).div_ceil(args.gpus);
    Ok(Setup {
        model,
        device: DeviceKind::Cuda,
        gpus: args.gpus,
        precision: Precision::BFloat16,
        is_widened: false,
        sequence_length: args.sequence_length,
        batch,
        micro_batch: args.micro_batch.min(batch),
        recompute: args.recompute,
        offload: args.offload,
    })
}

/// A model by its preset, a file with its shape, or its folder.
///
/// # Errors
/// Names what is wrong, and the presets if there is no such file.
pub(super) fn model(given: &str) -> anyhow::Result<ModelConfig> {
    if let Some(preset) = ModelConfig::preset(given) {
        return Ok(preset);
    }
    let path = Path::new(given);
    if path.is_dir() {
        return Folder::open_shape(path);
    }
    let presets = ModelConfig::PRESETS.join(", ");
    let length = fs::metadata(path)
        .with_context(|| format!("--model {given} is no preset ({presets}), no file and no folder"))?
        .len();
    anyhow::ensure!(length <= MAX_MODEL_BYTES, "{given} has {length} bytes, too many for a model's shape");
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {given}"))?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(|| given.to_owned())?;
    // Hugging Face's says what kind of model it is; ours has no need to.
    let model = match value.get("architectures").or(value.get("model_type")) {
        Some(_) => ModelConfig::from_hugging_face(&value).with_context(|| given.to_owned())?,
        None => serde_json::from_value(value).with_context(|| given.to_owned())?,
    };
    model.validate().with_context(|| given.to_owned())?;
    Ok(model)
}

fn describe(args: &Args, plan: &Plan) -> String {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let mut lines = vec![
        format!("{}: {:.2} B parameters on {} GPUs", args.model, plan.parameters as f64 / 1e9, args.gpus),
        String::new(),
        format!("memory per GPU, fullest at: {}", plan.gpu.moment),
    ];
    let row = |name: &str, bytes: u64| format!("  {name:<24} {:>9.2} GB", gb(bytes));
    let some = |kinds: &[(&str, u64)]| -> Vec<String> {
        kinds.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| row(name, *bytes)).collect()
    };
    lines.extend(some(&plan.gpu.kinds()));
    let room = gb(plan.gpu_memory_bytes);
    lines.push(format!("{} of {room:.2} GB", row("in all", plan.gpu_bytes)));
    lines.push("host memory".into());
    lines.extend(some(&plan.host.kinds()));
    lines.push(row("in all", plan.host_bytes));
    lines.push(String::new());
    let time = |name: &str, seconds: f64| format!("{name:<26} {seconds:>9.1} s");
    let Exchange { update_bytes, delta_bytes, up_seconds, down_seconds } = plan.exchange;
    lines.push(format!(
        "{}, {:.0} tokens/s at {} TFLOP/s a GPU and {:.0} %",
        time("inner step", plan.step_seconds),
        plan.tokens_per_second,
        args.flops,
        100.0 * args.mfu
    ));
    lines.push(time(&format!("{} inner steps", args.inner_steps), plan.compute_seconds));
    lines.push(format!("{}, update of {:.3} GB", time("upload", up_seconds), gb(update_bytes)));
    lines.push(format!(
        "{}, delta of {:.3} GB from {} peers",
        time("download", down_seconds),
        gb(delta_bytes),
        args.peers
    ));
    lines.push(format!("{:<26} {:>9.1} %", "utilisation", 100.0 * plan.utilisation));
    lines.push(String::new());
    lines.push(verdict(plan));
    lines.join("\n")
}

fn verdict(plan: &Plan) -> String {
    match (&plan.change, plan.gpu_bytes_changed) {
        _ if plan.fits => "It fits.".into(),
        (Some(changes), Some(bytes)) => format!(
            "It does not fit. What does, with {:.2} GB: {}",
            bytes as f64 / 1e9,
            changes.join(" ")
        ),
        _ => "It does not fit, nor would it on 1024 such GPUs: take a smaller model, shorter sequences or GPUs with more memory."
            .into(),
    }
}

/// Bytes, as people write them.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "g" | "gb" => 1e9,
        "gib" => f64::from(1 << 30),
        "mb" => 1e6,
        "mib" => f64::from(1 << 20),
        "tb" => 1e12,
        other => return Err(format!("unknown unit `{other}`: write 80GB or 80GiB")),
    };
    positive(digits.trim()).map(|number| (number * unit) as u64)
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` must be a number above 0")),
    }
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    positive(text).and_then(|number| match number <= 1.0 {
        true => Ok(number),
        false => Err(format!("`{text}` must be at most 1")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(size("80GB"), Ok(80_000_000_000));
        assert_eq!(size("80"), Ok(80_000_000_000));
        assert_eq!(size("1.5 GiB"), Ok(1_610_612_736));
        for wrong in ["", "GB", "-1GB", "80XB", "inf"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_model_that_is_none_is_refused_with_the_presets() {
        let error = format!("{:#}", model("70b").unwrap_err());
        assert!(error.contains("covenant-72b") && error.contains("70b"), "{error}");
        assert_eq!(model("8b").unwrap(), ModelConfig::preset("8b").unwrap());
    }
}
