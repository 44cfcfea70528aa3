//! What a file says of itself, for people who look at one that they did not expect.

use crate::delta::Delta;
use crate::encode::CodecConfig;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::header::{self, Binding, DeltaBinding, Kind};
use crate::layout::Layout;
use crate::merge::DeltaConfig;
use crate::quantize::CodeBits;
use crate::section::Format;
use crate::update::Update;

/// A file's header. Its hash has been checked, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Whether it is a delta; else it is an update.
    pub is_delta: bool,
    /// Run, window, peer (zeros in a delta) and start state root.
    pub binding: Binding,
    /// Digest of the layout that it was written for.
    pub layout: [u8; 32],
    /// Values kept in 4096; 0 where each chunk says how many.
    pub top_k: u32,
    /// How a value is coded.
    pub bits: CodeBits,
    /// Length in bytes and SHA-256 of each section.
    pub sections: Vec<(u32, [u8; 32])>,
}

/// A file that was opened for what it says it is.
#[derive(Debug, Clone)]
pub enum Opened {
    /// An update.
    Update(Update),
    /// A delta.
    Delta(Delta),
}

impl FileInfo {
    /// Reads the header of an update or a delta.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Length`], [`Error::Digest`] or [`Error::Header`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let (kind, header) = header::read_any(bytes)?;
        header.info(kind == Kind::Delta)
    }

    /// Checks the length of the file and every section's hash, for which no layout is needed.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Digest`].
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        let sum: u64 = self.sections.iter().map(|(len, _)| u64::from(*len)).sum();
        let (expected, actual) = (header::frame_len(self.sections.len()) as u64 + sum, bytes.len() as u64);
        if actual != expected {
            return Err(Error::Length { what: "file", expected, actual });
        }
        let mut rest = &bytes[header::frame_len(self.sections.len())..];
        for (i, (len, sha256)) in self.sections.iter().enumerate() {
            let (section, behind) = rest.split_at(*len as usize);
            header::check_section(i, sha256, section)?;
            rest = behind;
        }
        Ok(())
    }

    /// Where the file's sections are; `first` are its first [`Frame::len`] bytes.
    ///
    /// # Errors
    /// Those of [`Frame::of_update`].
    pub fn frame(&self, first: &[u8], layout: &Layout) -> Result<Frame> {
        let (kind, top_k) = match self.is_delta {
            false => (Kind::Update, Some(self.top_k)),
            true => (Kind::Delta, (self.top_k > 0).then_some(self.top_k)),
        };
        Frame::read(kind, first, layout, Format { bits: self.bits, top_k }, &self.binding)
    }

    /// Reads the whole file as what it says it is, with the layout that it must have been written for.
    ///
    /// # Errors
    /// Those of [`Update::parse`] and [`Delta::parse`].
    pub fn open(&self, bytes: impl Into<bytes::Bytes>, layout: &Layout) -> Result<Opened> {
        let &Self { binding, bits, top_k, .. } = self;
        if !self.is_delta {
            let config = CodecConfig { top_k, bits, error_feedback_decay: 0.0 };
            return Update::parse(bytes, layout, &config, &binding).map(Opened::Update);
        }
        let Binding { run, window, start_state_root, .. } = binding;
        let config = DeltaConfig { bits, top_k: (top_k > 0).then_some(top_k) };
        Delta::parse(bytes, layout, &config, &DeltaBinding { run, window, start_state_root })
            .map(Opened::Delta)
    }
}
