//! Several processes that train as one: each holds a share of the parameters, their gradients and moments.
//!
//! | module | role |
//! | --- | --- |
//! | `link` | frames between two ranks, and how the death of one is noticed |
//! | `group` | what all ranks do together: gather, scatter, reduce |
//! | `under_way` | what was started and is waited for later |
//! | `direct` | tensors that go from GPU to GPU, over NCCL |
//! | `meet` | how they find each other |
//! | `workers` | the processes of the other ranks, started by rank 0 |
//! | `serve` | what such a process does |
//! | `shares` | each of its tasks |
//! | `compress` | one update file, made by all |
//!
//! Parameters are cut as in ZeRO-3 (arXiv 1910.02054): rank r of n holds the r-th n-th of every unit, and a unit is put
//! together only while it is computed with.

mod compress;
mod direct;
#[cfg(test)]
mod direct_tests;
mod group;
#[cfg(test)]
mod group_tests;
mod link;
mod meet;
mod serve;
mod shares;
#[cfg(test)]
mod tests;
mod under_way;
mod workers;

pub(crate) use compress::{CompressJob, Host};

pub(crate) use group::{Group, from_bytes, to_bytes};
pub(crate) use serve::Command;
pub use serve::serve_rank;
pub(crate) use under_way::{Gathering, Reducing};
pub(crate) use workers::Workers;
