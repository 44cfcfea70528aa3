//! From window to window: the loop that every role lives in.

use std::time::Duration;

use crate::events::{Event, Reporter};
use crate::run::replica::{Desynchronised, Replica};
use crate::run::{Run, is_transient};
use crate::shutdown::Shutdown;

/// What a role needs to wait well.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long to wait before looking again.
    pub(crate) poll: Duration,
    pub(crate) reporter: Reporter,
    pub(crate) shutdown: Shutdown,
}

impl Pace {
    async fn pause(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        self.reporter.tell(Event::Warning { message: format!("{error:#}; trying again") });
        Ok(self.shutdown.or(tokio::time::sleep(self.poll)).await?)
    }
}

/// One role's part in every window.
pub(crate) trait Follower {
    /// θ, and what else the role carries from window to window.
    type Held: AsRef<Replica>;

    fn run(&self) -> &Run;

    fn pace(&self) -> &Pace;

    /// θ of the newest checkpoint and every delta since.
    async fn sync(&self) -> anyhow::Result<Self::Held>;

    /// What is done with each θ that is arrived at, the last one too.
    async fn arrive(&self, held: &Self::Held) -> anyhow::Result<()>;

    /// Goes through the window that comes next, to its close.
    async fn window(&mut self, held: &mut Self::Held) -> anyhow::Result<()>;

    /// Whether θ is still good after a step that failed; then it is not fetched again. Not so for the role that makes θ by
    /// merging.
    const OUTLIVES_FAILURE: bool;
}

/// Goes from window to window until the run is over. What a later try may cure is tried again without end; a θ that
/// is not the run's is fetched anew.
///
/// # Errors
/// [`crate::shutdown::Stopped`], or what no later try would cure.
pub(crate) async fn follow<F: Follower>(mut role: F) -> anyhow::Result<()> {
    let mut kept = None;
    loop {
        let (held, outcome) = match kept.take() {
            Some(held) => next_window(&mut role, held).await,
            None => match synchronise(&role).await {
                Ok(held) => next_window(&mut role, held).await,
                // Who merges what it follows cannot come to another θ by doing it again.
                Err(error) if error.is::<Desynchronised>() && !F::OUTLIVES_FAILURE => return Err(error),
                Err(error) => (None, Err(error)),
            },
        };
        kept = held;
        match outcome {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if is_transient(&error) => role.pace().pause(&error).await?,
            Err(error) => {
                let lost = error.downcast::<Desynchronised>()?;
                role.pace().reporter.tell(lost.into());
                // At once would be a busy loop should the store keep on telling two stories.
                role.pace().shutdown.or(tokio::time::sleep(role.pace().poll)).await?;
            }
        }
    }
}

async fn synchronise<F: Follower>(role: &F) -> anyhow::Result<F::Held> {
    let held = role.pace().shutdown.or(role.sync()).await??;
    let replica = held.as_ref();
    let (window, state_root) = (replica.window, replica.state_root);
    role.pace().reporter.tell(Event::Synced { window, state_root });
    if !role.run().manifest().windows.is_over(window) {
        tracing::info!("waiting for window {window} to open");
    }
    Ok(held)
}

/// One window, or the news that there is none left; with what may be gone on with.
async fn next_window<F: Follower>(
    role: &mut F,
    mut held: F::Held,
) -> (Option<F::Held>, anyhow::Result<bool>) {
    let step = async {
        role.arrive(&held).await?;
        let window = held.as_ref().window;
        if role.run().manifest().windows.is_over(window) {
            role.pace().reporter.tell(Event::Finished { windows: window });
            return Ok(true);
        }
        role.window(&mut held).await.map(|()| false)
    };
    let outcome = step.await;
    let is_good = outcome.as_ref().map_or_else(|error| F::OUTLIVES_FAILURE && is_transient(error), |_| true);
    (is_good.then_some(held), outcome)
}
