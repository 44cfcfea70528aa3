//! An aggregator that lies is found out by anybody who can read the run's bucket, whatever it signs.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use brigade::identity::Identity;
use brigade::run::outer::Outer;
use brigade::run::{Run, checkpoint};
use brigade_bucket::keys::{CheckpointFile, PeerFile, PeerKey, RunKey};
use brigade_codec::{Frame, Update, compress};
use brigade_protocol::gauntlet::{Case, Gram, judge};
use brigade_protocol::{
    Checkpoint, Close, Cutoff, Digest, Envelope, Exclusion, FilePin, Open, PeerId, Reason, Record, Roster,
    Scores, Signed, Timestamp, Verdict,
};
use bytes::Bytes;
use support::stores::Store;
use support::{Terms, World, brigade, brigade_fails};

/// The last window: what is signed again there names nothing that somebody else has signed since.
const LAST: u64 = 3;

/// Windows that differ with the steps that do, as `brigade audit` says it.
type Told = BTreeMap<u64, BTreeSet<String>>;

/// Who holds the aggregator's key and means ill.
struct Forger {
    run: Run,
    identity: Identity,
    /// Everything as the honest aggregator left it.
    honest: BTreeMap<String, Bytes>,
}

impl Forger {
    async fn new(world: &World) -> Self {
        let identity = Identity::load(&world.dir.path().join("aggregator/identity.json")).unwrap();
        let mut forger = Self { run: world.run("aggregator").await, identity, honest: BTreeMap::new() };
        forger.honest = forger.objects().await;
        forger
    }

    async fn objects(&self) -> BTreeMap<String, Bytes> {
        let mut objects = BTreeMap::new();
        for prefix in [RunKey::WINDOWS, RunKey::ROSTERS, RunKey::CHECKPOINTS] {
            for object in self.run.bucket().list(prefix, 10_000).await.unwrap() {
                let bytes = self.run.bucket().get(&object.key, 1 << 30).await.unwrap().bytes;
                objects.insert(object.key, bytes);
            }
        }
        objects
    }

    /// Makes everything as it was.
    async fn restore(&self) {
        let now = self.objects().await;
        assert_ne!(now, self.honest, "the lie changed nothing");
        for (key, bytes) in &self.honest {
            if now.get(key) != Some(bytes) {
                self.run.bucket().put(key, bytes.clone()).await.unwrap();
            }
        }
        for key in now.keys().filter(|key| !self.honest.contains_key(*key)) {
            self.run.bucket().delete(key).await.unwrap();
        }
        assert_eq!(self.objects().await, self.honest);
    }

    async fn put(&self, key: RunKey, bytes: impl Into<Bytes>) {
        self.run.bucket().put(&key.to_string(), bytes.into()).await.unwrap();
    }

    async fn delete(&self, key: RunKey) {
        self.run.bucket().delete(&key.to_string()).await.unwrap();
    }

    fn honest(&self, key: RunKey) -> Bytes {
        self.honest[&key.to_string()].clone()
    }

    /// The record that lies there now.
    async fn record<R: Record>(&self, key: RunKey) -> Signed<R> {
        self.run.record(&key).await.unwrap().unwrap()
    }

    /// Signs a record as it is after `change`, in the place of the one that is there.
    async fn forge<R: Record>(&self, key: RunKey, change: impl FnOnce(&mut R)) -> Signed<R> {
        let mut record = self.record::<R>(key).await.record;
        change(&mut record);
        let (envelope, signed) = Envelope::sign(record, self.identity.signing()).unwrap();
        self.put(key, envelope.to_bytes()).await;
        signed
    }

    async fn updates(&self, open: &Signed<Open>, cutoff: &Signed<Cutoff>) -> BTreeMap<PeerId, Update> {
        let mut updates = BTreeMap::new();
        for pinned in &cutoff.record.pinned {
            let update = self.run.update(&open.record, &pinned.peer, &pinned.update).await.unwrap().unwrap();
            updates.insert(pinned.peer, update);
        }
        updates
    }

