//! How fast bytes go up and come down, and how fast they must.

use std::time::Instant;

use brigade_bucket::Bucket;
use bytes::Bytes;

use super::Examination;
use super::machine::setup;
use crate::config::explain;
use crate::init::Role;
use crate::plan::{self, Link};
use crate::run::Run;

/// The first body; the next ones are eight times as long, while they go quickly.
const FIRST_BYTES: usize = 256 << 10;
/// A transfer that takes this long tells the line's rate.
const LONG_ENOUGH_SECONDS: f64 = 2.0;

/// Bytes a second.
struct Rates {
    up: f64,
    down: f64,
}

pub(super) async fn examine(
    found: &mut Examination<'_>,
    bucket: Option<&Bucket>,
    run: Option<&Run>,
    role: Option<Role>,
    most: usize,
) {
    let Some(bucket) = bucket else {
        return found.unknown("bandwidth", "not measured: there is no bucket that can be written");
    };
    let rates = match measure(bucket, most).await {
        Ok(rates) => rates,
        Err(error) => {
            let section = if role == Some(Role::Aggregator) { "run" } else { "bucket" };
            let (_, remedy) = explain(section, &error);
            found.bad("bandwidth", error.to_string(), remedy);
            return;
        }
    };
    let mbit = |rate: f64| rate * 8.0 / 1e6;
    let measured = format!("{:.1} Mbit/s up, {:.1} Mbit/s down", mbit(rates.up), mbit(rates.down));
    let (Some(run), Some(role)) = (run, role) else {
        return found.unknown("bandwidth", format!("{measured}; what the run needs is not known"));
    };
    judge(found, run, role, &rates, &measured);
}

/// Says whether a window's bytes fit into a window.
fn judge(found: &mut Examination<'_>, run: &Run, role: Role, rates: &Rates, measured: &str) {
    let (up, down) = window_bytes(run, role);
    let seconds = up / rates.up + down / rates.down;
    let window = run.manifest().windows.train_seconds as f64;
    let share = 100.0 * seconds / window;
    let said = format!(
        "{measured}; a window's {:.2} MB up and {:.2} MB down take {seconds:.1} s, {share:.0} % of its {window:.0} s",
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

/// Bytes up and down in a window: a miner's update and the delta; what a validator reads; what an aggregator mirrors.
fn window_bytes(run: &Run, role: Role) -> (f64, f64) {
    let manifest = run.manifest();
    let peers = u64::from(manifest.windows.start_peers.max(manifest.windows.min_peers));
    let link = Link::of(manifest, peers);
    let bytes = plan::exchange(&setup(manifest, None), &link);
    let (update, delta) = (bytes.update_bytes as f64, bytes.delta_bytes as f64);
    let all = update * peers as f64;
    match role {
        Role::Miner => (update, delta),
        Role::Validator => (0.0, all + delta),
        Role::Aggregator => (all + delta, all),
    }
}

/// One transfer each way.
struct Transfer {
    bytes: f64,
    up: f64,
    down: f64,
}

/// Sends and fetches bodies, each eight times as long as the one before, until one takes long enough or `most` is reached.
async fn measure(bucket: &Bucket, most: usize) -> brigade_bucket::Result<Rates> {
    let mut size = FIRST_BYTES.min(most);
    let mut before: Option<Transfer> = None;
    loop {
        // A key of its own each time: R2 takes one write a second of a key.
        let key = bucket.probe_key();
        let transferred = transfer(bucket, &key, size).await;
        let deleted = bucket.delete(&key).await;
        let transfer = transferred?;
        deleted?;
        let is_long =
            transfer.up.min(transfer.down) >= LONG_ENOUGH_SECONDS || transfer.up >= 4.0 * LONG_ENOUGH_SECONDS;
        if is_long || size >= most {
            return Ok(rates(before.as_ref(), &transfer));
        }
        before = Some(transfer);
        size = size.saturating_mul(8).min(most);
    }
}

async fn transfer(bucket: &Bucket, key: &str, size: usize) -> brigade_bucket::Result<Transfer> {
    let mut body = vec![0; size];
    // What repeats itself could be compressed on the way.
    getrandom::fill(&mut body).unwrap_or_default();
    let begun = Instant::now();
    bucket.put(key, Bytes::from(body)).await?;
    let up = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    bucket.get(key, size as u64).await?;
    Ok(Transfer { bytes: size as f64, up, down: begun.elapsed().as_secs_f64() })
}

/// Bytes a second of the longest transfer. What it takes beyond the one before tells more: each has the same way to go before its first
/// byte, which on a far store is most of a short one's time.
fn rates(before: Option<&Transfer>, last: &Transfer) -> Rates {
    let rate = |of: fn(&Transfer) -> f64| {
        let whole = last.bytes / of(last).max(1e-6);
        match before {
            Some(before) if of(last) > of(before) => {
                whole.max((last.bytes - before.bytes) / (of(last) - of(before)))
            }
            _ => whole,
        }
    };
    Rates { up: rate(|transfer| transfer.up), down: rate(|transfer| transfer.down) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_far_store_is_not_taken_for_a_slow_line() {
        // 1 s until the first byte, then 10 MB/s up and 20 MB/s down.
        let transfer = |bytes: f64| Transfer { bytes, up: 1.0 + bytes / 10e6, down: 1.0 + bytes / 20e6 };
        let found = rates(Some(&transfer(256e3)), &transfer(2e6));
        assert!((found.up / 10e6 - 1.0).abs() < 1e-9 && (found.down / 20e6 - 1.0).abs() < 1e-9);
        assert!(rates(None, &transfer(2e6)).up < 2e6);
    }
}
