//! Reading a peer's update. Every byte of it is hostile until [`Update::parse`] has returned.

use std::ops::Range;

use bytes::Bytes;
use rayon::prelude::*;

use crate::encode::CodecConfig;
use crate::error::{Error, Result};
use crate::header::{self, Binding, Kind};
use crate::layout::{Chunk, Layout};
use crate::reader::Reader;
use crate::section::Format;
use crate::simd::Simd;

/// A file's sections, every one of which has been decoded once without an error.
#[derive(Debug, Clone)]
pub(crate) struct Sections {
    layout: Layout,
    format: Format,
    bytes: Bytes,
    ranges: Vec<Range<usize>>,
    kept: u64,
    squares: f64,
}

impl Sections {
    /// Checks frame, hashes and every section of `bytes`.
    pub(crate) fn parse(
        kind: Kind,
        bytes: Bytes,
        layout: &Layout,
        format: Format,
        binding: &Binding,
    ) -> Result<Self> {
        let ranges = header::read(kind, &bytes, binding, layout, format)?;
        let mut parsed = Self { layout: layout.clone(), format, bytes, ranges, kept: 0, squares: 0.0 };
        let sections: Vec<Result<(u64, f64)>> =
            (0..parsed.ranges.len()).into_par_iter().map(|section| parsed.measure(section)).collect();
        // The first section's error, whatever thread was first: it may go into a signed record.
        let sections: Result<Vec<_>> = sections.into_iter().collect();
        // In the order of the file, in f64: the same sum on every machine.
        let sum = |(kept, squares): (u64, f64), (more, square)| (kept + more, squares + square);
        (parsed.kept, parsed.squares) = sections?.into_iter().fold((0, 0.0), sum);
        Ok(parsed)
    }

    /// Decodes a section and returns how many values it has, and the sum of their squares.
    fn measure(&self, section: usize) -> Result<(u64, f64)> {
        let (simd, mut kept, mut squares) = (Simd::detect(), 0, 0.0);
        self.try_read(section, |_, reader| {
            kept += reader.values.len() as u64;
            squares += simd.sum_of_squares(&reader.values);
        })?;
        Ok((kept, squares))
    }

    fn try_read(&self, section: usize, mut visit: impl FnMut(&Chunk, &Reader<'_>)) -> Result<()> {
        let refuse = |reason| Error::Section { section, reason };
        let mut reader =
            Reader::new(&self.bytes[self.ranges[section].clone()], self.format).map_err(refuse)?;
        for chunk in self.layout.section(section) {
            reader.next(chunk.len).map_err(refuse)?;
            visit(&chunk, &reader);
        }
        reader.finish().map_err(refuse)
    }

    /// Calls `visit` with each chunk of a section, its positions and its values.
    pub(crate) fn read(&self, section: usize, mut visit: impl FnMut(&Chunk, &[u16], &[f32])) {
        self.try_read(section, |chunk, reader| visit(chunk, &reader.positions, &reader.values))
            .expect("the same bytes were decoded without an error when they were parsed");
    }

    /// Calls `visit` with each element of `tensors` that the file has a value for, and that value; sections in parallel.
    /// First all elements of a section go through `before`.
    pub(crate) fn visit(
        &self,
        tensors: &mut [Vec<f32>],
        before: impl Fn(&mut [f32]) + Sync,
        visit: impl Fn(&mut f32, f32) + Sync,
    ) -> Result<()> {
        self.layout.check_lengths(tensors.iter().map(Vec::len))?;
        self.layout.split(tensors).into_par_iter().for_each(|mut section| {
            section.slices().for_each(&before);
            self.read(section.index, |chunk, positions, values| {
                let (start, elements) = section.of(chunk);
                for (&position, &value) in positions.iter().zip(values) {
                    visit(&mut elements[chunk.index(position.into()) - start], value);
                }
            });
        });
        Ok(())
    }

    /// A reader at the start of a section, for those who read several files side by side.
    pub(crate) fn reader(&self, section: usize) -> Reader<'_> {
        Reader::new(&self.bytes[self.ranges[section].clone()], self.format)
            .expect("the same bytes were decoded without an error when they were parsed")
    }

