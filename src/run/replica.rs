//! θ in memory, moved from window to window by the closes.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{Checkpoint, Close, Digest, Open, Parameters, Signed};

use super::{Run, checkpoint};
use crate::events::Event;

/// θ at the start of a window.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The window that starts from θ.
    pub window: u64,
    /// θ; shared with whoever computes on it, copied only if that is still going on when θ changes.
    pub theta: Arc<Parameters>,
    /// State root of θ.
    pub state_root: Digest,
    /// Seed of the window before; the run's id before window 0.
    pub previous_seed: Digest,
}

/// θ after a window is not what its close record says.
#[derive(Debug, thiserror::Error)]
#[error("window {window}: state root {found} here, {expected} in the close record")]
pub struct Desynchronised {
    /// The window.
    pub window: u64,
    /// State root of the close record.
    pub expected: Digest,
    /// State root that was found here.
    pub found: Digest,
}

impl From<Desynchronised> for Event {
    fn from(error: Desynchronised) -> Self {
        Self::Desynchronised { window: error.window, expected: error.expected, found: error.found }
    }
}

impl AsRef<Replica> for Replica {
    fn as_ref(&self) -> &Replica {
        self
    }
}

impl Replica {
    /// θ of the newest checkpoint and every delta since.
    ///
    /// # Errors
    /// [`Desynchronised`], or when there is no checkpoint or the store fails.
    pub async fn newest(run: &Run) -> anyhow::Result<Self> {
        Self::until(run, u64::MAX).await
    }

    /// The same, but no later than the start of window `last`.
    ///
    /// # Errors
    /// As [`Replica::newest`]; also when no checkpoint from before `last` is left.
    pub async fn until(run: &Run, last: u64) -> anyhow::Result<Self> {
        let checkpoint = checkpoint::latest_until(run, last).await?;
        let mut replica = Self::from_checkpoint(run, &checkpoint.record).await?;
        replica.catch_up(run, last).await?;
        Ok(replica)
    }

    /// θ of a checkpoint.
    ///
    /// # Errors
    /// When it is not what was signed, or not what the window before led to.
    pub async fn from_checkpoint(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let theta = Arc::new(checkpoint::fetch_theta(run, checkpoint).await?);
        let window = checkpoint.window;
        let previous_seed = match window.checked_sub(1) {
            None => {
                let promised = run.manifest().initial_state_root;
                expect_digest("first checkpoint", promised, checkpoint.state_root)?;
                run.id()
            }
            Some(before) => {
                let close = run.close(before).await?;
                let close = close.with_context(|| format!("window {before} has no close record"))?.record;
                expect_digest("checkpoint", close.state_root, checkpoint.state_root)?;
                let open = run.open(before).await?;
                open.with_context(|| format!("window {before} has no open record"))?.record.seed
            }
        };
        Ok(Self { window, theta, state_root: checkpoint.state_root, previous_seed })
    }

    /// Applies every window before `last` that is closed by now.
    ///
    /// # Errors
    /// [`Desynchronised`], or when the store fails.
    async fn catch_up(&mut self, run: &Run, last: u64) -> anyhow::Result<()> {
        while self.window < last {
            let Some(close) = run.close(self.window).await? else { break };
            let open = run.open(self.window).await?;
            let open = open.with_context(|| format!("window {} is closed but not open", self.window))?;
            self.follow(run, &open, &close).await?;
        }
        Ok(())
    }

    /// Whether `open` is the opening of the window that comes next, on this very θ.
    ///
    /// # Errors
    /// [`Desynchronised`].
    pub fn expect_open(&self, open: &Signed<Open>) -> Result<(), Desynchronised> {
        let (window, expected, found) = (self.window, open.record.state_root, self.state_root);
        if found == expected { Ok(()) } else { Err(Desynchronised { window, expected, found }) }
    }

    /// Applies one close, fetching its delta.
    ///
    /// # Errors
    /// [`Desynchronised`], or when the delta is missing or another one.
    pub async fn follow(
        &mut self,
        run: &Run,
        open: &Signed<Open>,
        close: &Signed<Close>,
    ) -> anyhow::Result<()> {
        let delta = run.delta(&open.record, &close.record).await?;
        if let Some(delta) = &delta {
            delta.apply(Arc::make_mut(&mut self.theta).tensors_mut())?;
        }
        self.advance(open, close)
    }

    /// Moves on to the next window with θ as it is now.
    ///
    /// # Errors
    /// [`Desynchronised`] when θ does not have the state root that was closed; then θ must be fetched anew.
    pub fn advance(&mut self, open: &Signed<Open>, close: &Signed<Close>) -> anyhow::Result<()> {
        let (window, expected) = (self.window, close.record.state_root);
        anyhow::ensure!(close.record.window == window, "close of {} after {window}", close.record.window);
        // Without a delta θ is as it was; its root need not be computed again.
        let found = if close.record.delta.is_some() { self.theta.root() } else { self.state_root };
        if found != expected || close.record.open != open.digest {
            return Err(Desynchronised { window, expected, found }.into());
        }
        self.state_root = found;
        self.previous_seed = open.record.seed;
        self.window += 1;
        Ok(())
    }
}
