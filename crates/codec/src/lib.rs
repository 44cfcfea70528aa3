//! The update file and the merged delta: chunks, top-k, quantiser, entropy coder, safe decoder.
//!
//! Pure: bytes and slices in, bytes and slices out. No I/O, no clock, no randomness, no tensor library.
//! Every result is the same on every machine: floating-point work is done in a fixed order with IEEE `+ - × ÷ √`
//! only, never fused and never through a mathematics library. Sections are worked on by rayon's threads, as many as its
//! pool has; how many there are changes nothing but the time.
//!
//! | module | idea |
//! | --- | --- |
//! | [`layout`] | ordered tensors, their 64×64 tiles and 4096-long runs, and how chunks are grouped into sections |
//! | `topk` | the k largest magnitudes of a chunk, exactly |
//! | `quantize` | logarithmic chunk scales, magnitude levels, and how they are fitted |
//! | `simd` | the loops over every parameter, as wide as the processor allows |
//! | `table` | how often each symbol of a section occurs |
//! | `rans` | the entropy coder: sixteen lanes of 64 bits, one stream of 32-bit words |
//! | `section` | up to 1024 chunks in one independently decodable, hashed piece |
//! | `pack` | writing a section |
//! | `reader` | reading one, whatever its bytes are |
//! | `header` | what the file is for, its lengths and its hashes |
//! | `frame` | where the sections are, and reading only some of them: [`Frame`] |
//! | `source` | bytes in memory, or read from where they are: [`ReadAt`] |
//! | `encode` | error feedback and compression of one peer's pseudo-gradient: [`compress()`] |
//! | `update` | reading a peer's bytes, all of them hostile: [`Update`] |
//! | `merge` | many updates into one delta, with the aggregator's error feedback: [`merge()`] |
//! | `delta` | reading the merged file and applying it, bit for bit: [`Delta`] |
//! | `gram` | inner products of updates, straight from the sparse codes: [`gram()`] |
//! | `bound` | how long a file may be, before a byte of it is read |
//! | `info` | what a file says of itself: [`FileInfo`] |
//! | [`device`] | for compressors on other kinds of processors |
//! | `stats` | where a file's bits went, against the entropy bound: [`Stats`] |

mod bound;
mod delta;
pub mod device;
mod encode;
mod error;
mod frame;
mod gram;
mod header;
mod info;
pub mod layout;
mod merge;
mod pack;
mod quantize;
mod rans;
mod reader;
mod section;
mod simd;
mod source;
mod stats;
mod table;
mod topk;
mod update;

pub use bound::{max_delta_bytes, max_update_bytes};
pub use delta::Delta;
pub use encode::{CodecConfig, compress};
pub use error::{Error, Result};
pub use frame::{Frame, Rows};
pub use gram::gram;
pub use header::{Binding, DeltaBinding};
pub use info::{FileInfo, Opened};
pub use layout::{Layout, Tensor};
pub use merge::{DeltaConfig, merge};
pub use quantize::CodeBits;
pub use source::ReadAt;
pub use stats::{Stats, TensorStats};
pub use update::Update;
