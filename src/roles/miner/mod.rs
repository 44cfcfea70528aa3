//! The miner: trains, compresses, delivers, and follows the run.
//!
//! | module | role |
//! | --- | --- |
//! | `train` | H inner steps and the pseudo-gradient |
//! | `deliver` | error feedback, update, receipt |
//! | `state` | what must survive a restart |
//! | `versions` | folders of files that are there whole or not at all |
//! | `saver` | saving while training goes on |
//! | `watch` | the bar, the metrics |

mod deliver;
mod saver;
mod state;
pub(crate) mod train;
mod versions;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_bucket::{Bucket, BucketAddress, Credentials};
use brigade_protocol::assignment::Draw;
use brigade_protocol::{Close, Digest, Open, Role, Signed};
use saver::Saver;
use state::{Memory, Store};
use train::{StepFailed, Task, Trained, train_window};
use watch::Watch;

use crate::config::Participant;
use crate::events::{Event, Reporter};
use crate::identity::Identity;
use crate::lab::attacks::{Attack, Cheat};
use crate::metrics;
use crate::roles::follow::{Follower, Pace, follow};
use crate::roles::model::Model;
use crate::roles::samples::{Samples, Ticket};
use crate::roles::start;
use crate::run::replica::{Desynchronised, Replica};
use crate::run::{Run, is_transient, lobby};
use crate::shutdown::Shutdown;

struct Miner {
    run: Run,
    identity: Identity,
    own: Bucket,
    address: BucketAddress,
    reader: Credentials,
    samples: Samples,
    model: Model,
    saver: Arc<Saver>,
    memory: Memory,
    watch: Watch,
    pace: Pace,
    /// Nobody is one by accident: only a demo under attack starts such miners.
    cheat: Option<Cheat>,
}

/// Runs the miner until the run is over or somebody wants it to stop; with an `attack` it cheats that way.
///
/// # Errors
/// When the configuration is wrong, a bucket cannot be used, memory is too small, the device is gone, or training diverges.
pub async fn run(
    settings: Participant,
    attack: Option<Attack>,
    reporter: Reporter,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let own = start::own(&settings).await?;
    let run = start::run(&settings, false).await?;
    metrics::count("own", own.counters());
    metrics::follow(&run);
    let saver = Arc::new(Saver::new(Store::open(&settings.state, run.id())?, reporter));
    let samples = Samples::open(&run, &settings).await?;
    let model = shutdown.or(Model::start_training(run.manifest(), &settings.compute)).await??;
    reporter.tell(Event::Ready { peer: identity.id(), run: run.id() });
    // Now, and not in the first window: too little memory is to show before anybody counts on us.
    let prepared = model.call(|trainer| {
        let prepared = trainer.prepare_training();
        prepared.with_context(|| format!("cannot make room for the optimiser on {}", trainer.device_name()))
    });
    prepared.await??;
    let memory = restore(&saver, &run, &model, reporter).await?;
    let watch = Watch::start(&model, run.manifest(), run.id(), &settings.state, reporter).await?;
    let miner = Miner {
        address: settings.own()?.address("bucket")?,
        reader: settings.reader()?,
        pace: Pace { poll: settings.poll(), reporter, shutdown },
        run,
        identity,
        own,
        samples,
        model,
        saver: Arc::clone(&saver),
        memory,
        watch,
        cheat: attack.map(Cheat::new),
    };
    miner.ask().await?;
    let outcome = follow(miner).await;
    // Whatever it ended with: a save that has begun is to be whole.
    saver.finish().await;
    outcome
}

