//! How patiently, and how widely, a bucket is used.

use std::sync::Arc;
use std::time::Duration;

use crate::Counters;

/// Time limits, retries and concurrency of one [`Bucket`](crate::Bucket).
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// Time to open a connection.
    pub connect_timeout: Duration,
    /// Time that a request may take before any byte of its body counts.
    pub response_timeout: Duration,
    /// The slowest transfer that is still waited for, in bytes a second, either way.
    ///
    /// A request that moves `n` bytes may take `response_timeout + n / slowest_rate`. A fixed limit would either
    /// cut large updates on slow lines or let a stalled small read hang.
    pub slowest_rate: u64,
    /// How often a failed request is repeated.
    pub max_retries: usize,
    /// No request is repeated when this long has passed since its first attempt. Below five minutes: a repeated
    /// request keeps its first signature, which servers refuse when it is old.
    pub retry_timeout: Duration,
    /// The longest pause between two attempts.
    pub max_backoff: Duration,
    /// Requests in flight at once, over all clones of the bucket.
    pub max_concurrency: usize,
    /// Bytes in a part of a multipart upload; all parts but the last have this size (R2 insists).
    pub part_size: usize,
    /// Refuse hosts that are, or resolve to, loopback, private, link-local and other non-public addresses.
    ///
    /// Set this for addresses that strangers wrote: otherwise a peer could aim our requests at our own network.
    pub public_only: bool,
    /// Where requests are counted, for several buckets that count as one; `None`: the bucket has counters of its own.
    pub counters: Option<Arc<Counters>>,
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            slowest_rate: 64 << 10,
            max_retries: 8,
            retry_timeout: Duration::from_secs(120),
            max_backoff: Duration::from_secs(10),
            max_concurrency: 32,
            part_size: 16 << 20,
            public_only: false,
            counters: None,
        }
    }
}

impl BucketOptions {
    /// The time that a transfer of `bytes` may take.
    pub(crate) fn allowance(&self, bytes: u64) -> Duration {
        let millis = bytes.saturating_mul(1000) / self.slowest_rate.max(1);
        self.response_timeout.saturating_add(Duration::from_millis(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowance_grows_with_the_transfer() {
        let options = BucketOptions { slowest_rate: 1000, ..BucketOptions::default() };
        assert_eq!(options.allowance(0), options.response_timeout);
        assert_eq!(options.allowance(10_000), options.response_timeout + Duration::from_secs(10));
        assert!(BucketOptions { slowest_rate: 0, ..options }.allowance(u64::MAX) > Duration::from_secs(1));
    }
}
