//! Figures for Prometheus, the web page, and that the rules and the board ask for nothing that does not exist.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::stores::Store;
use support::synthetic::Synthetic;
use support::{Terms, World};

/// One request; the status line with the headers, and the body.
fn get(address: &str, path: &str, header: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn body(address: &str, path: &str) -> String {
    let (head, body) = get(address, path, "");
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    body
}

/// `brigade dashboard` on a free port.
struct Dashboard {
    child: Child,
    address: String,
}

impl Dashboard {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(["dashboard", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { child, address }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of our own samples in a text of metrics.
fn samples(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Names of our own samples that a file asks for.
fn asked(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/monitoring").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("brigade_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_and_board_ask_for_what_roles_tell() {
    let terms = Terms { windows: 1000, train_seconds: 4, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    let mut addresses = Vec::new();
    for name in ["aggregator", "validator", "miner-0"] {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let text = std::fs::read_to_string(world.config(name)).unwrap();
        std::fs::write(world.config(name), format!("metrics = \"{address}\"\n{text}")).unwrap();
        addresses.push(address);
    }
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_event("validator", "evaluated", |event| event["window"] == 1);
    world.kill("miner-1");
    let missing = |event: &Value| event["excluded"].as_array().is_some_and(|excluded| !excluded.is_empty());
    world.wait_for_event("aggregator", "closed", missing);
    world.wait_for_event("miner-0", "passed", |event| event["window"].as_u64() > Some(1));

    let texts: Vec<String> = addresses.iter().map(|address| body(address, "/metrics")).collect();
    let dashboard = Dashboard::start(&["--config", world.config("miner-0").to_str().unwrap()]);
    let seen = body(&dashboard.address, "/metrics");
    let told: BTreeSet<String> = texts.iter().chain([&seen]).flat_map(|text| samples(text)).collect();
    for file in ["alerts.yml", "grafana.json"] {
        let unknown: Vec<_> = asked(file).difference(&told).cloned().collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}; told are {told:?}");
        assert!(asked(file).len() > 8, "{file}");
    }
    let value = |text: &str, name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let [aggregator, validator, miner] = &texts[..] else { unreachable!() };
    assert!(value(aggregator, "brigade_windows_closed_total") >= 3.0);
    assert_eq!(value(aggregator, "brigade_window_limit_seconds"), 34.0);
    assert!(value(aggregator, "brigade_exclusions_total{reason=\"missing\"}") >= 1.0);
    assert!(value(aggregator, "brigade_requests_total{bucket=\"run\",kind=\"put\"}") > 5.0);
    assert!((1.0..7.0).contains(&value(validator, "brigade_heldout_loss ")));
    assert!(value(miner, "brigade_bytes_total{bucket=\"own\",direction=\"up\"}") > 1000.0);
    assert_eq!(value(miner, "brigade_update_accepted "), 1.0);
    assert_eq!(value(&seen, "brigade_merged_updates "), 1.0);

    let taken = format!("metrics = \"{}\"\n", addresses[0]);
    let text = std::fs::read_to_string(world.config("miner-1")).unwrap();
    std::fs::write(world.config("miner-1"), taken + &text).unwrap();
    support::brigade_fails(&["miner", "--config"], &[&world.config("miner-1")], &["metrics", &addresses[0]]);
}

#[test]
fn the_page_shows_a_large_run_and_is_asked_for_little() {
    let run = Synthetic::start(200, 10_000);
    // One look, and then none for an hour: what is asked for beyond it is somebody's doing.
    let dashboard = Dashboard::start(&[&run.url, "--anonymous", "--every", "3600"]);
    let at = dashboard.address.as_str();
    let (head, page) = get(at, "/", "");
    let head = head.to_lowercase();
    assert!(head.contains("default-src 'none'") && head.contains("text/html"), "{head}");
    // Nothing in it leads elsewhere.
    let elsewhere: Vec<&str> =
        page.split('"').filter(|text| text.starts_with("http") || text.starts_with("//")).collect();
    assert!(elsewhere.iter().all(|text| *text == "http://www.w3.org/2000/svg"), "{elsewhere:?}");

    let (head, text) = get(at, "/api/overview", "");
    let overview: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&overview["newest"]["window"], overview["url"].as_str().unwrap().starts_with("s3://run")),
        (&9_999.into(), true)
    );
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let (head, _) = get(at, "/api/overview", &format!("if-none-match: {etag}\r\n"));
    assert!(head.starts_with("HTTP/1.1 304"), "{head}");

    let before = run.requests();
    let window: Value = serde_json::from_str(&body(at, "/api/windows/1234")).unwrap();
    assert_eq!((window["window"].as_u64(), window["phase"].as_str()), (Some(1234), Some("closed")));
    assert_eq!(window["peers"].as_array().unwrap().len(), 203);
    assert!(body(at, "/api/windows/1234").contains("late"));
    // Open, cutoff, verdict, close; the roster is known. The second time it is kept.
    assert_eq!(run.requests() - before, 4);
    assert!(get(at, "/api/windows/10001", "").0.starts_with("HTTP/1.1 404"));
    assert!(get(at, "/api/windows/-1", "").0.starts_with("HTTP/1.1 400"));
    let peer: Value = serde_json::from_str(&body(at, &format!("/api/peers/{}", run.peer(3)))).unwrap();
    assert_eq!(peer["peer"], run.peer(3).to_string());
    assert!(!peer["moments"].as_array().unwrap().is_empty() && peer["newest"]["role"] == "miner");
    assert!(get(at, "/api/peers/nobody", "").0.starts_with("HTTP/1.1 400"));
    assert!(get(at, &format!("/api/peers/{}", "00".repeat(32)), "").0.starts_with("HTTP/1.1 404"));
    // Neither another site's page nor another name gets an answer.
    assert!(get(at, "/api/overview", "sec-fetch-site: cross-site\r\n").0.starts_with("HTTP/1.1 403"));
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET /api/overview HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let peers = body(at, "/api/peers.csv");
    assert!(
        peers.contains("\"3 s after the deadline") && !peers.lines().any(|line| line.contains(",=cmd")),
        "{peers}"
    );
    assert_eq!(peers.lines().filter(|line| line.starts_with("9998,")).count(), 203);
    assert!(body(at, "/api/history.csv").lines().count() > 1);
    assert!(body(at, "/metrics").contains("brigade_peer_weight{peer="));
}
