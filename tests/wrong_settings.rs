//! A miner with one setting wrong ends at once, with one line that names the setting.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::stores::Store;
use support::{Terms, World};

/// A wrong setting: where, what it was, what it is, and what the line must name.
struct Wrong<'a> {
    section: &'a str,
    from: String,
    to: String,
    named: &'a [&'a str],
}

#[test]
fn the_setting_is_named_at_once() {
    let world = World::new(Store::embedded(), 2, &Terms { windows: 1, ..Terms::default() });
    let path = world.config("miner-0");
    let settings = std::fs::read_to_string(&path).unwrap();
    let (own, reader) = (world.store.pair("miner-0").clone(), world.store.pair("miner-0-reader").clone());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file = world.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below_a_file = format!("\"{}\"", file.join("state").display());
    let endpoint = world.store.endpoint().to_owned();
    let run_id = world.run_id.to_string();
    // Nobody answers at an address of the documentation's network (RFC 5737), nor says that nobody does.
    let nobody = "http://192.0.2.1:9000";
    let threads = "threads = 1";
    let cases = [
        ("", "\"identity.json\"", "\"nobody.json\"", &["nobody.json"][..]),
        ("", "\"identity.json\"", "\"config.toml\"", &["config.toml", "identity"]),
        ("", "\"state\"", &below_a_file, &["state", "file"]),
        ("", run_id.as_str(), &"ab".repeat(32), &["run_id"]),
        ("", run_id.as_str(), "abc", &["run_id", "config.toml:3"]),
        ("", "poll_milliseconds = 50", "poll_milliseconds = 0", &["poll_milliseconds"]),
        (
            "",
            "poll_milliseconds = 50",
            "role = \"validator\"",
            &["role", "a validator", "brigade validator --config"],
        ),
        ("", "poll_milliseconds = 50", "role = \"minor\"", &["role", "minor", "miner"]),
        ("", "poll_milliseconds = 50", &format!("metrics = \"{taken}\""), &["metrics", &taken]),
        ("", "poll_milliseconds", "pol_milliseconds", &["pol_milliseconds", "poll_milliseconds"]),
        ("run", endpoint.as_str(), "http://127.0.0.1:9", &["run.endpoint", "127.0.0.1:9"]),
        ("run", endpoint.as_str(), nobody, &["run.endpoint"]),
        ("run", endpoint.as_str(), "127.0.0.1:9", &["[run]", "endpoint"]),
        ("run", "\"run\"", "\"another\"", &["run.bucket"]),
        ("run", "\"run\"", "\"R\"", &["[run]", "bucket"]),
        ("run", "dialect = \"embedded\"", "dialect = \"embedded\"\nprefix = \"nowhere\"", &["run.prefix"]),
        ("run", "\"embedded\"", "\"ceph\"", &["run.dialect", "embedded"]),
        ("run", "\"embedded\"", "\"gcs\"", &["dialect", "gcs"]),
        ("run", own.id.as_str(), "NOBODY", &["run.access_key_id"]),
        ("run", own.secret.as_str(), "wrong", &["run.secret_access_key"]),
        (
            "run",
            own.secret.as_str(),
            "env:BRIGADE_TEST_UNSET",
            &["run.secret_access_key", "BRIGADE_TEST_UNSET"],
        ),
        ("bucket", endpoint.as_str(), "http://127.0.0.1:9", &["bucket.endpoint"]),
        ("bucket", endpoint.as_str(), nobody, &["bucket.endpoint"]),
        ("bucket", "\"peer-miner-0\"", "\"peer-miner-1\"", &["[bucket]"]),
        ("bucket", "\"embedded\"", "\"ceph\"", &["bucket.dialect"]),
        ("bucket", own.id.as_str(), "NOBODY", &["bucket.access_key_id"]),
        ("bucket", own.secret.as_str(), "wrong", &["bucket.secret_access_key"]),
        ("bucket", own.secret.as_str(), "file:nowhere", &["bucket.secret_access_key", "nowhere"]),
        ("bucket.reader", reader.id.as_str(), "NOBODY", &["bucket.reader.access_key_id"]),
        ("bucket.reader", reader.secret.as_str(), "wrong", &["bucket.reader.secret_access_key"]),
        ("compute", threads, "device = \"cuda:0\"", &["cuda:0"]),
        ("compute", threads, "device = \"tpu\"", &["compute.device"]),
        ("compute", threads, "dtype = \"int8\"", &["compute.dtype"]),
        ("compute", threads, "threads = 0", &["threads"]),
        ("compute", threads, "threads = \"many\"", &["threads", "config.toml"]),
        ("compute", threads, "ranks = 3", &["compute.ranks"]),
        ("compute", threads, "micro_batch = 0", &["micro_batch"]),
        ("compute", threads, "recompute = \"some\"", &["recompute"]),
        ("compute", threads, "offload = \"yes\"", &["offload"]),
        ("compute", threads, "exchange = \"pigeon\"", &["compute.exchange"]),
    ];
    let (mut slowest, mut wrongs) = ((Duration::ZERO, String::new()), Vec::new());
    for (section, from, to, named) in cases {
        let wrong = Wrong { section, from: from.into(), to: to.into(), named };
        let (took, complaint) = fails(&path, &settings, &wrong);
        wrongs.extend(complaint);
        let name = format!("{} -> {} in [{}]", wrong.from, wrong.to, wrong.section);
        slowest = slowest.max((took, name));
    }
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    println!("the slowest of them took {:.2} s: {}", slowest.0.as_secs_f64(), slowest.1);
    // A hundred times what most of them take: it is to show that nothing is waited for.
    assert!(slowest.0 < Duration::from_secs(20), "{slowest:?}");
}

fn fails(path: &std::path::Path, settings: &str, wrong: &Wrong<'_>) -> (Duration, Option<String>) {
    let Wrong { section, from, to, named } = wrong;
    let at = if section.is_empty() { 0 } else { settings.find(&format!("[{section}]\n")).unwrap() };
    let spoiled = format!("{}{}", &settings[..at], settings[at..].replacen(from.as_str(), to, 1));
    assert_ne!(spoiled, settings, "{from}");
    std::fs::write(path, spoiled).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args(["miner", "--config", path.to_str().unwrap()]).stdin(Stdio::null()).env("RUST_LOG", "error");
    let begun = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // One that does not fail is stopped.
    while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let what = format!("{from} -> {to} in [{section}]");
    let missing = named.iter().find(|name| !said.contains(**name));
    let complaint = match (output.status.success(), said.lines().count(), missing) {
        (true, ..) => Some(format!("{what} did not fail")),
        (_, 1, None) => None,
        (_, 1, Some(name)) => Some(format!("{what}: `{name}` is not in: {said}")),
        _ => Some(format!("{what}: one line, please:\n{said}")),
    };
    (took, complaint)
}
