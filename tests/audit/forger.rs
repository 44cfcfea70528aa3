//! Whoever holds the aggregator's key and means ill.

use std::collections::BTreeMap;

use brigade::identity::Identity;
use brigade::run::outer::Outer;
use brigade::run::{Run, checkpoint};
use brigade_bucket::keys::{CheckpointFile, RunKey};
use brigade_codec::{Frame, Update};
use brigade_protocol::gauntlet::{Case, Gram, judge};
use brigade_protocol::{
    Checkpoint, Close, Cutoff, Digest, Envelope, FilePin, Open, PeerId, Record, Scores, Signed, Verdict,
};
use bytes::Bytes;

use crate::support::World;

/// The last window: what is signed again there names nothing that somebody else has signed since.
pub const LAST: u64 = 3;

/// Who holds the aggregator's key and means ill.
pub struct Forger {
    pub run: Run,
    pub identity: Identity,
    /// Everything as the honest aggregator left it.
    honest: BTreeMap<String, Bytes>,
}

impl Forger {
    pub async fn new(world: &World) -> Self {
        let identity = Identity::load(&world.dir.path().join("aggregator/identity.json")).unwrap();
        let mut forger = Self { run: world.run("aggregator").await, identity, honest: BTreeMap::new() };
        forger.honest = forger.objects().await;
        forger
    }

    pub async fn objects(&self) -> BTreeMap<String, Bytes> {
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
    pub async fn restore(&self) {
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

    pub async fn put(&self, key: RunKey, bytes: impl Into<Bytes>) {
        self.run.bucket().put(&key.to_string(), bytes.into()).await.unwrap();
    }

    pub async fn delete(&self, key: RunKey) {
        self.run.bucket().delete(&key.to_string()).await.unwrap();
    }

    pub fn honest(&self, key: RunKey) -> Bytes {
        self.honest[&key.to_string()].clone()
    }

    /// The record that lies there now.
    pub async fn record<R: Record>(&self, key: RunKey) -> Signed<R> {
        self.run.record(&key).await.unwrap().unwrap()
    }

    /// Signs a record as it is after `change`, in the place of the one that is there.
    pub async fn forge<R: Record>(&self, key: RunKey, change: impl FnOnce(&mut R)) -> Signed<R> {
        let mut record = self.record::<R>(key).await.record;
        change(&mut record);
        let (envelope, signed) = Envelope::sign(record, self.identity.signing()).unwrap();
        self.put(key, envelope.to_bytes()).await;
        signed
    }

    pub async fn updates(&self, open: &Signed<Open>, cutoff: &Signed<Cutoff>) -> BTreeMap<PeerId, Update> {
        let mut updates = BTreeMap::new();
        for pinned in &cutoff.record.pinned {
            let update = self.run.update(&open.record, &pinned.peer, &pinned.update).await.unwrap().unwrap();
            updates.insert(pinned.peer, update);
        }
        updates
    }

    /// Everything of the last window that follows from the cutoff and `scores`, as an honest aggregator would go on, but
    /// for `change` in the verdict.
    pub async fn go_on(&self, scores: Vec<Envelope>, change: impl FnOnce(&mut Verdict)) {
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

    pub async fn scores(&self) -> Vec<Envelope> {
        self.record::<Verdict>(RunKey::Verdict(LAST)).await.record.scores
    }

    pub async fn checkpoint(&self, change: impl FnOnce(&mut Checkpoint)) {
        let key = RunKey::Checkpoint { window: LAST + 1, file: CheckpointFile::Record };
        self.forge(key, change).await;
    }
}
