//! One line that names the thing and the remedy, whatever a person gets wrong.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use support::stores::{Embedded, Store};
use support::{Terms, World, brigade_fails};

fn change(world: &World, name: &str, from: &str, to: &str) {
    let path = world.config(name);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

fn miner_fails(world: &World, expected: &[&str]) {
    brigade_fails(&["miner", "--config"], &[&world.config("miner-0")], expected);
}

#[test]
fn wrong_settings_are_named() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    let good = std::fs::read_to_string(world.config("miner-0")).unwrap();
    let pair = world.store.pair("miner-0").clone();
    let cases: &[(&str, &str, &[&str])] = &[
        ("state = ", "stat = ", &["config.toml:2", "`stat`", "did you mean `state`"]),
        ("threads = 1", "threads = \"one\"", &["config.toml", "threads"]),
        (
            "identity = \"identity.json\"",
            "identity = \"nobody.json\"",
            &["nobody.json", "brigade identity new"],
        ),
        (&pair.secret, "env:BRIGADE_TEST_UNSET", &["secret_access_key", "BRIGADE_TEST_UNSET"]),
        (&pair.secret, "a-wrong-secret-0123456789", &["peer-miner-0", "secret"]),
        (&pair.id, "NOBODYSKEY", &["peer-miner-0", "key"]),
        ("bucket = \"peer-miner-0\"", "bucket = \"peer-nobody\"", &["peer-nobody"]),
        ("[bucket.reader]", "[bucket.raeder]", &["raeder", "did you mean `reader`"]),
        ("http://127.0.0.1", "http://127.0.0.1:1#", &["endpoint"]),
        ("threads = 1", "device = \"cuda:7\"", &["cuda:7"]),
        ("threads = 1", "dtype = \"float8\"", &["compute.dtype", "bfloat16"]),
        ("threads = 1", "recompute = 0", &["compute.recompute", "at least 1"]),
    ];
    for (from, to, expected) in cases {
        change(&world, "miner-0", from, to);
        miner_fails(&world, expected);
        std::fs::write(world.config("miner-0"), &good).unwrap();
    }
    let other_run = "0".repeat(64);
    change(&world, "miner-0", &world.run_id.to_string(), &other_run);
    miner_fails(&world, &["run_id", &other_run]);
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    brigade_fails(&["miner", "--config", "no/such/miner.toml"], &[], &["no/such/miner.toml"]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let out = folder.path().join("out");
    brigade_fails(
        &["data", "prepare", "--train-bpe", "512", "--input"],
        &[&empty, Path::new("--output"), &out],
        &["no text"],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let mut world = World::new(Store::embedded(), 1, &Terms::default());
    let endpoint = world.store.endpoint().trim_start_matches("http://").to_owned();
    // The folder is locked by the running server, so the second one gets another.
    let path = world.dir.path().join("server.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("root = \"store\"", "root = \"other\"");
    std::fs::write(&path, text).unwrap();
    brigade_fails(&["serve", "--config"], &[&path], &[&endpoint]);
    let Store::Embedded(store) = &mut world.store else { unreachable!("this test has the embedded store") };
    Embedded::kill(store);
}

#[test]
fn somebody_elses_identity_is_no_aggregator() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    std::fs::copy(
        world.dir.path().join("miner-0/identity.json"),
        world.dir.path().join("aggregator/identity.json"),
    )
    .unwrap();
    brigade_fails(&["aggregator", "--config"], &[&world.config("aggregator")], &["identity"]);
}

#[test]
fn a_run_without_validators_is_one_only_if_that_is_meant() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    let path = world.dir.path().join("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once("[[validators]]").unwrap();
    let rest = &rest[rest.find("[model]").unwrap()..];
    std::fs::write(&path, format!("{head}{rest}")).unwrap();
    brigade_fails(
        &["run", "create", "--config"],
        &[&path],
        &["run.toml", "[[validators]]", "--without-validators"],
    );
    let meant = ["run", "create", "--without-validators", "--config"];
    brigade_fails(&meant, &[&path], &["holds a run already"]);
}

#[test]
fn who_prepares_a_run_is_told_at_once_which_setting_is_wrong() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    let path = world.dir.path().join("run.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let pair = world.store.pair("aggregator").clone();
    let nobody = Path::new("/no/such/text");
    for (from, to, named) in [
        (pair.id.as_str(), "NOBODY", "bucket.access_key_id"),
        (&pair.secret, "wrong", "bucket.secret_access_key"),
        ("\"run\"", "\"nowhere\"", "bucket.bucket"),
        (world.store.endpoint(), "http://127.0.0.1:9", "bucket.endpoint"),
        ("\"embedded\"", "\"ceph\"", "bucket.dialect"),
    ] {
        let (head, bucket) = good.split_at(good.find("[bucket]").unwrap());
        let spoiled = bucket.replacen(from, to, 1);
        assert_ne!(spoiled, bucket, "{from}");
        std::fs::write(&path, format!("{head}{spoiled}")).unwrap();
        brigade_fails(&["run", "create", "--config"], &[&path], &[named]);
        // Before any text is looked for.
        let prepare = ["data", "prepare", "--train-bpe", "512", "--input"];
        brigade_fails(&prepare, &[nobody, Path::new("--config"), &path], &[named]);
    }
}

#[test]
fn a_dataset_goes_to_a_bucket_that_is_tried_first() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    let pair = world.store.pair("miner-0");
    let text = world.dir.path().join("text");
    std::fs::write(&text, "once upon a time there was a text\n".repeat(500)).unwrap();
    let prepare = |id: &str, secret: &str, place: &str, endpoint: &str, input: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(["data", "prepare", "--train-bpe", "300", "--heldout-fraction", "0"]);
        command.args(["--dialect", "embedded", "--output", place]);
        command.args(["--endpoint", endpoint, "--input"]).arg(input);
        command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret).env("RUST_LOG", "error");
        command.output().unwrap()
    };
    let (place, endpoint) = ("s3://peer-miner-0/sets/a", world.store.endpoint());
    let output = prepare(&pair.id, &pair.secret, place, endpoint, &text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (id, secret, place, endpoint, named) in [
        ("NOBODY", "wrong", place, endpoint, "AWS_ACCESS_KEY_ID"),
        (&pair.id, "wrong", place, endpoint, "AWS_SECRET_ACCESS_KEY"),
        (&pair.id, &pair.secret, "s3://peer-validator/a", endpoint, "correct --output"),
        (&pair.id, &pair.secret, place, "http://127.0.0.1:9", "--endpoint"),
    ] {
        let output = prepare(id, secret, place, endpoint, Path::new("/no/such/text"));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.lines().count() == 1, "{named}: {errors}");
        assert!(errors.contains(named) && errors.contains(place) && !errors.contains("/no/such"), "{errors}");
    }
}

