//! A finished run, and one lie after another about it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::forger::{Forger, LAST};
use crate::support::stores::Store;
use crate::support::{Terms, World};

/// Windows that differ with the steps that do, as `brigade audit` says it.
pub type Told = BTreeMap<u64, BTreeSet<String>>;

/// Runs the program as a miner, who can only read the run. Returns its exit code and what it says.
pub fn run_audit(world: &World, arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(["audit", "--json", "--config"])
        .arg(world.config("miner-0"))
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{errors}");
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no answer: {errors}"));
    (output.status.code().unwrap(), said)
}

pub fn differences(said: &serde_json::Value) -> Told {
    let mut told = Told::new();
    for window in said["windows"].as_array().unwrap() {
        let steps = window["differences"].as_array().unwrap().iter();
        let steps: BTreeSet<String> = steps.map(|d| d["step"].as_str().unwrap().to_owned()).collect();
        if !steps.is_empty() {
            told.insert(window["window"].as_u64().unwrap(), steps);
        }
    }
    told
}

/// A run that is over: four windows, a checkpoint at each second one.
pub async fn finished() -> World {
    let mut world = World::new(Store::embedded(), 2, &Terms::default());
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    assert_eq!(world.chain(LAST + 1).await.len(), 4);
    world
}

pub fn expect_honest(world: &World, arguments: &[&str], windows: &[u64]) {
    let (code, said) = run_audit(world, arguments);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let audited = said["windows"].as_array().unwrap();
    assert_eq!(audited.iter().map(|w| w["window"].as_u64().unwrap()).collect::<Vec<_>>(), windows);
    assert!(audited.iter().all(|window| window["unverifiable"] == serde_json::json!([])), "{said:#}");
}

/// One lie after another, each told and taken back.
pub struct Trial<'a> {
    pub world: &'a World,
    pub forger: &'a Forger,
}

impl Trial<'_> {
    /// The steps of the last window that differ after the lie that was just told, which is then taken back.
    pub async fn found(&self, lie: &str) -> BTreeSet<String> {
        let (code, said) = run_audit(self.world, &[]);
        let mut told = differences(&said);
        assert_eq!(code, 1, "{lie}: {said:#}");
        let steps = told.remove(&LAST).unwrap_or_default();
        assert!(told.is_empty() && !steps.is_empty(), "{lie}: {said:#}");
        self.forger.restore().await;
        steps
    }

    /// A lie that only one step gives away: everything else is made to fit.
    pub async fn only(&self, lie: &str, step: &str) {
        assert_eq!(self.found(lie).await, BTreeSet::from([step.to_owned()]), "{lie}");
    }

    /// A lie that one step gives away, and others too.
    pub async fn among(&self, lie: &str, step: &str) {
        let found = self.found(lie).await;
        assert!(found.contains(step), "{lie}: {found:?}");
    }
}
