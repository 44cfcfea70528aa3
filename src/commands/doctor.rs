//! `brigade doctor`: what is wrong, and what helps.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use crate::doctor::{Finding, Options, Outcome, examine};
use crate::init::Role;
use crate::shutdown::Shutdown;

/// Arguments of `brigade doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The participant's settings (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What the participant is; by the settings and the run's manifest when left out.
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// The most MiB that go up, and come down, at once to measure the line; 0 measures nothing.
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=128))]
    line_mib: u64,
    /// Tell each finding as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade doctor`.
///
/// # Errors
/// When something is found without which the role will not work.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let options = Options { role: args.role, line_bytes: args.line_mib << 20 };
    let paint = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut section = "";
    let mut tell = |finding: &Finding| {
        let mut text = String::new();
        if args.json {
            text = serde_json::to_string(finding).unwrap_or_default();
        } else {
            if section != finding.section {
                section = finding.section;
                text = format!("{section}\n");
            }
            text += &line(finding, paint);
        }
        // Whoever reads this may have seen enough.
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let found = super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(false)?;
        anyhow::Ok(shutdown.or(examine(&args.config, options, &mut tell)).await?)
    })?;
    let count = |outcome| found.iter().filter(|finding| finding.outcome == outcome).count();
    let (bad, warnings) = (count(Outcome::Bad), count(Outcome::Warning));
    anyhow::ensure!(bad == 0, "{}, {}", plural(bad, "problem"), plural(warnings, "warning"));
    if !args.json {
        super::answer(match warnings {
            0 => "nothing is wrong".to_owned(),
            _ => format!("{}, nothing that stops the role", plural(warnings, "warning")),
        })?;
    }
    Ok(())
}

fn plural(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

fn line(finding: &Finding, paint: bool) -> String {
    let (sign, colour) = match finding.outcome {
        Outcome::Good => ("✔", "32"),
        Outcome::Warning => ("!", "33"),
        Outcome::Bad => ("✘", "31"),
        Outcome::Unknown => ("–", "2"),
    };
    let sign = if paint { format!("\x1b[{colour}m{sign}\x1b[0m") } else { sign.to_owned() };
    let mut text = format!("  {sign} {:<17} {}", finding.check.replace('_', " "), finding.said);
    if let Some(remedy) = &finding.remedy {
        text += &format!("\n    → {remedy}");
    }
    text
}
