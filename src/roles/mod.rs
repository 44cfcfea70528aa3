//! The roles: what `brigade aggregator`, `brigade miner` and `brigade validator` do once they are configured.

pub mod aggregator;
#[cfg(feature = "torch")]
pub mod miner;
#[cfg(feature = "torch")]
mod model;
#[cfg(feature = "torch")]
mod samples;
#[cfg(feature = "torch")]
pub mod validator;
