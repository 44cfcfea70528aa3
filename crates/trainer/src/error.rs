//! Everything that can go wrong while training.

use tch::TchError;

/// Errors of this crate. Those of libtorch arrive here too: no C++ exception becomes a panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's configuration is one that no model can have.
    #[error(transparent)]
    Model(#[from] brigade_protocol::Error),
    /// A pseudo-gradient could not be compressed.
    #[error(transparent)]
    Codec(#[from] brigade_codec::Error),
    /// An operation of libtorch failed.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    /// An operation of the C++ shim failed.
    #[error(transparent)]
    Extension(#[from] brigade_torch_ext::Error),
    /// The model has more parameters than can be counted in bytes.
    #[error("a model of {parameters} parameters fits no memory")]
    TooLarge {
        /// Number of parameters.
        parameters: u128,
    },
    /// The device that was asked for is not there.
    #[error("device {wanted} is not available: libtorch sees {found} CUDA devices")]
    Device {
        /// The device, as the caller named it.
        wanted: String,
        /// How many CUDA devices libtorch sees.
        found: i64,
    },
    /// A number in the trainer's configuration is out of range.
    #[error("{field} is {value}, must be {must}")]
    Setting {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        must: &'static str,
    },
    /// The list of parameters has the wrong length.
    #[error("the model has {expected} parameter tensors, {found} were given")]
    TensorCount {
        /// Number of tensors in the model.
        expected: usize,
        /// Number of tensors given.
        found: usize,
    },
    /// A tensor has the wrong number of elements.
    #[error("{name} has {expected} elements, {found} were given")]
    TensorLength {
        /// The tensor's name.
        name: String,
        /// Number of elements in the model.
        expected: usize,
        /// Number of elements given.
        found: usize,
    },
    /// A batch whose extents do not fit its tokens, or the model.
    #[error("a batch of {sequences} sequences of {sequence_length} tokens: {reason}")]
    Batch {
        /// Number of sequences.
        sequences: usize,
        /// Tokens in a sequence.
        sequence_length: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A token id that the model does not have.
    #[error("token {id} at position {position} is not below the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Its index in the flat list of tokens.
        position: usize,
        /// Number of ids that the model has.
        vocab_size: usize,
    },
    /// The loss or the gradient is not a number: the step was not taken, the parameters are as before.
    #[error("{what} is {value}; the step was not taken")]
    NotFinite {
        /// What was measured: `loss` or `gradient norm`.
        what: &'static str,
        /// What came out.
        value: f64,
    },
    /// Another rank is lost, and with it its share of the model.
    #[error("rank {rank} of this peer is lost: {reason}")]
    Rank {
        /// Its number.
        rank: usize,
        /// What it said last, or how its silence was noticed.
        reason: String,
    },
    /// The ranks' GPUs cannot be connected, or an operation between them has failed though no rank is lost.
    #[error(
        "the ranks of this peer cannot exchange tensors over NCCL: {reason}; with `exchange = \"host\"` under [compute] they go by way of host memory"
    )]
    Exchange {
        /// What NCCL said, or libtorch of it.
        reason: String,
    },
    /// Bytes that are not this model's optimiser state.
    #[error("optimiser state: {reason}")]
    OptimizerState {
        /// What is wrong with them.
        reason: String,
    },
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The message of a C++ exception without the stack trace that follows it.
fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