    /// Everything of the last window that follows from the cutoff and `scores`, as an honest aggregator would go on, but
    /// for `change` in the verdict.
    async fn go_on(&self, scores: Vec<Envelope>, change: impl FnOnce(&mut Verdict)) {
        let open = self.record::<Open>(RunKey::Open(LAST)).await;
        let cutoff = self.record::<Cutoff>(RunKey::Cutoff(LAST)).await;
        let updates = self.updates(&open, &cutoff).await;
        let heard: Vec<Signed<Scores>> = scores.iter().map(|scores| scores.open().unwrap()).collect();
        let voices: Vec<&Update> = updates.values().collect();
        let judgement = judge(&Case {
            manifest: self.run.manifest(),
            cutoff: &cutoff.record,
            heard: &heard,
            gram: &Gram::new(brigade_codec::gram(&voices).unwrap()).unwrap(),
            previous: &self.record::<Verdict>(RunKey::Verdict(LAST - 1)).await.record.standings,
        });
        let verdict = self.forge(RunKey::Verdict(LAST), |verdict: &mut Verdict| {
            verdict.cutoff = cutoff.digest;
            verdict.scores = scores;
            verdict.shares = judgement.shares;
            verdict.excluded = judgement.excluded;
            verdict.standings = judgement.standings;
            change(verdict);
        });
        let verdict = verdict.await;
        let start = checkpoint::latest_until(&self.run, LAST).await.unwrap();
        let mut outer = Outer::from_checkpoint(&self.run, &start.record).await.unwrap();
        while outer.replica.window < LAST {
            let window = outer.replica.window;
            let (before, close) = (self.record(RunKey::Open(window)).await, self.run.close(window).await);
            outer.replay(&self.run, &before, &close.unwrap().unwrap()).await.unwrap();
        }
        let delta = outer.merge(&self.run, &open, &verdict.record.shares, &updates).unwrap().unwrap();
        let pin = FilePin {
            key: RunKey::Delta(LAST).to_string(),
            size: delta.len() as u64,
            sha256: Digest::of(&delta),
            frame: Digest(Frame::digest_in(&delta, self.run.layout()).unwrap()),
        };
        self.put(RunKey::Delta(LAST), delta).await;
        let (theta, error_feedback) = (outer.replica.theta.root(), outer.error_feedback.root());
        self.forge(RunKey::Close(LAST), |close: &mut Close| {
            close.open = open.digest;
            close.cutoff = cutoff.digest;
            close.verdict = verdict.digest;
            close.delta = Some(pin);
            close.accepted = verdict.record.shares;
            close.excluded = [&cutoff.record.excluded[..], &verdict.record.excluded[..]].concat();
            close.excluded.sort_by_key(|exclusion| exclusion.peer);
            close.state_root = theta;
            close.error_feedback_root = error_feedback;
        })
        .await;
        self.checkpoint(|checkpoint| {
            checkpoint.state_root = theta;
            checkpoint.error_feedback_root = error_feedback;
        })
        .await;
    }

    async fn scores(&self) -> Vec<Envelope> {
        self.record::<Verdict>(RunKey::Verdict(LAST)).await.record.scores
    }

    async fn checkpoint(&self, change: impl FnOnce(&mut Checkpoint)) {
        let key = RunKey::Checkpoint { window: LAST + 1, file: CheckpointFile::Record };
        self.forge(key, change).await;
    }
}

