//! The update file and the merged delta: chunks, top-k, quantiser, entropy coder, safe decoder.
//!
//! Pure: bytes and slices in, bytes and slices out. No I/O, no clock, no randomness, no threads, no tensor library.
//! Every result is the same on every machine: floating-point work is done in a fixed order with IEEE `+ - × ÷ √`
//! only, never fused and never through a mathematics library.
//!
//! | module | idea |
//! | --- | --- |
//! | [`layout`] | ordered tensors, their 64×64 tiles and 4096-long runs, and how chunks are grouped into sections |
//! | `topk` | the k largest magnitudes of a chunk, exactly |
//! | `quantize` | logarithmic chunk scales, magnitude levels, and how they are fitted |
//! | `rans` | the entropy coder: one 64-bit rANS state, 32-bit words |
//! | `subset` | sorted positions, at the cost of log2 C(n, k) bits and no more |
//! | `section` | up to 1024 chunks in one independently decodable, hashed piece |
//! | `header` | what the file is for, its lengths and its hashes |
//! | `encode` | error feedback and compression of one peer's pseudo-gradient: [`compress()`] |
//! | `update` | reading a peer's bytes, all of them hostile: [`Update`] |
//! | `merge` | many updates into one delta, with the aggregator's error feedback: [`merge()`] |
//! | `delta` | reading the merged file and applying it, bit for bit: [`Delta`] |
//! | `gram` | inner products of updates, straight from the sparse codes: [`gram()`] |
//! | `bound` | how long a file may be, before a byte of it is read |
//! | `stats` | where a file's bits went, against the entropy bound: [`Stats`] |

mod bound;
mod delta;
mod encode;
mod error;
mod gram;
mod header;
pub mod layout;
mod merge;
mod quantize;
mod rans;
mod section;
mod stats;
mod subset;
mod topk;
mod update;

pub use bound::{max_delta_bytes, max_update_bytes};
pub use delta::Delta;
pub use encode::{CodecConfig, compress};
pub use error::{Error, Result};
pub use gram::gram;
pub use header::{Binding, DeltaBinding};
pub use layout::{Layout, Tensor};
pub use merge::{DeltaConfig, merge};
pub use quantize::CodeBits;
pub use stats::Stats;
pub use update::Update;
