//! Processes die at any moment; no closed window is lost, none is applied twice.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;

use brigade_bucket::keys::RunKey;
use support::stores::Store;
use support::{Terms, World};

/// Kills one miner and the aggregator in the middle of a window, starts the aggregator again, and expects the run to
/// end with an unbroken chain that everybody agrees on.
async fn kill_miner_and_aggregator(store: Store) {
    let terms = Terms {
        windows: 4,
        train_seconds: 15,
        start_peers: 3,
        evict_after: 1,
        inner_steps: 8,
        ..Terms::default()
    };
    let mut world = World::new(store, 3, &terms);
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1", "miner-2"]);
    world.wait_for_event("miner-2", "step", |event| event["window"] == 1);
    world.kill("miner-2");
    world.kill("aggregator");
    world.start("aggregator");
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);

    let chain = world.chain(4).await;
    // The first aggregator held epoch 1; what came after its death carries the second's.
    assert_eq!(chain[0].1.record.epoch, 1);
    assert_eq!(chain[3].1.record.epoch, 2);
    let dead = world.id("miner-2");
    assert!(chain[0].1.record.accepted.iter().any(|share| share.peer == dead));
    assert!(chain[3].1.record.accepted.iter().all(|share| share.peer != dead));
    // Each survivor reported every state root itself, and each is the one that was closed.
    let closed: Vec<String> = chain.iter().map(|(_, close)| close.record.state_root.to_string()).collect();
    for name in ["miner-0", "miner-1"] {
        let told: Vec<String> = world
            .events(name)
            .iter()
            .filter(|event| event["event"] == "closed")
            .map(|event| event["state_root"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(told, closed, "{name}");
    }
    assert_eq!(closed.iter().collect::<BTreeSet<_>>().len(), 4, "θ moved in every window");
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_dead_miner_and_a_dead_aggregator() {
    kill_miner_and_aggregator(Store::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_dead_miner_and_a_dead_aggregator_on_ceph() {
    kill_miner_and_aggregator(Store::ceph()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_killed_again_and_again_loses_nothing() {
    let terms = Terms { windows: 6, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    let peer = world.id("miner-0");
    let (receipt, update) = (RunKey::Receipt { window: 1, peer }, RunKey::Update { window: 1, peer });
    // One death after each of the records of a window.
    for key in [
        RunKey::Open(1),
        receipt,
        update,
        RunKey::Cutoff(2),
        RunKey::Verdict(3),
        RunKey::Delta(4),
        RunKey::Close(4),
    ] {
        world.wait_for_key(key).await;
        world.kill("aggregator");
        world.start("aggregator");
    }
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let chain = world.chain(6).await;
    assert!(chain.iter().all(|(_, close)| close.record.accepted.len() == 2), "nobody's work was lost");
    // A process that was killed before it took an epoch leaves none.
    assert!((4..=8).contains(&chain[5].1.record.epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_starts_late_contributes_in_the_next_window() {
    let terms =
        Terms { windows: 12, start_peers: 1, inner_steps: 20, checkpoint_every: 2, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.wait_for_key(RunKey::Close(2)).await;
    world.start("miner-1");
    world.wait_for_event("miner-1", "synced", |_| true);
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let chain = world.chain(12).await;
    let late = world.id("miner-1");
    let synced = world.events("miner-1").iter().find(|event| event["event"] == "synced").unwrap().clone();
    let first = synced["window"].as_u64().unwrap();
    assert!(first >= 3);
    let last = &chain[11].1.record;
    assert!(last.accepted.iter().any(|share| share.peer == late), "{:?}", last.excluded);
    // Its θ had the state root of the window it came into.
    let expected = chain[first as usize].0.record.state_root.to_string();
    assert_eq!(synced["state_root"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_that_was_killed_comes_back_where_it_was() {
    let terms = Terms { windows: 5, inner_steps: 6, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_event("miner-1", "step", |event| event["window"] == 2);
    world.kill("miner-1");
    world.start("miner-1");
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let back = world.id("miner-1");
    for (_, close) in world.chain(5).await {
        assert!(close.record.accepted.iter().any(|share| share.peer == back), "{:?}", close.record.excluded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_itself_may_die() {
    let terms = Terms { windows: 4, inner_steps: 6, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_event("miner-1", "step", |event| event["window"] == 1);
    let Store::Embedded(store) = &mut world.store else { unreachable!("this test has the embedded store") };
    store.kill();
    store.start();
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    assert_eq!(world.chain(4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_aggregator_takes_over_and_the_first_one_ends() {
    let terms = Terms { windows: 10, inner_steps: 20, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_key(RunKey::Close(1)).await;
    world.start("aggregator#2");
    let status = world.wait("aggregator");
    assert!(!status.success());
    assert!(world.log("aggregator").contains("epoch"), "{}", world.log("aggregator"));
    world.expect_success(&["aggregator#2", "validator", "miner-0", "miner-1"]);
    let chain = world.chain(10).await;
    assert_eq!(chain[9].1.record.epoch, 2);
}
