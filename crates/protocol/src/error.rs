//! Everything that can be wrong with what peers say to each other.

use crate::Digest;

/// Errors of this crate. Messages name the operands; none holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that should be 64 lower-case hexadecimal digits is not.
    #[error("`{text}` is not 64 lower-case hexadecimal digits")]
    NotHex {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A model configuration that no model can have.
    #[error("model.{field} {reason}")]
    Model {
        /// The field, as in `config.json`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dataset index that no dataset can have.
    #[error("dataset.{field} {reason}")]
    Dataset {
        /// The field, as in `dataset.json`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two digests that should be one.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was compared.
        what: &'static str,
        /// The digest that was promised.
        expected: Digest,
        /// The digest that was found.
        found: Digest,
    },
}

impl Error {
    pub(crate) fn model(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Model { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn dataset(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Dataset { field: field.into(), reason: reason.into() }
    }
}
