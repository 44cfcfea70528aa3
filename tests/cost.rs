//! What `brigade cost` says that roles ask of the buckets, against what roles do ask.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use brigade::plan::{Traffic, Window};
use serde_json::Value;
use support::stores::Store;
use support::{Terms, World};

const POLL_SECONDS: f64 = 0.2;

/// The windows at whose beginning is counted; the model is wide enough for updates to outweigh records.
const FIRST: u64 = 2;
const LAST: u64 = 6;

/// Of what a role has counted, by bucket.
type Counted = BTreeMap<String, Traffic>;

fn counted(address: &str) -> Counted {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut counted = Counted::new();
    for line in text.lines().filter(|line| {
        line.starts_with("brigade_requests_total{") || line.starts_with("brigade_bytes_total{")
    }) {
        let mut parts = line.split('"');
        let (bucket, kind) = (parts.nth(1).unwrap().to_owned(), parts.nth(1).unwrap());
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        let traffic = counted.entry(bucket).or_default();
        match kind {
            "get" | "head" => traffic.reads += value,
            "put" | "list" | "multipart" => traffic.writes += value,
            "up" => traffic.bytes_up += value,
            "down" => traffic.bytes_down += value,
            "delete" => {}
            other => panic!("{other} in {line}"),
        }
    }
    counted
}

/// What a role has asked for in one window, on average from the beginning of [`FIRST`] to that of [`LAST`].
fn per_window(before: &Counted, after: &Counted, bucket: &str) -> Traffic {
    (after[bucket] + before[bucket] * -1.0) * (1.0 / (LAST - FIRST) as f64)
}

/// Waits for the beginning of `window` at each role, and counts.
fn count(world: &World, roles: &[(&str, String)], window: u64) -> Vec<Counted> {
    let count = |(role, address): &(&str, String)| {
        let (what, of) = if *role == "validator" { ("evaluated", window - 1) } else { ("opened", window) };
        world.wait_for_event(role, what, |event| event["window"] == of);
        counted(address)
    };
    roles.iter().map(count).collect()
}

/// How often is looked in vain depends on the machine; nothing else does. `least` is `told` where everything is there at once.
fn agrees(what: &str, window: &Window, told: impl Fn(&Window) -> Traffic, found: Traffic) {
    let at_once = Window { train_seconds: 0.0, score_seconds: 0.0, wait_seconds: 0.0, ..*window };
    let (told, least) = (told(window), told(&at_once));
    eprintln!("{what:<20} told {told:?}\n{:<19} found {found:?}", "");
    assert_eq!(told.writes, found.writes, "{what}: writes");
    let close = |told: f64, found: f64, share: f64, more: f64| {
        assert!((told - found).abs() <= share * told + more, "{what}: {told} told, {found} found");
    };
    assert!(found.reads >= least.reads, "{what}: at least {least:?}");
    // Where nothing is waited for, one window in four may have one look more: a roster that changes.
    let (share, more) = if told.reads == least.reads { (0.0, 0.5) } else { (0.75, 4.0) };
    close(told.reads, found.reads, share, more);
    // Records are some kilobytes for each peer.
    close(told.bytes_up, found.bytes_up, 0.03, 20_000.0);
    close(told.bytes_down, found.bytes_down, 0.03, 60_000.0);
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn field(world: &World, role: &str, event: &str, field: &str) -> f64 {
    let events = world.events(role);
    let inside =
        |told: &&Value| told["event"] == event && (FIRST..LAST).contains(&told["window"].as_u64().unwrap());
    mean(events.iter().filter(inside).map(|told| told[field].as_f64().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_ask_for_what_is_told() {
    for (miners, checkpoint_every) in [(1, 1000), (3, 2)] {
        let terms = Terms {
            windows: LAST + 1,
            start_peers: miners,
            inner_steps: 12,
            checkpoint_every,
            wide: true,
            ..Terms::default()
        };
        let mut world = World::new(Store::embedded(), miners, &terms);
        let names: Vec<String> = (0..miners).map(|n| format!("miner-{n}")).collect();
        let mut roles = Vec::new();
        for role in ["aggregator", "validator", "miner-0"] {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let text = std::fs::read_to_string(world.config(role)).unwrap();
            let slower = text.replace("poll_milliseconds = 50", "poll_milliseconds = 200");
            assert_ne!(text, slower);
            std::fs::write(world.config(role), format!("metrics = \"{address}\"\n{slower}")).unwrap();
            roles.push((role, address));
        }
        world.start_all(&["aggregator", "validator"]);
        world.start_all(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let before = count(&world, &roles, FIRST);
        let after = count(&world, &roles, LAST);

        let run = world.run("aggregator").await;
        let (mut trained, mut scored) = (Vec::new(), Vec::new());
        for window in FIRST..LAST {
            let opened = run.open(window).await.unwrap().unwrap().record.opened_at;
            let cut = run.cutoff(window).await.unwrap().unwrap().record;
            assert_eq!(cut.pinned.len(), miners as usize);
            let closed = run.close(window).await.unwrap().unwrap().record;
            assert_eq!(closed.accepted.len(), miners as usize, "{:?}", closed.excluded);
            trained.push(cut.cut_at.since(opened).as_secs_f64());
            scored.push(closed.closed_at.since(cut.cut_at).as_secs_f64());
        }
        let window = Window {
            miners: miners.into(),
            validators: 1.0,
            train_seconds: mean(trained.into_iter()),
            score_seconds: mean(scored.into_iter()),
            wait_seconds: field(&world, "miner-0", "passed", "exchange_seconds"),
            poll_seconds: POLL_SECONDS,
            update_bytes: field(&world, "miner-0", "delivered", "bytes"),
            delta_bytes: field(&world, "aggregator", "closed", "delta_bytes"),
            shard_bytes: 0.0,
            shards: 0.0,
            theta_bytes: 4.0 * run.manifest().model.num_parameters() as f64,
            // The first is the one that the run was created with.
            checkpoint_every: if checkpoint_every < LAST { checkpoint_every as f64 } else { f64::INFINITY },
        };
        eprintln!("{window:?}");
        let found = |role: usize, bucket| per_window(&before[role], &after[role], bucket);
        agrees("aggregator, run's", &window, |window| window.aggregator().run, found(0, "run"));
        let peers = |window: &Window| {
            let asked = window.aggregator();
            asked.miner * window.miners + asked.validator * window.validators
        };
        agrees("aggregator, peers'", &window, peers, found(0, "peers"));
        agrees("validator, run's", &window, |window| window.validator().run, found(1, "run"));
        agrees("validator, own", &window, |window| window.validator().own, found(1, "own"));
        agrees("miner, run's", &window, |window| window.miner().run, found(2, "run"));
        agrees("miner, own", &window, |window| window.miner().own, found(2, "own"));
        // Text is read once, in one request a shard, and not again while it lies on the disk.
        assert_eq!(found(1, "data"), Traffic::default());
        let index = run.dataset().await.unwrap();
        let shards: Vec<u64> = index.train.iter().chain(&index.heldout).map(|shard| shard.bytes).collect();
        let text = after[1]["data"];
        assert_eq!((text.reads, text.bytes_down), (shards.len() as f64, shards.iter().sum::<u64>() as f64));
    }
}