/// Runs the program as a miner, who can only read the run. Returns its exit code and what it says.
fn run_audit(world: &World, arguments: &[&str]) -> (i32, serde_json::Value) {
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

fn differences(said: &serde_json::Value) -> Told {
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
async fn finished() -> World {
    let mut world = World::new(Store::embedded(), 2, &Terms::default());
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    assert_eq!(world.chain(LAST + 1).await.len(), 4);
    world
}

fn expect_honest(world: &World, arguments: &[&str], windows: &[u64]) {
    let (code, said) = run_audit(world, arguments);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let audited = said["windows"].as_array().unwrap();
    assert_eq!(audited.iter().map(|w| w["window"].as_u64().unwrap()).collect::<Vec<_>>(), windows);
    assert!(audited.iter().all(|window| window["unverifiable"] == serde_json::json!([])), "{said:#}");
}

/// One lie after another, each told and taken back.
struct Trial<'a> {
    world: &'a World,
    forger: &'a Forger,
}

impl Trial<'_> {
    /// The steps of the last window that differ after the lie that was just told, which is then taken back.
    async fn found(&self, lie: &str) -> BTreeSet<String> {
        let (code, said) = run_audit(self.world, &[]);
        let mut told = differences(&said);
        assert_eq!(code, 1, "{lie}: {said:#}");
        let steps = told.remove(&LAST).unwrap_or_default();
        assert!(told.is_empty() && !steps.is_empty(), "{lie}: {said:#}");
        self.forger.restore().await;
        steps
    }

    /// A lie that only one step gives away: everything else is made to fit.
    async fn only(&self, lie: &str, step: &str) {
        assert_eq!(self.found(lie).await, BTreeSet::from([step.to_owned()]), "{lie}");
    }

    /// A lie that one step gives away, and others too.
    async fn among(&self, lie: &str, step: &str) {
        let found = self.found(lie).await;
        assert!(found.contains(step), "{lie}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_found_at_its_step() {
    let world = finished().await;
    expect_honest(&world, &[], &[LAST]);
    expect_honest(&world, &["--all"], &[0, 1, 2, 3]);
    // θ comes from a checkpoint in between, with and without a merge on the way.
    expect_honest(&world, &["--window", "0", "--window", "3"], &[0, 3]);
    expect_honest(&world, &["--window", "2"], &[2]);
    let said = brigade(&["audit", "--window", "0", "--config"], &[&world.config("miner-0")]);
    assert_eq!(said, "window 0\n  ✔ open\n  ✔ cutoff\n  ✔ verdict\n  ✔ close\n");
    let forger = Forger::new(&world).await;
    let trial = Trial { world: &world, forger: &forger };

    lies_about_the_opening(&trial).await;
    lies_about_the_cutoff(&trial).await;
    lies_about_the_verdict(&trial).await;
    lies_about_the_close(&trial).await;
    nonsense_in_the_bucket(&trial).await;
    lies_about_earlier_windows(&trial).await;

    expect_honest(&world, &["--all"], &[0, 1, 2, 3]);
    what_cannot_be_read_is_an_error(world);
}

async fn lies_about_the_opening(trial: &Trial<'_>) {
    let forger = trial.forger;
    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.previous_close = Some(Digest([7; 32]))).await;
    trial.among("previous_close", "open").await;

    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.deadline.0 += 60_000).await;
    trial.among("a later deadline", "open").await;

    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.state_root = Digest([7; 32])).await;
    trial.among("another θ", "open").await;

    let roster = forger.record::<Open>(RunKey::Open(LAST)).await.record.roster;
    let roster: Roster = serde_json::from_slice(&forger.honest(RunKey::Roster(roster))).unwrap();
    let miner = roster.active_miners().next().unwrap().peer;
    let mut without = roster.clone();
    without.members.retain(|member| member.peer != miner);
    let mut inactive = roster.clone();
    inactive.members.iter_mut().find(|member| member.peer == miner).unwrap().active = false;
    let mut unordered = roster;
    unordered.members.reverse();
    for (lie, roster) in [("a member removed", without), ("put out", inactive), ("unordered", unordered)] {
        let bytes = serde_json::to_vec(&roster).unwrap();
        let digest = Digest::of(&bytes);
        forger.put(RunKey::Roster(digest), bytes).await;
        forger.forge(RunKey::Open(LAST), |open: &mut Open| open.roster = digest).await;
        trial.among(lie, "open").await;
    }
}

async fn lies_about_the_cutoff(trial: &Trial<'_>) {
    let forger = trial.forger;
    let open = forger.record::<Open>(RunKey::Open(LAST)).await;
    let honest = forger.record::<Cutoff>(RunKey::Cutoff(LAST)).await.record;
    let peer = honest.pinned[0].peer;
    let update = RunKey::Update { window: LAST, peer };

    forger.put(update, forger.honest(RunKey::Update { window: LAST, peer: honest.pinned[1].peer })).await;
    trial.only("another's update in the place of the pinned one", "cutoff").await;

    forger.delete(RunKey::Receipt { window: LAST, peer }).await;
    trial.only("a receipt deleted", "cutoff").await;

    // A lie about the cutoff makes the scores worthless, which validators have signed: none is heard.
    forger.forge(RunKey::Cutoff(LAST), |cutoff: &mut Cutoff| drop(cutoff.pinned.remove(0))).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("a pin dropped", "cutoff").await;

    let after = Timestamp(open.record.deadline.0 + 1);
    forger.forge(RunKey::Cutoff(LAST), |cutoff: &mut Cutoff| cutoff.pinned[0].received_at = after).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("a late receipt pinned", "cutoff").await;

    let missing = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Missing, "no receipt at the deadline"));
    };
    forger.forge(RunKey::Cutoff(LAST), missing).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("missing, before the deadline", "cutoff").await;

    // An update that is in order, which the peer never made.
    let (layout, binding) = (forger.run.layout(), forger.run.binding(&open.record, &peer));
    let mut delta = layout.zeros();
    delta.iter_mut().flatten().enumerate().for_each(|(n, value)| *value = (n % 7) as f32 * 1e-3);
    let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
    let made = compress(layout, &binding, &forger.run.codec(), &delta, &mut layout.zeros()).unwrap();
    let parsed = Update::parse(made.clone(), layout, &forger.run.codec(), &binding).unwrap();
    forger.put(update, made.clone()).await;
    let forged = |cutoff: &mut Cutoff| {
        let pinned = &mut cutoff.pinned[0];
        let key = PeerKey::new(forger.run.id(), LAST, PeerFile::Update).to_string();
        let frame = Digest(parsed.frame().digest());
        pinned.update = FilePin { key, size: made.len() as u64, sha256: Digest::of(&made), frame };
        pinned.content = Digest(parsed.frame().content());
    };
    forger.forge(RunKey::Cutoff(LAST), forged).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("an update made up", "cutoff").await;

    // What is mirrored was in time.
    let late = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Late, "1s past the deadline"));
    };
    forger.forge(RunKey::Cutoff(LAST), late).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("late, before the deadline", "cutoff").await;

    // Whether its bucket could be read nobody else can know; that everything is there is told.
    let unavailable = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Unavailable, "its bucket is too slow"));
    };
    forger.forge(RunKey::Cutoff(LAST), unavailable).await;
    forger.go_on(Vec::new(), |_| {}).await;
    let (code, said) = run_audit(trial.world, &[]);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let note = said["windows"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains(&peer.short()) && note.contains("too slow"), "{note}");
    forger.delete(RunKey::Receipt { window: LAST, peer }).await;
    let (code, said) = run_audit(trial.world, &[]);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let unverifiable = said["windows"][0]["unverifiable"][0].as_str().unwrap();
    assert!(unverifiable.contains(&peer.short()), "{unverifiable}");
    forger.restore().await;
}

