//! Files that break every rule, fed to each role as a running process: none crashes, hangs, fills memory, or comes to another θ.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brigade_bucket::keys::{CheckpointFile, PeerFile, RunKey};
use brigade_protocol::{Envelope, Reason};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use support::liar::Liar;
use support::stores::Store;
use support::{Terms, World};

/// Magic and header length of an update file, and where its sections begin when it has `sections` of them.
const PREFIX: usize = 12;
const fn header(sections: usize) -> usize {
    PREFIX + 149 + 36 * sections
}

/// Bytes that are no such file, made from one that is.
fn broken(valid: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = valid.to_vec();
        change(&mut bytes);
        bytes
    };
    vec![
        ("empty", Vec::new()),
        ("one byte", valid[..1].to_vec()),
        ("half", valid[..valid.len() / 2].to_vec()),
        ("cut by one", valid[..valid.len() - 1].to_vec()),
        ("one too many", changed(&|bytes| bytes.push(0))),
        ("many too many", changed(&|bytes| bytes.extend([0x5A; 60_000]))),
        ("all ones", vec![0xFF; valid.len()]),
        ("a bit turned", changed(&|bytes| *bytes.last_mut().unwrap() ^= 1)),
        ("the start turned", changed(&|bytes| bytes[0] ^= 0x20)),
        ("a bomb", [&[0x1F, 0x8B, 8, 0][..], &[0; 4096]].concat()),
    ]
}

/// Updates that break the format below its hashes too, made from one of zeros.
fn broken_updates(valid: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let sections = u32::from_le_bytes(valid[header(0) - 4..header(0)].try_into().unwrap()) as usize;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = valid.to_vec();
        change(&mut bytes);
        let end = header(sections);
        let frame: [u8; 32] = Sha256::digest(&bytes[..end]).into();
        bytes[end..end + 32].copy_from_slice(&frame);
        bytes
    };
    let mut all = broken(valid);
    all.extend([
        ("a header without end", changed(&|bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes()))),
        (
            "sections without end",
            changed(&|bytes| {
                bytes[header(0) - 4..header(0)].copy_from_slice(&u32::MAX.to_le_bytes());
            }),
        ),
        (
            "a section without end",
            changed(&|bytes| {
                bytes[header(0)..header(0) + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            }),
        ),
        ("another version", changed(&|bytes| bytes[PREFIX] ^= 0xFF)),
        ("somebody else's", changed(&|bytes| bytes[PREFIX + 60] ^= 0xFF)),
        (
            "infinite scales",
            changed(&|bytes| {
                // The hash of the section is made right, so that it is opened.
                let first = header(sections) + 32;
                let size = u32::from_le_bytes(bytes[header(0)..header(0) + 4].try_into().unwrap()) as usize;
                bytes[first..first + size].fill(0x7F);
                let hash: [u8; 32] = Sha256::digest(&bytes[first..first + size]).into();
                bytes[header(0) + 4..header(1)].copy_from_slice(&hash);
            }),
        ),
    ]);
    all
}

/// Records that break the envelope or what is in it, made from a good one.
fn broken_records(valid: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(valid.to_vec()).unwrap();
    let mut all = broken(valid);
    all.extend([
        ("nesting without end", [b'['; 30_000].to_vec()),
        ("no UTF-8", [&valid[..20], &[0xC3, 0x28], &valid[20..]].concat()),
        ("another type", text.replacen("brigade.", "brigand.", 1).into_bytes()),
        ("no signature", text.replacen("\"sig\"", "\"sag\"", 1).into_bytes()),
        ("unknown fields", text.replacen('{', "{\"more\":1e999,", 1).into_bytes()),
        ("a list", format!("[{text}]").into_bytes()),
        ("null", b"null".to_vec()),
    ]);
    all
}

fn expect_no_panic(world: &World, names: &[&str]) {
    for name in names {
        let log = world.log(name);
        assert!(!log.contains("panicked"), "{name}:\n{log}");
    }
}

