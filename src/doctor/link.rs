//! How fast bytes go up and come down, and how fast they must.

use std::cell::RefCell;
use std::time::Instant;

use brigade_bucket::{Bucket, BucketError};
use brigade_protocol::Windows;
use bytes::Bytes;

use super::Examination;
use super::machine::setup;
use super::run::{File, Seen, TELL};
use crate::config::explain;
use crate::init::Role;
use crate::observe::newest_window;
use crate::plan::{self, Exchange, Link};
use crate::run::Run;

/// The first body; the next ones are eight times as long, while they go quickly.
const FIRST_BYTES: u64 = 256 << 10;
/// A transfer that takes this long tells the line's rate.
const LONG_ENOUGH_SECONDS: f64 = 2.0;

/// Bytes a second.
struct Rates {
    up: f64,
    down: f64,
}

/// Measures as the role will send and read: to the bucket that it writes; a miner from the run's, as deltas lie there and updates, which
/// others read from buckets like its own, do not concern it.
pub(super) async fn examine(
    found: &mut Examination<'_>,
    written: Option<&Bucket>,
    run: Option<&Run>,
    seen: &Seen,
    most: u64,
) {
    let Some(written) = written else {
        return found.unknown("bandwidth", "not measured: there is no bucket that can be written");
    };
    let writes = if seen.role == Some(Role::Aggregator) { "run" } else { "bucket" };
    let reads = match (run, &seen.checkpoint) {
        (Some(run), Some(file)) if seen.role == Some(Role::Miner) => Some((run.bucket(), file)),
        _ => None,
    };
    let rates = match measure(written, reads, most).await {
        Ok(rates) => rates,
        Err((is_run, error)) => return fault(found, if is_run { "run" } else { writes }, is_run, &error),
    };
    let mbit = |rate: f64| rate * 8.0 / 1e6;
    let from = if reads.is_some() { " from the run's bucket" } else { "" };
    let measured = format!("{:.1} Mbit/s up, {:.1} Mbit/s down{from}", mbit(rates.up), mbit(rates.down));
    let (Some(run), Some(role)) = (run, seen.role) else {
        return found.unknown("bandwidth", format!("{measured}; what the run needs is not known"));
    };
    let manifest = run.manifest();
    let windows = &manifest.windows;
    // A roster that cannot be read was told of by who read it.
    let miners = miners(run).await.unwrap_or_default().max(windows.start_peers.max(windows.min_peers).into());
    let bytes = plan::exchange(&setup(manifest, None), &Link::of(manifest, miners));
    judge(found, &Need::of(role, miners, &bytes, windows), &rates, &measured);
}

/// Says why nothing was measured.
fn fault(found: &mut Examination<'_>, section: &str, is_checkpoint: bool, error: &BucketError) {
    let is_other = matches!(
        error,
        BucketError::NotFound { .. } | BucketError::SizeMismatch { .. } | BucketError::Rejected { .. }
    );
    if is_checkpoint && is_other {
        found.bad("checkpoint", error.to_string(), TELL);
    } else {
        found.bad("bandwidth", error.to_string(), explain(section, error).1);
    }
}

/// Says whether a window's bytes fit into a window.
fn judge(found: &mut Examination<'_>, need: &Need, rates: &Rates, measured: &str) {
    let Need { up, down, seconds: limit, what } = need;
    let seconds = up / rates.up + down / rates.down;
    let share = 100.0 * seconds / limit;
    let said = format!(
        "{measured}; a window's {:.2} MB up and {:.2} MB down take {seconds:.1} s, {share:.0} % of its {limit:.0} s {what}",
        up / 1e6,
        down / 1e6
    );
    let remedy =
        "use a faster line, or a bucket nearer to this machine; other uploads may share the line now";
    match share {
        ..20.0 => found.good("bandwidth", said),
        ..50.0 => found.warn("bandwidth", said, remedy),
        _ => drop(found.bad("bandwidth", said, remedy)),
    }
}

/// The miners that the newest window waits for, if there is one.
async fn miners(run: &Run) -> anyhow::Result<u64> {
    let Some(newest) = newest_window(run, 0).await? else { return Ok(0) };
    let Some(open) = run.open(newest).await? else { return Ok(0) };
    Ok(run.roster(&open.record.roster).await?.active_miners().count() as u64)
}

/// Bytes of a window, and the time for them.
#[derive(Debug, PartialEq)]
struct Need {
    up: f64,
    down: f64,
    seconds: f64,
    /// What the time is for.
    what: &'static str,
}

impl Need {
    /// A miner sends an update and reads the delta. A validator reads all updates while the time for measuring them runs. An aggregator reads
    /// each update twice, from its miner and from its own copy, and writes the copy.
    fn of(role: Role, miners: u64, bytes: &Exchange, windows: &Windows) -> Self {
        let (update, delta) = (bytes.update_bytes as f64, bytes.delta_bytes as f64);
        let all = update * miners as f64;
        let training = |up, down| Self { up, down, seconds: windows.train_seconds as f64, what: "to train" };
        match role {
            Role::Miner => training(update, delta),
            Role::Aggregator => training(all + delta, 2.0 * all),
            Role::Validator => {
                let seconds = windows.measuring().as_secs_f64();
                Self { up: 0.0, down: all, seconds, what: "to read and measure all updates" }
            }
        }
    }
}

