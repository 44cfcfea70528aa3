//! The doctor names the cause of every fault that is planted, and of a good set-up says nothing bad.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use brigade_bucket::keys::RunKey;
use support::proxy::{self, Answer, Fault};
use support::stores::Store;
use support::{Terms, World, brigade};

/// What the doctor found: section and check of every ✘, and everything as text.
struct Found {
    bad: Vec<(String, String)>,
    warnings: Vec<(String, String)>,
    text: String,
    is_ok: bool,
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args(words).stdin(Stdio::null()).env_remove("AWS_ACCESS_KEY_ID").env_remove("RUST_LOG");
    command
}

fn examine(config: &Path, more: &[&str]) -> Found {
    found(command(&["doctor", "--json", "--config", config.to_str().unwrap()]).args(more))
}

fn found(command: &mut Command) -> Found {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    let all: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |outcome: &str| {
        let those = all.iter().filter(|finding| finding["outcome"] == outcome);
        let name = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
        those.map(|finding| (name(finding, "section"), name(finding, "check"))).collect()
    };
    Found { bad: of("bad"), warnings: of("warning"), is_ok: output.status.success(), text }
}

/// A run that nobody has started, on the embedded server with some odd keys, and the settings of `miner-0` to spoil.
struct Ward {
    world: World,
    settings: String,
}

