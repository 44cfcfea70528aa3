//! No secret shows anywhere: not in logs however chatty, errors, prints, objects, saved state or the process list.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::stores::Store;
use support::{Terms, World};

const NAMES: [&str; 4] = ["aggregator", "validator", "miner-0", "miner-1"];

/// What nobody may see, by whose it is: secrets of keys, and the secret halves of identities.
fn planted(world: &World) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    for name in NAMES {
        secrets.insert(format!("{name}'s key"), world.store.pair(name).secret.clone());
        if name != "aggregator" {
            let reader = format!("{name}-reader");
            secrets.insert(format!("{reader}'s key"), world.store.pair(&reader).secret.clone());
        }
        let text = std::fs::read_to_string(world.dir.path().join(name).join("identity.json")).unwrap();
        let identity: serde_json::Value = serde_json::from_str(&text).unwrap();
        for half in ["signing_key", "age_secret_key"] {
            secrets.insert(format!("{name}'s {half}"), identity[half].as_str().unwrap().to_owned());
        }
    }
    secrets
}

/// Puts the secrets of a participant's settings into files, as one should.
fn by_reference(world: &World, name: &str) {
    let path = world.config(name);
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (number, key) in [name.to_owned(), format!("{name}-reader")].iter().enumerate() {
        if name == "aggregator" && number > 0 {
            continue;
        }
        let secret = &world.store.pair(key).secret;
        let file = format!("secret-{number}");
        std::fs::write(world.dir.path().join(name).join(&file), secret).unwrap();
        text = text.replace(secret, &format!("file:{file}"));
    }
    std::fs::write(path, text).unwrap();
}

fn spawn(world: &World, name: &str) -> Child {
    let log = |kind: &str| File::create(world.dir.path().join(format!("{name}.{kind}"))).unwrap();
    let role = name.split('-').next().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args([role, "--config"]).arg(world.config(name));
    // Everything that any crate has to say.
    command.env("RUST_LOG", "trace").stdin(Stdio::null());
    command.stdout(log("out")).stderr(log("log")).spawn().unwrap()
}

/// Every file below `folder` that is not where a secret belongs.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !["identity.json", "server.toml", "run.toml"].contains(&name)
            && !name.starts_with("secret-")
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn nobody_sees_a_secret() {
    let world = World::new(Store::embedded(), 2, &Terms { windows: 2, ..Terms::default() });
    let secrets = planted(&world);
    assert_eq!(secrets.len(), 15);
    NAMES.iter().for_each(|name| by_reference(&world, name));
    let mut children: Vec<Child> = NAMES.iter().map(|name| spawn(&world, name)).collect();
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    for child in &children {
        let line = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        seen.push(("the process list".into(), line));
    }
    for (child, name) in children.iter_mut().zip(NAMES) {
        assert!(child.wait().unwrap().success(), "{name}");
    }

    // What people ask for, also with what is wrong.
    let config = |name: &str| world.config(name).to_str().unwrap().to_owned();
    let (miner, aggregator) = (config("miner-0"), config("aggregator"));
    let wrong = ("BRIGADE_BUCKET__SECRET_ACCESS_KEY", world.store.pair("miner-1").secret.as_str());
    let none = ("UNUSED", "");
    for (arguments, variable) in [
        (vec!["miner", "--print-config", "--config", &miner], none),
        (vec!["miner", "--print-config", "--config", &miner], wrong),
        (vec!["aggregator", "--print-config", "--config", &aggregator], none),
        (vec!["doctor", "--line-mib", "1", "--config", &miner], none),
        (vec!["doctor", "--json", "--line-mib", "1", "--config", &miner], wrong),
        (vec!["miner", "--config", &miner], wrong),
        (vec!["doctor", "--line-mib", "1", "--config", &aggregator], none),
        (vec!["watch", "--json", "--once", "--config", &miner], none),
        (vec!["audit", "--config", &miner], none),
        (vec!["run", "weights", "--config", &miner], none),
        (vec!["identity", "show", world.dir.path().join("miner-0/identity.json").to_str().unwrap()], none),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
        command.args(&arguments).env("RUST_LOG", "trace").env(variable.0, variable.1).stdin(Stdio::null());
        let output = command.output().unwrap();
        seen.push((format!("the output of {arguments:?}"), output.stdout));
        seen.push((format!("the errors of {arguments:?}"), output.stderr));
    }
    let (_, watched) = seen.iter().find(|(name, _)| name.starts_with("the output of [\"watch")).unwrap();
    assert!(
        String::from_utf8_lossy(watched).contains("\"window\":1,\"phase\":\"closed\""),
        "the run was to go through"
    );
    let all = files(world.dir.path());
    assert!(all.iter().any(|path| path.ends_with("miner-0.log")) && all.len() > 60, "{}", all.len());
    seen.extend(all.iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())));
    let chatty = seen.iter().find(|(name, _)| name.ends_with("miner-0.log")).unwrap();
    assert!(String::from_utf8_lossy(&chatty.1).contains("TRACE"), "the log is to be as chatty as it can be");
    for (whose, secret) in &secrets {
        for (place, bytes) in &seen {
            assert!(!String::from_utf8_lossy(bytes).contains(secret), "{whose} shows in {place}");
        }
    }
    println!("{} secrets, {} places", secrets.len(), seen.len());
}
