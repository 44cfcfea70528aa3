//! Progress bars and log lines on one terminal: a line goes above the bars, never through them.

use std::io::{self, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars of a role. Hidden when standard error is no terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar with a message behind it, shown from the first time it moves.
pub fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━─");
    BARS.add(ProgressBar::new(length).with_style(style))
}

/// Standard error, for whoever writes whole lines.
pub fn log() -> impl Write {
    Log
}

/// What strangers wrote, without what a terminal would obey or what would turn the direction of the line.
pub fn plain(text: &str) -> String {
    let is_turn =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || is_turn(c) { ' ' } else { c }).collect()
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A tracing line arrives in one piece; in two, both would still be above the bars.
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_strangers() {
        assert_eq!(plain("a\x1b[2Jb\n\u{9b}c\u{202e}d"), "a [2Jb  c d");
    }
}
