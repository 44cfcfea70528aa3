//! Why a call into libtorch failed.

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call into libtorch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch, or the check before it, refused the operands. `message` is libtorch's own, without its backtrace.
    #[error("{operation}: {message}")]
    Torch {
        /// The function of this crate that was called.
        operation: &'static str,
        /// What libtorch said.
        message: String,
    },
    /// Two lists that go together differ in length.
    #[error("{operation}: {name} has {found} tensors, expected {expected}")]
    Length {
        /// The function of this crate that was called.
        operation: &'static str,
        /// The list that differs.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length of the list that it goes with.
        expected: usize,
    },
    /// The operation needs a CUDA device and was given another one.
    #[error("{operation}: {device:?} is not a CUDA device")]
    NotCuda {
        /// The function of this crate that was called.
        operation: &'static str,
        /// The device that was given.
        device: tch::Device,
    },
}
