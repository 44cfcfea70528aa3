//! A miner measures itself, and does not wait for data. In a file of its own: nothing else runs beside it.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::stores::Store;
use support::{Terms, World};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_a_window_cost() {
    let terms = Terms { windows: 3, inner_steps: 20, start_peers: 1, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 1, &terms);
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.expect_success(&["aggregator", "validator", "miner-0"]);
    let text = std::fs::read_to_string(world.dir.path().join("miner-0/state/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["window"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let told: Vec<_> =
        world.events("miner-0").into_iter().filter(|event| event["event"] == "trained").collect();
    assert_eq!(told.len(), 3);
    for line in lines.iter().chain(&told) {
        let number = |field: &str| {
            let number = line[field].as_f64().unwrap_or_else(|| panic!("no {field} in {line}"));
            assert!(number.is_finite() && number > 0.0, "{field} in {line}");
            number
        };
        assert!(number("loss") < 7.0 && number("grad_norm") < 100.0, "{line}");
        assert!(number("mfu") < 1.5, "{line}");
        assert!(number("peak_bytes") > 1e7 && number("step_seconds") < 60.0, "{line}");
        assert!(number("tokens_per_second") * number("step_seconds") < 100.0 * 64.0, "{line}");
        assert_eq!(number("tokens"), 20.0 * 64.0);
        assert!((0.0..0.5).contains(&line["data_wait_share"].as_f64().unwrap()), "{line}");
    }
    // The lower quartile of all steps: whoever reads data only when it is needed waits in every step, and who reads
    // ahead waits in the first, for the shard, and where a busy machine gives the reader no time.
    let steps = world.events("miner-0").into_iter().filter(|event| event["event"] == "step");
    let mut shares: Vec<f64> = steps.map(|event| event["data_wait_share"].as_f64().unwrap()).collect();
    shares.sort_by(f64::total_cmp);
    assert!(shares[shares.len() / 4] <= 0.01, "{shares:?}");
}
