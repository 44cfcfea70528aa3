//! `brigade dist`: what a release holds beside the program. Not for people, so help does not list it; `make dist` calls it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap::builder::Resettable;
use clap_complete::Shell;

use super::Cli;

/// What to make.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write a manual page for the program and for each of its commands.
    Man {
        /// Folder to write into; made if it is not there.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Runs `brigade dist`.
///
/// # Errors
/// When the answer cannot be written.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Completions { shell } => super::answer(completions(shell).trim_end()),
        Action::Man { dir } => man(&dir).with_context(|| format!("cannot write to {}", dir.display())),
    }
}

/// The whole command line but for what help does not list, nor `help` itself, which would have a page for every command.
fn visible() -> clap::Command {
    let full = Cli::command();
    let shown: Vec<_> = full.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    clap::Command::new("brigade")
        .version(env!("CARGO_PKG_VERSION"))
        .about(full.get_about().cloned().map_or(Resettable::Reset, Resettable::Value))
        .propagate_version(true)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .args(full.get_arguments().cloned())
        .subcommands(shown)
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut visible(), "brigade", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn man(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(visible(), dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_help_lists_has_a_page_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        let pages: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for page in ["brigade.1", "brigade-aggregator.1", "brigade-run.1", "brigade-run-create.1"] {
            assert!(pages.iter().any(|name| name == page), "{page} is not in {pages:?}");
        }
        for hidden in ["dist", "rank", "help"] {
            assert!(!pages.iter().any(|name| name.contains(hidden)), "{pages:?}");
        }
        let page = std::fs::read_to_string(folder.path().join("brigade-aggregator.1")).unwrap();
        assert!(page.contains("print\\-config") && page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    }

    #[test]
    fn every_shell_learns_the_commands_that_help_lists() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            assert!(text.contains("aggregator") && text.contains("print-config"), "{shell}");
            assert!(!text.contains("completions"), "{shell}: {text}");
        }
    }
}
