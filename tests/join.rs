//! A newcomer with the run's URL, a bucket and keys: from nothing to an accepted update with the commands of README.md.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::process::{Command, Stdio};

use brigade::identity::Identity;
use support::stores::Store;
use support::{Terms, World};

/// The commands with which README.md says that one takes part, for this newcomer: four at most.
fn readme(run_url: &str, folder: &str) -> [Vec<String>; 3] {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = text.split("## Take part with your own bucket").nth(1).unwrap();
    let block = section.split("```").nth(1).unwrap();
    let mine = block.replace("RUN_URL", run_url).replace("example-miner", "peer-miner-1");
    let mine = mine.replace("--dir me", &format!("--dir {folder}")).replace("me/", &format!("{folder}/"));
    let lines: Vec<Vec<String>> = mine.trim().lines().map(|line| shell_words::split(line).unwrap()).collect();
    assert!(lines.len() <= 4 && lines.iter().all(|words| words[0] == "brigade"), "{lines:?}");
    lines.into_iter().map(|words| words[1..].to_vec()).collect::<Vec<_>>().try_into().unwrap()
}

async fn is_in_as_readme_says(store: Store) {
    let mut world = World::new(store, 2, &Terms { windows: 3, ..Terms::default() });
    let folder = world.dir.path().join("newcomer");
    let (own, reader) = (world.store.pair("miner-1").clone(), world.store.pair("miner-1-reader").clone());
    let run_url = world.run_url.clone();
    let brigade = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(arguments).env_remove("AWS_ACCESS_KEY_ID");
        command.envs([("RUN_KEY_ID", &own.id), ("RUN_SECRET", &own.secret)]);
        command.envs([("MY_KEY_ID", &own.id), ("MY_SECRET", &own.secret)]);
        command.envs([("READER_KEY_ID", &reader.id), ("READER_SECRET", &reader.secret)]);
        command
    };

    let [join, doctor, train] = readme(&run_url, folder.to_str().unwrap());
    let join: Vec<&str> =
        join.iter().map(String::as_str).chain(["--yes", "--allow-private-endpoints"]).collect();
    let output = brigade(&join).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let settings = folder.join("miner.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert!(
        !text.contains(&own.secret) && !said.contains(&own.secret) && !said.contains("\n  set "),
        "{said}"
    );

    let doctor: Vec<&str> = doctor.iter().map(String::as_str).collect();
    let said = brigade(&doctor).stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));

    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    let mut miner = brigade(&train)
        .envs([("BRIGADE_POLL_MILLISECONDS", "50"), ("BRIGADE_COMPUTE__THREADS", "1")])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    world.start_all(&["aggregator", "validator", "miner-0"]);
    world.expect_success(&["aggregator", "validator", "miner-0"]);
    assert!(miner.wait().unwrap().success());
    let newcomer = Identity::load(&folder.join("identity.json")).unwrap().id();
    for (_, close) in world.chain(3).await {
        let is_in = close.record.accepted.iter().any(|share| share.peer == newcomer);
        assert!(is_in, "{:?}", close.record.excluded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_server() {
    is_in_as_readme_says(Store::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_ceph() {
    is_in_as_readme_says(Store::ceph()).await;
}

/// Nobody need know which S3 a store speaks: it is asked.
#[test]
fn an_unknown_store_says_itself_which_s3_it_speaks() {
    for (mut store, dialect) in [(Store::embedded(), "embedded"), (Store::ceph(), "ceph")] {
        let dir = tempfile::tempdir().unwrap();
        store.open(dir.path(), &[]);
        let endpoint = store.endpoint();
        let init =
            ["init", "run", "--name", "a run", "--bucket", "run", "--endpoint", endpoint, "--yes", "--dir"];
        support::brigade(&init, &[&dir.path().join("op")]);
        let text = std::fs::read_to_string(dir.path().join("op/run.toml")).unwrap();
        assert!(text.contains(&format!("dialect = \"{dialect}\"")), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let nobody = [
        "init",
        "run",
        "--name",
        "a run",
        "--bucket",
        "run",
        "--endpoint",
        "http://127.0.0.1:1",
        "--yes",
        "--dir",
    ];
    support::brigade_fails(&nobody, &[&dir.path().join("op")], &["--dialect", "http://127.0.0.1:1"]);
}
