//! `brigade bench train`, and the plan's memory beside what training takes.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// What `brigade bench train` with these options answers, in a process of its own.
fn bench(options: &[&str], environment: &[(&str, &str)]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(["bench", "train", "--json", "--device", "cpu", "--threads", "2"])
        .args(options)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"))
}

fn expect_planned(report: &Value, planned: f64, within: f64) {
    let measured = number(report, "peak_bytes");
    let off = planned / measured - 1.0;
    assert!(
        off.abs() <= within,
        "planned {planned:.0}, took {measured:.0}: off by {:+.1} %\n{report:#}",
        100.0 * off
    );
}

fn middle(folder: &Path) -> String {
    let path = folder.join("middle.json");
    let model = json!({
        "vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    });
    std::fs::write(&path, model.to_string()).unwrap();
    path.display().to_string()
}

/// Every block has pages of its own, which are given back at once: what glibc's heap keeps as holes between blocks is chance, and
/// has been seen to differ by half of the whole from one run of the same program to the next.
const NO_HEAP: &[(&str, &str)] = &[("MALLOC_MMAP_THRESHOLD_", "131072")];

fn planned_without_holes(report: &Value) -> f64 {
    number(report, "planned_peak_bytes") - report["planned"]["holes"].as_f64().unwrap()
}

#[test]
fn training_takes_the_memory_that_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    let middle = middle(folder.path());
    let short = ["--seconds", "1", "--dtype", "float32", "--sequence-length", "512"];
    for (model, batch, recompute) in
        [("150m", "1", "none"), ("150m", "1", "all"), (middle.as_str(), "4", "none")]
    {
        let mut options = vec!["--model", model, "--batch", batch, "--recompute", recompute];
        options.extend(short);
        let report = bench(&options, NO_HEAP);
        expect_planned(&report, planned_without_holes(&report), 0.05);
    }
}

#[test]
fn every_precision_and_offloading_take_what_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    let model = middle(folder.path());
    let options = ["--model", &model, "--batch", "4", "--sequence-length", "512", "--seconds", "1"];
    for dtype in [&["float32"][..], &["bfloat16"], &["float32", "--offload"]] {
        let mut options = options.to_vec();
        options.push("--dtype");
        options.extend(dtype);
        let report = bench(&options, NO_HEAP);
        expect_planned(&report, planned_without_holes(&report), 0.03);
    }
}

#[test]
fn a_measurement_has_all_its_figures_and_says_who_qualifies() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.toml");
    let terms = |seconds: u64| {
        format!(
            "name = \"r\"\nidentity = \"a.json\"\n[bucket]\ndialect = \"aws\"\nbucket = \"b\"\n\
             [model]\npreset = \"demo\"\n[training]\ninner_steps = 5\nbatch_size = 2\nsequence_length = 64\n\
             [windows]\ntrain_seconds = {seconds}\n"
        )
    };
    std::fs::write(&run, terms(600)).unwrap();
    let path = run.display().to_string();
    let report = bench(&["--seconds", "1", "--run", &path], &[]);
    for key in ["tokens_per_second", "mfu", "peak_flops", "peak_bytes", "step_seconds", "grad_norm"] {
        assert!(number(&report, key) > 0.0, "{key}: {report}");
    }
    assert!((0.0..1.0).contains(&number(&report, "data_wait_share")) && number(&report, "mfu") < 1.0);
    assert_eq!((&report["batch"], &report["sequence_length"]), (&json!(2), &json!(64)));
    assert_eq!(report["qualifies"], true, "{report}");
    assert!(report["reason"].as_str().unwrap().contains("5 inner steps"));
    // A hundred thousand steps in a second.
    std::fs::write(&run, terms(1).replace("inner_steps = 5", "inner_steps = 100000")).unwrap();
    assert_eq!(bench(&["--seconds", "1", "--run", &path], &[])["qualifies"], false);
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let refused = |options: &[&str], named: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_brigade"))
            .args(["bench", "train", "--json"])
            .args(options)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty() && error.contains(named), "{error}");
    };
    refused(&["--model", "70b"], "covenant-72b");
    refused(&["--model", "demo", "--sequence-length", "4096"], "--sequence-length");
    refused(&["--model", "demo", "--device", "tpu"], "tpu");
    refused(&["--run", "/nowhere/run.toml"], "/nowhere/run.toml");
}
