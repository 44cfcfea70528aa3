//! The tutorials, word by word: three people, each in an empty folder, with nothing but the commands that stand there.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::PATIENCE;

/// Commands that go on until they are stopped, or the run is over.
const LASTING: [&str; 4] = ["brigade serve", "brigade aggregator", "brigade validator", "brigade miner"];

/// Somebody with a tutorial, an empty folder and a shell.
struct Person {
    folder: PathBuf,
    blocks: VecDeque<String>,
}

impl Person {
    /// `changes` are what stands for what the tutorial leaves to the reader, and for the port of the store.
    fn new(root: &Path, tutorial: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorials").join(tutorial);
        let text = std::fs::read_to_string(path).unwrap();
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        let folder = root.join(tutorial.trim_end_matches(".md"));
        std::fs::create_dir(&folder).unwrap();
        Self { blocks: blocks.collect(), folder }
    }

    fn shell(&self, block: &str) -> Command {
        // What one block exports the next ones know, as in one terminal.
        let script = format!("[ ! -f .env ] || . ./.env; set -eu\n{block}\nexport -p >.env\n");
        let program = Path::new(env!("CARGO_BIN_EXE_brigade")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(&self.folder).env_clear().env("PATH", path);
        command.env("HOME", &self.folder).stdin(Stdio::null());
        command
    }

    fn next(&mut self, given: &BTreeMap<&str, String>) -> String {
        let mut block = self.blocks.pop_front().expect("the tutorial has another step");
        for (name, value) in given {
            let filled = format!("{name}='{value}'");
            block = block.replace(&format!("{name}='…'"), &filled).replace(&format!("{name}=…"), &filled);
        }
        assert!(!block.contains('…'), "nobody has said what stands for … in\n{block}");
        block.replace("127.0.0.1:9000", &given["port"])
    }

    /// The next step, to its end.
    fn step(&mut self, given: &BTreeMap<&str, String>) -> String {
        let block = self.next(given);
        assert!(!LASTING.iter().any(|command| block.contains(command)), "{block}");
        let output = self.shell(&block).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The next step, which goes on.
    fn start(&mut self, given: &BTreeMap<&str, String>) -> Running {
        let block = self.next(given);
        assert!(LASTING.iter().any(|command| block.contains(command)), "{block}");
        // In the shell's place, so that it can be stopped.
        let block = block.replacen("brigade ", "exec brigade ", 1);
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        Running { child: self.shell(&block).stderr(log).spawn().unwrap(), log: self.folder.join("log") }
    }
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn wait(&mut self) {
        let begun = Instant::now();
        let log = || std::fs::read_to_string(&self.log).unwrap();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(self.child.wait().unwrap().success(), "{}", log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn three_people_follow_them() {
    let root = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut given = BTreeMap::from([("port", port.to_string())]);
    let mut operator = Person::new(root.path(), "operator.md");
    let mut vera = Person::new(root.path(), "validator.md");
    let mut alice = Person::new(root.path(), "miner.md");

    operator.step(&given);
    let _store = operator.start(&given);
    while std::net::TcpStream::connect(port).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = vera.step(&given);
    let identity: serde_json::Value = serde_json::from_str(&said).unwrap();
    for (name, field) in [("VERA_ID", "id"), ("VERA_SEAL_TO", "seal_to")] {
        given.insert(name, identity[field].as_str().unwrap().to_owned());
    }
    for _ in 0..4 {
        operator.step(&given);
    }
    let created: serde_json::Value = serde_json::from_str(&operator.step(&given)).unwrap();
    given.insert("RUN_URL", created["run_url"].as_str().unwrap().to_owned());
    let said = operator.step(&given);
    assert!(said.contains("nothing is wrong"), "{said}");
    let mut aggregator = operator.start(&given);

    vera.step(&given);
    let said = vera.step(&given);
    assert!(said.contains("nothing is wrong"), "{said}");
    let mut validator = vera.start(&given);
    alice.step(&given);
    alice.step(&given);
    let said = alice.step(&given);
    assert!(said.contains("nothing is wrong"), "{said}");
    let mut miner = alice.start(&given);

    for running in [&mut miner, &mut aggregator, &mut validator] {
        running.wait();
    }
    // What is left needs a person to look at it: `brigade watch` has a test of its own.
    let watch = operator.next(&given);
    assert_eq!(watch.trim(), "brigade watch \"$RUN_URL\"");
    let said = operator.step(&given);
    let windows = said.lines().filter(|line| line.starts_with("window ")).count();
    assert!(
        operator.folder.join("model/model.safetensors").exists() && windows == 3 && !said.contains("✘"),
        "{said}"
    );
    let said = alice.step(&given);
    assert!(said.contains("weight") || said.contains('%'), "{said}");
    assert!(operator.blocks.is_empty() && vera.blocks.is_empty() && alice.blocks.is_empty());
}
