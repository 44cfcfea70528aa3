//! `brigade bench`: measurements that a user can repeat.

use anyhow::Context as _;
use brigade_codec::CodeBits;

use crate::bench::codec::{self, Options, Report};

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Compress, decode and merge, in parameters a second, beside this machine's memory bandwidth.
    Codec(Args),
    /// Inner steps: tokens a second, memory, waiting for data; with `--run`, whether this machine qualifies.
    #[cfg(feature = "torch")]
    Train(super::bench_train::Args),
}

/// Arguments of `brigade bench codec`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Parameters of the made-up model. Takes some 16 bytes of memory for each.
    #[arg(long, default_value_t = 134_217_728, value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    params: u64,
    /// Updates to merge.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=200))]
    peers: u8,
    /// Values kept in a chunk of 4096.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    top_k: u32,
    /// Bits of a value's code, its sign included.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    bits: u8,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade bench`.
///
/// # Errors
/// When the codec refuses what it made itself.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Codec(args) => bench_codec(&args),
        #[cfg(feature = "torch")]
        Action::Train(args) => super::bench_train::run(args),
    }
}

fn bench_codec(args: &Args) -> anyhow::Result<()> {
    let bits = CodeBits::from_number(args.bits).context("--bits is 1 to 4")?;
    let options =
        Options { parameters: args.params as usize, peers: args.peers.into(), top_k: args.top_k, bits };
    let report = codec::run(&options)?;
    super::answer(if args.json { serde_json::to_string_pretty(&report)? } else { describe(&report) })
}

fn describe(report: &Report) -> String {
    let rate = |name: &str, rate: f64| format!("{name:<22} {:>10.0} M parameters/s", rate / 1e6);
    [
        format!(
            "{:<22} {:>10.1} GB/s (triad, {} threads)",
            "memory",
            report.triad_bytes_per_second / 1e9,
            report.threads
        ),
        format!(
            "{}, {:.0} % of memory bandwidth at 16 bytes each",
            rate("compress", report.compress_params_per_second),
            100.0 * report.compress_share_of_triad
        ),
        rate("decode", report.decode_params_per_second),
        rate(&format!("merge {} updates", report.peers), report.merge_params_per_second),
        format!(
            "{:<22} {:>10.1} MiB (updates included)",
            "most memory to merge",
            report.merge_peak_bytes as f64 / 1048576.0
        ),
        format!(
            "{:<22} {:>10.3} bits a kept value, {:.4} × the bound; fp32 / {:.1}",
            "size",
            report.bits_per_kept_value,
            report.bits_per_kept_value / report.bound_bits_per_kept_value,
            report.ratio_fp32
        ),
        format!("{:<22} {:>10.5} of the squared norm", "squared error", report.relative_mse),
    ]
    .join("\n")
}
