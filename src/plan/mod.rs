//! What a peer will need, before it has it: memory by kind, the time of a step, the bytes of a window.
//!
//! Arithmetic alone: no device is asked. It follows what the trainer allocates, tensor by tensor; a test holds it against
//! the trainer's own peak.
//!
//! | module | role |
//! | --- | --- |
//! | `activations` | what a block leaves behind in its forward pass, and needs in its backward pass |
//! | `memory` | the most bytes of a step, by kind |
//! | `time` | a step, a window, an exchange |
//! | `advice` | what to change when it does not fit |
//! | `traffic` | requests and bytes of a window, by role and bucket |
//! | `prices` | what providers ask for them |

mod activations;
mod advice;
mod memory;
mod prices;
mod time;
mod traffic;

use brigade_protocol::ModelConfig;
use serde::{Deserialize, Serialize};

pub use advice::{Advice, advise};
pub use memory::{HostMemory, Memory, host_memory, memory};
pub use prices::{Bill, Prices, R2, S3};
pub use time::{
    Exchange, Link, ONE_PUT_BYTES, exchange, exchange_bytes, flops_per_token, largest_delta, step_seconds,
};
pub use traffic::{Asked, Traffic, Window};

/// What a peer trains, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The model.
    pub model: ModelConfig,
    /// What computes.
    pub device: DeviceKind,
    /// Devices that share the model (ZeRO-3: arXiv 1910.02054); 1 for a CPU.
    pub gpus: u64,
    /// Precision of activations and of weights in matrix products.
    pub precision: Precision,
    /// Whether bf16 is widened to fp32 for matrix products, as on CPUs that are slow in it.
    pub is_widened: bool,
    /// Tokens in a sequence.
    pub sequence_length: u64,
    /// Sequences of a step on one device.
    pub batch: u64,
    /// Sequences that go through the model at once on one device; at most `batch`.
    pub micro_batch: u64,
    /// Which blocks run again in their backward pass.
    pub recompute: Recompute,
    /// Whether the moments wait in host memory between the steps.
    pub offload: bool,
}

impl Setup {
    /// Bytes of one element in the compute dtype.
    fn element(&self) -> f64 {
        match self.precision {
            Precision::Float32 => 4.0,
            Precision::BFloat16 => 2.0,
        }
    }

    /// Tokens that go through the model at once on one device.
    fn tokens(&self) -> f64 {
        (self.micro_batch.min(self.batch) * self.sequence_length) as f64
    }

    /// Whether gradients of several micro-batches are summed.
    fn accumulates(&self) -> bool {
        self.batch > self.micro_batch
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// This machine's cores.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Precision of activations and of weights in matrix products; master weights are always fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision; masters and compute copies are one.
    Float32,
    /// bfloat16.
    BFloat16,
}

/// Which blocks keep only their input and run again in their backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// No block.
    None,
    /// Every n-th block, from the first on; 0 is none.
    Every(u64),
    /// Every block.
    All,
}

impl Recompute {
    /// How many of `layers` blocks run again.
    pub fn blocks(self, layers: u64) -> u64 {
        match self {
            Self::None | Self::Every(0) => 0,
            Self::Every(n) => layers.div_ceil(n),
            Self::All => layers,
        }
    }
}

impl std::str::FromStr for Recompute {
    type Err = String;

    /// `none`, `all`, or N for every N-th block.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "all" | "1" => Ok(Self::All),
            number => match number.parse() {
                Ok(n) if n > 0 => Ok(Self::Every(n)),
                _ => Err(format!("`{number}` must be none, all, or N for every N-th block")),
            },
        }
    }
}

impl std::fmt::Display for Recompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::Every(n) => n.fmt(f),
        }
    }
}

/// Elements of the parts of a model that are gathered, updated and freed as wholes.
#[derive(Clone, Copy, Debug)]
struct Units {
    embedding: f64,
    block: f64,
    layers: f64,
    norm: f64,
    /// 0 if it is tied to the embedding.
    output: f64,
}

impl Units {
    fn of(model: &ModelConfig) -> Self {
        let embedding = (model.vocab_size * model.hidden_size) as f64;
        let output = if model.tie_word_embeddings { 0.0 } else { embedding };
        let (layers, norm) = (model.num_hidden_layers as f64, model.hidden_size as f64);
        // Of one layer, so that a deep model costs nothing.
        let shallow = ModelConfig { num_hidden_layers: 1, ..model.clone() };
        let block = shallow.num_parameters() as f64 - embedding - output - norm;
        Self { embedding, block, layers, norm, output }
    }

    fn total(&self) -> f64 {
        self.embedding + self.layers * self.block + self.norm + self.output
    }

    fn largest(&self) -> f64 {
        self.embedding.max(self.block)
    }
}

#[cfg(test)]
mod tests;
