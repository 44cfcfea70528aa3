//! `brigade audit`: do closed windows again.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;

use super::answer;
use crate::audit::report::WindowReport;
use crate::audit::{Choice, audit};
use crate::config::Participant;
use crate::run::Run;
use crate::spelling::several;
use crate::terminal;

/// Arguments of `brigade audit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings of any participant (TOML); of its keys only the one that reads the run's bucket is used.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A closed window; may be given several times. The newest one if none is given.
    #[arg(long, value_name = "W")]
    window: Vec<u64>,
    /// Every window that is still in the bucket.
    #[arg(long, conflicts_with = "window")]
    all: bool,
    /// Answer as JSON, when all is done.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade audit`.
///
/// # Errors
/// When anything differs, and when the bucket cannot be read.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let choice = match (args.all, &args.window[..]) {
        (true, _) => Choice::All,
        (false, []) => Choice::Newest,
        (false, windows) => Choice::Windows(windows.iter().copied().collect()),
    };
    let settings = Participant::read(&args.config)?;
    let mut reports = Vec::new();
    super::runtime()?.block_on(async {
        let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
        let bar = terminal::bar(0);
        let told = audit(&run, &choice, |report, total| {
            if !args.json {
                bar.suspend(|| answer(describe(&report)))?;
            }
            if total > 1 {
                bar.set_length(total as u64);
                bar.set_message(format!("window {}", report.window));
                bar.inc(1);
            }
            reports.push(report);
            Ok(())
        });
        let told = told.await;
        bar.finish_and_clear();
        told
    })?;
    if args.json {
        answer(json!({ "windows": reports }))?;
    }
    let differ: Vec<u64> =
        reports.iter().filter(|report| !report.differences.is_empty()).map(|report| report.window).collect();
    let differences: usize = reports.iter().map(|report| report.differences.len()).sum();
    let Some(first) = differ.first() else {
        return match args.json {
            true => Ok(()),
            false => {
                answer(format!("{} done again: nothing differs", several(reports.len() as u64, "window")))
            }
        };
    };
    let number =
        if differences == 1 { "1 difference".to_owned() } else { format!("{differences} differences") };
    anyhow::bail!(
        "{number}, from window {first} on: the run's bucket is not what the run's rules lead to; keep a copy, ask its operator, \
         and do not build on that θ before it is explained"
    )
}

/// A window, a line a step, and what is to say of it.
fn describe(report: &WindowReport) -> String {
    let mut text = format!("window {}", report.window);
    for step in &report.steps {
        let differences = || report.differences.iter().filter(|difference| difference.step == *step);
        let mark = match differences().next() {
            Some(_) => '✘',
            None if report.doubtful.contains(step) => '?',
            None => '✔',
        };
        let _ = write!(text, "\n  {mark} {}", step.name());
        for difference in differences() {
            let (what, expected, found) = (&difference.what, &difference.expected, &difference.found);
            let _ = write!(text, "\n      {what}: expected {expected}, found {found}");
        }
    }
    for what in &report.unverifiable {
        let _ = write!(text, "\n  ? not verifiable: {what}");
    }
    for note in &report.notes {
        let _ = write!(text, "\n  ! {note}");
    }
    text
}
