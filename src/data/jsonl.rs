//! JSON lines: one object a line, the text in one of its fields.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::DataError;
use super::error::list;
use super::text::{Visit, visit_text};

/// The longest line, in bytes. The longest documents of the usual web corpora are a tenth of it.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Reads JSON lines; `path` is for messages. Blank lines, and rows whose text is `null`, are passed over.
///
/// # Errors
/// [`DataError::Json`] with the line, [`DataError::UnknownColumn`] for a row without the field, [`DataError::Io`],
/// and those of the visitor.
pub(super) fn read(
    path: &Path,
    reader: impl Read,
    column: &str,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let limit = MAX_LINE_BYTES + 1;
        reader
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut buffer)
            .map_err(|error| DataError::io(path, error))?;
        if buffer.is_empty() {
            break;
        }
        let wrong = |reason: String| DataError::Json { path: path.to_owned(), line, reason };
        if buffer.len() as u64 == limit {
            return Err(wrong(format!("longer than {} MiB", MAX_LINE_BYTES >> 20)));
        }
        if buffer.trim_ascii().is_empty() {
            continue;
        }
        match parse(&buffer, column).map_err(|error| wrong(reason(&error)))? {
            Row::Text(text) => {
                if visit_text(&text, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Row::Null => {}
            Row::Missing(columns) => {
                let place = format!("{}:{line}", path.display());
                return Err(DataError::UnknownColumn { place, column: column.into(), columns });
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// serde_json counts lines within the text that it was given, which is one line: only the column says something.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} at column {}", error.column())
}

/// What a line says.
enum Row {
    Text(String),
    Null,
    Missing(String),
}

fn parse(line: &[u8], column: &str) -> Result<Row, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let row = Column(column).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(row)
}

/// Takes one field out of an object and builds nothing of the others, however large they are.
struct Column<'c>(&'c str);

impl<'de> DeserializeSeed<'de> for Column<'_> {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Column<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a string `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut row = None;
        let mut others = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                row = Some(map.next_value::<Option<String>>()?.map_or(Row::Null, Row::Text));
            } else {
                map.next_value::<IgnoredAny>()?;
                if others.len() <= 20 {
                    others.push(key);
                }
            }
        }
        Ok(row.unwrap_or_else(|| Row::Missing(list(others))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::text::Found;
    use super::*;

    fn texts(input: &[u8], column: &str) -> Result<Vec<String>, DataError> {
        let mut texts = Vec::new();
        let _flow = read(Path::new("in.jsonl"), input, column, &mut |found| {
            if let Found::Document(text) = found {
                texts.push(text.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(texts)
    }

    #[test]
    fn takes_one_field_of_each_row() {
        let input =
            b"{\"id\":[1,{\"text\":\"no\"}],\"text\":\"a\\nb\"}\n\n{\"text\":null}\r\n{\"text\":\"last\"}";
        assert_eq!(texts(input, "text").unwrap(), ["a\nb", "last"]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = texts(b"{\"text\":\"a\"}\n{\"text\": oops}\n", "text").unwrap_err().to_string();
        assert!(error.starts_with("in.jsonl:2: expected value at column"), "{error}");
        assert!(texts(b"[1]\n", "text").unwrap_err().to_string().contains("an object with a string `text`"));
        assert!(
            texts(b"{\"text\":3}\n", "text").unwrap_err().to_string().starts_with("in.jsonl:1: invalid type")
        );
        assert!(texts(b"{\"text\":\"\xff\"}\n", "text").is_err());
        assert!(texts(b"{} {}\n", "text").is_err());
    }

    #[test]
    fn a_missing_field_lists_those_there_are() {
        let error = texts(b"{\"id\":1,\"content\":\"x\"}\n", "text").unwrap_err().to_string();
        assert_eq!(
            error,
            "in.jsonl:1: no column `text`; there are: id, content (choose one with --text-column)"
        );
    }

    #[test]
    fn an_endless_line_is_refused_without_being_held() {
        let endless = std::io::repeat(b'x');
        let error =
            read(Path::new("in.jsonl"), endless, "text", &mut |_| Ok(ControlFlow::Continue(()))).unwrap_err();
        assert_eq!(error.to_string(), "in.jsonl:1: longer than 64 MiB");
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = [b"{\"x\":".to_vec(), b"[".repeat(200_000)].concat();
        assert!(texts(&deep, "text").is_err());
    }
}
