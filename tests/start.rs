//! What a receipt says of θ tells who had it from who had not, and does not mind another machine's arithmetic.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use brigade_bucket::keys::PeerFile;
use brigade_protocol::{Reason, Scores};
use support::liar::Liar;
use support::stores::Store;
use support::{Terms, World};

const PRECISIONS: [(&str, &str); 3] =
    [("miner-0", "float32"), ("miner-1", "bfloat16"), ("validator", "float32")];

#[tokio::test(flavor = "multi_thread")]
async fn another_precision_is_no_other_start() {
    let mut world = World::new(Store::embedded(), 2, &Terms { learning_rate: 1e-2, ..Terms::default() });
    for (name, dtype) in PRECISIONS {
        world.add_setting(name, "[compute]", &format!("dtype = \"{dtype}\""));
    }
    let roles = ["aggregator", "validator", "miner-0", "miner-1"];
    world.start_all(&roles);
    world.expect_success(&roles);
    let run = world.run("miner-0").await;
    let tolerance = run.manifest().scoring.start_tolerance;
    for window in 0..4 {
        let verdict = run.verdict(window).await.unwrap().unwrap().record;
        assert_eq!(verdict.excluded, [], "window {window}");
        let scores = verdict.scores[0].open_from::<Scores>(&world.id("validator")).unwrap().record.scores;
        let gap = |name: &str| {
            let score = scores.iter().find(|score| score.peer == world.id(name)).unwrap();
            score.start_gap.unwrap()
        };
        let (same, other) = (gap("miner-0"), gap("miner-1"));
        eprintln!("window {window}: gap of float32 {same:.1e}, of bfloat16 {other:.1e}");
        assert!(same < 1e-4 && other > same, "window {window}: {same} {other}");
        // Enough room for machines that differ more than these two.
        assert!(other < tolerance / 2.0, "window {window}: {other}, of {tolerance} allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_that_are_not_those_of_theta_are_a_wrong_start() {
    let mut world = World::new(Store::embedded(), 2, &Terms { windows: 2, ..Terms::default() });
    let liar = Liar::join(&world).await;
    let roles = ["aggregator", "validator", "miner-0"];
    world.start_all(&roles);
    for window in 0..2 {
        // Update and receipt are in order but for the losses, which only who has θ can know.
        let open = liar.open(window).await;
        let update = liar.zeros(&open.record);
        let receipt = liar.receipt(&open, &update);
        liar.put(window, PeerFile::Update, update).await;
        liar.put_signed(window, receipt, &liar.identity).await;
    }
    world.expect_success(&roles);
    for (_, close) in world.chain(2).await {
        let excluded: Vec<_> = close.record.excluded.iter().map(|e| (e.peer, e.reason)).collect();
        assert_eq!(excluded, [(liar.identity.id(), Reason::WrongStart)], "{:?}", close.record.excluded);
    }
}
