//! What the documentation says can be typed is understood, and every setting is in it.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pages.rs"]
mod pages;

use std::collections::BTreeSet;

use brigade::commands::Cli;
use clap::{CommandFactory as _, Parser as _};
use pages::{commands, filled, pages, root};

#[test]
fn every_command_in_the_documentation_is_one() {
    let mut wrong = Vec::new();
    let mut number = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for command in commands(&text) {
            // Without what a shell would do with the rest of the line; `…` and `|` leave the rest to the reader.
            let line = command.split(" #").next().unwrap();
            let line = line.split([';', '>', '<', '&']).next().unwrap();
            // Labels that are hashed begin with the program's name too.
            if line.ends_with(" v1") {
                continue;
            }
            let optional = line.contains(" [");
            let line = &line.replace(" [", " ").replace(']', "");
            let is_placeholder =
                |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            let open_end = line.contains(['…', '|'])
                || line.split(' ').any(is_placeholder)
                || line.split(' ').next_back().is_some_and(|word| word.starts_with("--"));
            let Some(words) = shell_words::split(line).ok().map(filled) else { continue };
            let mut words = words;
            words[0] = "brigade".into();
            if open_end && !optional {
                words
                    .truncate(words.iter().position(|word| word.contains(['…', '|'])).unwrap_or(words.len()));
            }
            number += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                use clap::error::ErrorKind;
                // A sentence may name a command without all that it needs.
                let is_incomplete = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                // What the reader is to fill in may be a value of any kind.
                let is_left_open =
                    open_end && matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
                if !is_incomplete && !is_left_open {
                    wrong.push(format!(
                        "{}: {command}\n  {}",
                        page.display(),
                        error.to_string().lines().next().unwrap()
                    ));
                }
            }
        }
    }
    assert!(number > 80, "only {number} commands were found");
    // Without libtorch some commands are not there.
    if cfg!(feature = "torch") {
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn every_command_has_a_page_that_names_it() {
    let texts: Vec<String> = pages().iter().map(|page| std::fs::read_to_string(page).unwrap()).collect();
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("brigade {}", command.get_name());
        assert!(texts.iter().any(|text| text.contains(&name)), "`{name}` is in no page");
    }
}

/// Names of the settings in a type's source: what serde reads.
fn fields(source: &str, name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(source)).unwrap();
    let body = text.split(&format!("pub struct {name} {{")).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    let lines = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    lines.filter_map(|line| line.split_once(':').map(|(name, _)| name.to_owned())).collect()
}

#[test]
fn every_setting_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let settings = [
        ("src/config/participant.rs", "Participant"),
        ("src/config/participant.rs", "BucketSection"),
        ("src/config/participant.rs", "Compute"),
        ("src/config/run.rs", "RunSettings"),
        ("src/config/run.rs", "ValidatorEntry"),
        ("crates/bucket/src/server/config.rs", "ServerConfig"),
    ];
    let mut number = 0;
    for (source, name) in settings {
        for field in fields(source, name) {
            let spelt =
                [format!("`{field}`"), format!("[{field}]"), format!(".{field}]"), format!("{field} =")];
            assert!(
                spelt.iter().any(|spelt| text.contains(spelt)),
                "{name}: `{field}` is not in docs/configuration.md"
            );
            number += 1;
        }
    }
    let terms = std::fs::read_to_string(root().join("bucket-layout.md")).unwrap();
    for name in ["Training", "Compression", "Outer", "Windows", "Scoring"] {
        for field in fields("crates/protocol/src/manifest.rs", name) {
            assert!(
                terms.contains(&format!("`{field}`")) || terms.contains(&field),
                "{name}: `{field}` is not in bucket-layout.md"
            );
            number += 1;
        }
    }
    assert!(number > 60, "{number}");
}

/// What a heading is linked by, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere_and_every_page_is_in_the_contents() {
    let mut wrong = Vec::new();
    let mut linked = BTreeSet::new();
    let mut pages = pages();
    pages.extend([root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")]);
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(' ') {
                continue;
            }
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let Ok(target) = target.canonicalize() else {
                wrong.push(format!("{}: {link} is not there", page.display()));
                continue;
            };
            if page.ends_with("docs/SUMMARY.md") {
                linked.insert(target.clone());
            }
            if place.is_empty() || target.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&target).unwrap();
            if !text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == place) {
                wrong.push(format!("{}: {link} has no such heading", page.display()));
            }
        }
    }
    for page in pages.iter().map(|page| page.canonicalize().unwrap()) {
        if !linked.contains(&page) && !page.ends_with("docs/SUMMARY.md") {
            wrong.push(format!("{} is not in docs/SUMMARY.md", page.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Pairs of a command in a block of its own, and the block that follows it.
fn shown(text: &str) -> Vec<(String, String)> {
    let blocks: Vec<&str> = text.split("```").collect();
    let pair = |triple: &[&str]| {
        let [command, between, output] = triple else { unreachable!() };
        let command = command.strip_prefix("sh\n")?.trim();
        let output = output.strip_prefix('\n').filter(|_| between.trim().is_empty())?;
        Some((command.to_owned(), output.trim_end().to_owned()))
    };
    // Blocks are every other part, and what lies between two of them is one part too.
    (1..blocks.len().saturating_sub(2)).step_by(2).filter_map(|at| pair(&blocks[at..at + 3])).collect()
}

/// Commands that only compute print the same everywhere.
#[test]
fn what_pages_show_is_what_is_printed() {
    let mut number = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (command, expected) in shown(&text) {
            let Some(words) = command.strip_prefix("brigade ") else { continue };
            if !(words.starts_with("plan ") || words.starts_with("cost ")) {
                continue;
            }
            let words = words.split_whitespace();
            let output =
                std::process::Command::new(env!("CARGO_BIN_EXE_brigade")).args(words).output().unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            assert_eq!(printed.trim_end(), expected, "{}: {command} prints\n{printed}", page.display());
            number += 1;
        }
    }
    assert!(number >= 3, "{number}");
}

/// As mdBook gets them, pages link to pages that are in the book, and nothing else is left of a link.
#[test]
fn the_book_has_no_dead_end() {
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("book");
    let python =
        std::process::Command::new("python3").arg(root().join("scripts/book.py")).arg(&book).status();
    assert!(python.unwrap().success());
    let (mut wrong, mut number, mut folders) = (Vec::new(), 0, vec![book]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
                if link.is_empty() || link.starts_with("http") || link.contains(' ') {
                    continue;
                }
                number += 1;
                if !folder.join(link).is_file() {
                    wrong.push(format!("{}: {link}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(number > 100, "{number}");
}
