//! `brigade demo`, as a newcomer runs it, on a small model.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brigade_bucket::keys::{PeerKey, RunKey};
use support::PATIENCE;

fn demo(dir: &Path, windows: u32, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    command
        .args(["demo", "--model", "tiny", "--miners", "3", "--windows", &windows.to_string(), "--dir"])
        .arg(dir)
        .arg("--data")
        .arg(sources)
        .args(extra)
        .stdin(Stdio::null());
    command
}

fn report(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap()
}

#[test]
fn trains_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), 5, &["--baseline"]).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("held-out"), "{text}");

    let report = report(folder.path());
    let windows = report["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 5);
    for (number, row) in windows.iter().enumerate() {
        assert_eq!(row["window"], number);
        assert_eq!(row["accepted"].as_array().unwrap().len(), 3, "{row}");
        for field in [
            "train_loss",
            "heldout_loss",
            "bits_per_byte",
            "bytes_up_per_peer",
            "bytes_down_per_peer",
            "ratio_fp32",
            "ratio_bf16",
            "compute_seconds",
            "exchange_seconds",
            "utilization",
            "tokens_per_second",
        ] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} in {row}");
        }
        let (fp32, bf16) = (row["ratio_fp32"].as_f64().unwrap(), row["ratio_bf16"].as_f64().unwrap());
        assert!((fp32 / bf16 - 2.0).abs() < 1e-9);
    }
    let loss = |number: usize| windows[number]["heldout_loss"].as_f64().unwrap();
    assert!(loss(4) < loss(0), "the model learns");
    for baseline in ["dense DiLoCo", "data-parallel AdamW"] {
        assert_eq!(report["baselines"][baseline].as_array().unwrap().len(), 5);
    }
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(Path::new(report["checkpoint"].as_str().unwrap()).join(file).exists(), "{file}");
    }
    let picture = std::fs::read_to_string(report["loss_curve"].as_str().unwrap()).unwrap();
    assert!(picture.contains("<svg") && picture.contains("dense DiLoCo"));
    assert!(!report["sample"].as_str().unwrap().is_empty());
}

#[test]
fn ctrl_c_ends_everybody_and_the_next_start_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = demo(folder.path(), 8, &["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_window(&mut first, folder.path(), 2);
    let family = children_of(first.id());
    assert!(family.len() >= 6, "store, aggregator, validator, three miners: {family:?}");
    interrupt(first.id());
    let status = first.wait().unwrap();
    assert!(status.success(), "{status}");
    for child in family {
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "process {child} is left");
    }
    let before = closes(folder.path());
    assert!((2..8).contains(&before), "{before} windows before the interruption");

    let output = demo(folder.path(), 8, &["--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let windows = report(folder.path())["windows"].as_array().unwrap().clone();
    let numbers: Vec<u64> = windows.iter().map(|row| row["window"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    assert!(windows.iter().all(|row| row["heldout_loss"].is_f64()), "{windows:?}");

    // Another question to the same folder is refused with the remedy.
    let output = demo(folder.path(), 9, &[]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("--dir"), "{errors}");
}

#[test]
fn children_end_with_a_parent_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = demo(folder.path(), 8, &["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_window(&mut parent, folder.path(), 1);
    let family = children_of(parent.id());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let started = Instant::now();
    for child in family {
        while Path::new(&format!("/proc/{child}")).exists() {
            assert!(started.elapsed() < Duration::from_secs(30), "process {child} is left");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Every key that a run writes is one that `bucket-layout.md` names.
#[test]
fn the_layout_document_names_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), 3, &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document = include_str!("../bucket-layout.md");
    let keys = keys_in_store(folder.path());
    assert!(keys.len() > 40, "{keys:?}");
    for (bucket, key) in keys {
        let template = match bucket.as_str() {
            "run" => template(&key.parse::<RunKey>().unwrap_or_else(|error| panic!("{error}")).to_string()),
            _ => template(&key.parse::<PeerKey>().unwrap_or_else(|error| panic!("{error}")).to_string()),
        };
        assert!(document.contains(&format!("`{template}`")), "bucket-layout.md does not name `{template}`");
    }
}

/// The key with its variable parts as `bucket-layout.md` writes them.
fn template(key: &str) -> String {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut folder = "";
    let parts: Vec<String> = key
        .split('/')
        .map(|part| {
            let (stem, suffix) =
                part.split_once('.').map_or((part, String::new()), |(a, b)| (a, format!(".{b}")));
            let stem = match folder {
                "fence" => "{epoch}",
                "rosters" if is_hex(stem) => "{sha256}",
                "lobby" | "updates" | "receipts" if is_hex(stem) => "{peer}",
                "windows" | "checkpoints" if stem.len() == 10 => "{w}",
                _ if is_hex(stem) => "{run}",
                _ => stem,
            };
            folder = part;
            let stem = match stem.rsplit_once('-') {
                Some((name, number)) if number.len() == 5 && number.parse::<u32>().is_ok() => {
                    format!("{name}-{{n}}")
                }
                _ => stem.to_owned(),
            };
            format!("{stem}{suffix}")
        })
        .collect();
    parts.join("/")
}

/// Bucket and key of every object, as the store's own server lists them to the observer's key.
fn keys_in_store(dir: &Path) -> Vec<(String, String)> {
    let mut server = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(["serve", "--stop-with-stdin", "--config"])
        .arg(dir.join("server.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let endpoint =
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["endpoint"].as_str().unwrap().to_owned();
    let pair: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("keys/observer.json")).unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut keys = Vec::new();
    for bucket in ["run", "peer-validator", "peer-miner-0", "peer-miner-1", "peer-miner-2"] {
        let address = brigade_bucket::BucketAddress {
            endpoint: Some(endpoint.clone()),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            prefix: String::new(),
            dialect: brigade_bucket::Dialect::Embedded,
        };
        let text = |field: &str| pair[field].as_str().unwrap().to_owned();
        let credentials =
            brigade_bucket::Credentials::new(text("access_key_id"), text("secret_access_key"), None).unwrap();
        let bucket_handle = brigade_bucket::Bucket::open(&address, credentials, Default::default()).unwrap();
        let listed = runtime.block_on(bucket_handle.list("", 100_000)).unwrap();
        assert!(!listed.is_empty(), "{bucket} is empty");
        keys.extend(listed.into_iter().map(|object| (bucket.to_owned(), object.key)));
    }
    drop(server.stdin.take());
    server.wait().unwrap();
    keys
}

fn wait_for_window(demo: &mut Child, dir: &Path, windows: usize) {
    let started = Instant::now();
    while closes(dir) < windows {
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended early");
        assert!(started.elapsed() < PATIENCE, "no window closes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Windows that the aggregator says it closed.
fn closes(dir: &Path) -> usize {
    let events = std::fs::read_to_string(dir.join("aggregator/events.jsonl")).unwrap_or_default();
    events.lines().filter(|line| line.contains(r#""event":"closed""#)).count()
}

fn children_of(parent: u32) -> Vec<u32> {
    let tasks = PathBuf::from(format!("/proc/{parent}/task"));
    let mut children = Vec::new();
    for task in std::fs::read_dir(tasks).unwrap() {
        let listed = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
    }
    children
}

fn interrupt(process: u32) {
    assert!(Command::new("kill").args(["-INT", &process.to_string()]).status().unwrap().success());
}
