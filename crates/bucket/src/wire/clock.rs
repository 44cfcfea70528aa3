//! The object store's clock, read from the `Date` of its responses.
//!
//! `Date` is the second in which the server answered, so a response that was asked for at `sent` and arrived at
//! `received` (both on this machine's monotonic clock) says that the server's clock minus ours lies in
//! `[date − received, date + 1 s − sent]`. Intersecting such intervals over responses narrows the offset to well under
//! a second, as in the selection step of NTP (RFC 5905 §11.2.1); between responses the interval is widened by the
//! worst drift of a quartz clock.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brigade_protocol::Timestamp;

/// Parts in a million by which this machine's clock may run fast or slow.
const DRIFT_PPM: i64 = 200;

/// The time by the object store's clock. Resolution: [`uncertainty`](Self::uncertainty), at most about a second.
///
/// Successive readings may step back by at most the uncertainty, when a response narrows the estimate.
#[derive(Debug)]
pub struct ServerClock {
    origin: Instant,
    offset: Mutex<Option<Offset>>,
    /// For stores inside this process: their clock is this machine's.
    local: bool,
}

impl ServerClock {
    /// A clock that nothing has been heard from yet.
    pub(crate) fn unheard() -> Self {
        Self { origin: Instant::now(), offset: Mutex::new(None), local: false }
    }

    /// This machine's own clock, for stores inside this process.
    pub(crate) fn local() -> Self {
        Self { local: true, ..Self::unheard() }
    }

    /// The time by the server; `None` before its first response.
    pub fn now(&self) -> Option<Timestamp> {
        if self.local {
            return Some(local_now());
        }
        let at = self.elapsed(Instant::now());
        let offset = (*self.lock())?;
        Some(Timestamp(u64::try_from(at + offset.drifted(at).middle()).unwrap_or(0)))
    }

    /// How far [`now`](Self::now) may be from the server's clock, either way.
    pub fn uncertainty(&self) -> Option<Duration> {
        if self.local {
            return Some(Duration::ZERO);
        }
        let at = self.elapsed(Instant::now());
        let offset = (*self.lock())?.drifted(at);
        Some(Duration::from_millis(u64::try_from((offset.high - offset.low) / 2).unwrap_or(0)))
    }

    /// How far this machine's wall clock is ahead of the server's, in milliseconds.
    pub fn local_lead(&self) -> Option<i64> {
        let (server, local) = (self.now()?, local_now());
        Some(i64::try_from(local.0).ok()?.saturating_sub(i64::try_from(server.0).ok()?))
    }

    /// Takes in the `Date` of a response, in milliseconds since the epoch.
    pub(crate) fn observe(&self, date: i64, sent: Instant, received: Instant) {
        let seen = Offset::seen(date, self.elapsed(sent), self.elapsed(received));
        let mut offset = self.lock();
        *offset = Some(match *offset {
            // Disjoint intervals mean that somebody set a clock: believe the latest.
            Some(known) => known.drifted(seen.at).intersect(seen).unwrap_or(seen),
            None => seen,
        });
    }

    fn elapsed(&self, at: Instant) -> i64 {
        i64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(i64::MAX / 4)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Offset>> {
        // The guarded value is written whole: a panic elsewhere cannot leave it half done.
        self.offset.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn local_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Bounds, in milliseconds, on the server's clock minus ours, as known at the local time `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    low: i64,
    high: i64,
    at: i64,
}

impl Offset {
    fn seen(date: i64, sent: i64, received: i64) -> Self {
        Self { low: date - received, high: date + 1000 - sent, at: received }
    }

    fn drifted(self, at: i64) -> Self {
        let drift = (at - self.at).max(0) * DRIFT_PPM / 1_000_000;
        Self { low: self.low - drift, high: self.high + drift, at: self.at.max(at) }
    }

    fn intersect(self, other: Self) -> Option<Self> {
        let both =
            Self { low: self.low.max(other.low), high: self.high.min(other.high), at: self.at.max(other.at) };
        (both.low <= both.high).then_some(both)
    }

    fn middle(self) -> i64 {
        self.low + (self.high - self.low) / 2
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn responses_narrow_the_offset() {
        // The server is 5 000 700 ms ahead; every request takes 40 ms, and the server answers half way.
        let (truth, mut known) = (5_000_700_i64, None::<Offset>);
        for sent in (0..3000).step_by(130) {
            let date = (sent + 20 + truth) / 1000 * 1000;
            let seen = Offset::seen(date, sent, sent + 40);
            assert!(seen.low <= truth && truth <= seen.high);
            known = Some(known.map_or(seen, |known| known.drifted(seen.at).intersect(seen).unwrap()));
        }
        let known = known.unwrap();
        assert!(known.low <= truth && truth <= known.high);
        assert!(known.high - known.low < 200, "{known:?}");
    }

    #[test]
    fn a_stepped_clock_is_believed() {
        let clock = ServerClock::unheard();
        assert_eq!(clock.now(), None);
        let at = Instant::now();
        clock.observe(1_000_000_000, at, at);
        clock.observe(2_000_000_000, at, at);
        let now = clock.now().unwrap().0;
        assert!((2_000_000_000..2_000_060_000).contains(&now), "{now}");
        assert!(clock.uncertainty().unwrap() <= Duration::from_millis(600));
    }

    #[test]
    fn drift_widens() {
        let known = Offset { low: 0, high: 100, at: 0 };
        assert_eq!(known.drifted(1_000_000), Offset { low: -200, high: 300, at: 1_000_000 });
    }
}
