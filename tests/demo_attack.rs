//! `brigade demo --attack`: some of the miners cheat, as real processes with buckets of their own.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn demo(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    command.args(["demo", "--model", "tiny", "--json", "--dir"]).arg(dir).arg("--data").arg(sources);
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// The rows of a run that goes to its end.
fn rows(dir: &Path, args: &[&str]) -> Vec<Value> {
    let output = demo(dir, args);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!errors.contains(" died: "), "{errors}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn weight(row: &Value, name: &str) -> f64 {
    row["weights"][name].as_f64().unwrap()
}

/// By which key a miner is known.
fn peer(dir: &Path, name: &str) -> Value {
    let events = std::fs::read_to_string(dir.join(name).join("events.jsonl")).unwrap();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    events.iter().find(|event| event["event"] == "ready").unwrap()["peer"].clone()
}

/// Reasons for which a miner's updates were not merged, window by window.
fn reasons(rows: &[Value], peer: &Value) -> Vec<String> {
    let excluded = |row: &Value| {
        let excluded = row["excluded"].as_array().unwrap();
        let own = excluded.iter().find(|exclusion| exclusion["peer"] == *peer);
        own.map_or_else(String::new, |exclusion| exclusion["reason"].as_str().unwrap().to_owned())
    };
    rows.iter().map(excluded).collect()
}

#[test]
fn cheats_earn_nothing_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let attacks = ["--attack", "sign_flip=1", "--attack", "malformed=1"];
    let args = [&["--miners", "6", "--windows", "6"][..], &attacks].concat();
    let rows = rows(dir, &args);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        assert_eq!(row["attacks"], serde_json::json!({ "miner-4": "sign_flip", "miner-5": "malformed" }));
    }
    for row in &rows[2..] {
        assert_eq!((weight(row, "miner-4"), weight(row, "miner-5")), (0.0, 0.0), "{row}");
    }
    let last = rows.last().unwrap();
    let honest: f64 = (0..4).map(|number| weight(last, &format!("miner-{number}"))).sum();
    assert!((honest - 1.0).abs() < 1e-9, "{last}");

    // Broken files are refused by their kinds, none of them is merged, and no window is without the honest.
    let [flipped, broken] = ["miner-4", "miner-5"].map(|name| reasons(&rows, &peer(dir, name)));
    assert_eq!(broken[..5], ["Malformed", "Malformed", "Malformed", "Malformed", "BadReceipt"]);
    assert!(flipped.iter().filter(|reason| *reason == "Harmful").count() >= 2, "{flipped:?}");
    assert!(rows.iter().all(|row| row["accepted"].as_array().unwrap().len() >= 3), "{rows:?}");
    let loss = |row: &Value| row["heldout_loss"].as_f64().unwrap();
    assert!(loss(last) < loss(&rows[0]), "the model learns");

    let report: Value = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["attacks"]["miner-4"], "sign_flip");
    let picture = std::fs::read_to_string(report["weights_curve"].as_str().unwrap()).unwrap();
    assert!(picture.contains("miner-4 (sign_flip)") && picture.contains("miner-0"));

    // The same folder is not resumed with other cheats.
    let other = demo(dir, &["--miners", "6", "--windows", "6", "--attack", "zeros=1"]);
    let errors = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && errors.contains("--attack sign_flip=1"), "{errors}");
}

#[test]
fn what_no_miner_can_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (attack, says) in [
        ("colluders=2", "brigade lab attacks"),
        ("zeros=4", "--miners 5"),
        ("nonsense=1", "sign_flip"),
        ("zeros", "sign_flip=1"),
    ] {
        let output = demo(folder.path(), &["--attack", attack]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(says), "{attack}: {errors}");
    }
}
