//! An aggregator that lies is found out by anybody who can read the run's bucket, whatever it signs.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod close;
mod cutoff;
mod earlier;
mod forger;
mod nonsense;
mod opening;
#[path = "../support/mod.rs"]
mod support;
mod trial;
mod verdict;

use forger::{Forger, LAST};
use support::stores::Store;
use support::{World, brigade, brigade_fails};
use trial::{Trial, expect_honest, finished};

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_found_at_its_step() {
    let world = finished().await;
    expect_honest(&world, &[], &[LAST]);
    expect_honest(&world, &["--all"], &[0, 1, 2, 3]);
    // θ comes from a checkpoint in between, with and without a merge on the way.
    expect_honest(&world, &["--window", "0", "--window", "3"], &[0, 3]);
    expect_honest(&world, &["--window", "2"], &[2]);
    let said = brigade(&["audit", "--window", "0", "--config"], &[&world.config("miner-0")]);
    assert_eq!(
        said,
        "window 0\n  ✔ open\n  ✔ cutoff\n  ✔ verdict\n  ✔ close\n1 window done again: nothing differs\n"
    );
    let forger = Forger::new(&world).await;
    let trial = Trial { world: &world, forger: &forger };

    opening::lies(&trial).await;
    cutoff::lies(&trial).await;
    verdict::lies(&trial).await;
    close::lies(&trial).await;
    nonsense::lies(&trial).await;
    earlier::lies(&trial).await;

    expect_honest(&world, &["--all"], &[0, 1, 2, 3]);
    what_cannot_be_read_is_an_error(world);
}

fn what_cannot_be_read_is_an_error(mut world: World) {
    let config = world.config("miner-0");
    let ask = |window: &str, expected: &[&str]| {
        brigade_fails(&["audit", "--window", window, "--config"], &[&config], expected);
    };
    ask("4", &["window 4", "--all"]);
    let Store::Embedded(store) = &mut world.store else { unreachable!("this test has the embedded store") };
    store.kill();
    ask("3", &["cannot be reached"]);
}
