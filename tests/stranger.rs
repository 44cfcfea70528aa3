//! A stranger's client, boto3, with a read-only key at a running run.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::process::Command;

use brigade_bucket::keys::RunKey;
use support::stores::Store;
use support::{Terms, World};

async fn lists_and_reads_but_does_not_write(store: Store) {
    let mut world = World::new(store, 2, &Terms { windows: 3, ..Terms::default() });
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_key(RunKey::Close(0)).await;
    let python = std::env::var("BRIGADE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/stranger.py");
    let pair = world.store.pair("miner-0-reader").clone();
    let output = Command::new(&python)
        .args([script, world.store.endpoint(), "peer-miner-0", &world.run_id.to_string()])
        .env("AWS_ACCESS_KEY_ID", pair.id)
        .env("AWS_SECRET_ACCESS_KEY", pair.secret)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {python}: {error}; `make test` sets up one with boto3"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["put"], "AccessDenied");
    assert_eq!(found["delete"], "AccessDenied");
    assert_eq!(found["other_bucket"], "AccessDenied");
    // The receipt, read by the stranger, names the update that the stranger hashed.
    assert_eq!(found["sha256_in_receipt"], found["sha256_of_update"]);
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_server() {
    lists_and_reads_but_does_not_write(Store::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_ceph() {
    lists_and_reads_but_does_not_write(Store::ceph()).await;
}
