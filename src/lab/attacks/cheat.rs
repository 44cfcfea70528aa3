//! The cheats as miners of a real run: processes with buckets of their own, who know what anybody can read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brigade_bucket::keys::RunKey;
use brigade_codec::{Frame, max_update_bytes};
use brigade_protocol::assignment::Draw;
use brigade_protocol::{
    Digest, Envelope, FilePin, Open, Parameters, PeerId, Receipt, Signed, Timestamp, Training,
};
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::attack::Attack;
use super::deliver::{Delivery, Dense, Desk, Sight, forged};
use super::run::spoilt;
use crate::events::Event;
use crate::identity::Identity;
use crate::roles::follow::Pace;
use crate::roles::miner::train::Task;
use crate::run::Run;

/// How far past the deadline a late receipt is written: seen by the aggregator's last look, and not within the second to which
/// stores round.
const LATE_BY: Duration = Duration::from_millis(1200);

/// The part of a window after which a cheat that waits for others gives up: without a new update, and before the deadline.
const PATIENCE: u32 = 10;

/// A miner's way to cheat, and what it remembers for it. A restart forgets that; then one window is honest.
pub(crate) struct Cheat {
    attack: Attack,
    before: Mutex<Before>,
}

/// The window before.
#[derive(Default)]
struct Before {
    theta: Option<Arc<Parameters>>,
    sent: Option<Dense>,
}

/// What a cheat sees when its miner is about to send.
pub(crate) struct Stage<'a> {
    pub(crate) run: &'a Run,
    pub(crate) identity: &'a Identity,
    pub(crate) pace: &'a Pace,
    pub(crate) open: &'a Signed<Open>,
}

impl Cheat {
    pub(crate) fn new(attack: Attack) -> Self {
        Self { attack, before: Mutex::default() }
    }

    /// What it trains instead of its task.
    pub(crate) fn bend(&self, mut task: Task, own: &PeerId) -> Task {
        match self.attack {
            Attack::StaleStart => {
                let now = Arc::clone(&task.theta);
                let before = &mut self.before.lock().unwrap_or_else(PoisonError::into_inner).theta;
                task.theta = before.replace(now).unwrap_or(task.theta);
            }
            // Of somebody who does not exist: no honest peer is assigned them.
            Attack::RandomData => task.ticket.draw = Draw::Assigned(PeerId(Digest::of(own.0).0)),
            // To have a loss to tell, an idle one takes a step too.
            attack if attack == Attack::PartialWork || attack.is_idle() => {
                task.training = one_step(&task.training)
            }
            _ => {}
        }
        task
    }

    /// Update and receipt that it sends, in place of those that its miner has made.
    ///
    /// # Errors
    /// [`crate::shutdown::Stopped`], or when the run's bucket cannot be read.
    pub(crate) async fn instead(
        &self,
        stage: &Stage<'_>,
        update: &Bytes,
        receipt: Receipt,
    ) -> anyhow::Result<(Bytes, Bytes)> {
        let window = stage.open.record.window;
        if self.attack == Attack::Late {
            stage.miss_the_deadline().await?;
        }
        let others = if self.attack.follows() { stage.others().await? } else { Vec::new() };
        let update = tokio::task::block_in_place(|| self.forge(stage, update, &others))?;
        let promise = |update: &[u8]| stage.promise(update, &receipt);
        let delivery = Delivery {
            peer: stage.identity.id(),
            receipt: promise(&update)?,
            update: update.clone(),
            received_at: stage.open.record.opened_at,
        };
        let mut sent = spoilt(self.attack, window, delivery);
        if self.attack == Attack::Malformed && sent.update != update {
            // So that it is for the decoder to refuse it.
            sent.receipt = promise(&sent.update)?;
        }
        Ok((sent.update.into(), sent.receipt.into()))
    }

    /// The file that it sends, if it can do without a broken one.
    fn forge(&self, stage: &Stage<'_>, update: &[u8], others: &[Dense]) -> anyhow::Result<Vec<u8>> {
        let (window, peer) = (stage.open.record.window, stage.identity.id());
        let desk = Desk { layout: stage.run.layout(), codec: stage.run.codec(), open: stage.open };
        let own = desk.values(peer, update)?;
        let before = &mut self.before.lock().unwrap_or_else(PoisonError::into_inner).sent;
        let attack = match self.attack {
            Attack::Sleeper if window >= wakes(stage.run.manifest().windows.total) => Attack::SignFlip,
            attack => attack,
        };
        let lacks = match attack {
            Attack::Replay => before.is_none(),
            attack => attack == Attack::Sleeper || attack.follows() && others.is_empty(),
        };
        let honest = if others.is_empty() { std::slice::from_ref(&own) } else { others };
        let sight = Sight { honest, own: Some(&own), before: before.as_ref(), number: 0, cheats: 1 };
        let seed = Digest::of_parts("brigade cheat v1", &[&peer.0, &window.to_le_bytes()]);
        let mut chance = ChaCha8Rng::from_seed(seed.0);
        let values = if lacks { None } else { forged(attack, &sight, window, &mut chance)? };
        let file = match &values {
            Some(values) => desk.file(peer, values)?,
            None => update.to_vec(),
        };
        if attack == Attack::Replay {
            *before = Some(values.unwrap_or(own));
        }
        Ok(file)
    }
}

