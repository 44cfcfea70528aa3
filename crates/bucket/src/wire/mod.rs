//! The HTTP layer under a bucket: what is sent is counted, timed and bounded here.

mod body;
mod clock;
mod connect;
mod counters;
mod dialect;
mod failure;
mod resolve;

pub use clock::ServerClock;
pub use counters::{Counters, RequestKind, Traffic};
pub use dialect::by_host;

pub(crate) use connect::Wire;
pub(crate) use dialect::Recognised;
pub(crate) use failure::Failure;
pub(crate) use resolve::is_public;
