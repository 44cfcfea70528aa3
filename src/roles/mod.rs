//! The roles: what `brigade aggregator`, `brigade miner` and `brigade validator` do once they are configured.

pub mod aggregator;
pub(crate) mod follow;
#[cfg(feature = "torch")]
pub mod miner;
#[cfg(feature = "torch")]
pub(crate) mod model;
#[cfg(feature = "torch")]
pub(crate) mod samples;
pub(crate) mod start;
#[cfg(feature = "torch")]
pub mod validator;