/// Takes over what an earlier start saved.
async fn restore(saver: &Saver, run: &Run, model: &Model, reporter: Reporter) -> anyhow::Result<Memory> {
    let (memory, optimizer) = saver.load(&run.manifest().model)?;
    if let Some(optimizer) = optimizer {
        let loaded = model.call(move |trainer| trainer.load_optimizer(&optimizer)).await?;
        loaded.with_context(|| format!("the state in {}", saver.store().folder().display()))?;
    }
    if let Some(lost) = memory.lost().filter(|_| memory.to_train_again().is_none()) {
        let from = memory.window().map_or("nothing".to_owned(), |window| format!("that of window {window}"));
        let message = format!(
            "the state of window {lost} and of others before it are not on the disk; going on from {from}"
        );
        reporter.tell(Event::Warning { message });
    }
    Ok(memory)
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
        let Some(window) = self.memory.to_train_again() else { return Replica::newest(&self.run).await };
        match Replica::until(&self.run, window).await {
            Err(error) if !is_transient(&error) && !error.is::<Desynchronised>() => {
                let message =
                    format!("{error:#}; window {window} cannot be trained again, its state is lost");
                self.pace.reporter.tell(Event::Warning { message });
                Replica::newest(&self.run).await
            }
            replica => replica,
        }
    }

    async fn arrive(&self, _replica: &Replica) -> anyhow::Result<()> {
        Ok(())
    }

    async fn window(&mut self, replica: &mut Replica) -> anyhow::Result<()> {
        let mut memory = std::mem::take(&mut self.memory);
        let outcome = self.take_window(replica, &mut memory).await;
        self.memory = memory;
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
    async fn take_window(&self, replica: &mut Replica, memory: &mut Memory) -> anyhow::Result<()> {
        self.settle(replica.window, memory).await?;
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
            self.take_part(replica, &open, memory).await?
        } else {
            if roster.member(&self.identity.id()).is_some() {
                // Evicted for absence: only a new wish brings us back.
                self.ask().await?;
            }
            None
        };
        let close = self.closed(replica, &open).await?;
        self.settle(replica.window, memory).await?;
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
        memory: &mut Memory,
    ) -> anyhow::Result<Option<Trained>> {
        let window = open.record.window;
        let sent = memory.sent_for(open.digest).cloned();
        if let Some(sent) = &sent {
            self.deliver_again(sent).await?;
            if memory.window() == Some(window) {
                return Ok(None);
            }
            let message =
                format!("window {window} was delivered, but its state is not on the disk; training it again");
            self.pace.reporter.tell(Event::Warning { message });
        }
        let task = self.task(replica, open);
        let Some((trained, samples)) = self.train(&task, open, sent.is_some()).await? else {
            let message = format!("window {window} given up: training did not end well before its deadline");
            self.pace.reporter.tell(Event::Warning { message });
            return Ok(None);
        };
        let mut made = self.compress(open, &task.theta, &trained, samples, memory.state.take()).await?;
        if let Some(sent) = &sent {
            self.keep_to(sent, &open.record, &mut made)?;
        }
        self.saver.begin(memory.state.insert(made.state).clone(), made.optimizer).await;
        if sent.is_some() {
            return Ok(None);
        }
        self.forge(open, &trained, &mut made.sent).await?;
        memory.push(made.sent.clone());
        self.deliver(&made.sent).await?;
        let bytes = made.sent.update.len() as u64;
        self.pace.reporter.tell(Event::Delivered { window, bytes, train_loss: trained.loss });
        Ok(Some(trained))
    }

    /// What the window asks of this miner.
    fn task(&self, replica: &Replica, open: &Signed<Open>) -> Task {
        let ticket = Ticket {
            previous_seed: replica.previous_seed,
            seed: open.record.seed,
            draw: Draw::Assigned(self.identity.id()),
        };
        let training = self.run.manifest().training.clone();
        let task = Task { theta: Arc::clone(&replica.theta), ticket, training };
        match &self.cheat {
            Some(cheat) => cheat.bend(task, &self.identity.id()),
            None => task,
        }
    }

    /// Trains the window. Nothing comes back when its deadline passes first, unless it is trained `again`.
    async fn train(
        &self,
        task: &Task,
        open: &Signed<Open>,
        again: bool,
    ) -> anyhow::Result<Option<(Trained, Digest)>> {
        let training = task.training.clone();
        let (window, deadline) = (open.record.window, open.record.deadline);
        let (feed, samples) =
            self.samples.feed(task.ticket, training.inner_steps as usize, training.batch_size as usize);
        // The shards of the next window follow from this window's seed.
        let _prefetch = self.samples.prefetch(open.record.seed, self.identity.id());
        let theta = Arc::clone(&task.theta);
        let (clock, shutdown, watch) =
            (self.run.bucket().clock(), self.pace.shutdown.clone(), self.watch.clone());
        let start = self.run.manifest().start_sequences();
        let trained = self.model.call(move |trainer| -> anyhow::Result<_> {
            Watch::begin(trainer);
            let trained = train_window(trainer, &theta, &training, window, start, feed, |event| {
                event.into_iter().for_each(|event| watch.step(event));
                !shutdown.is_requested() && (again || clock.now().is_none_or(|now| now <= deadline))
            })?;
            Ok((trained, Watch::peak_bytes(trainer)))
        });
        let trained = trained.await?;
        self.watch.rest();
        // Before any error: who stops us may have stopped our ranks with us.
        if self.pace.shutdown.is_requested() {
            return Err(crate::shutdown::Stopped.into());
        }
        let (trained, peak_bytes) = trained.map_err(|error| self.say_what_is_kept(error))?;
        trained.iter().for_each(|trained| self.watch.trained(window, trained, peak_bytes));
        Ok(trained.map(|trained| (trained, samples)))
    }

    /// A step that failed ends the miner: what is on the disk is from before the window, and good.
    fn say_what_is_kept(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<StepFailed>() {
            Ok(failed) => {
                let kept = self.saver.store().folder().display();
                anyhow::anyhow!(
                    "{failed}: {}; the state from before this window is kept in {kept}",
                    failed.source
                )
            }
            Err(error) => error,
        }
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
