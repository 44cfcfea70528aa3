//! Numbers as people read them.

use std::time::Duration;

/// `1.2 M`, by powers of a thousand.
pub(super) fn count(number: f64) -> String {
    let units = ["", " k", " M", " G", " T"];
    let power = (number.abs().max(1.0).log10() / 3.0).floor().min(4.0);
    let scaled = number / 1000f64.powf(power);
    let digits = if power == 0.0 || scaled >= 100.0 { 0 } else { 1 };
    format!("{scaled:.digits$}{}", units[power as usize])
}

/// `72.7 B`, as models are called.
pub(super) fn parameters(number: u64) -> String {
    count(number as f64).replace('G', "B")
}

/// `1.2 MB`.
pub(super) fn bytes(number: u64) -> String {
    let text = count(number as f64);
    if text.contains(' ') { format!("{text}B") } else { format!("{text} B") }
}

/// `3:07` or `2:03:07`.
pub(super) fn span(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.0, "0"), (999.0, "999"), (1234.0, "1.2 k"), (2.5e8, "250 M"), (7.2e10, "72.0 G")]
        {
            assert_eq!(count(number), text);
        }
        assert_eq!((bytes(12).as_str(), bytes(123_456).as_str()), ("12 B", "123 kB"));
        assert_eq!((span(187.4).as_str(), span(7387.0).as_str()), ("3:07", "2:03:07"));
    }
}
