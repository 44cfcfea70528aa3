//! The doctor: does everything that a role will do, once, and says what is wrong and what helps.
//!
//! | module | looks at |
//! | --- | --- |
//! | `settings` | the file, the identity, the state folder |
//! | `store` | a bucket: its server, the keys to it, every kind of request |
//! | `link` | how fast bytes go up and come down, and how fast they must |
//! | `run` | the manifest, the participant's place in it, its data, its news |
//! | `machine` | libtorch, the device, memory, disk |
//!
//! A section stops at the first thing without which the rest cannot work: one cause is to be one ✘.

mod link;
mod machine;
mod run;
mod settings;
mod store;

use std::path::Path;

use brigade_bucket::Bucket;
use serde::Serialize;

use crate::config::{Participant, hasty};
use crate::identity::Identity;
use crate::init::Role;
use crate::run::Run;
use crate::terminal::plain;

/// How a look at one thing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is as it must be.
    Good,
    /// The role will work, and something may go wrong later.
    Warning,
    /// The role will not work.
    Bad,
    /// It cannot be seen from here, or there is nothing to see.
    Unknown,
}

/// One look at one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to, as a person calls it.
    pub section: &'static str,
    /// What was looked at; stable, for programs.
    pub check: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, on one line.
    pub said: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What the doctor may spend.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The role, where the settings do not tell.
    pub role: Option<Role>,
    /// The most bytes that go up, and come down, to measure the line; 0 measures nothing.
    pub line_bytes: u64,
}

/// Collects findings, and tells each as it comes.
pub struct Examination<'a> {
    section: &'static str,
    findings: Vec<Finding>,
    tell: &'a mut dyn FnMut(&Finding),
}

impl std::fmt::Debug for Examination<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examination").field("findings", &self.findings).finish_non_exhaustive()
    }
}

/// A section that cannot go on: what is wrong has been told.
#[derive(Clone, Copy, Debug)]
struct Stopped;

impl<'a> Examination<'a> {
    fn new(tell: &'a mut dyn FnMut(&Finding)) -> Self {
        Self { section: "settings", findings: Vec::new(), tell }
    }

    fn add(&mut self, check: &'static str, outcome: Outcome, said: String, remedy: Option<String>) {
        // Some of it is what strangers wrote.
        let said = plain(&said);
        let finding = Finding { section: self.section, check, outcome, said, remedy };
        (self.tell)(&finding);
        self.findings.push(finding);
    }

    fn good(&mut self, check: &'static str, said: impl Into<String>) {
        self.add(check, Outcome::Good, said.into(), None);
    }

    fn unknown(&mut self, check: &'static str, said: impl Into<String>) {
        self.add(check, Outcome::Unknown, said.into(), None);
    }

    fn warn(&mut self, check: &'static str, said: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Outcome::Warning, said.into(), Some(remedy.into()));
    }

    fn bad(&mut self, check: &'static str, said: impl Into<String>, remedy: impl Into<String>) -> Stopped {
        self.add(check, Outcome::Bad, said.into(), Some(remedy.into()));
        Stopped
    }
}

/// What the sections after the settings stand on.
struct Patient<'a> {
    settings: &'a Participant,
    identity: Option<&'a Identity>,
    options: Options,
}

/// Examines the participant whose settings are in the file `path`; `tell` hears every finding as it comes.
pub async fn examine(path: &Path, options: Options, tell: &mut dyn FnMut(&Finding)) -> Vec<Finding> {
    let mut found = Examination::new(tell);
    let Ok(settings) = settings::file(&mut found, path) else { return found.findings };
    let identity = settings::identity(&mut found, &settings).ok();
    settings::state(&mut found, &settings);
    let patient = Patient { settings: &settings, identity: identity.as_ref(), options };

    let run = run_bucket(&mut found, &patient).await;
    let seen = run::role(&mut found, &patient, run.as_ref()).await;
    let role = seen.role;
    if let (Some(run), Some(role)) = (&run, role) {
        store::lobby(&mut found, &patient, run, role).await;
    }
    let own = own_bucket(&mut found, &patient, role).await;

    found.section = "this machine";
    machine::examine(&mut found, &patient, run.as_ref().zip(role), seen.text_bytes);
    if options.line_bytes > 0 {
        found.section = "line";
        let bucket =
            own.as_ref().or(run.as_ref().map(Run::bucket).filter(|_| role == Some(Role::Aggregator)));
        link::examine(&mut found, bucket, run.as_ref(), &seen, options.line_bytes).await;
    }
    found.findings
}

/// The run's bucket, and the run in it.
async fn run_bucket(found: &mut Examination<'_>, patient: &Patient<'_>) -> Option<Run> {
    found.section = "run's bucket";
    let bucket = match patient.settings.open_run_with(hasty()) {
        Ok(bucket) => bucket,
        Err(error) => {
            found.bad("settings", format!("{error:#}"), "correct it in [run]");
            return None;
        }
    };
    store::reach(found, &bucket, "run", &patient.settings.run).await.ok()?;
    found.section = "run";
    run::load(found, patient, bucket).await.ok()
}

/// The participant's own bucket, where it has one.
async fn own_bucket(
    found: &mut Examination<'_>,
    patient: &Patient<'_>,
    role: Option<Role>,
) -> Option<Bucket> {
    found.section = "your bucket";
    if role == Some(Role::Aggregator) || role.is_none() && patient.settings.bucket.is_none() {
        return None;
    }
    let section = match patient.settings.own() {
        Ok(section) => section,
        Err(error) => {
            found.bad("settings", error.to_string(), "add [bucket], or say `--role aggregator`");
            return None;
        }
    };
    let bucket = match patient.settings.open_own_with(hasty()) {
        Ok(bucket) => bucket,
        Err(error) => {
            found.bad("settings", format!("{error:#}"), "correct it in [bucket]");
            return None;
        }
    };
    store::reach(found, &bucket, "bucket", section).await.ok()?;
    store::promises(found, &bucket, "bucket").await.ok()?;
    store::lifecycle(found, patient, false).await;
    found.section = "readers' key";
    let _ = store::reader(found, patient, &bucket).await;
    Some(bucket)
}
