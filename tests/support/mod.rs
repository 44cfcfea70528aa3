//! A run of real processes against a real store, with the settings files that its participants would write.

#![allow(dead_code, reason = "every test uses another part")]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../../crates/bucket/tests/support/ceph.rs"]
mod ceph;
pub mod liar;
pub mod moto;
pub mod proxy;
pub mod stores;
pub mod synthetic;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use brigade::config::Participant;
use brigade::identity::Identity;
use brigade::run::Run;
use brigade_bucket::keys::RunKey;
use brigade_protocol::{Close, Digest, Open, PeerId, Signed};
use stores::Store;
use tempfile::TempDir;

/// Long enough for a slow machine, short enough to end.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Settings of a run that is over in seconds.
pub struct Terms {
    pub windows: u64,
    pub train_seconds: u64,
    pub start_peers: u32,
    pub evict_after: u32,
    pub inner_steps: u32,
    pub checkpoint_every: u64,
    /// A Hugging Face folder that the run starts from; random weights and a tokenizer of its own without one.
    pub model: Option<PathBuf>,
    pub learning_rate: f64,
    /// A model of 24 M parameters instead of 0.1 M.
    pub wide: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            windows: 4,
            train_seconds: 60,
            start_peers: 2,
            evict_after: 2,
            inner_steps: 2,
            checkpoint_every: 2,
            model: None,
            learning_rate: 3e-3,
            wide: false,
        }
    }
}

/// Everybody's folders, the store, and the processes that run at the moment.
pub struct World {
    pub dir: TempDir,
    pub store: Store,
    pub run_id: Digest,
    pub run_url: String,
    children: BTreeMap<String, Child>,
}