impl Ward {
    fn new(terms: &Terms) -> Self {
        let mut world = World::new(Store::embedded(), 1, terms);
        let path = world.dir.path().join("server.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (name, grants) in [
            ("BLIND", r#"{ bucket = "peer-validator", actions = ["read", "list"] }"#),
            ("KEEPER", r#"{ bucket = "peer-miner-0", actions = ["read", "list", "write"] }"#),
            ("LISTLESS", r#"{ bucket = "peer-miner-0", actions = ["read", "write", "delete"] }"#),
            ("GUEST", r#"{ bucket = "run", actions = ["read", "list"] }"#),
            ("OWNER", r#"{ bucket = "*", actions = ["*"] }"#),
        ] {
            write!(
                text,
                "[[keys]]\naccess_key_id = \"{name}\"\nsecret_access_key = \"secret-of-{name}-0123456789\"\ngrants = [{grants}]\n"
            )
            .unwrap();
        }
        std::fs::write(&path, text).unwrap();
        let Store::Embedded(store) = &mut world.store else { unreachable!() };
        store.kill();
        store.start();
        let settings = std::fs::read_to_string(world.config("miner-0")).unwrap();
        Self { world, settings }
    }

    fn path(&self) -> std::path::PathBuf {
        self.world.config("miner-0")
    }

    /// The doctor's findings with `from` replaced by `to` in `section` of the settings; in front of it when it is `""`.
    fn with(&self, section: &str, from: &str, to: &str) -> Found {
        std::fs::write(self.path(), self.spoil(section, from, to)).unwrap();
        examine(&self.path(), &["--line-mib", "1"])
    }

    fn spoil(&self, section: &str, from: &str, to: &str) -> String {
        let (head, tail) = match section {
            "" => ("", self.settings.as_str()),
            section => self.settings.split_at(self.settings.find(&format!("[{section}]\n")).unwrap()),
        };
        let spoiled = tail.replacen(from, to, 1);
        assert_ne!(spoiled, tail, "{from} in {section}");
        format!("{head}{spoiled}")
    }

    /// With the key `name` in the place of `section`'s.
    fn with_key(&self, section: &str, name: &str) -> Found {
        let pair = self.world.store.pair(match section {
            "bucket.reader" => "miner-0-reader",
            _ => "miner-0",
        });
        let text = self.spoil(section, &pair.id, name);
        let at = text.find(&format!("[{section}]\n")).unwrap();
        let (head, tail) = text.split_at(at);
        let text =
            format!("{head}{}", tail.replacen(&pair.secret, &format!("secret-of-{name}-0123456789"), 1));
        std::fs::write(self.path(), text).unwrap();
        examine(&self.path(), &["--line-mib", "1"])
    }

    /// With a proxy before the miner's own bucket that changes answers.
    fn changed(&self, change: fn(&str, &mut Answer)) -> Found {
        let endpoint = proxy::start(self.world.store.endpoint(), Fault { change, rate: None });
        self.with("bucket", self.world.store.endpoint(), &endpoint)
    }
}

fn expect(name: &str, found: &Found, section: &str, check: &str, words: &[&str]) {
    let expected = [(section.to_owned(), check.to_owned())];
    assert!(found.bad == expected && !found.is_ok, "{name}: expected {expected:?}, found\n{}", found.text);
    for word in words {
        assert!(found.text.contains(word), "{name}: `{word}` is not in\n{}", found.text);
    }
}

#[test]
fn settings_keys_and_permissions() {
    let ward = Ward::new(&Terms::default());
    let pair = ward.world.store.pair("miner-0").clone();
    let healthy = examine(&ward.path(), &[]);
    assert!(healthy.is_ok && healthy.bad.is_empty() && healthy.warnings.is_empty(), "{}", healthy.text);

    let found = ward.with("bucket", "dialect", "dialcet");
    expect("misspelt", &found, "settings", "settings", &["dialcet", "`dialect`"]);
    let found = ward.with("bucket", &pair.secret, "env:BRIGADE_TEST_NO_SUCH_SECRET");
    expect(
        "no such variable",
        &found,
        "your bucket",
        "settings",
        &["bucket.secret_access_key", "NO_SUCH_SECRET"],
    );
    let found = ward.with("bucket", &pair.secret, "another-secret");
    expect("wrong secret", &found, "your bucket", "keys", &["bucket.secret_access_key"]);
    let found = ward.with("run", &pair.id, "NOBODY");
    expect("unknown key", &found, "run's bucket", "keys", &["run.access_key_id"]);
    let found = ward.with_key("bucket", "KEEPER");
    expect("cannot delete", &found, "your bucket", "permissions", &["deleting"]);
    let found = ward.with_key("bucket", "LISTLESS");
    expect("cannot list", &found, "your bucket", "permissions", &["list"]);
    let found = ward.with_key("bucket", "GUEST");
    expect("another bucket's key", &found, "your bucket", "permissions", &["[bucket]"]);
    let found = ward.with_key("bucket.reader", "OWNER");
    expect("read key that can write", &found, "readers' key", "read_only", &["reads and does nothing else"]);
    let found = ward.with_key("bucket.reader", "BLIND");
    expect("read key that cannot read", &found, "readers' key", "permissions", &["[bucket.reader]"]);
    let found = ward.with_key("run", "GUEST");
    expect("no place in the lobby", &found, "run's bucket", "lobby", &["lobby/", "operator"]);
    let found = ward.with_key("run", "OWNER");
    assert_eq!((found.is_ok, found.warnings.len()), (true, 1), "{}", found.text);
    assert_eq!(found.warnings[0].1, "least_privilege");

    let text = ward.spoil("bucket", &pair.id, "OWNER").replacen("peer-miner-0", "peer-nobody", 1);
    let at = text.find("[bucket]").unwrap();
    let text =
        format!("{}{}", &text[..at], text[at..].replacen(&pair.secret, "secret-of-OWNER-0123456789", 1));
    std::fs::write(ward.path(), text).unwrap();
    expect(
        "no bucket",
        &examine(&ward.path(), &[]),
        "your bucket",
        "bucket",
        &["peer-nobody", "bucket.bucket"],
    );
    let found = ward.with("run", "\"embedded\"", "\"ceph\"");
    expect("dialect", &found, "run's bucket", "dialect", &["run.dialect = \\\"embedded\\\""]);
    let found = ward.with("bucket", ward.world.store.endpoint(), "http://127.0.0.1:9");
    expect("nobody there", &found, "your bucket", "endpoint", &["127.0.0.1:9", "bucket.endpoint"]);
    let found = ward.with("", &ward.world.run_id.to_string(), &"ab".repeat(32));
    expect("another run", &found, "run", "run_id", &["run_id"]);
}

#[test]
fn the_machine_and_the_run() {
    let ward = Ward::new(&Terms::default());
    let found = ward.with("compute", "threads = 1", "device = \"cuda:0\"");
    expect("no GPU", &found, "this machine", "device", &["cuda:0", "CUDA"]);
    std::fs::write(ward.path(), &ward.settings).unwrap();
    let found = examine(&ward.path(), &["--role", "validator"]);
    expect("no validator", &found, "run", "role", &["does not name"]);
    let found = ward.with("", "state = ", "role = \"validator\"\nstate = ");
    expect("a validator's settings", &found, "run", "role", &["does not name"]);
    let found = ward.with("", "\"identity.json\"", "\"../aggregator/identity.json\"");
    expect("somebody else's identity", &found, "run", "role", &["is the aggregator", "brigade identity new"]);

    // A file where the folder is to be: nobody can write there, not even root.
    let file = ward.world.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let found = ward.with("", "\"state\"", &format!("\"{}\"", file.join("state").display()));
    expect("no folder", &found, "settings", "state", &["cannot be written", "`state`"]);
    let full = ward.world.dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let text = ward.spoil("", "\"state\"", &format!("\"{}\"", full.display()));
    std::fs::write(ward.path(), text).unwrap();
    // A disk of 16 KiB that nobody but this process sees.
    let script =
        "mount -t tmpfs -o size=16k tmpfs \"$1\" && exec \"$2\" doctor --json --line-mib 1 --config \"$3\"";
    let mut on_full_disk = Command::new("unshare");
    on_full_disk.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&full);
    on_full_disk.arg(env!("CARGO_BIN_EXE_brigade")).arg(ward.path());
    let found = found_bad_state(&mut on_full_disk);
    assert!(found.text.contains("the disk is full"), "{}", found.text);

    std::fs::write(ward.path(), &ward.settings).unwrap();
    let identity = ward.world.dir.path().join("miner-0/identity.json");
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    expect("identity", &examine(&ward.path(), &[]), "settings", "identity", &["chmod 600"]);
    mode(0o600);

    lose_the_checkpoint(&ward.world);
    expect("no file", &examine(&ward.path(), &[]), "line", "checkpoint", &["tell the operator"]);

    // The manifest with a signature of nobody's.
    let manifest = ward.world.dir.path().join("store/run/manifest.json");
    assert!(!manifest.exists(), "the store's own form is not a plain file");
    spoil_signature(&ward.world);
    expect("forged", &examine(&ward.path(), &[]), "run", "manifest", &["do not take part"]);
}

/// On a disk without room the state is bad, and so may be the room itself.
fn found_bad_state(command: &mut Command) -> Found {
    let found = found(command);
    assert!(found.bad.contains(&("settings".into(), "state".into())), "{}", found.text);
    found
}

/// The newest checkpoint's record stays, its largest file goes.
fn lose_the_checkpoint(world: &World) {
    use brigade::config::Participant;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let bucket = Participant::read(&world.config("aggregator")).unwrap().open_run().unwrap();
        let files = bucket.list(RunKey::CHECKPOINTS, 100).await.unwrap();
        let largest = files.iter().max_by_key(|object| object.size).unwrap();
        bucket.delete(&largest.key).await.unwrap();
    });
}

fn spoil_signature(world: &World) {
    use brigade::config::Participant;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let bucket = Participant::read(&world.config("aggregator")).unwrap().open_run().unwrap();
        let bytes = bucket.get("manifest.json", 1 << 20).await.unwrap().bytes;
        let mut envelope: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let signature = envelope["signatures"][0]["sig"].as_str().unwrap();
        let turned: String = signature.chars().rev().skip_while(|c| *c == '=').collect();
        envelope["signatures"][0]["sig"] = format!("{turned}==").into();
        bucket.put("manifest.json", serde_json::to_vec(&envelope).unwrap().into()).await.unwrap();
    });
}

