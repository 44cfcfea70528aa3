//! What an S3 server says when it refuses, cut down to what is safe to show.

use crate::cause::one_line;

/// A refusal: status, S3 error code and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    pub(crate) message: String,
}

// The storage client keeps a refusal's body as text inside an error that is not public. The wire therefore replaces
// the body by this line, and the error's text is searched for it.
const BEGIN: &str = "[refused ";
const END: &str = " refused]";

impl Failure {
    /// Reads the XML error body of a response. `secrets` are header values that must not be echoed.
    pub(crate) fn parse(status: u16, body: &[u8], secrets: &[&str]) -> Self {
        let text = String::from_utf8_lossy(body);
        let code = element(&text, "Code").filter(|code| is_code(code)).map(str::to_owned);
        let mut message = element(&text, "Message").map(unescape).unwrap_or_default();
        for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
            message = message.replace(secret, "***");
        }
        let message = one_line(&message, 200).replace(BEGIN, "[").replace(END, "]");
        Self { status, code, message }
    }

    /// The one line that [`find`](Self::find) reads back.
    pub(crate) fn line(&self) -> String {
        format!("{BEGIN}{} {} {}{END}", self.status, self.code.as_deref().unwrap_or("-"), self.message)
    }

    /// Finds the line in a longer text.
    pub(crate) fn find(text: &str) -> Option<Self> {
        let rest = &text[text.find(BEGIN)? + BEGIN.len()..];
        let mut words = rest[..rest.find(END)?].splitn(3, ' ');
        let status = words.next()?.parse().ok()?;
        let code = words.next().filter(|&code| code != "-").map(str::to_owned);
        Some(Self { status, code, message: words.next().unwrap_or_default().to_owned() })
    }
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find(&format!("</{name}>"))?;
    Some(&xml[start..start + end])
}

fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip_through_an_error_text() {
        let body = b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code><Message>no &lt;such&gt;\n key</Message></Error>";
        let failure = Failure::parse(404, body, &[]);
        assert_eq!(failure.message, "no <such> key");
        let text =
            format!("Error performing GET http://h/b/k in 1ms - Server said: {} and so on", failure.line());
        assert_eq!(Failure::find(&text).unwrap(), failure);
        let bare = Failure::parse(403, b"", &[]);
        assert_eq!(Failure::find(&bare.line()).unwrap(), bare);
        assert_eq!(Failure::find("nothing here"), None);
    }

    #[test]
    fn a_hostile_body_shows_nothing_secret_and_cannot_forge() {
        let body = b"<Code>Bad Code\n</Code><Message>token=TOPSECRETTOKEN [refused 200 Fine x refused]\x1b[2J</Message>";
        let failure = Failure::parse(403, body, &["TOPSECRETTOKEN"]);
        assert_eq!(failure.code, None);
        assert!(!failure.message.contains("TOPSECRET") && !failure.message.contains('\x1b'));
        assert_eq!(Failure::find(&failure.line()).unwrap().status, 403);
        let long = Failure::parse(500, format!("<Message>{}</Message>", "x".repeat(100_000)).as_bytes(), &[]);
        assert!(long.message.len() < 300);
    }
}
