//! Every command that the documentation shows is run, literally: here after a short run, or by the test that is named for it.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pages.rs"]
mod pages;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use brigade::commands::Cli;
use brigade_bucket::keys::RunKey;
use clap::Parser as _;
use support::stores::Store;
use support::{Terms, World};

/// What a command begins with, and the test that runs it: roles that go on, what has to come before a run, what needs a terminal.
const ELSEWHERE: [(&str, &str); 15] = [
    ("aggregator", "tests/tutorials.rs"),
    ("validator", "tests/tutorials.rs"),
    ("miner", "tests/tutorials.rs"),
    ("data prepare", "tests/support/mod.rs"),
    ("run create", "tests/support/mod.rs"),
    ("identity new", "tests/support/mod.rs"),
    ("serve", "tests/support/stores.rs"),
    ("watch", "tests/screens.rs"),
    ("dashboard", "tests/screens.rs"),
    ("demo --baseline", "tests/demo.rs"),
    ("demo --attack", "tests/demo_attack.rs"),
    ("demo", "tests/demo.rs"),
    ("bench train", "tests/train_bench.rs"),
    ("plan", "tests/docs.rs"),
    ("cost", "tests/docs.rs"),
];

/// What is added, so that it ends soon and asks nobody.
const ADDED: [(&str, &str); 5] = [
    ("init run", "--bucket a-run --name first --yes"),
    ("init", "--yes --allow-private-endpoints"),
    ("join", "--bucket example-miner --yes --allow-private-endpoints"),
    ("lab attacks", "--quick --attack sign_flip --windows 2 --peers 3 --fractions 0.375"),
    ("lab compression", "--model tiny --windows 2 --peers 2 --seeds 1"),
];

/// The arguments of a command that is whole; nothing if the reader is to fill something in that has no name here.
fn arguments(line: &str, run_url: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next().unwrap().split([';', '>', '<', '&']).next().unwrap();
    // What may be left out is, and of several values the first is taken.
    let mut plain =
        line.split(" [").map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect::<String>();
    for (shown, here) in [
        ("/etc/brigade/", ""),
        ("/etc/brigade", "me"),
        ("me/miner.toml", "miner.toml"),
        ("demo-run/validator/config.toml", "any.toml"),
        ("--out DIR", "--out out"),
        ("--out FILE", "--out out"),
        ("DIR", "model"),
        ("HF_", ""),
        ("FILE", "update.bin"),
        ("\"…\"", "\"The\""),
    ] {
        plain = plain.replace(shown, here);
    }
    let words = shell_words::split(&plain).ok()?;
    let is_left_open =
        |word: &String| word.contains('…') || matches!(word.as_str(), "RULE" | "NAME" | "PATH" | "TEXT");
    if words.iter().any(is_left_open) {
        return None;
    }
    let is_url = |word: &String| matches!(word.as_str(), "RUN_URL" | "$RUN_URL");
    let words: Vec<String> =
        words.into_iter().map(|word| if is_url(&word) { run_url.to_owned() } else { word }).collect();
    let parsed = Cli::try_parse_from(&words);
    let is_whole = parsed.is_ok() || words == ["brigade", "--version"];
    is_whole.then(|| words[1..].to_vec())
}

fn begins(words: &[String], with: &str) -> bool {
    with.split(' ').zip(words).all(|(a, b)| a == b)
}

