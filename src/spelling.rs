//! Values as the records spell them.

use serde::Serialize;

/// The word of a value whose JSON is a word: a reason, a role, a dialect. Empty for any other.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// `1 miner`, `2 miners`.
pub(crate) fn several(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
