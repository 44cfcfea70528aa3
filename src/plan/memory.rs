//! The most bytes of a step, by kind.

use serde::Serialize;

use super::activations::{self, Widths};
use super::{DeviceKind, Precision, Setup, Units};

/// Bytes on one device at the fullest moment of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// fp32 master weights.
    pub masters: u64,
    /// The weights in the compute dtype; none where that is fp32.
    pub compute_copies: u64,
    /// fp32 gradients that are there at that moment.
    pub gradients: u64,
    /// AdamW's two moments, or the part of them that is in from host memory.
    pub moments: u64,
    /// Whole blocks and the whole embedding or output projection, gathered from all devices.
    pub gathered: u64,
    /// What blocks keep for their backward pass.
    pub activations: u64,
    /// Temporaries of the backward pass of one block.
    pub backward: u64,
    /// Logits of a chunk of positions, and the output projection's gradient in the making.
    pub loss: u64,
    /// Token ids and rotary tables.
    pub tables: u64,
    /// What libtorch's kernels need for themselves; on a GPU also CUDA's context.
    pub workspace: u64,
    /// What the heap, on a GPU the caching allocator, cannot give back or use again.
    pub holes: u64,
    /// The moment: `loss`, `last block`, `first block`, `embedding`, `optimiser`.
    pub moment: &'static str,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every kind by the name that people read.
    pub fn kinds(&self) -> [(&'static str, u64); 11] {
        [
            ("fp32 masters", self.masters),
            ("compute copies", self.compute_copies),
            ("gradients", self.gradients),
            ("Adam moments", self.moments),
            ("gathered units", self.gathered),
            ("activations", self.activations),
            ("backward of a block", self.backward),
            ("loss", self.loss),
            ("ids and tables", self.tables),
            ("workspace", self.workspace),
            ("holes between tensors", self.holes),
        ]
    }
}

/// Bytes of host memory for a peer with GPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostMemory {
    /// θ at the window's start, fp32.
    pub theta: u64,
    /// What compression has left, fp32.
    pub error_feedback: u64,
    /// AdamW's moments, if they wait here.
    pub moments: u64,
    /// Moments on their way to the disk, once a window.
    pub saving: u64,
}

