//! Reading a peer's update. Every byte of it is hostile until [`Update::parse`] has returned.

use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use crate::bound;
use crate::encode::CodecConfig;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::header::{Binding, Kind};
use crate::layout::{Chunk, Layout};
use crate::reader::Reader;
use crate::section::Format;
use crate::simd::Simd;
use crate::source::{ReadAt, Source};

/// A file's sections, every one of which has been decoded once without an error.
#[derive(Debug, Clone)]
pub(crate) struct Sections {
    frame: Frame,
    source: Source,
    kept: u64,
    squares: f64,
}

impl Sections {
    /// Checks frame, hashes and every section of `source`.
    pub(crate) fn parse(
        kind: Kind,
        source: Source,
        layout: &Layout,
        format: Format,
        binding: &Binding,
    ) -> Result<Self> {
        let (limit, actual) = (bound::file_bytes(layout, format), source.len()?);
        if actual > limit {
            return Err(Error::TooLong { what: "file", limit, actual });
        }
        let first = source.read(|| "header".to_owned(), 0..actual.min(Frame::len(layout)))?;
        let frame = Frame::read(kind, &first, layout, format, binding)?;
        let expected = frame.file_len();
        if actual != expected {
            return Err(Error::Length { what: "file", expected, actual });
        }
        let mut parsed = Self { frame, source, kept: 0, squares: 0.0 };
        let sections: Vec<Result<(u64, f64)>> =
            (0..layout.num_sections()).into_par_iter().map(|section| parsed.measure(section)).collect();
        // The first section's error, whatever thread was first: it may go into a signed record.
        let sections: Result<Vec<_>> = sections.into_iter().collect();
        // In the order of the file, in f64: the same sum on every machine.
        let sum = |(kept, squares): (u64, f64), (more, square)| (kept + more, squares + square);
        (parsed.kept, parsed.squares) = sections?.into_iter().fold((0, 0.0), sum);
        Ok(parsed)
    }

    /// Checks and decodes a section and returns how many values it has, and the sum of their squares.
    fn measure(&self, section: usize) -> Result<(u64, f64)> {
        let bytes = self.fetch(section)?;
        self.frame.check(section, &bytes)?;
        let (simd, mut kept, mut squares) = (Simd::detect(), 0, 0.0);
        self.frame.decode(section, &bytes, |_, reader| {
            kept += reader.values.len() as u64;
            squares += simd.sum_of_squares(&reader.values);
        })?;
        Ok((kept, squares))
    }

    fn fetch(&self, section: usize) -> Result<Bytes> {
        let range = self.frame.sections()[section].range.clone();
        self.source.read(|| format!("section {section}"), range)
    }

    /// The bytes of a section: the same that were decoded before.
    pub(crate) fn load(&self, section: usize) -> Result<Bytes> {
        let bytes = self.fetch(section)?;
        if let Source::Elsewhere(_) = self.source {
            self.frame.check(section, &bytes)?;
        }
        Ok(bytes)
    }

    /// A reader at the start of a section that was [loaded](Self::load), for those who read several files side by side.
    pub(crate) fn reader<'b>(&self, bytes: &'b [u8]) -> Reader<'b> {
        Reader::new(bytes, self.frame.format())
            .expect("the same bytes were decoded without an error when they were parsed")
    }

    /// Calls `visit` with each chunk of a section, its positions and its values.
    fn read(&self, section: usize, mut visit: impl FnMut(&Chunk, &[u16], &[f32])) -> Result<()> {
        let bytes = self.load(section)?;
        self.frame.decode(section, &bytes, |chunk, reader| visit(chunk, &reader.positions, &reader.values))
    }

    /// Calls `visit` with each element of `tensors` that the file has a value for, and that value; sections in parallel.
    /// First all elements of a section go through `before`.
    pub(crate) fn visit(
        &self,
        tensors: &mut [Vec<f32>],
        before: impl Fn(&mut [f32]) + Sync,
        visit: impl Fn(&mut f32, f32) + Sync,
    ) -> Result<()> {
        self.layout().check_lengths(tensors.iter().map(Vec::len))?;
        self.layout().split(tensors).into_par_iter().try_for_each(|mut section| {
            section.slices().for_each(&before);
            self.read(section.index, |chunk, positions, values| {
                let (start, elements) = section.of(chunk);
                for (&position, &value) in positions.iter().zip(values) {
                    visit(&mut elements[chunk.index(position.into()) - start], value);
                }
            })
        })
    }

    pub(crate) fn for_each(&self, tensor: usize, mut f: impl FnMut(usize, f32)) -> Result<()> {
        for section in self.layout().tensor_sections(tensor) {
            self.read(section, |chunk, positions, values| {
                if chunk.tensor == tensor {
                    positions.iter().zip(values).for_each(|(&p, &value)| f(chunk.index(p.into()), value));
                }
            })?;
        }
        Ok(())
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.frame.layout()
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
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

/// Moves readers to their next chunk; their bytes have been decoded before.
pub(crate) fn advance(readers: &mut [Reader<'_>], chunk: &Chunk) {
    Reader::next_of_all(readers, chunk.len)
        .expect("the same bytes were decoded without an error when they were parsed");
}

/// A peer's update, checked from the first byte to the last.
///
/// Holds the compressed bytes, or knows where they are; values are decoded when asked for.
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
        Self::read(Source::Memory(bytes.into()), layout, config, expected)
    }

    /// The same for bytes that stay where they are: a section at a time is read, by each thread, whenever one is needed.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse), and [`Error::Read`].
    pub fn open(
        source: Arc<dyn ReadAt>,
        layout: &Layout,
        config: &CodecConfig,
        expected: &Binding,
    ) -> Result<Self> {
        Self::read(Source::Elsewhere(source), layout, config, expected)
    }

    fn read(source: Source, layout: &Layout, config: &CodecConfig, expected: &Binding) -> Result<Self> {
        config.check()?;
        let sections = Sections::parse(Kind::Update, source, layout, config.format(), expected)?;
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

    /// Where the file's sections are, and their hashes.
    pub fn frame(&self) -> &Frame {
        self.sections.frame()
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
    /// # Errors
    /// Those of reading again what was opened with [`open`](Self::open): [`Error::Read`], or [`Error::Digest`] if it has
    /// changed.
    ///
    /// # Panics
    /// If the layout has no tensor of that number.
    pub fn for_each(&self, tensor: usize, f: impl FnMut(usize, f32)) -> Result<()> {
        self.sections.for_each(tensor, f)
    }

    /// The dense update: zeros where nothing was kept.
    ///
    /// # Errors
    /// Those of [`for_each`](Self::for_each).
    pub fn decode(&self) -> Result<Vec<Vec<f32>>> {
        let mut out = self.layout().zeros();
        self.add_scaled_into(1.0, &mut out)?;
        Ok(out)
    }

    /// The dense update in place of what `out` holds.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` has not the layout's tensors; those of [`for_each`](Self::for_each), after which part of
    /// `out` is old.
    pub fn decode_into(&self, out: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(out, |elements| elements.fill(0.0), |element, value| *element = value)
    }

    /// `out ← out + scale·value` at everything kept: one f32 multiplication, one addition.
    ///
    /// # Errors
    /// Those of [`decode_into`](Self::decode_into).
    pub fn add_scaled_into(&self, scale: f32, out: &mut [Vec<f32>]) -> Result<()> {
        self.sections.visit(out, |_| {}, |element, value| *element += scale * value)
    }

    pub(crate) fn sections(&self) -> &Sections {
        &self.sections
    }
}