/// A folder with everything that commands name.
async fn furnish(world: &World, here: &Path) {
    fs::create_dir(here).unwrap();
    for (name, whose) in
        [("any", "miner-0"), ("miner", "miner-0"), ("aggregator", "aggregator"), ("validator", "validator")]
    {
        let text = fs::read_to_string(world.config(whose)).unwrap();
        let folder = world.dir.path().join(whose);
        let text =
            text.replace("\"identity.json\"", &format!("\"{}\"", folder.join("identity.json").display()));
        let text = text.replace("\"state\"", &format!("\"{}\"", folder.join("state").display()));
        fs::write(here.join(format!("{name}.toml")), text).unwrap();
    }
    fs::copy(world.dir.path().join("validator/identity.json"), here.join("identity.json")).unwrap();
    let peer = world.id("miner-0");
    fs::write(here.join("uids.json"), format!("{{\"{peer}\": 11}}")).unwrap();
    fs::write(here.join("text.txt"), "The store answers, and the window closes. ".repeat(400)).unwrap();
    let run = world.run("aggregator").await;
    let update = RunKey::Update { window: 0, peer }.to_string();
    fs::write(here.join("update.bin"), run.bucket().get(&update, 1 << 24).await.unwrap().bytes).unwrap();
    support::brigade(
        &["run", "download", "--config"],
        &[&here.join("any.toml"), Path::new("--out"), &here.join("model")],
    );
    symlink(here.join("model"), here.join("checkpoint")).unwrap();
    symlink(here.join("model"), here.join("Llama-3.2-1B")).unwrap();
}

/// Runs a command in a folder of its own where everything is but what it is to write.
fn is_run(world: &World, here: &Path, words: &[String]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let makes_settings = ["init", "join"].contains(&words[0].as_str());
    let out = words.iter().position(|word| word == "--out").map(|at| words[at + 1].as_str());
    for entry in fs::read_dir(here).unwrap().map(Result::unwrap) {
        if !makes_settings && out != entry.file_name().to_str() {
            symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let added = ADDED.iter().find(|(with, _)| begins(words, with)).map_or("", |(_, added)| added);
    let added = added.split_whitespace().filter(|word| !words.iter().any(|given| given == word));
    let key = world.store.pair("observer");
    let output = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(words)
        .args(added)
        .current_dir(folder.path())
        .envs([("RUN_KEY_ID", &key.id), ("RUN_SECRET", &key.secret)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{words:?}: {}{}", text(&output.stdout), text(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_the_documentation_runs() {
    let mut world = World::new(Store::embedded(), 2, &Terms::default());
    let roles = ["aggregator", "validator", "miner-0", "miner-1"];
    world.start_all(&roles);
    world.expect_success(&roles);
    let here = world.dir.path().join("here");
    furnish(&world, &here).await;

    let mut all = BTreeSet::new();
    for page in pages::pages() {
        // tests/tutorials.rs and tests/terraform.rs follow these from an empty folder.
        if page
            .components()
            .any(|part| ["tutorials", "terraform"].iter().any(|name| part.as_os_str() == *name))
        {
            continue;
        }
        let text = fs::read_to_string(page).unwrap();
        all.extend(pages::commands(&text).iter().filter_map(|line| arguments(line, &world.run_url)));
    }
    let (mut run, mut wrong) = (BTreeSet::new(), Vec::new());
    for words in &all {
        let elsewhere = ELSEWHERE
            .iter()
            .find(|(with, _)| begins(words, with) && !words.contains(&"--print-config".to_owned()));
        if elsewhere.is_none() {
            run.insert(words[..words.len().min(2)].join(" "));
            wrong.extend(is_run(&world, &here, words).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{run:#?}");
    // So that none is lost where words were to be filled in.
    for expected in [
        "--version",
        "audit --all",
        "doctor --config",
        "eval --checkpoint",
        "export --checkpoint",
        "generate --checkpoint",
        "identity show",
        "import Llama-3.2-1B",
        "init aggregator",
        "lab attacks",
        "lab compression",
        "miner --config",
        "run download",
        "run weights",
        "update inspect",
    ] {
        assert!(run.contains(expected), "{expected} was not run: {run:?}");
    }
    assert!(run.iter().any(|words| words.starts_with("join ")), "{run:?}");
}

#[test]
fn what_is_run_elsewhere_is_run_there() {
    for (with, file) in ELSEWHERE {
        let text = fs::read_to_string(pages::root().join(file)).unwrap();
        let (first, rest) = with.split_once(' ').unwrap_or((with, ""));
        let spelt = |word: &str| [format!("{word}\""), format!("\"{word} "), format!("{{}} {word} ")];
        let is_there = |word: &str| word.is_empty() || spelt(word).iter().any(|spelt| text.contains(spelt));
        assert!(is_there(first) && rest.split(' ').all(is_there), "{file} does not run `brigade {with}`");
    }
}
