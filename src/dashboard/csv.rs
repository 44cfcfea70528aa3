//! Tables to download.

use crate::observe::{Summary, Window};
use crate::spelling::word;

/// A field as RFC 4180 wants it. What a spreadsheet would take for a formula gets an apostrophe before it: peers write some of
/// this.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '@', '\t', '\r'])
        || text.starts_with('-') && text.parse::<f64>().is_err();
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn line(fields: impl IntoIterator<Item = String>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|text| field(&text)).collect();
    fields.join(",") + "\r\n"
}

/// A value, or nothing.
fn some(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// One line a closed window.
pub(super) fn history(lines: &[Summary]) -> String {
    let mut text = String::from(
        "window,closed_at_ms,seconds,loss,merged,excluded,update_bytes,delta_bytes,tokens,tokens_per_second\r\n",
    );
    for summary in lines {
        text += &line([
            summary.window.to_string(),
            summary.closed_at.to_string(),
            some(summary.seconds),
            some(summary.loss),
            summary.merged.to_string(),
            summary.excluded.to_string(),
            summary.update_bytes.to_string(),
            summary.delta_bytes.to_string(),
            summary.tokens.to_string(),
            some(summary.tokens_per_second),
        ]);
    }
    text
}

/// One line a participant of a window.
pub(super) fn peers(window: Option<&Window>) -> String {
    let mut text = String::from(
        "window,peer,role,active,state,reason,detail,seconds,bytes,loss,share,norm,weight,rating,credit\r\n",
    );
    let Some(window) = window else { return text };
    for row in &window.peers {
        text += &line([
            window.window.to_string(),
            row.peer.to_string(),
            word(&row.role),
            row.active.to_string(),
            word(&row.state),
            row.reason.as_ref().map(word).unwrap_or_default(),
            row.detail.clone().unwrap_or_default(),
            some(row.seconds),
            some(row.bytes),
            some(row.loss),
            some(row.share),
            some(row.norm),
            some(row.weight),
            some(row.rating),
            some(row.credit),
        ]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_fields() {
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("=cmd()"), "'=cmd()");
        assert_eq!((field("-3.5").as_str(), field("-x").as_str()), ("-3.5", "'-x"));
    }
}
