//! `brigade cost`: what a run asks of its buckets, and what that costs.

use std::fmt::Write as _;

use brigade_protocol::DatasetIndex;
use serde::Serialize;

use super::plan::Codes;
use crate::plan::{Asked, Bill, Link, Prices, R2, S3, Traffic, Window, exchange_bytes, largest_delta};
use crate::spelling::several;

const DAY: f64 = 86_400.0;
const MONTH: f64 = 30.0 * DAY;

/// Arguments of `brigade cost`. What is left out has the values of `brigade run create`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A preset (`demo`, `150m`, `1b`, `8b`, `covenant-72b`), a JSON file with a model's shape, or a Hugging Face folder.
    #[arg(long, value_name = "NAME|FILE|DIR")]
    model: String,
    /// Miners.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    miners: u64,
    /// Validators.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=1024))]
    validators: u64,
    /// Minutes from the opening of a window to its cutoff: the deadline, or less where all deliver before it.
    #[arg(long, value_name = "MINUTES", default_value_t = 20.0, value_parser = super::plan::positive)]
    train_minutes: f64,
    /// Minutes from the cutoff to the close.
    #[arg(long, value_name = "MINUTES", default_value_t = 2.0, value_parser = super::plan::positive)]
    score_minutes: f64,
    /// Share of the window in which a miner trains; in the rest it looks for the close.
    #[arg(long, default_value_t = 0.85, value_parser = super::plan::share)]
    utilisation: f64,
    /// As in everybody's settings.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    poll_milliseconds: u64,
    #[command(flatten)]
    codes: Codes,
    /// Shards of the dataset that a peer draws from in a window.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    shards_per_window: u64,
    /// Tokens in a shard.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(2..=1 << 26))]
    shard_tokens: u64,
    /// Windows between checkpoints.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    checkpoint_every: u64,
    /// Tokens of the whole dataset, which lies in the run's bucket: `1.1e12`, say. Not counted when left out.
    #[arg(long, value_name = "TOKENS", value_parser = super::plan::positive)]
    dataset_tokens: Option<f64>,
    /// Days after which the operator deletes a window's objects from the run's bucket. Nothing else does.
    #[arg(long, value_name = "DAYS", value_parser = super::plan::positive)]
    keep_days: Option<f64>,
    /// Checkpoints that the operator keeps, likewise.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    keep_checkpoints: Option<u64>,
    /// Days after which a lifecycle rule deletes what lies in a miner's bucket.
    #[arg(long, value_name = "DAYS", default_value_t = 7.0, value_parser = super::plan::positive)]
    expire_days: f64,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Costs {
    windows_per_month: f64,
    update_bytes: f64,
    delta_bytes: f64,
    checkpoint_bytes: f64,
    /// What `--delta-top-k` must not exceed for the delta to be written in one request, if it does.
    largest_delta_top_k: Option<u64>,
    /// A window's requests and bytes, by who sends them.
    miner: Asked,
    validator: Asked,
    aggregator: Asked,
    /// Of a month, by whose bucket it is.
    buckets: Vec<Owned>,
}

/// A bucket, and what its owner pays.
#[derive(Debug, Serialize)]
struct Owned {
    bucket: &'static str,
    window: Traffic,
    kept_bytes: f64,
    r2: Bill,
    s3: Bill,
}

/// Runs `brigade cost`.
///
/// # Errors
/// When there is no such model.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let costs = costs(&args)?;
    super::answer(if args.json { serde_json::to_string_pretty(&costs)? } else { describe(&args, &costs) })
}

fn costs(args: &Args) -> anyhow::Result<Costs> {
    let model = super::plan::model(&args.model)?;
    let parameters = model.num_parameters() as f64;
    let link = args.codes.link(1.0, 1.0, args.miners);
    let token_bytes = f64::from(DatasetIndex::token_bytes_for(u32::try_from(model.vocab_size)?));
    let window = window(args, &link, parameters, token_bytes);
    let seconds = window.train_seconds + window.score_seconds;
    let windows = MONTH / seconds;
    let checkpoint_bytes = 2.0 * window.theta_bytes;
    // What is never deleted grows: on average half of a month's lies there in the first one.
    let kept_windows = args.keep_days.map_or(windows / 2.0, |days| days * DAY / seconds);
    let checkpoints =
        args.keep_checkpoints.map_or(windows / 2.0 / window.checkpoint_every, |kept| kept as f64);
    let in_run = kept_windows * (window.miners * window.update_bytes + window.delta_bytes)
        + checkpoints * checkpoint_bytes
        + token_bytes * args.dataset_tokens.unwrap_or(0.0);
    let owned = |bucket, traffic: Traffic, kept_bytes| {
        let bill = |prices: Prices| prices.bill(traffic * windows, kept_bytes);
        Owned { bucket, window: traffic, kept_bytes, r2: bill(R2), s3: bill(S3) }
    };
    let in_miners = args.expire_days * DAY / seconds * window.update_bytes;
    Ok(Costs {
        windows_per_month: windows,
        update_bytes: window.update_bytes,
        delta_bytes: window.delta_bytes,
        checkpoint_bytes,
        largest_delta_top_k: largest_delta(parameters, &link),
        miner: window.miner(),
        validator: window.validator(),
        aggregator: window.aggregator(),
        buckets: vec![
            owned("the run's", window.of_run(), in_run),
            owned("a miner's", window.of_miner(), in_miners),
            owned("a validator's", window.of_validator(), 0.0),
        ],
    })
}

