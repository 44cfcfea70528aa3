//! Tells the program what it is built from, and lets it find libtorch when it starts.

// A build script speaks to Cargo on its standard output.
#![allow(clippy::print_stdout)]

use std::env;
use std::path::Path;
use std::process::Command;

#[path = "crates/torch-ext/build/link.rs"]
mod link;

/// What the program is made of: a change anywhere else makes no other program, and does not make it `-dirty`.
const SOURCES: &[&str] = &["build.rs", "Cargo.toml", "Cargo.lock", ".cargo", "src", "crates"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rustc-env=BRIGADE_BUILT_COMMIT={}", commit());
    println!("cargo::rustc-env=BRIGADE_BUILT_TARGET={}", env::var("TARGET").unwrap_or_default());
    if env::var_os("CARGO_FEATURE_TORCH").is_some() {
        link::link_libtorch();
    }
}

/// The commit, from git; from `BRIGADE_COMMIT` in a tarball of the source, in a container without git; else `unknown`.
/// Nothing here fails a build: whoever lacks a commit still gets a program.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=BRIGADE_COMMIT");
    git_commit()
        .or_else(|| env::var("BRIGADE_COMMIT").ok().filter(|given| is_word(given)))
        .unwrap_or("unknown".into())
}

/// What goes onto a line that Cargo reads must not begin another.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._+".contains(c))
}

fn git_commit() -> Option<String> {
    let root = env::var_os("CARGO_MANIFEST_DIR")?;
    // The source may lie, unpacked, inside the clone of something else.
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?
        != Path::new(&root).canonicalize().ok()?
    {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "--verify", "HEAD"]).filter(|commit| is_word(commit))?;
    watch();
    let mut changed = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    changed.extend(SOURCES);
    Some(if git(&changed)?.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// Lets Cargo ask again after the next commit or checkout. Only what is there: a file that is not is one that has changed
/// at every build.
fn watch() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // A branch that is packed has no file, but every commit and every checkout adds a line to the log of HEAD.
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).is_file()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git answers in this folder, or nothing where there is no git, no clone, or one that git will not touch.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // A hook of git's that builds has these set, for another purpose.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(variable);
    }
    let answer = command.arg("--no-optional-locks").args(arguments).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}
