//! Where a file's sections are, for those who read only some of them.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::encode::CodecConfig;
use crate::error::{Error, Result};
use crate::header::{self, Binding, DeltaBinding, Kind};
use crate::layout::{Chunk, Layout};
use crate::merge::DeltaConfig;
use crate::reader::Reader;
use crate::section::Format;

/// What stands in front of a file's sections: their places and hashes.
///
/// Who wants some rows of one tensor fetches [`len`](Self::len) bytes, opens them, compares [`digest`](Self::digest)
/// with the one that was signed, fetches what [`rows`](Self::rows) names, and decodes it:
///
/// ```
/// # use brigade_codec::*;
/// # let layout = Layout::new([("w".to_owned(), vec![128, 64]), ("b".to_owned(), vec![64])])?;
/// # let binding = Binding { run: [1; 32], window: 7, peer: [2; 32], start_state_root: [3; 32] };
/// # let config = CodecConfig { top_k: 64, bits: CodeBits::One, error_feedback_decay: 0.95 };
/// # let delta: Vec<Vec<f32>> = layout.zeros().iter().map(|t| (0..t.len()).map(|i| i as f32).collect()).collect();
/// # let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
/// # let file = compress(&layout, &binding, &config, &delta, &mut layout.zeros())?;
/// # let fetch = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
/// let frame = Frame::of_update(fetch(0..Frame::len(&layout)), &layout, &config, &binding)?;
/// let rows = frame.rows(0, 64..128)?;
/// let mut dense = vec![0.0; 64 * 64];
/// rows.decode(fetch(rows.bytes()), |index, value| dense[index - 64 * 64] = value)?;
/// # assert_eq!(dense.iter().filter(|value| **value != 0.0).count(), 64);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Frame {
    layout: Layout,
    format: Format,
    digest: [u8; 32],
    sections: Vec<Entry>,
}

/// One section.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) range: Range<u64>,
    pub(crate) sha256: [u8; 32],
}

impl Frame {
    /// Bytes in front of the first section.
    pub fn len(layout: &Layout) -> u64 {
        header::frame_len(layout.num_sections()) as u64
    }

    /// Opens the first bytes of an update, all of them hostile.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Length`], [`Error::Digest`], [`Error::Header`], [`Error::Binding`] and [`Error::TooLong`] as
    /// for [`Update::parse`](crate::Update::parse).
    pub fn of_update(
        bytes: &[u8],
        layout: &Layout,
        config: &CodecConfig,
        expected: &Binding,
    ) -> Result<Self> {
        config.check()?;
        Self::read(Kind::Update, bytes, layout, config.format(), expected)
    }

    /// Opens the first bytes of a delta.
    ///
    /// # Errors
    /// The same.
    pub fn of_delta(
        bytes: &[u8],
        layout: &Layout,
        config: &DeltaConfig,
        expected: &DeltaBinding,
    ) -> Result<Self> {
        config.check()?;
        Self::read(Kind::Delta, bytes, layout, config.format(), &expected.in_header())
    }

    pub(crate) fn read(
        kind: Kind,
        bytes: &[u8],
        layout: &Layout,
        format: Format,
        expected: &Binding,
    ) -> Result<Self> {
        let (digest, sections) = header::read(kind, bytes, expected, layout, format)?;
        Ok(Self { layout: layout.clone(), format, digest, sections })
    }

    /// What [`digest`](Self::digest) of a file for `layout` is, from its bytes and without any check; `None` if there are
    /// too few.
    pub fn digest_in(file: &[u8], layout: &Layout) -> Option<[u8; 32]> {
        let frame = file.get(..header::frame_len(layout.num_sections()))?;
        frame.last_chunk().copied()
    }

    /// SHA-256 of the sections' hashes, in order: what the file says, whatever window and peer its header is bound to. Who sends an
    /// update again under a new header sends the same content.
    pub fn content(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.sections.iter().for_each(|section| hash.update(section.sha256));
        hash.finalize().into()
    }

    /// SHA-256 that stands in front of the first section: it covers the header and with it the hash of every section.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Bytes that the whole file must have.
    pub fn file_len(&self) -> u64 {
        self.sections.last().map_or(Self::len(&self.layout), |last| last.range.end)
    }