async fn lies_about_the_verdict(trial: &Trial<'_>) {
    let forger = trial.forger;
    let scores = forger.scores().await;
    assert_eq!(scores.len(), 1, "the validator was heard");

    forger.go_on(scores.clone(), |verdict| verdict.shares[0].coefficient *= 1.5).await;
    trial.only("a coefficient", "verdict").await;

    let last_digit = |verdict: &mut Verdict| {
        let share = &mut verdict.shares[0];
        share.coefficient = f32::from_bits(share.coefficient.to_bits() + 1);
    };
    forger.go_on(scores.clone(), last_digit).await;
    trial.only("the last bit of a coefficient", "verdict").await;

    let invented = |verdict: &mut Verdict| {
        let share = verdict.shares.remove(0);
        verdict.excluded.push(Exclusion::new(share.peer, Reason::Harmful, "raises the loss"));
    };
    forger.go_on(scores.clone(), invented).await;
    trial.only("an exclusion invented", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.standings[0].weight += 1e-6).await;
    trial.only("a weight raised", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.standings[0].credit += 1.0).await;
    trial.only("a credit raised", "verdict").await;

    // What the validator said is changed, and everything is computed from that.
    let mut altered: serde_json::Value = serde_json::to_value(&scores[0]).unwrap();
    let mut said = scores[0].open::<Scores>().unwrap().record;
    said.scores[0].unassigned.as_mut().unwrap().mean += 1.0;
    let own = Envelope::sign(said.clone(), forger.identity.signing()).unwrap().0;
    altered["payload"] = serde_json::to_value(&own).unwrap()["payload"].clone();
    let altered: Envelope = serde_json::from_value(altered).unwrap();
    assert_ne!(altered, scores[0]);
    forger.go_on(scores.clone(), |verdict| verdict.scores = vec![altered]).await;
    trial.only("scores altered under their signature", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.scores.push(own)).await;
    trial.only("scores of who is no validator", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.scores.push(scores[0].clone())).await;
    trial.only("scores heard twice", "verdict").await;
}

async fn lies_about_the_close(trial: &Trial<'_>) {
    let forger = trial.forger;
    let mut delta = forger.honest(RunKey::Delta(LAST)).to_vec();
    *delta.last_mut().unwrap() ^= 1;
    forger.put(RunKey::Delta(LAST), delta.clone()).await;
    trial.only("a bit of the delta", "close").await;

    forger.put(RunKey::Delta(LAST), delta.clone()).await;
    let repinned = |close: &mut Close| close.delta.as_mut().unwrap().sha256 = Digest::of(&delta);
    forger.forge(RunKey::Close(LAST), repinned).await;
    trial.only("a bit of the delta, pinned", "close").await;

    // Another window's delta is well formed and points the same way.
    let elsewhere =
        |close: &mut Close| close.delta.as_mut().unwrap().key = "windows/0000000000/delta.bin".into();
    forger.forge(RunKey::Close(LAST), elsewhere).await;
    trial.only("another key", "close").await;

    let root = Digest([7; 32]);
    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.state_root = root).await;
    forger.checkpoint(|checkpoint| checkpoint.state_root = root).await;
    trial.only("the state root, in the checkpoint too", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.error_feedback_root = root).await;
    forger.checkpoint(|checkpoint| checkpoint.error_feedback_root = root).await;
    trial.only("the error feedback, in the checkpoint too", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.accepted[0].weight = 0.25).await;
    trial.only("a share that is not the verdict's", "close").await;

    let twice = |close: &mut Close| close.accepted = vec![close.accepted[0].clone(); 2];
    forger.forge(RunKey::Close(LAST), twice).await;
    trial.only("a share that is merged twice", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.verdict = root).await;
    trial.only("another verdict", "close").await;

    forger.checkpoint(|checkpoint| checkpoint.state_root = root).await;
    let config = trial.world.config("miner-0");
    brigade_fails(&["audit", "--config"], &[&config], &["1 difference", "window 3", "ask its operator"]);
    trial.only("the checkpoint's state root", "checkpoint").await;
}

