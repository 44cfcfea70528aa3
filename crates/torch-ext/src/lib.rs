//! What libtorch offers and [`tch`] does not: fused AdamW, operations over lists of tensors, backward from a given
//! gradient, the CUDA allocator's figures, and what ranks do together.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`adamw`] | the fused AdamW step, and [`AdamW`] that owns its moments |
//! | [`fused`] | RMSNorm, SwiGLU and RoPE in one pass on the CPU |
//! | [`foreach`] | global norm, clipping, copy, add, lerp, scale, zero: one call for a whole model |
//! | [`autograd`] | backward with given output gradients; replacing a gradient |
//! | [`memory`] | what the CUDA caching allocator holds; keeping freed memory on the CPU |
//! | [`version`] | which libtorch this is, and with which CUDA |
//! | [`process_group`] | all-gather and reduce-scatter between ranks, over NCCL |
//!
//! All `unsafe` of the workspace is in this crate. The C++ half (`src/**/*.cpp`) turns every exception into an
//! [`Error`] and checks shapes, kinds and devices before a kernel that trusts them is called.
//!
//! Number of threads, `no_grad` and manual seeds are in `tch` itself.

// The one crate that may: it calls C++ through pointers, and every block says why that is sound.
#![allow(unsafe_code)]

pub mod adamw;
pub mod autograd;
mod error;
mod ffi;
pub mod foreach;
pub mod fused;
pub mod memory;
pub mod process_group;
pub mod version;

pub use adamw::{AdamW, AdamWOptions};
pub use error::{Error, Result};
pub use process_group::{Operation, ProcessGroup, Transport};