fn window(args: &Args, link: &Link, parameters: f64, token_bytes: f64) -> Window {
    let (update_bytes, delta_bytes) = exchange_bytes(parameters, link);
    let (train_seconds, score_seconds) = (60.0 * args.train_minutes, 60.0 * args.score_minutes);
    Window {
        miners: args.miners as f64,
        validators: args.validators as f64,
        train_seconds,
        score_seconds,
        wait_seconds: (1.0 - args.utilisation) * (train_seconds + score_seconds),
        poll_seconds: args.poll_milliseconds as f64 / 1000.0,
        update_bytes,
        delta_bytes,
        shard_bytes: token_bytes * args.shard_tokens as f64,
        shards: args.shards_per_window as f64,
        theta_bytes: 4.0 * parameters,
        checkpoint_every: args.checkpoint_every as f64,
    }
}

fn describe(args: &Args, costs: &Costs) -> String {
    let mut text = format!(
        "{}, {}, {}, {:.0} windows in 30 days\nupdate {}, delta {}, checkpoint {}\n\n",
        args.model,
        several(args.miners, "miner"),
        several(args.validators, "validator"),
        costs.windows_per_month,
        gb(costs.update_bytes),
        gb(costs.delta_bytes),
        gb(costs.checkpoint_bytes),
    );
    text += &window_table(costs);
    text += &bill_table(&R2, &costs.buckets, |owned| owned.r2);
    text += &bill_table(&S3, &costs.buckets, |owned| owned.s3);
    if args.keep_days.is_none() || args.keep_checkpoints.is_none() {
        text += "\nRoom is the first 30 days' average. Nothing deletes from the run's bucket, so it goes on growing,\n\
                 unless its operator deletes: --keep-days, --keep-checkpoints.\n";
    }
    if let Some(most) = costs.largest_delta_top_k {
        let _ = writeln!(
            text,
            "\nStores take no delta above 5 GiB: set --delta-top-k, outer.delta_top_k in run.toml, to at most {most}."
        );
    }
    text.trim_end().to_owned()
}

/// What each role asks of each bucket in a window.
fn window_table(costs: &Costs) -> String {
    let mut text =
        format!("{:<40} {:>9} {:>9} {:>13} {:>13}\n", "a window asks", "reads", "writes", "up", "down");
    let roles =
        [("a miner", costs.miner), ("a validator", costs.validator), ("the aggregator", costs.aggregator)];
    for (who, asked) in roles {
        for (of, traffic) in [
            ("run's bucket", asked.run),
            ("run's text", asked.data),
            ("own bucket", asked.own),
            ("each miner's bucket", asked.miner),
            ("each validator's bucket", asked.validator),
        ] {
            if traffic != Traffic::default() {
                let Traffic { reads, writes, bytes_up, bytes_down } = traffic;
                let (row, up, down) = (format!("{who}, {of}"), gb(bytes_up), gb(bytes_down));
                let _ = writeln!(text, "{row:<40} {reads:>9.0} {writes:>9.0} {up:>13} {down:>13}");
            }
        }
    }
    text
}

/// What the owner of each bucket pays a provider.
fn bill_table(prices: &Prices, buckets: &[Owned], bill: impl Fn(&Owned) -> Bill) -> String {
    let title = format!("30 days on {}, in dollars", prices.name);
    let mut text = format!("\n{title:<40} {:>9} {:>9} {:>13} {:>13}\n", "requests", "room", "out", "in all");
    for owned in buckets {
        let bill = bill(owned);
        let (who, total) = (format!("{} bucket", owned.bucket), bill.total());
        let Bill { requests, kept, out } = bill;
        let _ = writeln!(text, "{who:<40} {requests:>9.2} {kept:>9.2} {out:>13.2} {total:>13.2}");
    }
    text
}

fn gb(bytes: f64) -> String {
    format!("{:.2} GB", bytes / 1e9)
}
