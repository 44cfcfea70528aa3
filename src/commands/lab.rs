//! `brigade lab`: experiments in one process.

use std::path::PathBuf;

use crate::lab::compression::{self, Options, Question, Row};

/// Which experiment.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// What the codes of updates and deltas, and the density of deltas, cost in bytes and in held-out loss.
    Compression(Args),
}

/// Arguments of `brigade lab compression`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is varied.
    #[arg(long, value_enum, default_value = "update")]
    question: Question,
    /// Folder of a dataset (`brigade data prepare`); made from the Rust source on this machine if it has none.
    #[arg(long, value_name = "DIR", default_value = "lab-data")]
    data: PathBuf,
    /// `demo` (3.5 M parameters), `tiny`, or a JSON file with a model's shape.
    #[arg(long, value_name = "NAME|FILE", default_value = "demo")]
    model: String,
    /// Windows of each run.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    windows: u64,
    /// Numbers of peers.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    peers: Vec<usize>,
    /// Number of seeds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Runs at the same time; each trains on one thread. As many as there are cores when left out.
    #[arg(long)]
    jobs: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs an experiment and prints its table.
///
/// # Errors
/// Those of the experiment.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    let Action::Compression(args) = action;
    anyhow::ensure!(args.peers.iter().all(|peers| *peers > 0), "--peers must be above 0");
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map(usize::from), Ok)?;
    let Args { question, data, model, windows, peers, seeds, json, .. } = args;
    let options = Options { data, model, windows, peers, seeds, question, jobs };
    let rows = super::runtime()?.block_on(compression::run(&options))?;
    super::answer(if json { serde_json::to_string_pretty(&rows)? } else { table(&rows) })
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        "| arm | peers | held-out loss, by seed | above the first arm, by seed | update | down | bits a kept value | MSE |".to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    let list = |numbers: &[f64], unit: &str, digits: usize| {
        numbers.iter().map(|n| format!("{n:.digits$}{unit}")).collect::<Vec<_>>().join(" ")
    };
    lines.extend(rows.iter().map(|row| {
        format!(
            "| {} | {} | {} | {} | {:.0} B | {:.0} B | {:.2} | {:.5} |",
            row.arm,
            row.peers,
            list(&row.heldout_loss, "", 4),
            list(&row.above_percent, " %", 2),
            row.bytes_up,
            row.bytes_down,
            row.bits_per_kept_value,
            row.relative_mse,
        )
    }));
    lines.join("\n")
}
