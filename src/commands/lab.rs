//! `brigade lab`: experiments in one process.

use std::path::PathBuf;

use brigade_protocol::gauntlet::Gauntlet;
use brigade_protocol::gauntlet::robust::Rule;

use crate::lab::attacks::{self, Attack};
use crate::lab::compression::{self, Options, Question, Row};

/// Which experiment.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// What the codes of updates and deltas, and the density of deltas, cost in bytes and in held-out loss.
    Compression(Args),
    /// What each way to cheat costs the honest, and what it gets.
    Attacks(AttackArgs),
}

/// Seeds of an experiment.
const SEEDS: u64 = 3;

/// Shares of cheats of the whole table.
const SHARES: [f64; 5] = [0.0, 0.125, 0.25, 0.375, 0.5];

/// What every experiment asks for.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Folder of a dataset (`brigade data prepare`); made from the Rust source on this machine if it has none.
    #[arg(long, value_name = "DIR", default_value = "lab-data")]
    data: PathBuf,
    /// Number of seeds [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Runs at the same time; each trains on one thread. As many as there are cores when left out.
    #[arg(long)]
    jobs: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn jobs(&self) -> std::io::Result<usize> {
        self.jobs.map_or_else(|| std::thread::available_parallelism().map(usize::from), Ok)
    }
}

/// Arguments of `brigade lab attacks`.
#[derive(Debug, clap::Args)]
pub(super) struct AttackArgs {
    /// Only these, by name.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    attack: Vec<Attack>,
    /// One seed and a quarter of the peers, unless told otherwise.
    #[arg(long)]
    quick: bool,
    /// How updates become one: mean, trimmed, geometric_median, multi_krum, centred_clipping.
    #[arg(long, value_parser = parse_rule, default_value = "mean")]
    rule: Rule,
    /// `demo` (3.5 M parameters), `tiny`, or a JSON file with a model's shape.
    #[arg(long, value_name = "NAME|FILE", default_value = "tiny")]
    model: String,
    /// Windows of each run.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..))]
    windows: u64,
    /// Honest peers and cheats together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=100))]
    peers: u64,
    /// Shares of the peers that cheat [default: 0,0.125,0.25,0.375,0.5]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    fractions: Vec<f64>,
    /// Outer learning rate. With the demo's 3, which is the quickest, two runs that differ in nothing but an update end 2 % apart.
    #[arg(long, default_value_t = 1.5)]
    alpha: f32,
    /// Write what was seen of every peer in every window of every run, a line of JSON each.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Draw attacks against shares of cheats (SVG).
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn parse_rule(name: &str) -> Result<Rule, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// Arguments of `brigade lab compression`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is varied.
    #[arg(long, value_enum, default_value = "update")]
    question: Question,
    /// `demo` (3.5 M parameters), `tiny`, or a JSON file with a model's shape.
    #[arg(long, value_name = "NAME|FILE", default_value = "demo")]
    model: String,
    /// Windows of each run.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    windows: u64,
    /// Numbers of peers.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    peers: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

/// Runs an experiment and prints its table.
///
/// # Errors
/// Those of the experiment.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    let args = match action {
        Action::Compression(args) => args,
        Action::Attacks(args) => return attack(args),
    };
    anyhow::ensure!(args.peers.iter().all(|peers| *peers > 0), "--peers must be above 0");
    let jobs = args.common.jobs()?;
    let Args { question, model, windows, peers, common: Common { data, seeds, json, .. } } = args;
    let seeds = seeds.unwrap_or(SEEDS);
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

fn attack(args: AttackArgs) -> anyhow::Result<()> {
    let fractions = match (&args.fractions[..], args.quick) {
        ([], true) => vec![0.25],
        ([], false) => SHARES.to_vec(),
        (given, _) => given.to_vec(),
    };
    if let Some(wrong) = fractions.iter().find(|fraction| !(0.0..=0.5).contains(*fraction)) {
        anyhow::bail!("--fractions: {wrong} is not from 0 to 0.5");
    }
    let jobs = args.common.jobs()?;
    let options = attacks::Options {
        data: args.common.data,
        model: args.model,
        windows: args.windows,
        peers: args.peers as usize,
        attacks: if args.attack.is_empty() { Attack::ALL.to_vec() } else { args.attack },
        fractions,
        seeds: args.common.seeds.unwrap_or(if args.quick { 1 } else { SEEDS }),
        gauntlet: Gauntlet { rule: args.rule, ..Gauntlet::default() },
        alpha: args.alpha,
        jobs,
        log: args.log,
    };
    let rows = super::runtime()?.block_on(attacks::run(&options))?;
    if let Some(path) = &args.picture {
        attacks::draw(path, &rows)?;
    }
    let answer = if args.common.json {
        serde_json::to_string_pretty(&serde_json::json!({ "rows": rows }))?
    } else {
        attacks::table(&rows)
    };
    super::answer(answer)
}
