//! `brigade demo`: the real system on one machine.

use std::path::PathBuf;

use crate::demo::{self, Options, Part};
use crate::shutdown::{Shutdown, Stopped};

/// Arguments of `brigade demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of miners.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    miners: u32,
    /// Number of windows.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    windows: u64,
    /// Let the last COUNT miners cheat in one of the ways of `brigade lab attacks`, such as `sign_flip=1`; may be given several
    /// times.
    #[arg(long = "attack", value_name = "NAME=COUNT")]
    attacks: Vec<Part>,
    /// The folder that keeps everything; running again resumes.
    #[arg(long, value_name = "DIR", default_value = "demo-run")]
    dir: PathBuf,
    /// `demo` (3.5 M parameters), `tiny`, or a JSON file with a model's shape.
    #[arg(long, value_name = "NAME|FILE", default_value = "demo")]
    model: String,
    /// Text to train on (files or folders); the Rust source on this machine when left out.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Print a JSON object for every window.
    #[arg(long)]
    json: bool,
    /// Afterwards train dense DiLoCo and data-parallel AdamW on the same text, and plot the three.
    #[arg(long)]
    baseline: bool,
}

/// Runs the demo.
///
/// # Errors
/// What stopped it. Being asked to stop is none: the next start resumes.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { miners, windows, attacks, dir, model, data, json, baseline } = args;
    let options = Options { dir: dir.clone(), miners, windows, attacks, model, data, json, baseline };
    super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(false)?;
        match demo::run(options, shutdown).await {
            Err(error) if error.is::<Stopped>() => {
                tracing::info!("stopped; `brigade demo --dir {}` resumes", dir.display());
                Ok(())
            }
            outcome => outcome,
        }
    })
}