#[test]
fn stores_that_break_their_promises() {
    let ward = Ward::new(&Terms::default());
    let found = ward.changed(|_, answer| {
        // A second more than ten minutes, as a store tells whole ones.
        let now = chrono::Utc::now() - chrono::TimeDelta::seconds(601);
        answer.set("date", &now.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
    });
    expect("clock", &found, "your bucket", "clock", &["clock is 60", "ahead"]);
    let found = ward.changed(|request, answer| {
        if answer.status == 412 && request.to_lowercase().contains("if-none-match: *") {
            answer.replace(200, "");
        }
    });
    expect("creates twice", &found, "your bucket", "create_once", &["If-None-Match"]);
    let found = ward.changed(|request, answer| {
        if answer.status == 412 && request.starts_with("PUT") && request.to_lowercase().contains("if-match: ")
        {
            answer.replace(200, "");
        }
    });
    expect("swaps anything", &found, "your bucket", "compare_and_swap", &["If-Match"]);
    let found = ward.changed(|request, answer| {
        if answer.status == 412 && request.starts_with("GET") {
            answer.replace(206, "sec");
            answer.set("content-range", "bytes 0-2/6");
        }
    });
    expect("reads any version", &found, "your bucket", "get_if_match", &["If-Match"]);
    let found = ward.changed(|_, answer| answer.headers.retain(|(name, _)| !name.starts_with("x-amz-meta-")));
    expect("drops metadata", &found, "your bucket", "metadata", &["metadata"]);
    let found = ward.changed(|request, answer| {
        if request.starts_with("POST") && request.contains("?uploads") {
            answer.replace(501, "<Error><Code>NotImplemented</Code><Message>no parts</Message></Error>");
        }
    });
    expect("no parts", &found, "your bucket", "multipart", &["uploading in parts"]);
    let found = ward.changed(|request, answer| {
        if answer.status == 206 && !request.to_lowercase().contains("if-match") {
            answer.status = 200;
        }
    });
    expect("no ranges", &found, "your bucket", "range", &["reading a part"]);
    let found = ward.changed(|request, answer| {
        if request.contains("list-type=2") && request.contains("probe") {
            let nothing = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            answer.replace(200, nothing);
        }
    });
    expect("forgetful list", &found, "your bucket", "list", &["does not list"]);
}

/// 24 M parameters and windows of one second: at 5 Mbit/s an update alone takes most of it, and the delta more.
#[test]
fn a_line_that_is_too_slow() {
    let ward = Ward::new(&Terms { train_seconds: 1, wide: true, ..Terms::default() });
    let healthy = examine(&ward.path(), &[]);
    assert!(healthy.is_ok, "{}", healthy.text);
    let behind = |section| {
        let slow = Fault { rate: Some(5_000_000 / 8), ..Fault::default() };
        let endpoint = proxy::start(ward.world.store.endpoint(), slow);
        let text = ward.spoil(section, ward.world.store.endpoint(), &endpoint);
        std::fs::write(ward.path(), text).unwrap();
        // Long enough for a hiccup of a busy machine not to count.
        examine(&ward.path(), &["--line-mib", "4"])
    };
    expect("5 Mbit/s", &behind("bucket"), "line", "bandwidth", &["Mbit/s", "faster line"]);
    // Its own bucket is near, the run's is not: deltas come from there.
    let found = behind("run");
    expect("5 Mbit/s from the run", &found, "line", "bandwidth", &["from the run's bucket", "faster line"]);
}

#[test]
fn on_ceph_nothing_is_wrong_and_a_rule_that_deletes_the_run_is() {
    use brigade_bucket::admin::{Admin, Lifecycle};
    let world = World::new(Store::ceph(), 1, &Terms::default());
    let set = |name: &str, key: &str, expire: Vec<(String, i32)>| {
        let address = brigade_bucket::BucketAddress {
            endpoint: Some(world.store.endpoint().to_owned()),
            region: "us-east-1".into(),
            bucket: name.into(),
            prefix: String::new(),
            dialect: brigade_bucket::Dialect::Ceph,
        };
        let pair = world.store.pair(key);
        let keys = brigade_bucket::Credentials::new(&pair.id, &pair.secret, None).unwrap();
        let admin = Admin::open(&address, &keys, brigade_bucket::BucketOptions::default()).unwrap();
        let rules = Lifecycle { abort_multipart_days: 1, expire };
        tokio::runtime::Runtime::new().unwrap().block_on(admin.set_lifecycle(&rules)).unwrap();
    };
    for name in ["miner-0", "validator"] {
        set(&format!("peer-{name}"), name, vec![]);
    }
    set("run", "aggregator", vec![]);
    for name in ["miner-0", "validator", "aggregator"] {
        let found = examine(&world.config(name), &[]);
        let clean = found.is_ok && found.bad.is_empty() && found.warnings.is_empty();
        assert!(clean && found.text.contains("the store is ceph"), "{name}:\n{}", found.text);
    }
    set("run", "aggregator", vec![("windows/".into(), 3)]);
    let found = examine(&world.config("aggregator"), &[]);
    expect("rule", &found, "run's bucket", "lifecycle", &["windows/", "3 days"]);
}

#[test]
fn people_are_told_in_lines_with_remedies() {
    let ward = Ward::new(&Terms::default());
    let text = brigade(&["doctor", "--line-mib", "1", "--config"], &[&ward.path()]);
    assert!(text.contains("  ✔ create once") && text.ends_with("nothing is wrong\n"), "{text}");
    for name in ["validator", "aggregator"] {
        brigade(&["doctor", "--line-mib", "1", "--config"], &[&ward.world.config(name)]);
    }
    std::fs::write(ward.path(), ward.spoil("bucket", "\"embedded\"", "\"minio\"")).unwrap();
    let output = command(&["doctor", "--config", ward.path().to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("  ✘ dialect") && text.contains("\n    → set bucket.dialect"), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: 1 problem, 0 warnings\n");
    // What it wrote is gone again.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    std::fs::write(ward.path(), &ward.settings).unwrap();
    let own = brigade::config::Participant::read(&ward.path()).unwrap().open_own().unwrap();
    assert_eq!(runtime.block_on(own.list("", 10)).unwrap().len(), 0);
}

#[test]
fn on_moto_with_least_privileges_nothing_is_wrong_but_what_is() {
    let world = World::new(Store::moto(), 1, &Terms::default());
    for name in ["miner-0", "validator", "aggregator"] {
        let found = examine(&world.config(name), &[]);
        assert!(found.is_ok && found.warnings.is_empty(), "{name}:\n{}", found.text);
    }
    let settings = std::fs::read_to_string(world.config("miner-0")).unwrap();
    let spoil = |from: &str, to: &str| {
        let spoiled = settings.replace(from, to);
        assert_ne!(spoiled, settings);
        std::fs::write(world.config("miner-0"), spoiled).unwrap();
        examine(&world.config("miner-0"), &["--line-mib", "1"])
    };
    let pair = |name: &str| world.store.pair(name);
    let (own, reader) = (pair("miner-0"), pair("miner-0-reader"));
    // The one secret opens two buckets here.
    let found = spoil(&own.secret, "wrong");
    let keys = |section: &str| (section.to_owned(), "keys".to_owned());
    assert_eq!(found.bad, [keys("run's bucket"), keys("your bucket")], "{}", found.text);
    let text = settings.replacen(&reader.id, &own.id, 1).replacen(&reader.secret, &own.secret, 1);
    std::fs::write(world.config("miner-0"), text).unwrap();
    let found = examine(&world.config("miner-0"), &["--line-mib", "1"]);
    expect("reader", &found, "readers' key", "read_only", &["reads and does nothing else"]);
}
