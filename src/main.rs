//! The program.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use brigade::commands::Cli;
use brigade::terminal;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "brigade=info,warn".into());
    // Whatever RUST_LOG says: at `debug` this crate prints the Authorization header of requests.
    let filter = filter.add_directive("s3s=off".parse().expect("a fixed directive that is valid"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(terminal::log)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = one_line(&error);
            let _ = writeln!(std::io::stderr(), "error: {line}");
            ExitCode::FAILURE
        }
    }
}

/// The whole chain on one line: what failed, and why. Many an error has its cause's words in its own.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    terminal::plain(&line)
}
