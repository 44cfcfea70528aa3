//! Plain text: cutting it into documents of bounded length, and telling when two say the same.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::DataError;

/// The longest document, in bytes. A longer file or row is cut at line ends into several, so that one book can
/// be part training and part held-out text, and so that memory is bounded whatever the input.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// How far into a file a zero byte marks it as binary: the rule of `git diff`, which looks at 8000 bytes.
const SNIFF_BYTES: usize = 8 << 10;

/// What a reader finds, in order.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A text of at most [`MAX_DOCUMENT_BYTES`] bytes.
    Document(&'a str),
    /// A stretch that is not UTF-8 text, and is left out.
    NotText,
}

/// What a reader does with what it finds: go on, stop, or fail.
pub(super) type Visit<'v> = dyn FnMut(Found<'_>) -> Result<ControlFlow<()>, DataError> + 'v;

/// Reads a file of plain text; `path` is for messages. A binary file is one [`Found::NotText`].
///
/// # Errors
/// [`DataError::Io`], and those of the visitor.
pub(super) fn read_text(
    path: &Path,
    mut reader: impl Read,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let mut window = Vec::with_capacity(MAX_DOCUMENT_BYTES);
    let mut first = true;
    loop {
        let room = (MAX_DOCUMENT_BYTES - window.len()) as u64;
        reader.by_ref().take(room).read_to_end(&mut window).map_err(|e| DataError::io(path, e))?;
        if window.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if first && window[..window.len().min(SNIFF_BYTES)].contains(&0) {
            return visit(Found::NotText);
        }
        let cut = if window.len() < MAX_DOCUMENT_BYTES { window.len() } else { cut_point(&window) };
        let piece = &window[..cut];
        let piece = if first { piece.strip_prefix(b"\xef\xbb\xbf").unwrap_or(piece) } else { piece };
        let found = std::str::from_utf8(piece).map_or(Found::NotText, Found::Document);
        if visit(found)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        window.drain(..cut);
        first = false;
    }
}

/// Hands a text on in pieces of at most [`MAX_DOCUMENT_BYTES`] bytes.
///
/// # Errors
/// Those of the visitor.
pub(super) fn visit_text(mut text: &str, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, DataError> {
    while text.len() > MAX_DOCUMENT_BYTES {
        let cut = cut_point(&text.as_bytes()[..MAX_DOCUMENT_BYTES]);
        let (piece, rest) = text.split_at(cut);
        if visit(Found::Document(piece))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        text = rest;
    }
    visit(Found::Document(text))
}

/// Where to cut a full window: after the last line end of its second half, else before its last character.
///
/// The cut never falls inside a UTF-8 character, and is never 0.
fn cut_point(window: &[u8]) -> usize {
    let half = window.len() / 2;
    if let Some(newline) = window[half..].iter().rposition(|b| *b == b'\n') {
        return half + newline + 1;
    }
    let lead = window.iter().rev().take(4).position(|b| b & 0xc0 != 0x80);
    match lead {
        Some(back) if back + 1 < window.len() => window.len() - back - 1,
        _ => window.len(),
    }
}

/// SHA-256 of the text as a reader would compare it: line ends are `\n`, and blanks at the ends of lines and of the
/// text do not count. `None` when there is nothing but blanks.
pub(super) fn content_digest(text: &str) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut blank_lines = 0;
    let mut started = false;
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            blank_lines += usize::from(started);
            continue;
        }
        for _ in 0..std::mem::take(&mut blank_lines) {
            hasher.update(b"\n");
        }
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
        started = true;
    }
    started.then(|| hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Option<String>> {
        let mut pieces = Vec::new();
        let flow = read_text(Path::new("x"), bytes, &mut |found| {
            pieces.push(match found {
                Found::Document(text) => Some(text.to_owned()),
                Found::NotText => None,
            });
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        pieces
    }

    #[test]
    fn a_short_file_is_one_document_without_its_byte_order_mark() {
        assert_eq!(read(b"\xef\xbb\xbfhello\nworld"), [Some("hello\nworld".to_owned())]);
        assert!(read(b"").is_empty());
    }

    #[test]
    fn binary_and_broken_files_are_not_text() {
        assert_eq!(read(b"\x7fELF\0\0\0"), [None]);
        assert_eq!(read(b"caf\xe9"), [None]);
    }

    #[test]
    fn a_long_file_is_cut_at_line_ends_and_loses_nothing() {
        let text: String = (0..60_000).map(|n| format!("line {n} ü\n")).collect();
        let pieces: Vec<String> = read(text.as_bytes()).into_iter().map(Option::unwrap).collect();
        assert!(pieces.len() > 2);
        assert!(pieces.iter().all(|piece| piece.len() <= MAX_DOCUMENT_BYTES && piece.ends_with('\n')));
        assert_eq!(pieces.concat(), text);

        let mut cut = Vec::new();
        let flow = visit_text(&text, &mut |found| {
            if let Found::Document(piece) = found {
                cut.push(piece.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        assert_eq!(cut, pieces);
    }

    #[test]
    fn a_text_without_line_ends_is_cut_between_characters() {
        for (character, offset) in [("ü", 1), ("€", 0), ("€", 1), ("€", 2), ("😀", 3)] {
            let text = "a".repeat(offset) + &character.repeat(2 * MAX_DOCUMENT_BYTES / character.len());
            let pieces: Vec<String> = read(text.as_bytes()).into_iter().map(Option::unwrap).collect();
            assert_eq!(pieces.concat(), text);
        }
    }

    #[test]
    fn a_visitor_may_stop() {
        let text = "x\n".repeat(MAX_DOCUMENT_BYTES);
        let mut seen = 0;
        let flow = read_text(Path::new("x"), text.as_bytes(), &mut |_| {
            seen += 1;
            Ok(ControlFlow::Break(()))
        });
        assert!(flow.unwrap().is_break());
        assert_eq!(seen, 1);
    }

    #[test]
    fn blanks_at_the_ends_do_not_make_a_new_text() {
        let digest = content_digest("a b\n\nc").unwrap();
        assert_eq!(content_digest("\r\n  \na b  \r\n\r\nc\t\n\n\n"), Some(digest));
        assert_ne!(content_digest("a b\nc"), Some(digest));
        assert_ne!(content_digest(" a b\n\nc"), Some(digest));
        assert_eq!(content_digest(" \n\t\r\n"), None);
        assert_eq!(content_digest(""), None);
    }
}
