//! Parameters a second on one thread: compress, parse, merge, apply, inner products.
//!
//! `cargo bench -p brigade-codec` prints one line each: the best of five runs, in the thread's own CPU time where Linux
//! tells it, so that a busy machine shows less.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use brigade_codec::{CodeBits, Delta, DeltaConfig, Update, compress, gram, merge};
use common::{binding, config, delta_binding, layout, slices, values};

/// Seconds that this thread has had a processor, or any clock where that is not known.
fn cpu_seconds(start: Instant) -> f64 {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn time<T>(name: &str, parameters: u64, mut work: impl FnMut() -> T) -> T {
    let mut best = f64::INFINITY;
    let mut last = None;
    let clock = Instant::now();
    for _ in 0..5 {
        let start = cpu_seconds(clock);
        last = Some(work());
        best = best.min(cpu_seconds(clock) - start);
    }
    println!("{name:<24} {:8.1} M parameters/s", parameters as f64 / best / 1e6);
    last.unwrap()
}

fn main() {
    let layout = layout(&[&[2048, 2048], &[4096, 1024]]);
    let n = layout.num_parameters();
    let config = config(64, CodeBits::Two);
    let delta = values(&layout, 1, 0.5);
    let mut e = layout.zeros();
    let bytes =
        time("compress", n, || compress(&layout, &binding(0), &config, &slices(&delta), &mut e).unwrap());
    let update = time("parse", n, || Update::parse(bytes.clone(), &layout, &config, &binding(0)).unwrap());
    time("decode", n, || update.decode());

    let updates: Vec<_> = (0..8).map(|peer| common::update(&layout, &config, peer)).collect();
    let inputs: Vec<_> = updates.iter().map(|u| (u, 0.125)).collect();
    let mut e = layout.zeros();
    let bytes = time("merge of 8", n, || {
        merge(&layout, &delta_binding(), &DeltaConfig::default(), &inputs, &mut e).unwrap()
    });
    let delta = time("parse delta", n, || {
        Delta::parse(bytes.clone(), &layout, &DeltaConfig::default(), &delta_binding()).unwrap()
    });
    let mut theta = layout.zeros();
    time("apply delta", n, || delta.apply(&mut theta).unwrap());
    time("gram of 8", n, || gram(&updates.iter().collect::<Vec<_>>()).unwrap());
}
