//! Progress for people: bars on a terminal, one log line a phase elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether and where to show progress. Never on standard output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    bars: bool,
}

impl Progress {
    /// Bars on standard error, when it is a terminal.
    pub fn terminal() -> Self {
        Self { bars: true }
    }

    /// No bars.
    pub fn hidden() -> Self {
        Self { bars: false }
    }

    /// A bar over `bytes` bytes, with rate and remaining time.
    pub(crate) fn bytes(self, what: &'static str, bytes: u64) -> ProgressBar {
        tracing::info!(bytes, "{what}");
        let target = if self.bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(what);
        let template = "{msg:>12} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar
    }

    /// A spinner for work of unknown length.
    pub(super) fn spinner(self, what: &'static str) -> ProgressBar {
        tracing::info!("{what}");
        let target = if self.bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what);
        let template = "{msg:>12} {spinner} {elapsed}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }
}