impl HostMemory {
    /// Every kind by the name that people read.
    pub fn kinds(&self) -> [(&'static str, u64); 4] {
        [
            ("θ of the window", self.theta),
            ("error feedback", self.error_feedback),
            ("Adam moments", self.moments),
            ("state to be saved", self.saving),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.theta + self.error_feedback + self.moments + self.saving
    }
}

/// What a peer holds in host memory. Error feedback is there always, so that a GPU need not.
pub fn host_memory(setup: &Setup) -> HostMemory {
    let n = Units::of(&setup.model).total();
    HostMemory {
        theta: bytes(4.0 * n),
        error_feedback: bytes(4.0 * n),
        moments: if setup.offload { bytes(8.0 * n) } else { 0 },
        saving: bytes(8.0 * n),
    }
}

/// What differs from moment to moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    name: &'static str,
    gradients: f64,
    staged: f64,
    gathered: f64,
    activations: f64,
    backward: f64,
    loss: f64,
}

impl Moment {
    fn total(&self) -> f64 {
        self.gradients + self.staged + self.gathered + self.activations + self.backward + self.loss
    }
}

/// Bytes that one device needs for `setup`, at the fullest moment of a step after the first.
pub fn memory(setup: &Setup) -> Memory {
    let (units, shards) = (Units::of(&setup.model), setup.gpus.max(1) as f64);
    let owned = units.total() / shards;
    let moments = moments(setup, &units);
    let fullest = moments.into_iter().max_by(|a, b| a.total().total_cmp(&b.total())).unwrap_or_default();
    let copies = match setup.precision {
        Precision::Float32 => 0.0,
        Precision::BFloat16 if setup.is_widened => 4.0 * owned,
        Precision::BFloat16 => 2.0 * owned,
    };
    // On a CPU it is the same memory.
    let is_elsewhere = setup.offload && setup.device == DeviceKind::Cuda;
    let adam = if is_elsewhere { 0.0 } else { 8.0 * owned };
    let head = setup.model.head_dim() as f64;
    let tables = 2.0 * setup.sequence_length as f64 * head * setup.element() + 24.0 * setup.tokens();
    let all = 4.0 * owned + copies + adam + tables + fullest.total();
    Memory {
        masters: bytes(4.0 * owned),
        compute_copies: bytes(copies),
        gradients: bytes(fullest.gradients),
        moments: bytes(adam + fullest.staged),
        gathered: bytes(fullest.gathered),
        activations: bytes(fullest.activations),
        backward: bytes(fullest.backward),
        loss: bytes(fullest.loss),
        tables: bytes(tables),
        workspace: bytes(if setup.device == DeviceKind::Cuda { CUDA_WORKSPACE } else { CPU_WORKSPACE }),
        holes: bytes(holes(setup, &units, all)),
        moment: fullest.name,
    }
}

/// The moments at which a step can be fullest. Between the last block's backward pass and the first one's, activations go
/// and gradients come, both evenly, so that one of the ends is the fuller one.
fn moments(setup: &Setup, units: &Units) -> [Moment; 5] {
    let (tokens, c, shards) = (setup.tokens(), setup.element(), setup.gpus.max(1) as f64);
    let hidden = Widths::of(setup).hidden;
    let stream = tokens * hidden * c;
    let graph = tokens * activations::kept(setup).iter().sum::<f64>();
    let again = setup.recompute.blocks(setup.model.num_hidden_layers as u64) as f64;
    let all_blocks = (units.layers - again) * graph + again * stream;
    let block_again = if again > 0.0 { graph - stream } else { 0.0 };
    let owned = |elements: f64| 4.0 * elements / shards;
    let gradients = |passed: f64| if setup.accumulates() { owned(units.total()) } else { owned(passed) };
    let head = if units.output > 0.0 { units.output } else { units.embedding };
    // A block in use and the next one on its way; nothing to gather on one device.
    let gathered = |elements: f64| if shards > 1.0 { c * elements } else { 0.0 };
    // On several devices the whole unit's gradient is there before it is scattered; on one, it is the unit's own.
    let whole = |elements: f64| if shards > 1.0 || setup.accumulates() { 4.0 * elements } else { 0.0 };
    let last = head + units.norm + units.block;
    let backward = activations::backward(setup, tokens, units.block);
    let table = units.embedding;
    let stays = Moment { gathered: gathered(2.0 * units.block), ..Moment::default() };
    [
        Moment {
            name: "loss",
            gradients: gradients(0.0),
            gathered: gathered(head + units.block),
            activations: all_blocks + stream + tokens * activations::norm(setup, hidden).iter().sum::<f64>(),
            loss: loss(setup, tokens, head) + stream,
            ..stays
        },
        Moment {
            name: "last block",
            gradients: gradients(head + units.norm),
            activations: all_blocks + block_again,
            backward,
            ..stays
        },
        Moment {
            name: "first block",
            gradients: gradients(last + (units.layers - 2.0).max(0.0) * units.block),
            activations: graph,
            backward,
            ..stays
        },
        Moment {
            name: "embedding",
            gradients: gradients(units.total()),
            gathered: 0.0,
            backward: tokens * hidden * (c + 4.0)
                + if units.output > 0.0 { whole(table) } else { 4.0 * table },
            ..stays
        },
        Moment {
            name: "optimiser",
            gradients: owned(units.total()),
            gathered: 0.0,
            // Copies of one span's moments, of a unit at most.
            staged: if setup.offload { 8.0 * units.largest() / shards } else { 0.0 },
            ..stays
        },
    ]
}

/// Bytes of the loss: as `trainer/src/model/loss.rs` makes them.
fn loss(setup: &Setup, tokens: f64, head: f64) -> f64 {
    let c = if setup.is_widened { 4.0 } else { setup.element() };
    let vocab = setup.model.vocab_size as f64;
    let (elements, least) = match setup.device {
        DeviceKind::Cpu => (f64::from(1 << 20), 64.0),
        DeviceKind::Cuda => (f64::from(1 << 28), 256.0),
    };
    let rows = (elements / vocab).floor().max(least).min(tokens);
    let is_one_chunk = rows >= tokens;
    let (logits, cast) = if c < 4.0 { (c + 8.0, c + 4.0) } else { (8.0, 4.0) };
    // The fp32 sum beside a product, of which a CPU makes an fp32 copy to add it; the first one's copy becomes the sum.
    let sum = if is_one_chunk { 0.0 } else { 4.0 };
    let copy = if c < 4.0 && (is_one_chunk || setup.device == DeviceKind::Cpu) { 4.0 } else { 0.0 };
    // The copy of the first chunk's product is there without a sum, also where later ones need none.
    let both = (sum + c + copy).max(c + if c < 4.0 { 4.0 } else { 0.0 });
    (logits * rows * vocab + sum * head).max(cast * rows * vocab + both * head)
}

/// Share of what comes and goes in the heap that stays behind as holes: measured, 0.27 to 0.37 for models of 40 M and 150 M parameters.
/// Activations leave in the reverse of the order in which they came, while flat gradients, larger than each of them, ask for room.
const HOLES: f64 = 0.31;

/// What glibc's heap serves: larger blocks have pages of their own, which are given back at once (`M_MMAP_THRESHOLD`, at its most).
const HEAP_BLOCK: f64 = (32 << 20) as f64;

/// Packing buffers of matrix products and kernels made for their shapes, in bytes: measured, 8 to 14 MB on two threads.
const CPU_WORKSPACE: f64 = (11 << 20) as f64;

/// CUDA's context, kernels and workspaces, in bytes: what PyTorch's take on a recent GPU.
const CUDA_WORKSPACE: f64 = (1 << 30) as f64;

/// Share of a caching allocator's memory that is holes between tensors.
const CUDA_HOLES: f64 = 0.02;

fn holes(setup: &Setup, units: &Units, all: f64) -> f64 {
    match setup.device {
        DeviceKind::Cuda => CUDA_HOLES * all,
        DeviceKind::Cpu => {
            let in_heap = |bytes: f64| if bytes < HEAP_BLOCK { bytes } else { 0.0 };
            let tokens = setup.tokens();
            let kept = activations::kept(setup);
            let graph: f64 = kept.iter().map(|width| in_heap(tokens * width)).sum();
            let again = setup.recompute.blocks(setup.model.num_hidden_layers as u64) as f64;
            let inputs = again * in_heap(tokens * kept[0]) + if again > 0.0 { graph } else { 0.0 };
            let gradients = units.layers * in_heap(4.0 * units.block)
                + 2.0 * in_heap(4.0 * units.embedding)
                + in_heap(4.0 * units.output);
            HOLES * ((units.layers - again) * graph + inputs + gradients)
        }
    }
}

fn bytes(exact: f64) -> u64 {
    exact.round() as u64
}
