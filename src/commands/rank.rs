//! `brigade rank`: a process that a miner starts for each further GPU. Not for people, so help does not list it.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `brigade rank`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder in which the ranks of a miner meet.
    #[arg(long)]
    folder: PathBuf,
    /// This rank's number.
    #[arg(long)]
    rank: usize,
    /// How many there are.
    #[arg(long)]
    ranks: usize,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Args { folder, rank, ranks } = args;
    // A service that is stopped sends its signal to all its processes; the miner is the one to answer it, and lets us go.
    let ignored = super::runtime()?;
    let _entered = ignored.enter();
    let _signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    brigade_trainer::serve_rank(folder, *rank, *ranks).with_context(|| format!("rank {rank}"))
}
