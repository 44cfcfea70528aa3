//! A miner of several processes among miners of one.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use support::stores::Store;
use support::{Terms, World};

/// The processes that process `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default()
    };
    text.map(of_thread).collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn is_alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie that nobody has waited for yet does nothing any more.
    !state.is_empty() && !state.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ranks_beside_one_come_to_one_state_root() {
    let mut world = World::new(Store::embedded(), 2, &Terms::default());
    world.add_setting("miner-1", "[compute]", "ranks = 2");
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_event("miner-1", "step", |_| true);
    let ranks = children(world.pid("miner-1"));
    assert_eq!(ranks.len(), 1, "rank 1 is a process of its own");
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    assert!(!is_alive(ranks[0]), "it ends with its miner");

    let chain = world.chain(4).await;
    let closed: Vec<String> = chain.iter().map(|(_, close)| close.record.state_root.to_string()).collect();
    let spread = world.id("miner-1");
    for (_, close) in &chain {
        assert!(
            close.record.accepted.iter().any(|share| share.peer == spread),
            "{:?}",
            close.record.excluded
        );
    }
    for name in ["miner-0", "miner-1"] {
        let events = world.events(name);
        let told = events.iter().filter(|event| event["event"] == "closed");
        let told: Vec<&str> = told.map(|event| event["state_root"].as_str().unwrap()).collect();
        assert_eq!(told, closed, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_dies_takes_its_miner_down_and_the_restart_goes_on() {
    let terms = Terms { windows: 5, inner_steps: 30, evict_after: 4, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.add_setting("miner-1", "[compute]", "ranks = 2");
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_event("miner-1", "step", |event| event["window"] == 1);
    let delivered =
        |world: &World| world.events("miner-1").iter().filter(|event| event["event"] == "delivered").count();
    let before = delivered(&world);
    let rank = children(world.pid("miner-1"))[0];
    send("-KILL", rank);
    let started = Instant::now();
    let status = world.wait("miner-1");
    assert!(!status.success() && started.elapsed() < Duration::from_secs(30), "{status}");
    let log = world.log("miner-1");
    assert!(log.contains("rank 1 of this peer is lost: its process has ended"), "{log}");
    assert_eq!(delivered(&world), before, "nothing is uploaded of a window that lost a rank");

    world.start("miner-1");
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let spread = world.id("miner-1");
    let last = &world.chain(5).await[4].1.record;
    assert!(last.accepted.iter().any(|share| share.peer == spread), "{:?}", last.excluded);
}

fn send(signal: &str, pid: u32) {
    let status = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

fn wait_for_end(pid: u32) {
    let started = Instant::now();
    while is_alive(pid) {
        assert!(started.elapsed() < Duration::from_secs(30), "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_end_when_their_miner_does() {
    let terms = Terms { start_peers: 1, inner_steps: 5000, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 1, &terms);
    world.add_setting("miner-0", "[compute]", "ranks = 2");
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.wait_for_event("miner-0", "step", |_| true);
    let rank = children(world.pid("miner-0"))[0];
    world.kill("miner-0");
    wait_for_end(rank);

    // As a service is stopped: every process of it gets the signal, the ranks first.
    world.start("miner-0");
    let steps =
        |world: &World| world.events("miner-0").iter().filter(|event| event["event"] == "step").count();
    let before = steps(&world);
    world.wait_for_event("miner-0", "step", |_| steps(&world) > before);
    let rank = children(world.pid("miner-0"))[0];
    send("-TERM", rank);
    send("-TERM", world.pid("miner-0"));
    world.wait("miner-0");
    wait_for_end(rank);
    assert!(!world.log("miner-0").contains("rank 1 of this peer is lost"), "{}", world.log("miner-0"));
}

/// A rank whose process stands still, heartbeat and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_hangs_is_given_up() {
    let terms = Terms { start_peers: 1, inner_steps: 5000, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 1, &terms);
    world.add_setting("miner-0", "[compute]", "ranks = 2");
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.wait_for_event("miner-0", "step", |_| true);
    let rank = children(world.pid("miner-0"))[0];
    send("-STOP", rank);
    let started = Instant::now();
    let status = world.wait("miner-0");
    assert!(!status.success() && started.elapsed() < Duration::from_secs(40), "{status}");
    assert!(world.log("miner-0").contains("rank 1 of this peer is lost: it has not answered for 20 s"));
    assert!(!is_alive(rank), "and it is not left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_do_not_fit_are_refused_by_name() {
    let mut world = World::new(Store::embedded(), 1, &Terms { start_peers: 1, ..Terms::default() });
    world.add_setting("miner-0", "[compute]", "ranks = 3");
    world.add_setting("validator", "[compute]", "ranks = 2");
    for (name, reason) in [("miner-0", "a divisor of the run's batch of 2"), ("validator", "only a miner")] {
        world.start(name);
        assert!(!world.wait(name).success());
        let log = world.log(name);
        assert!(log.contains("compute.ranks") && log.contains(reason), "{log}");
    }
}
