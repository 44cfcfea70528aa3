//! Which windows can be done again.

use std::collections::BTreeSet;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;

use super::Choice;
use crate::run::{Run, checkpoint};

const NONE: &str = "no window is closed yet; wait for the first one";

/// What is to be done.
pub(super) struct Plan {
    /// In this order.
    pub(super) windows: Vec<u64>,
    /// Windows before which a checkpoint lies.
    pub(super) checkpoints: BTreeSet<u64>,
    /// What cannot be done again because it was deleted.
    pub(super) gone: Option<String>,
}

impl Plan {
    /// # Errors
    /// When a window that is asked for is not closed, or none is, or the store fails.
    pub(super) async fn make(run: &Run, choice: &Choice) -> anyhow::Result<Self> {
        let checkpoints = checkpoint::windows(run).await?;
        let mut gone = None;
        let windows = match choice {
            Choice::Newest => vec![newest_closed(run, &checkpoints).await?],
            Choice::Windows(windows) => {
                for &window in windows {
                    anyhow::ensure!(
                        is_closed(run, window).await?,
                        "window {window} has no close record: it is not over yet, or was deleted; ask for another one, or --all"
                    );
                }
                windows.iter().copied().collect()
            }
            Choice::All => {
                let windows = all_left(run, &checkpoints).await?;
                let oldest = *windows.first().context(NONE)?;
                let deleted =
                    || format!("the windows before {oldest}: their records or checkpoints are gone");
                gone = (oldest > 0).then(deleted);
                windows
            }
        };
        Ok(Self { windows, checkpoints, gone })
    }
}

async fn is_closed(run: &Run, window: u64) -> anyhow::Result<bool> {
    Ok(run.bucket().head(&RunKey::Close(window).to_string()).await?.is_some())
}

/// The newest closed window: nobody lists windows, so from the newest checkpoint on each is asked for.
async fn newest_closed(run: &Run, checkpoints: &BTreeSet<u64>) -> anyhow::Result<u64> {
    let newest = *checkpoints.last().context(
        "the run has no checkpoint, so there is nothing to audit; is [run] the bucket that `brigade run create` wrote to?",
    )?;
    let since = closed_from(run, newest).await?;
    let before = newest.checked_sub(1);
    let last = since.last().copied().or(before).context(NONE)?;
    anyhow::ensure!(
        is_closed(run, last).await?,
        "checkpoint {newest} is there and the close of window {last} is not; name the --window to audit, or --all"
    );
    Ok(last)
}

/// Every window that is still there, from the first one that starts from a checkpoint and is. What an operator has deleted
/// lies before it. A window that is missing among later ones is listed too, for its records to be missed.
async fn all_left(run: &Run, checkpoints: &BTreeSet<u64>) -> anyhow::Result<Vec<u64>> {
    let mut windows: Vec<u64> = Vec::new();
    for &window in checkpoints {
        if windows.last().is_some_and(|last| window <= *last) {
            continue;
        }
        let found = closed_from(run, window).await?;
        if windows.is_empty() {
            // θ of a checkpoint is compared with the close before.
            let follows = match window.checked_sub(1) {
                Some(before) => is_closed(run, before).await?,
                None => true,
            };
            if follows {
                windows = found;
            }
        } else if windows.last().is_some_and(|last| last.checked_add(1) != Some(window)) {
            windows.extend(windows.last().and_then(|last| last.checked_add(1)));
            windows.extend(found);
        }
    }
    Ok(windows)
}

/// The closed windows from `first` on, without a gap.
async fn closed_from(run: &Run, first: u64) -> anyhow::Result<Vec<u64>> {
    let mut windows = Vec::new();
    let mut next = Some(first);
    while let Some(window) = next {
        if !is_closed(run, window).await? {
            break;
        }
        windows.push(window);
        next = window.checked_add(1);
    }
    Ok(windows)
}
