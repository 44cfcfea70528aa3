//! Waiting for the next object of a log.

use std::future::Future;
use std::time::Duration;

use super::{Bucket, Object};
use crate::{BucketError, Result};

/// How often a reader asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PollPolicy {
    /// Time between two requests.
    pub interval: Duration,
    /// Each pause is drawn from `interval × [1 − jitter, 1 + jitter]`, so that a crowd of peers spreads out. In `[0, 1]`.
    pub jitter: f64,
    /// The longest pause after failures in a row, each of which doubles it.
    pub max_interval: Duration,
}

impl PollPolicy {
    /// A policy with a quarter of jitter and at most 30 intervals between requests.
    pub fn every(interval: Duration) -> Self {
        Self { interval, jitter: 0.25, max_interval: interval.saturating_mul(30) }
    }

    /// The pause after `failures` failures in a row, with `unit` drawn from `[0, 1)`.
    fn pause(&self, failures: u32, unit: f64) -> Duration {
        let base = self
            .interval
            .saturating_mul(2_u32.saturating_pow(failures))
            .min(self.max_interval.max(self.interval));
        let jitter = if self.jitter.is_nan() { 0.0 } else { self.jitter.clamp(0.0, 1.0) };
        // A pause longer than a day is a mistake, and a factor on the longest duration would overflow.
        base.min(Duration::from_secs(86_400)).mul_f64(1.0 + jitter * (2.0 * unit - 1.0))
    }
}

impl Bucket {
    /// Reads an object of at most `limit` bytes as soon as it exists; `None` when `cancel` completes first.
    ///
    /// Transient errors are waited out, however long they last.
    ///
    /// # Errors
    /// As [`get`](Self::get), except for missing objects and transient errors.
    pub async fn wait_for(
        &self,
        key: &str,
        limit: u64,
        poll: &PollPolicy,
        cancel: impl Future<Output = ()>,
    ) -> Result<Option<Object>> {
        tokio::pin!(cancel);
        let mut failures = 0;
        loop {
            let got = tokio::select! {
                biased;
                () = &mut cancel => return Ok(None),
                got = self.try_get(key, limit) => got,
            };
            failures = match got {
                Ok(Some(object)) => return Ok(Some(object)),
                Ok(None) => 0,
                Err(error) => self.outlast(error, failures)?,
            };
            let pause = poll.pause(failures, self.inner.tokens.unit());
            tokio::select! {
                biased;
                () = &mut cancel => return Ok(None),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn outlast(&self, error: BucketError, failures: u32) -> Result<u32> {
        if !error.is_transient() {
            return Err(error);
        }
        tracing::warn!(%error, "the store does not answer as it should; asking again");
        Ok(failures.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    const POLL: PollPolicy = PollPolicy {
        interval: Duration::from_millis(5),
        jitter: 0.5,
        max_interval: Duration::from_millis(20),
    };

    #[test]
    fn pauses_double_and_spread() {
        assert_eq!(POLL.pause(0, 0.5), Duration::from_millis(5));
        assert_eq!(POLL.pause(1, 0.5), Duration::from_millis(10));
        assert_eq!(POLL.pause(40, 0.5), Duration::from_millis(20));
        assert_eq!(POLL.pause(0, 0.0), Duration::from_micros(2500));
        let odd = PollPolicy { jitter: f64::NAN, ..PollPolicy::every(Duration::MAX) };
        assert_eq!(odd.pause(3, 0.9), Duration::from_secs(86_400));
    }

    #[tokio::test]
    async fn waits_and_cancels() {
        let bucket = Bucket::in_memory("bucket");
        let writer = bucket.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            writer.create("log/1", Bytes::from_static(b"one")).await.unwrap();
        });
        let got = bucket.wait_for("log/1", 10, &POLL, std::future::pending()).await.unwrap().unwrap();
        assert_eq!(got.bytes, &b"one"[..]);
        let stop = tokio::time::sleep(Duration::from_millis(20));
        assert!(bucket.wait_for("log/2", 10, &POLL, stop).await.unwrap().is_none());
        assert!(bucket.wait_for("log/1", 2, &POLL, std::future::pending()).await.is_err());
    }
}
