//! What peers agree on.

mod digest;
mod error;
mod model;

pub use digest::Digest;
pub use error::Error;
pub use model::{ModelConfig, TensorSpec};
