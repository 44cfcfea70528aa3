//! `brigade update`: make update files, read them, look into them. For people who debug a run.

mod decode;
mod files;
mod inspect;

use std::path::PathBuf;

use anyhow::Context as _;
use brigade_codec::{Binding, CodeBits, CodecConfig, Layout, compress};
use brigade_protocol::Digest;
use serde_json::json;

use self::decode::DecodeArgs;
use self::files::{beside, read_tensors, write, write_tensors};
use self::inspect::InspectArgs;
use super::answer;

/// What to do with an update file or a delta file.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Compress a pseudo-gradient into an update file.
    ///
    /// Beside it goes FILE.layout.json, the tensors' names and shapes, which `decode` and `inspect` look for.
    Encode(EncodeArgs),
    /// Decode an update or a delta to dense fp32 tensors, zero where nothing was kept.
    Decode(DecodeArgs),
    /// Show what a file is for, where its bits went, and how far that is from the entropy bound.
    Inspect(InspectArgs),
}

/// Arguments of `brigade update encode`.
#[derive(Debug, clap::Args)]
pub(super) struct EncodeArgs {
    /// The pseudo-gradient, fp32.
    #[arg(long, value_name = "SAFETENSORS")]
    input: PathBuf,
    /// Error feedback of the window before, fp32; zero when left out.
    #[arg(long, value_name = "SAFETENSORS")]
    error_feedback: Option<PathBuf>,
    /// Where the new error feedback goes; nowhere when left out.
    #[arg(long, value_name = "SAFETENSORS")]
    error_feedback_out: Option<PathBuf>,
    /// The update file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Values kept in a chunk of 4096.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    top_k: u32,
    /// Bits of a value's code, its sign included.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    bits: u8,
    /// How much of the old error feedback is kept: β.
    #[arg(long, default_value_t = 0.95)]
    decay: f32,
    /// The run's id.
    #[arg(long, value_name = "SHA256", default_value_t = Digest([0; 32]))]
    run: Digest,
    /// The window.
    #[arg(long, default_value_t = 0)]
    window: u64,
    /// The peer's public key.
    #[arg(long, value_name = "HEX", default_value_t = Digest([0; 32]))]
    peer: Digest,
    /// State root of θ at the window's start.
    #[arg(long, value_name = "SHA256", default_value_t = Digest([0; 32]))]
    start_state_root: Digest,
}

/// Runs `brigade update`.
///
/// # Errors
/// When a file cannot be read or written, or breaks the format.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Encode(args) => answer(encode(&args)?),
        Action::Decode(args) => decode::run(&args),
        Action::Inspect(args) => inspect::run(&args),
    }
}

fn encode(args: &EncodeArgs) -> anyhow::Result<serde_json::Value> {
    let (names, delta) = read_tensors(&args.input)?;
    let layout = Layout::new(names.iter().cloned())?;
    let mut e = match &args.error_feedback {
        None => layout.zeros(),
        Some(path) => {
            let (found, e) = read_tensors(path)?;
            anyhow::ensure!(found == names, "{} does not have the tensors of the input", path.display());
            e
        }
    };
    let bits = CodeBits::from_number(args.bits).context("--bits is 1 to 4")?;
    let config = CodecConfig { top_k: args.top_k, bits, error_feedback_decay: args.decay };
    let (run, peer, start_state_root) = (args.run.0, args.peer.0, args.start_state_root.0);
    let binding = Binding { run, window: args.window, peer, start_state_root };
    let slices: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
    let bytes = compress(&layout, &binding, &config, &slices, &mut e)?;
    write(&args.out, &bytes)?;
    write(&beside(&args.out), &serde_json::to_vec(&names)?)?;
    if let Some(path) = &args.error_feedback_out {
        write_tensors(path, &names, &e)?;
    }
    let parameters = layout.num_parameters();
    Ok(json!({ "parameters": parameters, "bytes": bytes.len(), "sha256": Digest::of(&bytes) }))
}