    pub(crate) fn for_each(&self, tensor: usize, mut f: impl FnMut(usize, f32)) {
        for section in self.layout.tensor_sections(tensor) {
            self.read(section, |chunk, positions, values| {
                if chunk.tensor == tensor {
                    positions.iter().zip(values).for_each(|(&p, &value)| f(chunk.index(p.into()), value));
                }
            });
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// The sum of all squared values.
    pub(crate) fn squares(&self) -> f64 {
        self.squares
    }

    pub(crate) fn norm(&self) -> f64 {
        self.squares.sqrt()
    }
}

/// Moves a reader to its next chunk; its bytes have been decoded before.
pub(crate) fn advance(reader: &mut Reader<'_>, chunk: &Chunk) {
    reader.next(chunk.len).expect("the same bytes were decoded without an error when they were parsed");
}

/// A peer's update, checked from the first byte to the last.
///
/// Holds the compressed bytes; values are decoded when asked for.
#[derive(Debug, Clone)]
pub struct Update {
    sections: Sections,
    binding: Binding,
}

impl Update {
    /// Reads hostile bytes.
    ///
    /// Ask for no more than [`max_update_bytes`](crate::max_update_bytes) to begin with; what is longer is refused
    /// unread. Nothing is allocated that the layout does not bound, nothing panics, and no part of a bad file is returned.
    ///
    /// # Errors
    /// One for each rule of the format: [`Error::TooLong`], [`Error::Length`] (truncated, or trailing bytes),
    /// [`Error::Magic`], [`Error::Header`], [`Error::Binding`] (another run, window, peer, start, layout or config),
    /// [`Error::Digest`] and [`Error::Section`]; [`Error::Config`] if `config` itself is wrong.
    pub fn parse(
        bytes: impl Into<Bytes>,
        layout: &Layout,
        config: &CodecConfig,
        expected: &Binding,
    ) -> Result<Self> {
        config.check()?;
        let sections = Sections::parse(Kind::Update, bytes.into(), layout, config.format(), expected)?;
        Ok(Self { sections, binding: *expected })
    }

    /// What the update is for.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The tensors it is about.
    pub fn layout(&self) -> &Layout {
        self.sections.layout()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &Bytes {
        self.sections.bytes()
    }

    /// Number of values in the file.
    pub fn kept(&self) -> u64 {
        self.sections.kept()
    }

    /// L2 norm of the decoded values: a sum in f64 in the order of the file, the same on every machine.
    pub fn norm(&self) -> f64 {
        self.sections.norm()
    }

    /// Calls `f` with the flat index and value of everything kept of `tensor`, chunk by chunk.
    ///
    /// # Panics
    /// If the layout has no tensor of that number.
    pub fn for_each(&self, tensor: usize, f: impl FnMut(usize, f32)) {
        self.sections.for_each(tensor, f);
    }

    /// The dense update: zeros where nothing was kept.
    pub fn decode(&self) -> Vec<Vec<f32>> {
        let mut out = self.layout().zeros();
        self.add_scaled_into(1.0, &mut out).expect("the tensors were made from the layout");
        out
    }

    /// The dense update in place of what `out` holds.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` has not the layout's tensors.
    pub fn decode_into(&self, out: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(out, |elements| elements.fill(0.0), |element, value| *element = value)
    }

    /// `out ← out + scale·value` at everything kept: one f32 multiplication, one addition.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` has not the layout's tensors.
    pub fn add_scaled_into(&self, scale: f32, out: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(out, |_| {}, |element, value| *element += scale * value)
    }

    pub(crate) fn sections(&self) -> &Sections {
        &self.sections
    }
}
