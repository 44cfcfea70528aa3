//! The commands, one file each.

mod audit;
mod bench;
#[cfg(feature = "torch")]
mod bench_train;
mod convert;
mod cost;
mod dashboard;
mod data;
#[cfg(feature = "torch")]
mod demo;
mod dist;
mod doctor;
mod identity;
mod init;
#[cfg(feature = "torch")]
mod lab;
#[cfg(feature = "torch")]
mod model;
mod plan;
#[cfg(feature = "torch")]
mod rank;
mod role;
mod run;
mod serve;
mod update;
mod watch;

use std::fmt;
use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::Role;

/// Strangers train one language model together, with nothing between them but object storage.
#[derive(Debug, Parser)]
#[command(
    name = "brigade",
    version,
    long_version = crate::version::long(),
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on this machine with the whole system: a store, an aggregator, a validator, miners.
    #[cfg(feature = "torch")]
    Demo(demo::Args),
    /// Train: take windows, upload updates, follow the run.
    #[cfg(feature = "torch")]
    Miner(role::MinerArgs),
    /// Score updates and measure the model after every window.
    #[cfg(feature = "torch")]
    Validator(role::Args),
    /// Open windows, merge updates, close windows.
    Aggregator(role::Args),
    /// Do closed windows again from the run's bucket alone, and say what differs.
    Audit(audit::Args),
    /// Write the settings that a miner, a validator or a run starts from.
    #[command(subcommand)]
    Init(init::Action),
    /// Take part in a run: the settings of a miner, from the run's URL.
    Join(init::JoinArgs),
    /// Do once what a role will do, and say what is wrong and what helps.
    Doctor(doctor::Args),
    /// Look at a run as it goes on: windows, loss, participants.
    Watch(watch::Args),
    /// The same as a web page.
    Dashboard(dashboard::Args),
    /// Create a run, or look at one.
    #[command(subcommand)]
    Run(run::Action),
    /// Make or show the key by which a participant is known.
    #[command(subcommand)]
    Identity(identity::Action),
    /// Turn text into token shards.
    #[command(subcommand)]
    Data(data::Action),
    /// Experiments in one process: what a choice costs.
    #[cfg(feature = "torch")]
    #[command(subcommand)]
    Lab(lab::Action),
    /// Measure what this machine does.
    #[command(subcommand)]
    Bench(bench::Action),
    /// Say what a peer will need: memory by kind, the time of a step, the bytes of a window.
    Plan(plan::Args),
    /// Say what a run asks of its buckets, and what that costs: requests and bytes of a window, a month on R2 and S3.
    Cost(cost::Args),
    /// Make update files, read them, look into them.
    #[command(subcommand)]
    Update(update::Action),
    /// Check a Hugging Face folder of a Llama, and make it one that a run can start from.
    Import(convert::ImportArgs),
    /// Write a checkpoint as a Hugging Face folder, in one type of number or another.
    Export(convert::ExportArgs),
    /// Measure how well a model predicts a text.
    #[cfg(feature = "torch")]
    Eval(model::EvalArgs),
    /// Let a model go on from a prompt.
    #[cfg(feature = "torch")]
    Generate(model::GenerateArgs),
    #[cfg(feature = "torch")]
    #[command(hide = true)]
    Rank(rank::Args),
    /// Serve buckets from a folder over S3: the embedded server.
    Serve(serve::Args),
    /// What a release holds beside the program: completions of shells, manual pages.
    #[command(subcommand, hide = true)]
    Dist(dist::Action),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever stops it, as one line for a person.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            #[cfg(feature = "torch")]
            Command::Demo(args) => demo::run(args),
            #[cfg(feature = "torch")]
            Command::Miner(args) => role::run_miner(args),
            #[cfg(feature = "torch")]
            Command::Validator(args) => role::run(Role::Validator, args, crate::roles::validator::run),
            Command::Aggregator(args) => role::run(Role::Aggregator, args, crate::roles::aggregator::run),
            Command::Audit(args) => audit::run(&args),
            Command::Init(action) => init::run(action),
            Command::Join(args) => init::join(args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Watch(args) => watch::run(&args),
            Command::Dashboard(args) => dashboard::run(&args),
            Command::Run(action) => run::run(action),
            Command::Identity(action) => identity::run(action),
            Command::Data(action) => data::run(action),
            #[cfg(feature = "torch")]
            Command::Lab(action) => lab::run(action),
            Command::Bench(action) => bench::run(action),
            Command::Plan(args) => plan::run(args),
            Command::Cost(args) => cost::run(args),
            Command::Update(action) => update::run(action),
            Command::Import(args) => convert::import(args),
            Command::Export(args) => convert::export(args),
            #[cfg(feature = "torch")]
            Command::Eval(args) => model::eval(args),
            #[cfg(feature = "torch")]
            Command::Generate(args) => model::generate(args),
            #[cfg(feature = "torch")]
            Command::Rank(args) => rank::run(&args),
            Command::Serve(args) => serve::run(args),
            Command::Dist(action) => dist::run(action),
        }
    }
}

/// Prints the answer of a command. Who reads it may stop early, as `head` does.
fn answer(text: impl fmt::Display) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// The asynchronous runtime. Input and output only: models compute on threads of their own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
