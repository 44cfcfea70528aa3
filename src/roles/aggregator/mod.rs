//! The aggregator: opens windows, pins updates, combines scores, merges, closes.
//!
//! Every step first looks whether its record is there already, and adopts it. So a restart at any moment goes on
//! where the run is, and of two aggregators at most one record comes to be.
//!
//! | module | step |
//! | --- | --- |
//! | `open` | lobby and roster, then `open.json` |
//! | `collect` | receipts and updates of one peer, mirrored into the run's bucket |
//! | `cutoff` | `cutoff.json` |
//! | `verdict` | `verdict.json` |
//! | `close` | merging, `delta.bin`, `close.json` |

mod close;
mod collect;
mod cutoff;
mod open;
mod verdict;

use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::keys::{DataFile, RunKey};
use brigade_bucket::{BucketOptions, Counters, Fence};
use brigade_protocol::Timestamp;
use bytes::Bytes;

use crate::config::Participant;
use crate::events::{Event, Reporter};
use crate::identity::Identity;
use crate::metrics;
use crate::roles::follow::{Follower, Pace, follow};
use crate::roles::start;
use crate::run::Run;
use crate::run::checkpoint::{self, Contents};
use crate::run::outer::Outer;
use crate::shutdown::Shutdown;

/// The largest tokenizer that is read, in bytes.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// What every step needs.
struct Aggregator {
    run: Run,
    identity: Identity,
    fence: Fence,
    /// How peers' buckets are opened.
    peer_options: BucketOptions,
    pace: Pace,
    tokenizer: Bytes,
    end_of_document: u32,
}

/// Runs the aggregator until the run is over or somebody wants it to stop.
///
/// # Errors
/// When the configuration is wrong, another aggregator has taken over, or the store fails for good.
pub async fn run(settings: Participant, reporter: Reporter, shutdown: Shutdown) -> anyhow::Result<()> {
    let identity = Identity::load(&settings.identity)?;
    let run = start::run(&settings, true).await?;
    metrics::follow(&run);
    anyhow::ensure!(
        run.manifest().aggregator.id == identity.id(),
        "the identity file is not that of the run's aggregator {}",
        run.manifest().aggregator.id.short()
    );
    let dataset = run.dataset().await?;
    let tokenizer = RunKey::Data(DataFile::Tokenizer).to_string();
    let tokenizer = run.bucket().get(&tokenizer, MAX_TOKENIZER_BYTES).await?.bytes;
    let now = run.bucket().now().await?;
    let fence = Fence::acquire(run.bucket(), &identity.id().to_string(), now).await?;
    reporter.tell(Event::Ready { peer: identity.id(), run: run.id() });
    let end_of_document = dataset.end_of_document;
    // Their buckets are opened anew in every window, and count as one.
    let peers = Arc::<Counters>::default();
    metrics::count("peers", Arc::clone(&peers));
    let aggregator = Aggregator {
        run,
        identity,
        fence,
        peer_options: BucketOptions { counters: Some(peers), ..settings.peer_options() },
        pace: Pace { poll: settings.poll(), reporter, shutdown },
        tokenizer,
        end_of_document,
    };
    follow(aggregator).await
}

impl Follower for Aggregator {
    type Held = Outer;
    // A step that failed may have left θ half changed.
    const OUTLIVES_FAILURE: bool = false;

    fn run(&self) -> &Run {
        &self.run
    }

    fn pace(&self) -> &Pace {
        &self.pace
    }

    async fn sync(&self) -> anyhow::Result<Outer> {
        Outer::newest(&self.run).await
    }

    async fn arrive(&self, state: &Outer) -> anyhow::Result<()> {
        self.checkpoint(state).await
    }

    /// Takes the window from wherever it is to its close.
    async fn window(&mut self, state: &mut Outer) -> anyhow::Result<()> {
        let (open, roster) = self.open(state).await?;
        let cutoff = self.cutoff(&open, &roster).await?;
        let updates = self.updates(&open, &cutoff).await?;
        let verdict = self.verdict(&cutoff, &roster, &updates).await?;
        self.close(state, &open, &cutoff, &verdict, &updates).await
    }
}

impl Aggregator {
    /// Publishes θ when it is due, unless it is there already.
    async fn checkpoint(&self, state: &Outer) -> anyhow::Result<()> {
        let window = state.replica.window;
        let due = self.run.manifest().windows.is_checkpoint(window);
        if !due || checkpoint::exists(&self.run, window).await? {
            return Ok(());
        }
        let contents = Contents {
            run: self.run.id(),
            window,
            model: &self.run.manifest().model,
            theta: &state.replica.theta,
            error_feedback: &state.error_feedback,
            tokenizer: &self.tokenizer,
            end_of_document: self.end_of_document,
        };
        contents.publish(self.run.bucket(), self.identity.signing()).await.context("cannot publish θ")?;
        self.pace.reporter.tell(Event::Checkpointed { window, folder: format!("checkpoints/{window:010}/") });
        Ok(())
    }

    async fn now(&self) -> anyhow::Result<Timestamp> {
        Ok(self.run.bucket().now().await?)
    }
}
