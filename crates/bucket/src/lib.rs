//! Object storage, as Brigade uses it.
//!
//! - [`Bucket`] is one bucket: bounded reads, pinned reads, create-once objects, compare-and-swap, lists.
//! - [`BucketAddress`] says where a bucket is and holds no secret; [`Credentials`] open it.
//! - [`keys`] is the only place that spells a key.
//! - [`Fence`] lets one of several aggregators act.
//! - [`admin`] makes buckets, policies and lifecycle rules, for operators and tests.
//! - [`ServerClock`] tells the time as the object store tells it.
//! - [`server`] is an S3 server of our own, for runs that have no cloud account.
//!
//! Every byte that comes out of a bucket is hostile until its hash has been checked: sizes are bounded before a body
//! is read, error bodies are cut, redirects are not followed, and nothing that a server says can panic.

pub mod admin;
mod bucket;
mod cause;
mod credentials;
mod error;
mod fence;
pub mod keys;
mod options;
mod place;
pub mod server;
mod wire;

pub use brigade_protocol::{BucketAddress, Dialect};
pub use bucket::{Bucket, Creation, Object, ObjectMeta, Pin, PollPolicy, Probe, ProbeStep, Stored};
pub use cause::Cause;
pub use credentials::{Access, Credentials};
pub use error::{BucketError, Result};
pub use fence::{Fence, FenceRecord};
pub use options::BucketOptions;
pub use place::names_private_host;
pub use wire::{Counters, RequestKind, ServerClock, Traffic, by_host};
