//! The validator: checks and scores what is pinned, and measures θ after every window.

mod score;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use brigade_bucket::Bucket;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_protocol::{Close, Cutoff, Envelope, Evaluation, Open, Record, Role, Signed, Split};
use bytes::Bytes;

use crate::config::Participant;
use crate::events::{Event, Reporter};
use crate::identity::Identity;
use crate::roles::model::Model;
use crate::roles::samples::{Samples, batches};
use crate::run::replica::{Desynchronised, Replica};
use crate::run::{Run, is_transient, lobby};
use crate::shutdown::Shutdown;

/// Sequences that go through the model at once when nothing is trained.
const MEASURE_BATCH: usize = 16;

struct Validator {
    run: Run,
    identity: Identity,
    own: Bucket,
    samples: Samples,
    model: Model,
    poll: Duration,
    reporter: Reporter,
    shutdown: Shutdown,
}

/// Runs the validator until the run is over or somebody wants it to stop.
///
/// # Errors
/// When the configuration is wrong, the manifest does not name this validator, or a bucket cannot be used.
pub async fn run(settings: Participant, reporter: Reporter, shutdown: Shutdown) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let own = settings.open_own()?;
    own.probe().await?;
    let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
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
    let poll = settings.poll();
    let validator = Validator { run, identity, own, samples, model, poll, reporter, shutdown };
    validator.windows().await
}

impl Validator {
    async fn windows(&self) -> anyhow::Result<()> {
        let mut held = None;
        loop {
            let mut replica = match held.take() {
                Some(replica) => replica,
                None => match self.sync().await {
                    Ok(replica) => replica,
                    Err(error) if is_transient(&error) || error.is::<Desynchronised>() => {
                        self.pause(&error).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            if let Err(error) = self.evaluate(&replica).await {
                if !is_transient(&error) {
                    return Err(error);
                }
                held = Some(replica);
                self.pause(&error).await?;
                continue;
            }
            if self.run.manifest().windows.is_over(replica.window) {
                self.reporter.tell(Event::Finished { windows: replica.window });
                return Ok(());
            }
            match self.window(&mut replica).await {
                Ok(()) => held = Some(replica),
                Err(error) if is_transient(&error) => {
                    // θ changes only once everything for it is there, so it is still good.
                    held = Some(replica);
                    self.pause(&error).await?;
                }
                Err(error) => self.reporter.tell(error.downcast::<Desynchronised>()?.into()),
            }
        }
    }

    async fn pause(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        self.reporter.tell(Event::Warning { message: format!("{error:#}; trying again") });
        Ok(self.shutdown.or(tokio::time::sleep(self.poll)).await?)
    }

    async fn sync(&self) -> anyhow::Result<Replica> {
        let replica = self.shutdown.or(Replica::newest(&self.run)).await??;
        let (window, state_root) = (replica.window, replica.state_root);
        self.reporter.tell(Event::Synced { window, state_root });
        Ok(replica)
    }

    async fn window(&self, replica: &mut Replica) -> anyhow::Result<()> {
        let window = replica.window;
        let open: Signed<Open> = self.run.wait_for(&RunKey::Open(window), &self.shutdown).await?;
        replica.expect_open(&open)?;
        let cutoff: Signed<Cutoff> = self.run.wait_for(&RunKey::Cutoff(window), &self.shutdown).await?;
        // A window that is closed already needs no scores: this validator came late.
        if self.run.close(window).await?.is_none() && !cutoff.record.pinned.is_empty() {
            let scores = self.score(replica, &open, &cutoff).await?;
            let (updates, seconds) = (scores.scores.len(), scores.seconds);
            self.publish(PeerFile::Scores, window, scores).await?;
            self.reporter.tell(Event::Scored { window, updates, seconds });
        }
        let close: Signed<Close> = self.run.wait_for(&RunKey::Close(window), &self.shutdown).await?;
        replica.follow(&self.run, &open, &close).await
    }

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
            self.reporter.tell(Event::Warning { message });
            return Ok(());
        }
        let bits_per_byte = self.samples.index().bits_per_byte(Split::Heldout, heldout_loss);
        let bits_per_byte = bits_per_byte.context("the dataset does not say how many bytes it holds out")?;
        let run = self.run.id();
        let state_root = replica.state_root;
        let evaluation = Evaluation { run, window, state_root, heldout_loss, bits_per_byte, tokens };
        self.publish(PeerFile::Evaluation, window, evaluation).await?;
        self.reporter.tell(Event::Evaluated { window, heldout_loss, bits_per_byte });
        Ok(())
    }

    async fn publish<R: Record>(&self, file: PeerFile, window: u64, record: R) -> anyhow::Result<()> {
        let (envelope, _) = Envelope::sign(record, self.identity.signing())?;
        let key = PeerKey::new(self.run.id(), window, file).to_string();
        self.own.put(&key, Bytes::from(envelope.to_bytes())).await?;
        Ok(())
    }
}
