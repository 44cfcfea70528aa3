//! `brigade plan`, as a script calls it. It needs no libtorch.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};

use serde_json::Value;

fn plan(options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args(["plan", "--up", "110", "--down", "500"]).args(options).output().unwrap()
}

#[test]
fn json_has_memory_by_kind_that_adds_up_and_what_to_change() {
    let output = plan(&["--model", "8b", "--gpus", "1", "--gpu-memory", "24GB", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds = plan["gpu"].as_object().unwrap().values().filter_map(Value::as_u64);
    assert_eq!(kinds.sum::<u64>(), plan["gpu_bytes"].as_u64().unwrap());
    assert_eq!((&plan["fits"], plan["change"].as_array().unwrap().len()), (&Value::Bool(false), 3));
    let [compute, exchange, utilisation] =
        ["compute_seconds", "exchange_seconds", "utilisation"].map(|key| plan[key].as_f64().unwrap());
    assert!((utilisation - compute / (compute + exchange)).abs() < 1e-9);
    for key in ["update_bytes", "delta_bytes", "up_seconds", "down_seconds", "step_seconds", "host_bytes"] {
        assert!(plan[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn a_person_reads_what_to_change() {
    let text = |options: &[&str]| String::from_utf8(plan(options).stdout).unwrap();
    let refused = text(&["--model", "8b", "--gpus", "1", "--gpu-memory", "24GB"]);
    assert!(refused.contains("--recompute all --offload --gpus 8"), "{refused}");
    let fits = text(&["--model", "1b", "--gpus", "1", "--gpu-memory", "80GB"]);
    assert!(fits.ends_with("It fits.\n") && fits.contains("fp32 masters"), "{fits}");
}

#[test]
fn what_cannot_be_planned_is_refused_by_name() {
    for (options, named) in [
        (["--model", "70b", "--gpus", "1", "--gpu-memory", "24GB"], "covenant-72b"),
        (["--model", "8b", "--gpus", "1", "--gpu-memory", "24XB"], "80GB"),
        (["--model", "8b", "--gpus", "0", "--gpu-memory", "24GB"], "--gpus"),
    ] {
        let output = plan(&options);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(named), "{error}");
    }
}
