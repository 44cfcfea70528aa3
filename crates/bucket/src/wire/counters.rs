//! What went over the wire.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Method;

/// The kinds of request that stores price and limit differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Reads of an object or a part of one.
    Get,
    /// Reads of an object's metadata.
    Head,
    /// Lists.
    List,
    /// Writes of an object, or of a part of one.
    Put,
    /// Beginning, completing or abandoning a multipart upload.
    Multipart,
    /// Deletes.
    Delete,
}

/// All the kinds, in the order of [`Traffic::requests`].
const KINDS: [RequestKind; 6] = [
    RequestKind::Get,
    RequestKind::Head,
    RequestKind::List,
    RequestKind::Put,
    RequestKind::Multipart,
    RequestKind::Delete,
];

impl RequestKind {
    pub(crate) fn of(method: &Method, query: Option<&str>) -> Self {
        let query = query.unwrap_or("");
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match *method {
            Method::GET if has("list-type") => Self::List,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::DELETE if has("uploadId") => Self::Multipart,
            Method::DELETE => Self::Delete,
            Method::POST => Self::Multipart,
            _ => Self::Put,
        }
    }

    /// A word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::Multipart => "multipart",
            Self::Delete => "delete",
        }
    }
}

/// Running totals of one bucket, shared by its clones. Retries count: these are requests actually sent.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [AtomicU64; KINDS.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self, kind: RequestKind, bytes_up: u64) {
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(bytes_up, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The totals at this moment.
    pub fn snapshot(&self) -> Traffic {
        Traffic {
            requests: KINDS.map(|kind| (kind, self.requests[kind as usize].load(Ordering::Relaxed))),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Requests sent, by kind.
    pub requests: [(RequestKind, u64); KINDS.len()],
    /// Bytes of request bodies sent.
    pub bytes_up: u64,
    /// Bytes of response bodies received.
    pub bytes_down: u64,
    /// Requests that got no response, or a status of 500 and above or 429.
    pub failures: u64,
}

impl Traffic {
    /// The number of requests of one kind.
    pub fn count(&self, kind: RequestKind) -> u64 {
        self.requests[kind as usize].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let of = |method: Method, query: &str| RequestKind::of(&method, Some(query));
        assert_eq!(of(Method::GET, "list-type=2&prefix=a"), RequestKind::List);
        assert_eq!(of(Method::GET, ""), RequestKind::Get);
        assert_eq!(of(Method::PUT, "partNumber=1&uploadId=x"), RequestKind::Put);
        assert_eq!(of(Method::POST, "uploads="), RequestKind::Multipart);
        assert_eq!(of(Method::DELETE, "uploadId=x"), RequestKind::Multipart);
        assert_eq!(of(Method::DELETE, ""), RequestKind::Delete);
    }

    #[test]
    fn snapshot_is_by_kind() {
        let counters = Counters::default();
        counters.request(RequestKind::Put, 10);
        counters.request(RequestKind::Put, 5);
        counters.received(7);
        let traffic = counters.snapshot();
        assert_eq!((traffic.count(RequestKind::Put), traffic.bytes_up, traffic.bytes_down), (2, 15, 7));
        assert_eq!(traffic.count(RequestKind::Get), 0);
    }
}
