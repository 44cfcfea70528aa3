//! What the documentation says that can be typed.

#![allow(dead_code, reason = "every test uses another part")]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that a user reads, below `folder` too.
pub fn pages() -> Vec<PathBuf> {
    let mut pages =
        vec![root().join("README.md"), root().join("bucket-layout.md"), root().join("terraform/README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The commands of a page: lines of fenced blocks, and code within the text, that begin with the program's name.
pub fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_fenced = false;
    // A line that ends with a backslash goes on in the next.
    for line in text.replace("\\\n", " ").lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced {
            found.push(line.trim_start_matches("$ ").to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let is_ours = |line: &String| {
        let line = line.trim_start_matches("target/release/");
        line.strip_prefix("brigade ")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
    };
    found.into_iter().filter(is_ours).collect()
}

/// What stands for itself in the text and is no value that the program would take.
pub fn filled(words: Vec<String>) -> Vec<String> {
    let run = format!("s3://a-run#{}", "01".repeat(32));
    let fill = |word: String| match word.as_str() {
        "RUN_URL" | "$RUN_URL" => run.clone(),
        "W" | "N" => "3".into(),
        "NAME=COUNT" => "sign_flip=1".into(),
        "ADDRESS" => "127.0.0.1:9480".into(),
        _ => word,
    };
    words.into_iter().map(fill).collect()
}
