//! Reading the merged delta and applying it, with the same bits on every machine.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::frame::Frame;
use crate::header::{DeltaBinding, Kind};
use crate::layout::Layout;
use crate::merge::DeltaConfig;
use crate::source::{ReadAt, Source};
use crate::update::Sections;

/// A window's merged delta, checked from the first byte to the last.
#[derive(Debug, Clone)]
pub struct Delta {
    sections: Sections,
    binding: DeltaBinding,
}

impl Delta {
    /// Reads hostile bytes, as [`Update::parse`](crate::Update::parse) does.
    ///
    /// # Errors
    /// The same as [`Update::parse`](crate::Update::parse).
    pub fn parse(
        bytes: impl Into<Bytes>,
        layout: &Layout,
        config: &DeltaConfig,
        expected: &DeltaBinding,
    ) -> Result<Self> {
        Self::read(Source::Memory(bytes.into()), layout, config, expected)
    }

    /// Reads them where they are, as [`Update::open`](crate::Update::open) does.
    ///
    /// # Errors
    /// The same as [`Update::open`](crate::Update::open).
    pub fn open(
        source: Arc<dyn ReadAt>,
        layout: &Layout,
        config: &DeltaConfig,
        expected: &DeltaBinding,
    ) -> Result<Self> {
        Self::read(Source::Elsewhere(source), layout, config, expected)
    }

    fn read(source: Source, layout: &Layout, config: &DeltaConfig, expected: &DeltaBinding) -> Result<Self> {
        config.check()?;
        let sections = Sections::parse(Kind::Delta, source, layout, config.format(), &expected.in_header())?;
        Ok(Self { sections, binding: *expected })
    }

    /// Which window's delta this is.
    pub fn binding(&self) -> &DeltaBinding {
        &self.binding
    }

    /// The tensors it is about.
    pub fn layout(&self) -> &Layout {
        self.sections.layout()
    }

    /// Where the file's sections are, and their hashes.
    pub fn frame(&self) -> &Frame {
        self.sections.frame()
    }

    /// Number of values in the file.
    pub fn kept(&self) -> u64 {
        self.sections.kept()
    }

    /// L2 norm of the decoded values: a sum in f64 in the order of the file.
    pub fn norm(&self) -> f64 {
        self.sections.norm()
    }

    /// Calls `f` with the flat index and value of every element of `tensor` that changes, chunk by chunk.
    ///
    /// An index comes at most once. Applying is `θ[index] -= value`, in f32, on any device.
    ///
    /// # Errors
    /// As for [`Update::for_each`](crate::Update::for_each).
    ///
    /// # Panics
    /// If the layout has no tensor of that number.
    pub fn for_each(&self, tensor: usize, f: impl FnMut(usize, f32)) -> Result<()> {
        self.sections.for_each(tensor, f)
    }

    /// `θ ← θ − value`: one f32 multiplication made the value, one subtraction applies it, nothing is fused.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `theta` has not the layout's tensors; it is unchanged then. Those of
    /// [`for_each`](Self::for_each), after which part of `theta` is old and part is new.
    pub fn apply(&self, theta: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(theta, |_| {}, |element, value| *element -= value)
    }

    /// The dense delta in place of what `out` holds: zeros where nothing changes.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `out` has not the layout's tensors; those of [`for_each`](Self::for_each).
    pub fn decode_into(&self, out: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(out, |elements| elements.fill(0.0), |element, value| *element = value)
    }

    pub(crate) fn sections(&self) -> &Sections {
        &self.sections
    }
}
