//! What a person sees: a bar for every participant, and a line for every window.

use std::collections::BTreeMap;
use std::io::Write as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::report::{HEAD, Row};
use crate::events::Event;

/// The bars and the table.
#[derive(Debug)]
pub(super) struct Board {
    bars: MultiProgress,
    windows: ProgressBar,
    participants: BTreeMap<String, ProgressBar>,
    json: bool,
    has_head: bool,
}

impl Board {
    pub(super) fn new(participants: &[String], windows: u64, json: bool) -> Self {
        let bars = MultiProgress::new();
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━━─")
        };
        let total = bars.add(ProgressBar::new(windows));
        total.set_style(style("{prefix:>12} {bar:30} {pos}/{len} windows, {elapsed}, {eta} left"));
        total.set_prefix("run");
        let participants = participants
            .iter()
            .map(|name| {
                let bar = bars.add(ProgressBar::new(1));
                bar.set_style(style("{prefix:>12} {bar:30} {msg}"));
                bar.set_prefix(name.clone());
                bar.set_message("starting");
                (name.clone(), bar)
            })
            .collect();
        Self { bars, windows: total, participants, json, has_head: false }
    }

    /// Shows what `who` tells.
    pub(super) fn show(&self, who: &str, event: &Event) {
        let Some(bar) = self.participants.get(who) else { return };
        match event {
            Event::Step { step, of, loss, tokens_per_second, window, .. } => {
                bar.set_length(u64::from(*of));
                bar.set_position(u64::from(*step));
                bar.set_message(format!(
                    "window {window} step {step}/{of} loss {loss:.3} {tokens_per_second:.0} tok/s"
                ));
            }
            Event::Closed { window, .. } if who == "aggregator" => {
                bar.set_position(1);
                bar.set_message(format!("window {window} closed"));
                self.windows.set_position(window + 1);
            }
            other => bar.set_message(other.to_string()),
        }
    }

    /// Prints the line of a window, and what there is to be said of it.
    pub(super) fn row(&mut self, row: &Row, remarks: &str) {
        let text = if self.json {
            serde_json::to_string(row).unwrap_or_default()
        } else if self.has_head {
            format!("{row}{remarks}")
        } else {
            format!("{HEAD}\n{row}{remarks}")
        };
        self.has_head = true;
        self.print(&text);
    }

    /// Prints a line that is no row; with `--json` it goes to standard error.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            self.bars.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
        } else {
            self.print(text);
        }
    }

    fn print(&self, text: &str) {
        // A reader that has gone is no reason to stop training.
        self.bars.suspend(|| drop(writeln!(std::io::stdout(), "{text}")));
    }

    /// Takes the bars away.
    pub(super) fn clear(&self) {
        let _ = self.bars.clear();
    }
}
