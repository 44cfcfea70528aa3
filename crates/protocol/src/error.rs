//! Everything that can be wrong with what peers say to each other.

use crate::{Digest, PeerId};

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
    /// A manifest that no run can have.
    #[error("manifest: {field} {reason}")]
    Manifest {
        /// The field, with its section.
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
    /// A bucket address that must not be followed.
    #[error("bucket address: {field} {reason}")]
    Address {
        /// The field.
        field: &'static str,
        /// What it must be.
        reason: &'static str,
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
    /// A tensor with the wrong number of elements.
    #[error("tensor {tensor}: expected {expected} elements, found {found}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// Elements that its shape implies.
        expected: usize,
        /// Elements that were given.
        found: usize,
    },
    /// Bytes that are not the JSON that they should be.
    #[error("not a valid {what}: {source}")]
    Json {
        /// What was expected.
        what: &'static str,
        /// Where and why reading stopped.
        source: serde_json::Error,
    },
    /// An envelope field that is not base64 of the right length.
    #[error("the envelope's {what} is not valid base64")]
    Base64 {
        /// The field.
        what: &'static str,
    },
    /// A record of another kind.
    #[error("expected a record of type {expected}, found {found}")]
    PayloadType {
        /// The type that was looked for.
        expected: &'static str,
        /// The type that was found, cut to 80 characters.
        found: String,
    },
    /// A signature that does not hold.
    #[error("the signature of {signer} does not hold")]
    Signature {
        /// Who was said to have signed.
        signer: PeerId,
    },
    /// A record signed by somebody else.
    #[error("{what}: expected the signature of {expected}, found that of {found}")]
    Signer {
        /// The kind of record.
        what: &'static str,
        /// Who should have signed.
        expected: PeerId,
        /// Who did.
        found: PeerId,
    },
    /// Something that is well formed but not acceptable.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn model(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Model { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn manifest(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Manifest { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn dataset(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Dataset { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn address(field: &'static str, reason: &'static str) -> Self {
        Self::Address { field, reason }
    }

    pub(crate) fn refused(reason: &'static str) -> Self {
        Self::Refused { reason }
    }
}
