//! Which window is the newest, without asking for all of them.

use brigade_bucket::keys::RunKey;

use crate::run::{Run, checkpoint};

/// No run gets this far: at one window a minute it would take a million years.
const LAST: u64 = 1 << 40;

/// The newest window that is open or was, if there is one. `known` is one that was, or 0: where the first windows are gone already,
/// the search begins at the newest checkpoint, whose window before it is always kept.
///
/// Windows follow each other without a gap, so steps are doubled until one goes too far, and the rest is halved: about two
/// requests for each doubling of the distance from `known`.
///
/// # Errors
/// When the store fails.
pub async fn newest_window(run: &Run, known: u64) -> anyhow::Result<Option<u64>> {
    let is_open = async |window: u64| -> anyhow::Result<bool> {
        Ok(run.bucket().head(&RunKey::Open(window).to_string()).await?.is_some())
    };
    let known = if is_open(known).await? {
        known
    } else {
        let Ok(checkpoint) = checkpoint::latest(run).await else { return Ok(None) };
        let Some(before) = checkpoint.record.window.checked_sub(1) else { return Ok(None) };
        if !is_open(before).await? {
            return Ok(None);
        }
        before
    };
    let (mut low, mut step) = (known, 1);
    while low + step < LAST && is_open(low + step).await? {
        low += step;
        step *= 2;
    }
    // `low` is there, `low + step` is not.
    let mut high = low + step;
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if is_open(middle).await? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}
