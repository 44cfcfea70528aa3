//! Training: a Llama in libtorch, its inner optimiser, and nothing of the network.
//!
//! - [`Trainer`]: one model on one device, its fp32 master weights and its optimiser state; in the block-by-block
//!   form of `model/`, which is `transformers`' `LlamaForCausalLM` to the last rounding.
//! - [`TokenBatch`]: token ids, checked before libtorch sees them.
//! - [`OptimizerConfig`], [`Recompute`], [`DeviceChoice`], [`Exchange`], [`ComputeDtype`], [`GenerateOptions`]: what a trainer is told.
//! - [`compress`](compress()): what training made of the parameters to an update file, on the device where they are.
//!
//! A [`Trainer`] may move between threads but is not shared by them. No call panics on bad input: exceptions of
//! libtorch come back as [`Error`].

mod batch;
mod compress;
mod device;
mod error;
mod generate;
mod model;
mod optimizer;
mod probe;
mod ranks;
mod recompute;
mod step;
mod trainer;

pub use batch::TokenBatch;
pub use brigade_torch_ext::version::{Version, version};
pub use compress::compress;
pub use device::{ComputeDtype, DeviceChoice, Exchange, cuda_devices};
pub use error::{Error, Result};
pub use generate::GenerateOptions;
pub use optimizer::{AdamWConfig, MuonConfig, OptimizerConfig};
pub use ranks::serve_rank;
pub use recompute::Recompute;
pub use step::StepStats;
pub use trainer::{Trainer, TrainerConfig};
