//! Experiments: small runs in one process, made of the parts that real runs are made of.
//!
//! | module | role |
//! | --- | --- |
//! | `text` | training and held-out sequences from a prepared dataset |
//! | `peers` | peers that train, side by side |
//! | [`compression`] | what codes and densities cost in bytes and in loss |

pub mod compression;
mod peers;
mod text;
