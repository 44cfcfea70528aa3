//! What a miner keeps on its disk brings it back to the last bit, whatever a crash or a bad disk made of it.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use brigade::config::Participant;
use support::stores::Store;
use support::{Terms, World};

/// miner-1 under another name: the same identity and so the same text, another state folder, another place for its
/// updates. Nothing ever happens to it, so it says what miner-1 would have done.
fn add_twin(world: &World) {
    let text = std::fs::read_to_string(world.config("miner-1")).unwrap();
    let (identity, bucket) = ("identity = \"", "bucket = \"peer-miner-1\"");
    assert!(text.contains(identity) && text.contains(bucket), "{text}");
    let text = text
        .replace(identity, "identity = \"../miner-1/")
        .replace(bucket, &format!("{bucket}\nprefix = \"twin\""));
    std::fs::create_dir(world.dir.path().join("miner-twin")).unwrap();
    std::fs::write(world.config("miner-twin"), text).unwrap();
}

/// Bits of loss and gradient norm of every inner step that a miner told; of each every telling.
fn steps(world: &World, name: &str) -> BTreeMap<(u64, u64), Vec<(u32, u32)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in world.events(name).iter().filter(|event| event["event"] == "step") {
        let bits = |field: &str| (event[field].as_f64().unwrap() as f32).to_bits();
        let place = (event["window"].as_u64().unwrap(), event["step"].as_u64().unwrap());
        found.entry(place).or_default().push((bits("loss"), bits("grad_norm")));
    }
    found
}

/// Expects every step of `miner-1`, told once or twice, to be that of its twin, and every update too.
async fn expect_the_twins_bits(world: &World, windows: u64, inner_steps: u64) {
    let (found, expected) = (steps(world, "miner-1"), steps(world, "miner-twin"));
    assert_eq!(expected.len() as u64, windows * inner_steps);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (place, tellings) in &found {
        for bits in tellings {
            assert_eq!(*bits, expected[place][0], "window and step {place:?}");
        }
    }
    let bucket = |name: &str| Participant::read(&world.config(name)).unwrap().open_own().unwrap();
    let (own, twin) = (bucket("miner-1"), bucket("miner-twin"));
    for window in 0..windows {
        let file = brigade_bucket::keys::PeerFile::Update;
        let key = brigade_bucket::keys::PeerKey::new(world.run_id, window, file).to_string();
        let own = own.get(&key, 1 << 30).await.unwrap().bytes;
        assert!(own == twin.get(&key, 1 << 30).await.unwrap().bytes, "update of window {window}");
    }
}

/// The newest saved state of miner-1.
fn newest_state(world: &World) -> PathBuf {
    let folder = world.dir.path().join("miner-1/state/peer").join(world.run_id.to_string()).join("state");
    let versions = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    versions.filter(|path| !path.ends_with("unfinished")).max().unwrap()
}

fn terms() -> Terms {
    Terms { windows: 5, inner_steps: 12, checkpoint_every: 100, ..Terms::default() }
}

fn signal(world: &World, name: &str, signal: &str) {
    let status = std::process::Command::new("kill").args([signal, &world.pid(name).to_string()]).status();
    assert!(status.unwrap().success());
}

const EVERYBODY: [&str; 5] = ["aggregator", "validator", "miner-0", "miner-1", "miner-twin"];

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_killed_in_the_middle_of_a_window_goes_on_to_the_last_bit() {
    let mut world = World::new(Store::embedded(), 2, &terms());
    add_twin(&world);
    world.start_all(&EVERYBODY);
    for (window, step) in [(1, 5), (3, 2)] {
        world.wait_for_event("miner-1", "step", |event| event["window"] == window && event["step"] == step);
        // No window closes while miner-1 is away, however long this machine takes to start it again.
        signal(&world, "aggregator", "-STOP");
        world.kill("miner-1");
        world.start("miner-1");
        world.wait_for_event("miner-1", "step", |_| steps(&world, "miner-1")[&(window, 1)].len() == 2);
        signal(&world, "aggregator", "-CONT");
    }
    world.expect_success(&EVERYBODY);
    assert!(steps(&world, "miner-1")[&(3, 1)].len() == 2, "window 3 was trained again from its start");
    expect_the_twins_bits(&world, 5, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_named_and_made_again_from_the_one_before() {
    let mut world = World::new(Store::embedded(), 2, &terms());
    add_twin(&world);
    world.start_all(&EVERYBODY);
    world.wait_for_event("miner-1", "step", |event| event["window"] == 3 && event["step"] == 2);
    world.kill("miner-1");
    let damaged = newest_state(&world).join("optimizer.safetensors");
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    world.start("miner-1");
    world.wait_for_event("miner-1", "warning", |event| {
        event["message"].as_str().unwrap().contains(damaged.to_str().unwrap())
    });
    world.expect_success(&EVERYBODY);
    assert!(steps(&world, "miner-1")[&(2, 12)].len() == 2, "window 2 was trained again after its close");
    expect_the_twins_bits(&world, 5, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diverging_miner_stops_and_names_step_and_device() {
    let terms = Terms { learning_rate: 1e3, inner_steps: 60, ..terms() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.start("miner-1");
    assert!(!world.wait("miner-1").success());
    let log = world.log("miner-1");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("error: window 0, step ") && last.contains("on the CPU"), "{last}");
    assert!(last.contains("the step was not taken") && last.contains("miner-1/state"), "{last}");
}
