//! Measurements that a user can repeat.
//!
//! | module | role |
//! | --- | --- |
//! | [`codec`] | compress, decode and merge, beside the machine's own memory bandwidth |
//! | `memory` | how fast memory is, and how much of it this process has |

pub mod codec;
pub(crate) mod memory;
