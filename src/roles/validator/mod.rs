//! The validator: checks and scores what is pinned, and measures θ after every window.

pub(crate) mod score;

use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::Bucket;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_protocol::{Close, Cutoff, Envelope, Evaluation, Open, Record, Role, Signed, Split};
use bytes::Bytes;

use crate::config::Participant;
use crate::events::{Event, Reporter};
use crate::identity::Identity;
use crate::metrics;
use crate::roles::follow::{Follower, Pace, follow};
use crate::roles::model::Model;
use crate::roles::samples::{Samples, batches};
use crate::roles::start;
use crate::run::replica::Replica;
use crate::run::{Run, lobby};
use crate::shutdown::Shutdown;

/// Sequences that go through the model at once when nothing is trained.
const MEASURE_BATCH: usize = 16;

struct Validator {
    run: Run,
    identity: Identity,
    own: Bucket,
    samples: Samples,
    model: Model,
    pace: Pace,
}

/// Runs the validator until the run is over or somebody wants it to stop.
///
/// # Errors
/// When the configuration is wrong, the manifest does not name this validator, or a bucket cannot be used.
pub async fn run(settings: Participant, reporter: Reporter, shutdown: Shutdown) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let own = start::own(&settings).await?;
    let run = start::run(&settings, false).await?;
    metrics::count("own", own.counters());
    metrics::follow(&run);
    anyhow::ensure!(
        run.manifest().validator(&identity.id()).is_some(),
        "the run's manifest does not name validator {}; ask its operator",
        identity.id()
    );
    let samples = Samples::open(&run, &settings).await?;
    let model = Model::start(run.manifest(), &settings.compute).await?;
    lobby::ask(&run, &identity, Role::Validator, &settings.own()?.address("bucket")?, &settings.reader()?)
        .await?;
    reporter.tell(Event::Ready { peer: identity.id(), run: run.id() });
    let pace = Pace { poll: settings.poll(), reporter, shutdown };
    follow(Validator { run, identity, own, samples, model, pace }).await
}

impl Follower for Validator {
    type Held = Replica;
    // θ changes only once everything for it is there.
    const OUTLIVES_FAILURE: bool = true;

    fn run(&self) -> &Run {
        &self.run
    }

    fn pace(&self) -> &Pace {
        &self.pace
    }

    async fn sync(&self) -> anyhow::Result<Replica> {
        Replica::newest(&self.run).await
    }

    async fn arrive(&self, replica: &Replica) -> anyhow::Result<()> {
        self.evaluate(replica).await
    }

    async fn window(&mut self, replica: &mut Replica) -> anyhow::Result<()> {
        let window = replica.window;
        let open: Signed<Open> = self.run.wait_for(&RunKey::Open(window), &self.pace.shutdown).await?;
        replica.expect_open(&open)?;
        let cutoff: Signed<Cutoff> = self.run.wait_for(&RunKey::Cutoff(window), &self.pace.shutdown).await?;
        // A window that is closed already needs no scores: this validator came late.
        if self.run.close(window).await?.is_none() && !cutoff.record.pinned.is_empty() {
            let scores = self.score(replica, &open, &cutoff).await?;
            let (updates, seconds) = (scores.scores.len(), scores.seconds);
            self.publish(PeerFile::Scores, window, scores).await?;
            self.pace.reporter.tell(Event::Scored { window, updates, seconds });
        }
        let close: Signed<Close> = self.run.wait_for(&RunKey::Close(window), &self.pace.shutdown).await?;
        replica.follow(&self.run, &open, &close).await
    }
}

impl Validator {
    /// Measures θ on held-out text, unless that was done before a restart.
    async fn evaluate(&self, replica: &Replica) -> anyhow::Result<()> {
        let Some(window) = replica.window.checked_sub(1) else { return Ok(()) };
        let key = PeerKey::new(self.run.id(), window, PeerFile::Evaluation).to_string();
        if self.own.head(&key).await?.is_some() {
            return Ok(());
        }
        let count = self.run.manifest().scoring.heldout_sequences as usize;
        let sequences = self.samples.heldout(count).await?;
        let length = self.samples.sequence_length();
        let tokens = (sequences.len() * length) as u64;
        let batches = batches(&sequences, MEASURE_BATCH, length)?;
        let theta = Arc::clone(&replica.theta);
        let losses = self.model.call(move |trainer| {
            trainer.load_parameters(theta.tensors())?;
            batches.iter().map(|batch| trainer.losses(batch)).collect::<Result<Vec<_>, _>>()
        });
        let losses = losses.await??.concat();
        let heldout_loss = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
        if !heldout_loss.is_finite() {
            let message =
                format!("the held-out loss after window {window} is no number; the run has diverged");
            self.pace.reporter.tell(Event::Warning { message });
            return Ok(());
        }
        let bits_per_byte = self.samples.index().bits_per_byte(Split::Heldout, heldout_loss);
        let bits_per_byte = bits_per_byte.context("the dataset does not say how many bytes it holds out")?;
        let run = self.run.id();
        let state_root = replica.state_root;
        let evaluation = Evaluation { run, window, state_root, heldout_loss, bits_per_byte, tokens };
        self.publish(PeerFile::Evaluation, window, evaluation).await?;
        self.pace.reporter.tell(Event::Evaluated { window, heldout_loss, bits_per_byte });
        Ok(())
    }

    async fn publish<R: Record>(&self, file: PeerFile, window: u64, record: R) -> anyhow::Result<()> {
        let (envelope, _) = Envelope::sign(record, self.identity.signing())?;
        let key = PeerKey::new(self.run.id(), window, file).to_string();
        self.own.put(&key, Bytes::from(envelope.to_bytes())).await?;
        Ok(())
    }
}
