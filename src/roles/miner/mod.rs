//! The miner: trains, compresses, delivers, and follows the run.
//!
//! | module | role |
//! | --- | --- |
//! | `train` | H inner steps and the pseudo-gradient |
//! | `deliver` | error feedback, update, receipt |
//! | `state` | what must survive a restart |

mod deliver;
mod state;
pub(crate) mod train;

use std::sync::Arc;
use std::time::Instant;

use brigade_bucket::keys::RunKey;
use brigade_bucket::{Bucket, BucketAddress, Credentials};
use brigade_protocol::assignment::Draw;
use brigade_protocol::{Close, Digest, Open, Role, Signed};

use crate::config::Participant;
use crate::events::{Event, Reporter};
use crate::identity::Identity;
use crate::roles::follow::{Follower, Pace, follow};
use crate::roles::model::Model;
use crate::roles::samples::{Samples, Ticket, batches};
use crate::run::replica::Replica;
use crate::run::{Run, lobby};
use crate::shutdown::Shutdown;
use state::{PeerState, Store};
use train::{Trained, train_window};

struct Miner {
    run: Run,
    identity: Identity,
    own: Bucket,
    address: BucketAddress,
    reader: Credentials,
    samples: Samples,
    model: Model,
    store: Store,
    /// What was sent last; nothing before the first window.
    sent: Option<PeerState>,
    pace: Pace,
}

/// Runs the miner until the run is over or somebody wants it to stop.
///
/// # Errors
/// When the configuration is wrong, a bucket cannot be used, the disk is full, or training diverges.
pub async fn run(settings: Participant, reporter: Reporter, shutdown: Shutdown) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let own = settings.open_own()?;
    own.probe().await?;
    let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
    let store = Store::open(&settings.state, run.id())?;
    let samples = Samples::open(&run, &settings).await?;
    let model = shutdown.or(Model::start_training(run.manifest(), &settings.compute)).await??;
    reporter.tell(Event::Ready { peer: identity.id(), run: run.id() });
    // Now, and not in the first window: too little memory is to show before anybody counts on us.
    model.call(brigade_trainer::Trainer::prepare_training).await??;
    let sent = store.load(&run.manifest().model)?;
    if let Some(sent) = &sent {
        let optimizer = sent.optimizer.clone();
        model.call(move |trainer| trainer.load_optimizer(&optimizer)).await??;
    }
    let miner = Miner {
        address: settings.own()?.address("bucket")?,
        reader: settings.reader()?,
        pace: Pace { poll: settings.poll(), reporter, shutdown },
        run,
        identity,
        own,
        samples,
        model,
        store,
        sent,
    };
    miner.ask().await?;
    follow(miner).await
}

impl Follower for Miner {
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

    async fn arrive(&self, _replica: &Replica) -> anyhow::Result<()> {
        Ok(())
    }

    async fn window(&mut self, replica: &mut Replica) -> anyhow::Result<()> {
        let mut sent = self.sent.take();
        let outcome = self.take_window(replica, &mut sent).await;
        self.sent = sent;
        outcome
    }
}

impl Miner {
    async fn ask(&self) -> anyhow::Result<()> {
        lobby::ask(&self.run, &self.identity, Role::Miner, &self.address, &self.reader).await
    }

    /// Asks again when the window before this one was one absence too many. Waiting for the next opening to learn of it
    /// could be for ever: without enough miners there is none.
    async fn renew_wish(&self, window: u64) -> anyhow::Result<()> {
        let Some(before) = window.checked_sub(1) else { return Ok(()) };
        let (Some(open), Some(close)) = (self.run.open(before).await?, self.run.close(before).await?) else {
            return Ok(());
        };
        let roster = self.run.roster(&open.record.roster).await?;
        let evict_after = self.run.manifest().windows.evict_after;
        let is_evicted = roster.member(&self.identity.id()).is_some_and(|me| {
            me.active && !is_merged(&close, self) && me.missed.saturating_add(1) >= evict_after
        });
        if is_evicted { self.ask().await } else { Ok(()) }
    }