/// What a peer puts into its own bucket, seen by the aggregator, the validator and another miner.
#[tokio::test(flavor = "multi_thread")]
async fn a_peers_broken_files_cost_nobody_but_itself() {
    // As many windows as there are files; counted with files of the same kinds.
    let (updates, receipts) = (broken_updates(&vec![0; 4096]).len(), broken_records(&[b'{'; 64]).len());
    let windows = (updates + receipts) as u64;
    let terms = Terms { windows, evict_after: 999, checkpoint_every: 50, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    let liar = Liar::join(&world).await;
    let roles = ["aggregator", "validator", "miner-0"];
    world.start_all(&roles);
    let mut names = Vec::new();
    for window in 0..windows {
        let open = liar.open(window).await;
        let good = liar.zeros(&open.record);
        let n = window as usize;
        if n < updates {
            let (name, update) = broken_updates(&good).swap_remove(n);
            assert_ne!(update, good, "{name}");
            names.push(name);
            let receipt = liar.receipt(&open, &update);
            liar.put(window, PeerFile::Update, update).await;
            liar.put_signed(window, receipt, &liar.identity).await;
        } else {
            let receipt = liar.receipt(&open, &good);
            let bytes = Envelope::sign(receipt, liar.identity.signing()).unwrap().0.to_bytes();
            let (name, broken) = broken_records(&bytes).swap_remove(n - updates);
            assert_ne!(broken, bytes, "{name}");
            names.push(name);
            liar.put(window, PeerFile::Update, good).await;
            liar.put(window, PeerFile::Receipt, broken).await;
        }
    }
    world.expect_success(&roles);
    expect_no_panic(&world, &roles);
    let honest = world.id("miner-0");
    for ((_, close), name) in world.chain(windows).await.iter().zip(names) {
        let accepted: Vec<_> = close.record.accepted.iter().map(|share| share.peer).collect();
        assert_eq!(accepted, [honest], "{name}: {:?}", close.record.excluded);
        let [excluded] = &close.record.excluded[..] else { panic!("{name}: {:?}", close.record.excluded) };
        let reasons = match close.record.window < updates as u64 {
            true => &[Reason::Malformed, Reason::Unavailable, Reason::TooLarge][..],
            false => &[Reason::BadReceipt, Reason::Missing],
        };
        assert!(
            excluded.peer == liar.identity.id() && reasons.contains(&excluded.reason),
            "{name}: {excluded:?}"
        );
        // Receipts are mirrored before updates are read: whatever an update is, when it was promised is on record.
        let key = RunKey::Receipt { window: close.record.window, peer: excluded.peer }.to_string();
        let is_mirrored = liar.run.bucket().head(&key).await.unwrap().is_some();
        let is_promise = matches!(excluded.reason, Reason::Malformed | Reason::Unavailable);
        assert_eq!(is_mirrored, is_promise, "{name}: {excluded:?}");
    }
}

/// How long a process may take to find out that what it reads is broken.
const LIMIT: Duration = Duration::from_secs(60);

/// How long one that waits for better times is watched.
const WATCHED: Duration = Duration::from_secs(4);

/// Runs `args` against a broken run. It must end with an error in words, or wait and end when asked to.
fn face(what: &str, args: &[&str]) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let mut peak = 0;
    let status = loop {
        peak = peak.max(resident(&child));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > WATCHED {
            drop(child.stdin.take());
        }
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("{what}: does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let errors = reading.join().unwrap().unwrap();
    assert!(status.code().is_some_and(|code| code < 100), "{what}: {status}\n{errors}");
    assert!(!errors.contains("panicked"), "{what}:\n{errors}");
    assert!(status.success() || errors.lines().any(|line| line.starts_with("error: ")), "{what}:\n{errors}");
    assert!(peak < 2 << 30, "{what}: {peak} bytes");
}

fn resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or_default() * 1024
}

/// What lies in the run's bucket, seen by all four who read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_runs_broken_files_are_refused_in_words_by_everybody() {
    let terms = Terms { windows: 3, checkpoint_every: 2, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    let roles = ["aggregator", "validator", "miner-0", "miner-1"];
    world.start_all(&roles);
    world.expect_success(&roles);
    let run = world.run("aggregator").await;
    let (window, peer) = (2, world.id("miner-0"));
    let roster = run.open(window).await.unwrap().unwrap().record.roster;
    let records = [
        RunKey::Manifest,
        RunKey::Open(window),
        RunKey::Cutoff(window),
        RunKey::Verdict(window),
        RunKey::Close(window),
        RunKey::Roster(roster),
        RunKey::Receipt { window, peer },
        RunKey::Checkpoint { window, file: CheckpointFile::Record },
    ];
    let files = [
        RunKey::Delta(window),
        RunKey::Update { window, peer },
        RunKey::Checkpoint { window, file: CheckpointFile::Model },
        RunKey::Checkpoint { window, file: CheckpointFile::ErrorFeedback },
    ];
    let keys = records.iter().map(|key| (key, true)).chain(files.iter().map(|key| (key, false)));
    let mut turn = 0;
    for (key, is_record) in keys {
        let key = key.to_string();
        let good = run.bucket().get(&key, 64 << 20).await.unwrap().bytes;
        let kinds = if is_record { broken_records(&good) } else { broken(&good) };
        for role in ["aggregator", "validator", "miner", "audit"] {
            // Each role meets another few of the kinds; all of them come up many times.
            for _ in 0..2 {
                turn = (turn + 1) % kinds.len();
                let (name, bytes) = &kinds[turn];
                run.bucket().put(&key, Bytes::from(bytes.clone())).await.unwrap();
                let who = if matches!(role, "miner" | "audit") { "miner-0" } else { role };
                std::fs::remove_dir_all(world.dir.path().join(who).join("state")).ok();
                let config = world.config(who).display().to_string();
                let what = format!("{role} reads {key}: {name}");
                match role {
                    "audit" => face(&what, &["audit", "--all", "--config", &config]),
                    role => face(&what, &[role, "--stop-with-stdin", "--config", &config]),
                }
            }
        }
        run.bucket().put(&key, good).await.unwrap();
    }
    // Nothing of it has changed the run, and everybody can go on from it.
    world.start_all(&roles);
    world.expect_success(&roles);
    world.chain(3).await;
}