impl World {
    /// A run with `miners` miners and one validator, created but not started.
    pub fn new(mut store: Store, miners: u32, terms: &Terms) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> =
            ["validator".to_owned()].into_iter().chain((0..miners).map(|n| format!("miner-{n}"))).collect();
        store.open(dir.path(), &names);
        for name in names.iter().map(String::as_str).chain(["aggregator"]) {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            brigade(&["identity", "new", "--out"], &[&dir.path().join(name).join("identity.json")]);
        }
        std::fs::write(dir.path().join("run.toml"), run_toml(&store, dir.path(), terms)).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/protocol/src");
        let config = dir.path().join("run.toml");
        let tokenizer = terms.model.as_ref().map(|folder| folder.join("tokenizer.json"));
        let (option, value) = match &tokenizer {
            Some(tokenizer) => ("--tokenizer", tokenizer.to_str().unwrap()),
            None => ("--train-bpe", "512"),
        };
        let prepare = ["data", "prepare", option, value, "--heldout-fraction", "0.2", "--input"];
        brigade(&prepare, &[&sources, Path::new("--config"), &config]);
        let created = brigade(&["run", "create", "--config"], &[&config]);
        let created: serde_json::Value = serde_json::from_str(&created).unwrap();
        let run_id = created["run_id"].as_str().unwrap().parse().unwrap();
        let run_url = created["run_url"].as_str().unwrap().to_owned();
        let world = Self { dir, store, run_id, run_url, children: BTreeMap::new() };
        for name in names.iter().map(String::as_str).chain(["aggregator"]) {
            world.write_config(name);
        }
        world
    }

    fn write_config(&self, name: &str) {
        let mut text = format!(
            "identity = \"identity.json\"\nstate = \"state\"\nrun_id = \"{}\"\npoll_milliseconds = 50\nallow_private_endpoints = true\n",
            self.run_id
        );
        write!(text, "[run]\n{}", self.store.bucket_toml("run", name)).unwrap();
        if name != "aggregator" {
            let bucket = self.store.bucket_toml(&format!("peer-{name}"), name);
            let reader = self.store.key_toml(&format!("{name}-reader"));
            write!(text, "[bucket]\n{bucket}[bucket.reader]\n{reader}[compute]\nthreads = 1\n").unwrap();
        }
        std::fs::write(self.config(name), text).unwrap();
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("config.toml")
    }

    /// Adds a line to a section of a participant's settings.
    pub fn add_setting(&self, name: &str, section: &str, line: &str) {
        let text = std::fs::read_to_string(self.config(name)).unwrap();
        let changed = text.replacen(&format!("{section}\n"), &format!("{section}\n{line}\n"), 1);
        assert_ne!(text, changed, "{section}");
        std::fs::write(self.config(name), changed).unwrap();
    }

    /// The process of a participant that runs.
    pub fn pid(&self, name: &str) -> u32 {
        self.children[name].id()
    }

    pub fn id(&self, name: &str) -> PeerId {
        Identity::load(&self.dir.path().join(name).join("identity.json")).unwrap().id()
    }

    /// Starts a participant; `aggregator`, `validator`, `miner-N`, or a second process of one as `aggregator#2`.
    pub fn start(&mut self, name: &str) {
        let who = name.split('#').next().unwrap();
        let role = who.split('-').next().unwrap();
        let log = |kind: &str| {
            let path = self.dir.path().join(format!("{name}.{kind}"));
            File::options().create(true).append(true).open(path).unwrap()
        };
        let child = Command::new(env!("CARGO_BIN_EXE_brigade"))
            .args([role, "--json", "--stop-with-stdin", "--config"])
            .arg(self.config(who))
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(log("jsonl"))
            .stderr(log("log"))
            .spawn()
            .unwrap();
        assert!(self.children.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    pub fn start_all(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.start(name));
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.children.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for a participant to end by itself.
    pub fn wait(&mut self, name: &str) -> ExitStatus {
        let mut child = self.children.remove(name).unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("{name} does not end; its log:\n{}", self.log(name));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for participants to end by themselves, and without an error.
    pub fn expect_success(&mut self, names: &[&str]) {
        for name in names {
            let status = self.wait(name);
            assert!(status.success(), "{name}: {status}; its log:\n{}", self.log(name));
        }
    }

    /// What a participant wrote to standard error.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The events that a participant told, as JSON.
    pub fn events(&self, name: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join(format!("{name}.jsonl"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a participant has told an event that fits.
    pub fn wait_for_event(&self, name: &str, what: &str, fits: impl Fn(&serde_json::Value) -> bool) {
        let started = Instant::now();
        while !self.events(name).iter().any(|event| event["event"] == what && fits(event)) {
            assert!(started.elapsed() < PATIENCE, "{name} tells no {what}; its log:\n{}", self.log(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The run, read with the key of a participant.
    pub async fn run(&self, name: &str) -> Run {
        let settings = Participant::read(&self.config(name)).unwrap();
        Run::load(settings.open_run().unwrap(), &self.run_id, settings.poll()).await.unwrap()
    }

    /// Every window's records, checked to be one unbroken chain of `windows` windows, none lost and none doubled.
    pub async fn chain(&self, windows: u64) -> Vec<(Signed<Open>, Signed<Close>)> {
        let run = self.run("aggregator").await;
        let mut chain: Vec<(Signed<Open>, Signed<Close>)> = Vec::new();
        for window in 0..windows {
            let open =
                run.open(window).await.unwrap().unwrap_or_else(|| panic!("window {window} is not open"));
            let close =
                run.close(window).await.unwrap().unwrap_or_else(|| panic!("window {window} is not closed"));
            assert_eq!(close.record.open, open.digest);
            assert_eq!(close.record.start_state_root, open.record.state_root);
            match chain.last() {
                None => assert_eq!(open.record.state_root, run.manifest().initial_state_root),
                Some((_, before)) => {
                    assert_eq!(open.record.previous_close, Some(before.digest));
                    assert_eq!(open.record.state_root, before.record.state_root);
                }
            }
            chain.push((open, close));
        }
        assert!(run.open(windows).await.unwrap().is_none(), "a window after the last one");
        chain
    }

    /// Waits until an object is in the run's bucket.
    pub async fn wait_for_key(&self, key: RunKey) {
        let run = self.run("aggregator").await;
        let started = Instant::now();
        while run.bucket().head(&key.to_string()).await.unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "{key} does not appear; log:\n{}", self.log("aggregator"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const MODEL: &str = "vocab_size = 512
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true
";

fn run_toml(store: &Store, dir: &Path, terms: &Terms) -> String {
    let validator = Identity::load(&dir.join("validator/identity.json")).unwrap();
    let Terms {
        windows,
        train_seconds,
        start_peers,
        evict_after,
        inner_steps,
        checkpoint_every,
        learning_rate,
        model,
        wide,
    } = terms;
    let model = match model {
        Some(folder) => format!("from = \"{}\"\n", folder.display()),
        None if *wide => MODEL
            .replace("_size = 64", "_size = 512")
            .replace("size = 128", "size = 1408")
            .replace("layers = 2", "layers = 8"),
        None => MODEL.to_owned(),
    };
    format!(
        r#"name = "test"
identity = "aggregator/identity.json"
[bucket]
{bucket}
[[validators]]
id = "{id}"
seal_to = "{seal_to}"
[model]
{model}[training]
inner_steps = {inner_steps}
batch_size = 2
sequence_length = 32
learning_rate = {learning_rate:e}
min_learning_rate = 3e-4
warmup_steps = 2
[outer]
learning_rate = 2.0
[windows]
total = {windows}
train_seconds = {train_seconds}
score_seconds = 30
start_peers = {start_peers}
evict_after = {evict_after}
checkpoint_every = {checkpoint_every}
[scoring]
sequences = 4
heldout_sequences = 8
# What two inner steps at the start of the warm-up teach is about nothing, and by chance three sigmas below it now and
# then: honest, and not what these tests are about.
harm_sigmas = 6.0
"#,
        bucket = store.bucket_toml("run", "aggregator"),
        id = validator.id(),
        seal_to = validator.seal_to(),
    )
}

/// Runs the program to its end and returns its standard output.
pub fn brigade(words: &[&str], paths: &[&Path]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_brigade")).args(words).args(paths).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "brigade {words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail with one line that holds all of `expected` and no backtrace.
pub fn brigade_fails(words: &[&str], paths: &[&Path], expected: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args(words).args(paths).stdin(Stdio::null()).env("RUST_LOG", "error");
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "brigade {words:?} should fail");
    assert_eq!(errors.lines().count(), 1, "one line, please:\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    for text in expected {
        assert!(errors.contains(text), "`{text}` is not in: {errors}");
    }
}