async fn nonsense_in_the_bucket(trial: &Trial<'_>) {
    let forger = trial.forger;
    let stranger = Identity::generate().unwrap();
    let open = forger.record::<Open>(RunKey::Open(LAST)).await.record;
    let signed = Envelope::sign(open, stranger.signing()).unwrap().0.to_bytes();
    forger.put(RunKey::Open(LAST), signed).await;
    trial.among("an opening that a stranger signed", "open").await;

    forger.put(RunKey::Open(LAST), vec![b'['; 70 << 10]).await;
    trial.among("an opening that is too long", "open").await;

    forger.put(RunKey::Cutoff(LAST), vec![b'['; 4000]).await;
    trial.among("no cutoff", "cutoff").await;

    forger.put(RunKey::Verdict(LAST), forger.honest(RunKey::Verdict(LAST - 1))).await;
    trial.among("the verdict of another window", "verdict").await;

    forger.delete(RunKey::Verdict(LAST)).await;
    trial.among("a verdict deleted", "verdict").await;

    forger.put(RunKey::Close(LAST), Bytes::from_static(b"{}")).await;
    trial.among("no close", "close").await;

    let unordered = |verdict: &mut Verdict| verdict.standings.reverse();
    forger.forge(RunKey::Verdict(LAST - 1), unordered).await;
    trial.among("standings of the window before in disorder", "verdict").await;
}

async fn lies_about_earlier_windows(trial: &Trial<'_>) {
    let (world, forger) = (trial.world, trial.forger);
    let all = |arguments: &[&str]| {
        let (code, said) = run_audit(world, arguments);
        assert_eq!(code, 1, "{said:#}");
        differences(&said)
    };
    // On the way from the checkpoint to the window that is asked for.
    let root = Digest([7; 32]);
    forger.forge(RunKey::Close(2), |close: &mut Close| close.error_feedback_root = root).await;
    let told = all(&["--window", "3"]);
    assert_eq!(told.get(&2), Some(&BTreeSet::from(["close".to_owned()])), "{told:?}");
    forger.restore().await;

    // The checkpoint that θ comes from is not what the window before it led to.
    let record = RunKey::Checkpoint { window: 2, file: CheckpointFile::Record };
    forger.forge(record, |checkpoint: &mut Checkpoint| checkpoint.error_feedback_root = root).await;
    let told = all(&["--window", "2"]);
    assert_eq!(told, Told::from([(2, BTreeSet::from(["checkpoint".to_owned()]))]));
    let told = all(&["--all"]);
    assert_eq!(told, Told::from([(1, BTreeSet::from(["checkpoint".to_owned()]))]));
    forger.restore().await;

    // θ is found again at the next checkpoint, so that one lie does not make all later windows look false.
    forger.forge(RunKey::Close(0), |close: &mut Close| close.error_feedback_root = root).await;
    let told = all(&["--all"]);
    assert_eq!(told.keys().collect::<Vec<_>>(), [&0, &1], "{told:?}");
    assert!(told[&0].contains("close") && !told[&1].contains("close"), "{told:?}");
    forger.restore().await;

    // A window that vanished among later ones is missed.
    forger.delete(RunKey::Close(1)).await;
    assert!(all(&["--all"])[&1].contains("close"));
    forger.restore().await;
}

fn what_cannot_be_read_is_an_error(mut world: World) {
    let config = world.config("miner-0");
    let ask = |window: &str, expected: &[&str]| {
        brigade_fails(&["audit", "--window", window, "--config"], &[&config], expected);
    };
    ask("4", &["window 4", "--all"]);
    let Store::Embedded(store) = &mut world.store else { unreachable!("this test has the embedded store") };
    store.kill();
    ask("3", &["cannot be reached"]);
}