#[test]
fn the_data_of_a_run_is_not_replaced() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    let (config, text) = (world.dir.path().join("run.toml"), world.dir.path().join("text"));
    std::fs::write(&text, "once upon a time there was another text\n".repeat(500)).unwrap();
    let prepare =
        ["data", "prepare", "--train-bpe", "512", "--heldout-fraction", "0", "--replace", "--input"];
    let paths = [text.as_path(), Path::new("--config"), &config];
    brigade_fails(&prepare, &paths, &["holds a run", "bucket.prefix"]);
}

#[test]
fn a_run_is_not_created_twice() {
    let world = World::new(Store::embedded(), 1, &Terms::default());
    brigade_fails(
        &["run", "create", "--config"],
        &[&world.dir.path().join("run.toml")],
        &["holds a run already"],
    );
}

/// Nobody delivers: the window closes empty, θ stays, the run goes on, and a person is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_in_which_nobody_delivers_closes_empty() {
    let terms = Terms { windows: 2, train_seconds: 3, start_peers: 1, evict_after: 9, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 1, &terms);
    // It leaves its wish in the lobby and is gone before the first window opens.
    world.start("miner-0");
    world.wait_for_event("miner-0", "synced", |_| true);
    world.kill("miner-0");
    world.start_all(&["aggregator", "validator"]);
    world.expect_success(&["aggregator", "validator"]);
    for (open, close) in world.chain(2).await {
        assert!(close.record.accepted.is_empty());
        assert_eq!(close.record.state_root, open.record.state_root);
    }
    let warned = world.events("aggregator").iter().any(|event| {
        event["event"] == "warning" && event["message"].as_str().unwrap().contains("nothing to merge")
    });
    assert!(warned);
}

/// A secret is in no log, no event, and no object.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told() {
    let mut world =
        World::new(Store::embedded(), 1, &Terms { windows: 2, start_peers: 1, ..Terms::default() });
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.expect_success(&["aggregator", "validator", "miner-0"]);
    let mut secrets: Vec<Vec<u8>> =
        ["aggregator", "miner-0", "miner-0-reader", "validator", "validator-reader"]
            .iter()
            .map(|name| world.store.pair(name).secret.clone().into_bytes())
            .collect();
    for name in ["aggregator", "validator", "miner-0"] {
        let text = std::fs::read(world.dir.path().join(name).join("identity.json")).unwrap();
        let identity: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for field in ["signing_key", "age_secret_key"] {
            secrets.push(identity[field].as_str().unwrap().as_bytes().to_vec());
        }
    }
    let mut seen = 0;
    let mut folders = vec![world.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            if ["config.toml", "run.toml", "server.toml", "identity.json"].contains(&name) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            seen += 1;
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a secret is in {}", path.display());
            }
        }
    }
    assert!(seen > 40, "{seen} files looked at");
}