/// Both ways; down from `reads`, or, where there is none, what was sent up. An error is told with whether it came from `reads`.
async fn measure(
    written: &Bucket,
    reads: Option<(&Bucket, &File)>,
    most: u64,
) -> Result<Rates, (bool, BucketError)> {
    let keys = RefCell::new(Vec::new());
    let measured = both_ways(written, reads, most, &keys).await;
    let mut deleted = Ok(());
    for key in keys.into_inner() {
        // All of them, also after one that failed: they are large.
        deleted = written.delete(&key).await.and(deleted);
    }
    // When the measuring failed, its error tells more than the deletion's.
    let rates = measured?;
    deleted.map_err(|error| (false, error))?;
    Ok(rates)
}

/// As [`measure`]; `keys` are of what it leaves in `written`.
async fn both_ways(
    written: &Bucket,
    reads: Option<(&Bucket, &File)>,
    most: u64,
    keys: &RefCell<Vec<String>>,
) -> Result<Rates, (bool, BucketError)> {
    let send = async |size| {
        let mut body = vec![0; size as usize];
        // What repeats itself could be compressed on the way.
        getrandom::fill(&mut body).unwrap_or_default();
        // A key of its own each time: R2 takes one write a second of a key.
        let key = written.probe_key();
        keys.borrow_mut().push(key.clone());
        timed(written.put(&key, Bytes::from(body))).await
    };
    let (up, size) = grow(most, send).await.map_err(|error| (false, error))?;
    let (bucket, key, bytes) = match reads {
        Some((bucket, file)) => (bucket, file.key.clone(), file.bytes.min(most)),
        None => (written, keys.borrow().last().cloned().unwrap_or_default(), size),
    };
    let fetch = async |size| timed(bucket.get_range(&key, 0..size, None)).await;
    let (down, _) = grow(bytes, fetch).await.map_err(|error| (reads.is_some(), error))?;
    Ok(Rates { up, down })
}

/// Seconds that a transfer takes.
async fn timed<T>(transfer: impl Future<Output = brigade_bucket::Result<T>>) -> brigade_bucket::Result<f64> {
    let begun = Instant::now();
    transfer.await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// One transfer.
#[derive(Clone, Copy)]
struct Transfer {
    bytes: f64,
    seconds: f64,
}

/// Transfers bodies, each eight times as long as the one before, until one takes long enough or has `most` bytes. `transfer` takes bytes and
/// returns seconds; returns the rate, and the last one's bytes.
async fn grow(
    most: u64,
    transfer: impl AsyncFn(u64) -> brigade_bucket::Result<f64>,
) -> brigade_bucket::Result<(f64, u64)> {
    let mut size = FIRST_BYTES.min(most);
    let mut before = None;
    loop {
        let last = Transfer { bytes: size as f64, seconds: transfer(size).await? };
        if last.seconds >= LONG_ENOUGH_SECONDS || size >= most {
            return Ok((rate(before, last), size));
        }
        before = Some(last);
        let next = size.saturating_mul(8);
        // No short last step: its difference from the one before would be noise.
        size = if most < next.saturating_mul(4) { most } else { next };
    }
}

/// Bytes a second of the longest transfer. What it takes beyond the one before tells more: each has the same way to go before its first
/// byte, which on a far store is most of a short one's time.
fn rate(before: Option<Transfer>, last: Transfer) -> f64 {
    let whole = last.bytes / last.seconds.max(1e-6);
    match before {
        Some(before) if last.seconds > before.seconds && last.bytes >= 4.0 * before.bytes => {
            whole.max((last.bytes - before.bytes) / (last.seconds - before.seconds))
        }
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_role_has_a_need_of_its_own() {
        let bytes = Exchange { update_bytes: 10, delta_bytes: 50, up_seconds: 0.0, down_seconds: 0.0 };
        let windows = Windows { train_seconds: 1200, score_seconds: 120, ..Windows::default() };
        let need = |role| {
            let Need { up, down, seconds, .. } = Need::of(role, 7, &bytes, &windows);
            (up, down, seconds)
        };
        assert_eq!(need(Role::Miner), (10.0, 50.0, 1200.0));
        assert_eq!(need(Role::Aggregator), (120.0, 140.0, 1200.0));
        // Two fifths of the time for scores are for sending them.
        assert_eq!(need(Role::Validator), (0.0, 70.0, 72.0));
    }

    #[test]
    fn the_way_to_a_far_store_is_not_taken_for_a_slow_line() {
        // 1 s until the first byte, then 10 MB/s.
        let transfer = |bytes: f64| Transfer { bytes, seconds: 1.0 + bytes / 10e6 };
        assert!((rate(Some(transfer(256e3)), transfer(2e6)) / 10e6 - 1.0).abs() < 1e-9);
        assert!(rate(None, transfer(2e6)) < 2e6);
        // Of two that are hardly different the difference tells nothing.
        let hiccup = Transfer { bytes: 2.2e6, seconds: 1.2001 };
        assert!(rate(Some(transfer(2e6)), hiccup) < 2e6);
    }

    #[tokio::test]
    async fn no_step_is_short() {
        for (most, expected) in [
            (0, &[0][..]),
            (100_000, &[100_000]),
            (2_200_000, &[256 << 10, 2_200_000]),
            (16 << 20, &[256 << 10, 2 << 20, 16 << 20]),
        ] {
            let steps = RefCell::new(Vec::new());
            let step = async |size| {
                steps.borrow_mut().push(size);
                Ok(0.1)
            };
            let (_, last) = grow(most, step).await.unwrap();
            assert_eq!((steps.into_inner().as_slice(), last), (expected, most));
        }
    }
}
