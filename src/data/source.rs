//! Which files hold the text: explicit files, and folders walked in an order that never changes.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use walkdir::{DirEntry, WalkDir};

use super::DataError;
use super::text::{Found, Visit, read_text};
use super::{jsonl, table};

/// Extensions of the text files that are taken from a folder. Data (`.json`, `.csv`, `.svg`) is left out: a file
/// that is named by itself is read whatever its extension.
const TEXT_EXTENSIONS: &[&str] = &[
    "adoc", "asm", "bash", "c", "cc", "clj", "cmake", "cpp", "cs", "css", "cu", "cuh", "cxx", "dart", "el",
    "elm", "erl", "ex", "exs", "f90", "fs", "glsl", "go", "groovy", "h", "hh", "hpp", "hs", "html", "java",
    "jl", "js", "jsx", "kt", "lean", "lisp", "lua", "m", "markdown", "md", "ml", "mli", "nim", "nix", "pas",
    "php", "pl", "pm", "proto", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "s", "scala", "scm", "sh", "sol",
    "sql", "swift", "tcl", "tex", "text", "tf", "toml", "ts", "tsx", "txt", "v", "vhdl", "vim", "vue",
    "wgsl", "yaml", "yml", "zig",
];

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Jsonl,
    JsonlZst,
    Parquet,
}

/// One file of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Length of the file as it lies, compressed or not.
    pub(super) bytes: u64,
    /// Whether the file was named by itself: then it must hold text.
    named: bool,
}

/// Lists the files behind `inputs`: files in the order given, folders in the byte order of their names.
///
/// Links are not followed and hidden files are left out, so that the list does not depend on what lies elsewhere.
///
/// # Errors
/// [`DataError::Missing`] and [`DataError::Io`].
pub(super) fn find(inputs: &[PathBuf]) -> Result<Vec<Source>, DataError> {
    let mut sources = Vec::new();
    for input in inputs {
        let metadata = std::fs::metadata(input).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => DataError::Missing { path: input.clone() },
            _ => DataError::io(input, error),
        })?;
        if metadata.is_dir() {
            walk(input, &mut sources)?;
        } else {
            let kind = structured(input).unwrap_or(Kind::Text);
            sources.push(Source { path: input.clone(), kind, bytes: metadata.len(), named: true });
        }
    }
    Ok(sources)
}

fn walk(folder: &Path, sources: &mut Vec<Source>) -> Result<(), DataError> {
    let shown =
        |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
    let failed = |error: walkdir::Error| {
        let path = error.path().unwrap_or(folder).to_owned();
        DataError::io(path, error.into())
    };
    for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(shown) {
        let entry = entry.map_err(failed)?;
        let Some(kind) = entry.file_type().is_file().then(|| kind_in_folder(entry.path())).flatten() else {
            continue;
        };
        let bytes = entry.metadata().map_err(failed)?.len();
        sources.push(Source { path: entry.into_path(), kind, bytes, named: false });
    }
    Ok(())
}

fn structured(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    match () {
        () if name.ends_with(".jsonl") => Some(Kind::Jsonl),
        () if name.ends_with(".jsonl.zst") => Some(Kind::JsonlZst),
        () if name.ends_with(".parquet") => Some(Kind::Parquet),
        () => None,
    }
}

fn kind_in_folder(path: &Path) -> Option<Kind> {
    structured(path).or_else(|| {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        TEXT_EXTENSIONS.contains(&extension.as_str()).then_some(Kind::Text)
    })
}

impl Source {
    /// Reads the file and hands on its documents in order; `bar` advances by bytes of the file.
    ///
    /// # Errors
    /// Those of the formats, those of the visitor, and [`DataError::NotText`] for a file that was named by itself
    /// and holds no text.
    pub(super) fn read(
        &self,
        column: &str,
        bar: &ProgressBar,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, DataError> {
        let mut any_text = false;
        let mut any_refused = false;
        let mut watch = |found: Found<'_>| {
            match found {
                Found::Document(_) => any_text = true,
                Found::NotText => any_refused = true,
            }
            visit(found)
        };
        let flow = match self.kind {
            Kind::Text => read_text(&self.path, self.open(bar)?, &mut watch)?,
            Kind::Jsonl => jsonl::read(&self.path, self.open(bar)?, column, &mut watch)?,
            Kind::JsonlZst => {
                let decoder = zstd::stream::read::Decoder::new(self.open(bar)?)
                    .map_err(|error| DataError::io(&self.path, error))?;
                jsonl::read(&self.path, decoder, column, &mut watch)?
            }
            Kind::Parquet => table::read(&self.path, column, bar, &mut watch)?,
        };
        if self.named && any_refused && !any_text {
            return Err(DataError::NotText { path: self.path.clone() });
        }
        Ok(flow)
    }

    fn open(&self, bar: &ProgressBar) -> Result<impl Read + use<>, DataError> {
        let file = File::open(&self.path).map_err(|error| DataError::io(&self.path, error))?;
        Ok(bar.wrap_read(file))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(sources: &[Source]) -> Vec<String> {
        sources.iter().map(|s| s.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_folder_is_walked_in_order_without_binaries_and_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["b.rs", "a.txt", "c.PY", "d.bin", ".hidden.txt", "e.jsonl", "f.jsonl.zst", "g.parquet", "h.zst"]
        {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir_all(folder.path().join(".git")).unwrap();
        std::fs::write(folder.path().join(".git/x.txt"), "x").unwrap();
        let sources = find(&[folder.path().to_owned()]).unwrap();
        assert_eq!(names(&sources), ["a.txt", "b.rs", "c.PY", "e.jsonl", "f.jsonl.zst", "g.parquet"]);
        let kinds: Vec<Kind> = sources.iter().map(|s| s.kind).collect();
        assert_eq!(kinds, [Kind::Text, Kind::Text, Kind::Text, Kind::Jsonl, Kind::JsonlZst, Kind::Parquet]);
    }

    #[test]
    fn a_named_file_is_read_whatever_it_is_called_and_must_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let (text, binary) = (folder.path().join("NOTES"), folder.path().join("blob"));
        std::fs::write(&text, "words").unwrap();
        std::fs::write(&binary, [0, 1, 2]).unwrap();
        let sources = find(&[text, binary.clone()]).unwrap();
        let bar = ProgressBar::hidden();
        let mut seen = Vec::new();
        let mut visit = |found: Found<'_>| {
            if let Found::Document(text) = found {
                seen.push(text.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        };
        assert!(sources[0].read("text", &bar, &mut visit).unwrap().is_continue());
        let error = sources[1].read("text", &bar, &mut visit).unwrap_err();
        assert!(matches!(error, DataError::NotText { path } if path == binary));
        assert_eq!(seen, ["words"]);
    }

    #[test]
    fn a_missing_input_is_named() {
        let error = find(&["no/such/place".into()]).unwrap_err();
        assert_eq!(error.to_string(), "no/such/place: no such file or folder");
    }
}
