//! Everything that can be wrong with a layout, an input or a file.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of this crate. None of reading leaves a partial result behind; `compress` and `merge` say what they leave.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A list of tensors that no file can be about.
    #[error("layout: tensor `{tensor}` {reason}")]
    Layout {
        /// Name of the tensor, or empty when the list as a whole is at fault.
        tensor: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A setting outside its range.
    #[error("config.{field} = {value} is outside {range}")]
    Config {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// A caller's tensors do not have the layout's number or lengths.
    #[error("{what}: expected {expected}, got {actual}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// What the layout says.
        expected: usize,
        /// What the caller passed.
        actual: usize,
    },
    /// A value that cannot be compressed: NaN, infinite, or larger than 2^60.
    #[error("{what}: tensor {tensor}, element {index} is {value}")]
    Value {
        /// Which input: the pseudo-gradient, the error feedback or a coefficient.
        what: &'static str,
        /// Position of the tensor in the layout.
        tensor: usize,
        /// Flat index of the element.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The file is not as long as it must be.
    #[error("{what}: {actual} bytes, expected {expected}")]
    Length {
        /// Which part of the file.
        what: &'static str,
        /// Length it must have.
        expected: u64,
        /// Length it has.
        actual: u64,
    },
    /// The file, or a part of it, is longer than the layout and the config allow.
    #[error("{what}: {actual} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// Which part of the file.
        what: &'static str,
        /// Most that is allowed.
        limit: u64,
        /// Length found or claimed.
        actual: u64,
    },
    /// The first bytes are not those of a file of this kind and version.
    #[error("no {0} file of a known version")]
    Magic(&'static str),
    /// The header's bytes do not decode.
    #[error("header: {0}")]
    Header(String),
    /// The file is for something else than the reader asked for.
    #[error("header: {field} is {found}, expected {expected}")]
    Binding {
        /// Name of the field that differs.
        field: &'static str,
        /// What the reader expects.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// Bytes that are not in memory could not be read.
    #[error("cannot read {what}: {reason}")]
    Read {
        /// Which part of the file.
        what: String,
        /// What kind of error the system reported.
        kind: std::io::ErrorKind,
        /// Its words.
        reason: String,
    },
    /// A SHA-256 does not match.
    #[error("{what}: SHA-256 mismatch")]
    Digest {
        /// Which part of the file.
        what: String,
    },
    /// A section's bytes break a rule of the format.
    #[error("section {section}: {reason}")]
    Section {
        /// Position of the section in the file.
        section: usize,
        /// Which rule.
        reason: &'static str,
    },
}
