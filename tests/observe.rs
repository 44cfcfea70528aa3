//! Whoever looks at a run sees it as it is, and asks for little: of two hundred peers and ten thousand windows as of a few.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use support::stores::Store;
use support::synthetic::Synthetic;
use support::{Terms, World};

/// `brigade watch --json` as it goes on.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(["watch", url, "--json", "--anonymous", "--every", "1"]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn look(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    /// The most memory that the process ever had, in MB.
    fn peak_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_hundred_peers_and_ten_thousand_windows() {
    let run = Synthetic::start(200, 10_000);
    let mut watch = Watch::start(&run.url);
    let first = watch.look();
    assert_eq!(first["newest"]["window"], 9_999);
    assert_eq!(first["newest"]["phase"], "train");
    assert_eq!(first["newest"]["peers"].as_array().unwrap().len(), 203);
    let delivered = first["newest"]["peers"].as_array().unwrap().iter();
    assert_eq!(delivered.filter(|row| row["state"] == "delivered").count(), 100);
    let before = &first["last_closed"];
    assert_eq!((before["window"].as_u64(), before["phase"].as_str()), (Some(9_998), Some("closed")));
    let late = before["peers"].as_array().unwrap().iter().filter(|row| row["reason"] == "late");
    assert_eq!(late.count(), 20);

    // The past comes by and by; then a look costs what is new, and nothing else.
    let seconds = |seen: &Value| seen["look"]["seconds"].as_f64().unwrap();
    let (mut most, mut slowest) = (first["look"]["requests"].as_u64().unwrap(), seconds(&first));
    let mut looks = 1;
    let filled = loop {
        let seen = watch.look();
        most = most.max(seen["look"]["requests"].as_u64().unwrap());
        slowest = slowest.max(seconds(&seen));
        looks += 1;
        assert!(looks < 60, "{}", seen["look"]);
        if seen["look"]["missing"] == 0 {
            break seen;
        }
    };
    assert!(most <= 60, "{most} requests at one look");
    let history = filled["history"].as_array().unwrap();
    assert!((200..=320).contains(&history.len()), "{}", history.len());
    let loss = |line: &Value| line["loss"].as_f64().unwrap();
    assert!(loss(&history[0]) > 9.9 && loss(&history[history.len() - 1]) < 2.1);
    let idle = watch.look();
    // Is the next window open, is this one cut off, who has delivered?
    assert_eq!(idle["look"]["requests"], 3, "{}", idle["look"]);

    run.advance();
    let window = |seen: &Value| seen["newest"]["window"].as_u64().unwrap();
    let new = (0..5).map(|_| watch.look()).find(|seen| window(seen) == 10_000).unwrap();
    let requests = new["look"]["requests"].as_u64().unwrap();
    assert!((4..=12).contains(&requests), "{requests}");
    assert_eq!(new["last_closed"]["window"], 9_999);
    let peak = watch.peak_mb();
    eprintln!(
        "{looks} looks until all is read: at most {most} requests and {slowest:.3} s at one, {:.3} s at the first; \
         {requests} requests when a window is new; {peak:.0} MB",
        seconds(&first)
    );
    assert!(peak <= 200.0, "{peak} MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_seen_as_it_was() {
    let mut world = World::new(Store::embedded(), 2, &Terms { windows: 3, ..Terms::default() });
    let observer = world.store.pair("observer").clone();
    let url = world.run_url.clone();
    let watch = move |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(["watch", &url, "--json", "--once"]).args(more).stdin(Stdio::null());
        command.envs([("RUN_KEY_ID", &observer.id), ("RUN_SECRET", &observer.secret)]).output().unwrap()
    };
    let early: Value = serde_json::from_slice(&watch(&[]).stdout).unwrap();
    assert_eq!((&early["newest"], &early["name"]), (&Value::Null, &Value::from("test")));

    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let seen: Value = serde_json::from_slice(&watch(&[]).stdout).unwrap();
    let chain = world.chain(3).await;
    let last = &seen["newest"];
    assert_eq!(
        (&last["window"], &last["phase"], &seen["last_closed"]),
        (&2.into(), &"closed".into(), &Value::Null)
    );
    assert_eq!(last["state_root"], chain[2].1.record.state_root.to_string());
    let miner =
        last["peers"].as_array().unwrap().iter().find(|row| row["peer"] == world.id("miner-0").to_string());
    let miner = miner.unwrap();
    assert_eq!((&miner["state"], &miner["role"]), (&"merged".into(), &"miner".into()));
    for (field, low, high) in
        [("loss", 1.0, 7.0), ("seconds", 0.0, 60.0), ("bytes", 100.0, 1e6), ("weight", 0.0, 1.0)]
    {
        let number = miner[field].as_f64().unwrap();
        assert!((low..=high).contains(&number), "{field}: {number}");
    }
    assert_eq!(last["validators"][0]["peer"], world.id("validator").to_string());
    let lines = seen["history"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["window"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    for (line, (_, close)) in lines.iter().zip(&chain) {
        assert_eq!(line["merged"].as_u64().unwrap() as usize, close.record.accepted.len());
        assert_eq!(line["delta_bytes"].as_u64(), close.record.delta.as_ref().map(|delta| delta.size));
    }

    let denied = watch(&["--key-id", "env:RUN_KEY_ID", "--secret", "env:RUN_KEY_ID"]);
    let said = String::from_utf8(denied.stderr).unwrap();
    assert!(!denied.status.success() && said.contains("access key") && said.lines().count() == 1, "{said}");
    let spoken = watch(&["--key-id", "AKIA", "--secret", "env:RUN_SECRET"]);
    assert!(String::from_utf8(spoken.stderr).unwrap().contains("env:NAME or file:PATH"));
}
