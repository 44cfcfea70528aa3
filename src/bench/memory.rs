//! How fast memory is, and how much of it this process has.

use std::time::Instant;

use rayon::prelude::*;

/// Elements of each array: three of them are far beyond any cache.
const ELEMENTS: usize = 1 << 25;

/// Bytes a second of `a ← b + s·c` over arrays of f64, by all threads: the triad of STREAM (McCalpin), counted as there,
/// 24 bytes an element. The best of five.
pub(super) fn triad() -> f64 {
    let (mut a, b, c) = (vec![0.0_f64; ELEMENTS], vec![1.0_f64; ELEMENTS], vec![2.0_f64; ELEMENTS]);
    let mut once = || {
        let start = Instant::now();
        let parts = a.par_chunks_mut(1 << 16).zip(b.par_chunks(1 << 16)).zip(c.par_chunks(1 << 16));
        parts.for_each(|((a, b), c)| a.iter_mut().zip(b).zip(c).for_each(|((a, b), c)| *a = b + 3.0 * c));
        start.elapsed().as_secs_f64()
    };
    once();
    let best = (0..5).map(|_| once()).fold(f64::INFINITY, f64::min);
    assert!(a.iter().all(|a| *a == 7.0), "a compiler may not leave the work out");
    24.0 * ELEMENTS as f64 / best
}

/// Bytes that this process has in memory, and the most that it had since the last [`forget_peak`]. Zero where the system
/// does not tell.
pub(crate) fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (1024 * field("VmRSS:").unwrap_or(0), 1024 * field("VmHWM:").unwrap_or(0))
}

/// Makes the peak what there is now.
pub(crate) fn forget_peak() {
    // Where this is refused the peak stays what it was: then too much is reported, never too little.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