    /// Goes through the window that comes next: trains it if the roster says so, and follows it to its close.
    async fn take_window(&self, replica: &mut Replica, state: &mut Option<PeerState>) -> anyhow::Result<()> {
        self.settle(replica.window, state).await?;
        self.renew_wish(replica.window).await?;
        let open: Signed<Open> =
            self.run.wait_for(&RunKey::Open(replica.window), &self.pace.shutdown).await?;
        replica.expect_open(&open)?;
        let started = Instant::now();
        let before = (self.run.bucket().counters().snapshot(), self.own.counters().snapshot());
        let roster = self.run.roster(&open.record.roster).await?;
        let trained = if roster.admits(&self.identity.id()) {
            self.pace
                .reporter
                .tell(Event::Opened { window: replica.window, miners: roster.active_miners().count() });
            self.take_part(replica, &open, state).await?
        } else {
            if roster.member(&self.identity.id()).is_some() {
                // Evicted for absence: only a new wish brings us back.
                self.ask().await?;
            }
            None
        };
        let close = self.closed(replica, &open).await?;
        self.settle(replica.window, state).await?;
        let Some(trained) = trained else { return Ok(()) };
        let after = (self.run.bucket().counters().snapshot(), self.own.counters().snapshot());
        let wall_seconds = started.elapsed().as_secs_f64();
        self.pace.reporter.tell(Event::Passed {
            window: open.record.window,
            accepted: is_merged(&close, self),
            train_loss: trained.loss,
            tokens: trained.tokens,
            compute_seconds: trained.seconds,
            exchange_seconds: wall_seconds - trained.seconds,
            wall_seconds,
            bytes_up: after.0.bytes_up + after.1.bytes_up - before.0.bytes_up - before.1.bytes_up,
            bytes_down: after.0.bytes_down + after.1.bytes_down - before.0.bytes_down - before.1.bytes_down,
        });
        Ok(())
    }

    /// Trains and delivers, unless that was done before a restart or cannot be done in time.
    async fn take_part(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
        state: &mut Option<PeerState>,
    ) -> anyhow::Result<Option<Trained>> {
        if let Some(sent) = state.as_ref().filter(|sent| sent.open == open.digest) {
            self.deliver_again(sent).await?;
            return Ok(None);
        }
        let Some((trained, samples)) = self.train(replica, open).await? else {
            let window = open.record.window;
            let message = format!("window {window} given up: training did not end well before its deadline");
            self.pace.reporter.tell(Event::Warning { message });
            return Ok(None);
        };
        let sent = self.compress(open, &replica.theta, &trained, samples, state.take()).await?;
        let sent = state.insert(sent);
        self.deliver(sent).await?;
        self.pace.reporter.tell(Event::Delivered {
            window: open.record.window,
            bytes: sent.update.len() as u64,
            train_loss: trained.loss,
        });
        Ok(Some(trained))
    }

    async fn train(
        &self,
        replica: &Replica,
        open: &Signed<Open>,
    ) -> anyhow::Result<Option<(Trained, Digest)>> {
        let training = self.run.manifest().training.clone();
        let (window, deadline) = (open.record.window, open.record.deadline);
        let batch_size = training.batch_size as usize;
        let ticket = Ticket {
            previous_seed: replica.previous_seed,
            seed: open.record.seed,
            draw: Draw::Assigned(self.identity.id()),
        };
        let count = training.inner_steps as usize * batch_size;
        let drawn = self.samples.draw(ticket, count).await?;
        // The shards of the next window follow from this window's seed.
        let _prefetch = self.samples.prefetch(open.record.seed, self.identity.id());
        let batches = batches(&drawn.tokens, batch_size, self.samples.sequence_length())?;
        let theta = Arc::clone(&replica.theta);
        let (clock, shutdown, reporter) =
            (self.run.bucket().clock(), self.pace.shutdown.clone(), self.pace.reporter);
        let trained = self.model.call(move |trainer| {
            train_window(trainer, &theta, &training, window, &batches, |event| {
                event.into_iter().for_each(|event| reporter.tell(event));
                !shutdown.is_requested() && clock.now().is_none_or(|now| now <= deadline)
            })
        });
        let trained = trained.await?;
        // Before any error: who stops us may have stopped our ranks with us.
        if self.pace.shutdown.is_requested() {
            return Err(crate::shutdown::Stopped.into());
        }
        let trained = match trained {
            Err(error @ brigade_trainer::Error::NotFinite { .. }) => {
                self.pace.reporter.tell(Event::Warning { message: format!("window {window}: {error}") });
                None
            }
            trained => trained?,
        };
        Ok(trained.map(|trained| (trained, drawn.digest)))
    }

    /// Waits for the close of the window and applies it.
    async fn closed(&self, replica: &mut Replica, open: &Signed<Open>) -> anyhow::Result<Signed<Close>> {
        let close: Signed<Close> =
            self.run.wait_for(&RunKey::Close(replica.window), &self.pace.shutdown).await?;
        replica.follow(&self.run, open, &close).await?;
        self.pace.reporter.tell(Event::Closed {
            window: close.record.window,
            state_root: close.record.state_root,
            accepted: close.record.accepted.iter().map(|share| share.peer).collect(),
            excluded: close.record.excluded.clone(),
            delta_bytes: close.record.delta.as_ref().map_or(0, |delta| delta.size),
        });
        Ok(close)
    }
}

fn is_merged(close: &Signed<Close>, miner: &Miner) -> bool {
    close.record.accepted.iter().any(|share| share.peer == miner.identity.id())
}
