//! Many runs, as many at a time as there are threads for them.

use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Runs `work` on all `jobs`, on `threads` threads; the outcomes are in the order of the jobs. `windows` is how often all of them
/// together will advance the bar.
///
/// # Errors
/// The first error of the first thread that has one.
pub(super) fn all<J: Sync, O: Send>(
    jobs: &[J],
    threads: usize,
    windows: u64,
    work: impl Fn(&J, &ProgressBar) -> anyhow::Result<O> + Sync,
) -> anyhow::Result<Vec<O>> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} windows, {eta} left");
    let bar = ProgressBar::new(windows);
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        while let Some((number, job)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, jobs.get(n)?)))
        {
            done.push((number, work(job, &bar)?));
        }
        anyhow::Ok(done)
    };
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(take)).collect();
        for thread in threads {
            outcomes.extend(thread.join().map_err(|_| anyhow::anyhow!("a run panicked"))??);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}