/// The first window in which the sleeper cheats: it must be trusted by then, and a short run is to see it too.
fn wakes(total: Option<u64>) -> u64 {
    let begins = Attack::Sleeper.begins();
    total.map_or(begins, |total| begins.min(total / 2))
}

/// One inner step a window, at the learning rates that the windows' first steps would have.
fn one_step(training: &Training) -> Training {
    let by_window = |steps: u64| steps / u64::from(training.inner_steps.max(1));
    Training {
        inner_steps: 1,
        warmup_steps: by_window(training.warmup_steps),
        decay_steps: by_window(training.decay_steps),
        ..training.clone()
    }
}

impl Stage<'_> {
    /// A signed receipt for `update` that says what an honest one would: all steps, all tokens.
    fn promise(&self, update: &[u8], honest: &Receipt) -> anyhow::Result<Vec<u8>> {
        let training = &self.run.manifest().training;
        let sequences = u64::from(training.inner_steps) * u64::from(training.batch_size);
        // A broken file may be too short to have a header.
        let frame = Frame::digest_in(update, self.run.layout()).unwrap_or_default();
        let pin = FilePin {
            size: update.len() as u64,
            sha256: Digest::of(update),
            frame: Digest(frame),
            ..honest.update.clone()
        };
        let tokens = sequences * u64::from(training.sequence_length);
        let receipt = Receipt { update: pin, tokens, ..honest.clone() };
        Ok(Envelope::sign(receipt, self.identity.signing())?.0.to_bytes())
    }

    async fn pause(&self) -> anyhow::Result<Timestamp> {
        self.pace.shutdown.or(tokio::time::sleep(self.pace.poll)).await?;
        Ok(self.run.bucket().now().await?)
    }

    async fn miss_the_deadline(&self) -> anyhow::Result<()> {
        let late = self.open.record.deadline.plus(LATE_BY);
        while self.pause().await? < late {}
        Ok(())
    }

    /// What the other miners have sent, read where the aggregator mirrors it, the most rewarded first. Waits until all are there; at
    /// most until nothing new has come for a while, because others may wait as well, or the deadline is near.
    async fn others(&self) -> anyhow::Result<Vec<Dense>> {
        let open = &self.open.record;
        let patience = open.deadline.since(open.opened_at) / PATIENCE;
        let roster = self.run.roster(&open.roster).await?;
        let mut missing: Vec<PeerId> = roster.active_miners().map(|member| member.peer).collect();
        missing.retain(|peer| *peer != self.identity.id());
        let mut found: Vec<(PeerId, Dense)> = Vec::new();
        let mut quiet_from = open.deadline;
        loop {
            let now = self.pause().await?;
            let mut left = Vec::new();
            for peer in std::mem::take(&mut missing) {
                match self.mirrored(peer).await? {
                    Some(values) => {
                        found.push((peer, values));
                        quiet_from = now;
                    }
                    None => left.push(peer),
                }
            }
            missing = left;
            let is_quiet = now > quiet_from.plus(patience);
            if missing.is_empty() || is_quiet || now.plus(patience) > open.deadline {
                break;
            }
        }
        if found.is_empty() {
            let message = format!("window {}: nothing of others' to be seen in time", open.window);
            self.pace.reporter.tell(Event::Warning { message });
        }
        self.by_reward(found).await
    }

    /// What the run's bucket has of `peer` by now.
    async fn mirrored(&self, peer: PeerId) -> anyhow::Result<Option<Dense>> {
        let desk = Desk { layout: self.run.layout(), codec: self.run.codec(), open: self.open };
        let key = RunKey::Update { window: self.open.record.window, peer }.to_string();
        let most = max_update_bytes(desk.layout, &desk.codec);
        let object = self.run.bucket().try_get(&key, most).await?;
        object.map(|object| tokio::task::block_in_place(|| desk.values(peer, &object.bytes))).transpose()
    }

    /// `found`, those first whom the window before has given the largest weights: who copies wants good work.
    async fn by_reward(&self, mut found: Vec<(PeerId, Dense)>) -> anyhow::Result<Vec<Dense>> {
        let standings = self.run.standings(self.open.record.window).await?;
        let weight = |peer: &PeerId| {
            standings.iter().find(|standing| standing.peer == *peer).map_or(0.0, |standing| standing.weight)
        };
        found.sort_by(|(a, _), (b, _)| weight(b).total_cmp(&weight(a)));
        Ok(found.into_iter().map(|(_, values)| values).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes_in_the_middle_of_a_short_run() {
        assert_eq!((wakes(None), wakes(Some(24)), wakes(Some(8))), (10, 10, 4));
    }

    #[test]
    fn one_step_a_window_keeps_to_the_schedule() {
        let honest = Training { inner_steps: 12, warmup_steps: 24, decay_steps: 288, ..Training::default() };
        let lazy = one_step(&honest);
        for window in 2..24 {
            let (all, one) = (honest.learning_rate_at(12 * window), lazy.learning_rate_at(window));
            assert!((all - one).abs() < 1e-9, "window {window}: {all} {one}");
        }
    }
}
