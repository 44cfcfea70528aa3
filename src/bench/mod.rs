//! Measurements that a user can repeat.
//!
//! | module | role |
//! | --- | --- |
//! | [`codec`] | compress, decode and merge, beside the machine's own memory bandwidth |
//! | `train` | inner steps: tokens a second, memory, waiting for data |
//! | `tokens` | random tokens as a run's text |
//! | `memory` | how fast memory is, and how much of it this process has |

pub mod codec;
pub(crate) mod memory;
#[cfg(feature = "torch")]
mod tokens;
#[cfg(feature = "torch")]
pub mod train;
