//! Experiments: small runs in one process, made of the parts that real runs are made of.
//!
//! | module | role |
//! | --- | --- |
//! | `text` | training and held-out sequences from a prepared dataset |
//! | `peers` | peers that train, side by side |
//! | `jobs` | many runs at a time |
//! | [`compression`] | what codes and densities cost in bytes and in loss |
//! | [`attacks`] | what cheats cost, and what they get |

pub mod attacks;
pub mod compression;
mod jobs;
mod peers;
mod text;
