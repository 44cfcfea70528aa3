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
const LONG_ENOUGH_SECONDS: f64 = 0.5;

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
    let link = Link {
        up: 1.0,
        down: 1.0,
        peers,
        top_k: u64::from(manifest.compression.top_k),
        bits: u8::try_from(manifest.compression.bits).unwrap_or(4),
        delta_bits: u8::try_from(manifest.outer.delta_bits).unwrap_or(4),
    };
    let bytes = plan::exchange(&setup(manifest, None), &link);
    let (update, delta) = (bytes.update_bytes as f64, bytes.delta_bytes as f64);
    let all = update * peers as f64;
    match role {
        Role::Miner => (update, delta),
        Role::Validator => (0.0, all + delta),
        Role::Aggregator => (all + delta, all),
    }
}

async fn measure(bucket: &Bucket, most: usize) -> brigade_bucket::Result<Rates> {
    let key = bucket.probe_key();
    let measured = transfers(bucket, &key, most).await;
    let deleted = bucket.delete(&key).await;
    let rates = measured?;
    deleted?;
    Ok(rates)
}

async fn transfers(bucket: &Bucket, key: &str, most: usize) -> brigade_bucket::Result<Rates> {
    let mut size = FIRST_BYTES.min(most);
    loop {
        let mut body = vec![0; size];
        // What repeats itself could be compressed on the way.
        getrandom::fill(&mut body).unwrap_or_default();
        let body = Bytes::from(body);
        let begun = Instant::now();
        bucket.put(key, body.clone()).await?;
        let up = begun.elapsed().as_secs_f64();
        if up < LONG_ENOUGH_SECONDS && size < most {
            size = (size * 8).min(most);
            continue;
        }
        let begun = Instant::now();
        bucket.get(key, size as u64).await?;
        let down = begun.elapsed().as_secs_f64();
        return Ok(Rates { up: size as f64 / up.max(1e-6), down: size as f64 / down.max(1e-6) });
    }
}