    /// What it takes to read the rows `rows` of `tensor`: elements along its first dimension. A scalar has one row.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such tensor, or not so many rows, or none are asked for.
    pub fn rows(&self, tensor: usize, rows: Range<usize>) -> Result<Rows<'_>> {
        let tensors = self.layout.tensors();
        let shape = |what, expected, actual| Err(Error::Shape { what, expected, actual });
        let Some(of) = tensors.get(tensor) else { return shape("tensors", tensors.len(), tensor + 1) };
        let number = of.shape().first().copied().unwrap_or(1);
        if rows.is_empty() || rows.end > number {
            return shape("rows", number, rows.end);
        }
        let width = of.len() / number;
        let elements = rows.start * width..rows.end * width;
        let holds = |section: &usize| {
            let mut pieces = self.layout.pieces(*section);
            pieces.any(|(t, piece)| t == tensor && piece.start < elements.end && elements.start < piece.end)
        };
        let mut sections = self.layout.tensor_sections(tensor).filter(holds);
        let first = sections.next().unwrap_or_default();
        let last = sections.next_back().unwrap_or(first);
        Ok(Rows { frame: self, tensor, elements, sections: first..last + 1 })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn sections(&self) -> &[Entry] {
        &self.sections
    }

    /// Checks the hash of a section's bytes.
    pub(crate) fn check(&self, section: usize, bytes: &[u8]) -> Result<()> {
        header::check_section(section, &self.sections[section].sha256, bytes)
    }

    /// Decodes a section, chunk by chunk.
    pub(crate) fn decode(
        &self,
        section: usize,
        bytes: &[u8],
        mut visit: impl FnMut(&Chunk, &Reader<'_>),
    ) -> Result<()> {
        let refuse = |reason| Error::Section { section, reason };
        let mut reader = Reader::new(bytes, self.format).map_err(refuse)?;
        for chunk in self.layout.section(section) {
            reader.next(chunk.len).map_err(refuse)?;
            visit(&chunk, &reader);
        }
        reader.finish().map_err(refuse)
    }
}

/// Some rows of one tensor.
#[derive(Debug, Clone)]
pub struct Rows<'f> {
    frame: &'f Frame,
    tensor: usize,
    elements: Range<usize>,
    sections: Range<usize>,
}

impl Rows<'_> {
    /// Which bytes of the file hold them: whole sections, next to each other.
    pub fn bytes(&self) -> Range<u64> {
        let sections = &self.frame.sections[self.sections.clone()];
        sections[0].range.start..sections[sections.len() - 1].range.end
    }

    /// Those bytes section by section, for who would rather hold one section at a time; see
    /// [`decode_section`](Self::decode_section).
    pub fn sections(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.frame.sections[self.sections.clone()].iter().map(|entry| entry.range.clone())
    }

    /// Checks the `bytes` of [`bytes`](Self::bytes) and calls `f` with the flat index and value of everything kept in
    /// these rows, chunk by chunk.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Digest`] and [`Error::Section`]; `f` has then seen values of the sections before, and
    /// maybe of that one.
    pub fn decode(&self, bytes: &[u8], mut f: impl FnMut(usize, f32)) -> Result<()> {
        let range = self.bytes();
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            return Err(Error::Length { what: "sections", expected, actual: bytes.len() as u64 });
        }
        for (number, section) in self.sections().enumerate() {
            let bytes = &bytes[(section.start - range.start) as usize..(section.end - range.start) as usize];
            self.decode_section(number, bytes, &mut f)?;
        }
        Ok(())
    }

    /// The same for one of [`sections`](Self::sections), the one of that `number`.
    ///
    /// # Errors
    /// [`Error::Digest`] and [`Error::Section`].
    ///
    /// # Panics
    /// If there are not so many sections.
    pub fn decode_section(&self, number: usize, bytes: &[u8], mut f: impl FnMut(usize, f32)) -> Result<()> {
        let section = self.sections.clone().nth(number).expect("a section of these rows");
        self.frame.check(section, bytes)?;
        self.frame.decode(section, bytes, |chunk, reader| {
            if chunk.tensor != self.tensor {
                return;
            }
            for (&position, &value) in reader.positions.iter().zip(&reader.values) {
                let index = chunk.index(position.into());
                if self.elements.contains(&index) {
                    f(index, value);
                }
            }
        })
    }
}
