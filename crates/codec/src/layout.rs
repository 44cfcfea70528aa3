//! Which tensors a file is about, and how they are cut into chunks and sections.
//!
//! Everything here follows from the ordered list of names and shapes alone, so that a peer with one GPU and a peer
//! with eight write the same file, and a reader knows where a tensor's bytes are from the header's table.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Most elements in a chunk: 64×64, or 4096 in a row.
pub const CHUNK: usize = 4096;
/// Side of a tile of a matrix.
pub const TILE: usize = 64;
/// Most chunks in a section.
pub const SECTION_CHUNKS: usize = 1024;
/// Most columns of a matrix that is cut into tiles: so many that a section can always end with a row of tiles.
pub const MAX_COLUMNS: usize = SECTION_CHUNKS * TILE;
/// Most sections in a file: 2^20 of them are 4.4 trillion parameters.
pub const MAX_SECTIONS: usize = 1 << 20;
/// Most tensors in a layout.
const MAX_TENSORS: usize = 1 << 20;
/// Most bytes in a tensor's name.
const MAX_NAME: usize = 4096;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;

/// One tensor of a [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    len: usize,
    first_chunk: usize,
    chunks: usize,
    /// Tiles side by side; 1 for runs.
    across: usize,
}

impl Tensor {
    /// Name, as in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    #[allow(clippy::len_without_is_empty)] // a tensor without elements is refused
    pub fn len(&self) -> usize {
        self.len
    }

    /// The chunks of this tensor, counted over the whole layout.
    pub fn chunks(&self) -> Range<usize> {
        self.first_chunk..self.first_chunk + self.chunks
    }

    /// Columns of a matrix that is cut into tiles; `None` for one long run.
    pub fn columns(&self) -> Option<usize> {
        match self.shape[..] {
            [_, columns] if columns <= MAX_COLUMNS => Some(columns),
            _ => None,
        }
    }

    /// Where the tensor's chunk `i` (counted from the tensor's own first) lies: base, width, stride, length.
    fn chunk(&self, i: usize) -> (usize, usize, usize, usize) {
        let Some(columns) = self.columns() else {
            let base = i * CHUNK;
            let len = CHUNK.min(self.len - base);
            return (base, len, len, len);
        };
        let (row, column) = (i / self.across * TILE, i % self.across * TILE);
        let (height, width) = (TILE.min(self.shape[0] - row), TILE.min(columns - column));
        (row * columns + column, width, columns, width * height)
    }

    /// The first element of the tensor's chunk `i`, which begins a row of tiles, or of all if there is no such chunk.
    fn element(&self, i: usize) -> usize {
        debug_assert!(i.is_multiple_of(self.across));
        let per_row = self.columns().map_or(CHUNK, |columns| TILE * columns);
        (i / self.across * per_row).min(self.len)
    }
}

/// One chunk: a tile of a matrix, or a run of up to 4096 elements of anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Position of the tensor in the layout.
    pub tensor: usize,
    /// Flat index of the chunk's first element.
    pub base: usize,
    /// Elements in one row of the tile (the whole length for a run).
    pub width: usize,
    /// Distance between the starts of two rows, in elements.
    pub stride: usize,
    /// Elements in the chunk, 1 to 4096.
    pub len: usize,
}

impl Chunk {
    /// Flat index in the tensor of the chunk's element `position` (row by row within the tile).
    ///
    /// `position` must be less than `len`.
    pub fn index(&self, position: usize) -> usize {
        if self.width == TILE {
            // The common case without a division: a tile of full width.
            return self.base + (position / TILE) * self.stride + position % TILE;
        }
        self.base + (position / self.width) * self.stride + position % self.width
    }
}

/// The ordered tensors of a model. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Arc<[Tensor]>,
    /// Chunks of section `s` are `sections[s]..sections[s + 1]`.
    sections: Arc<[usize]>,
    parameters: u64,
    digest: [u8; 32],
}

impl Layout {
    /// Lays out `tensors` (name, shape) in the order given.
    ///
    /// A shape of two dimensions with at most [`MAX_COLUMNS`] columns is a matrix and is cut into tiles; any other shape
    /// is one long run, a scalar (`[]`) included.
    ///
    /// # Errors
    /// [`Error::Layout`]: no tensors, a name that is empty, repeated or over 4096 bytes, a dimension of zero, more
    /// than 8 dimensions, more elements than a `usize` counts, or more than [`MAX_SECTIONS`].
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self> {
        let mut list = Vec::new();
        let mut names = HashSet::new();
        let (mut chunks, mut parameters) = (0_usize, 0_u64);
        for (name, shape) in tensors {
            let refuse = |reason| Error::Layout { tensor: name.clone(), reason };
            if list.len() == MAX_TENSORS {
                return Err(refuse("is one too many"));
            }
            if !names.insert(name.clone()) {
                return Err(refuse("is there twice"));
            }
            let tensor = lay_out(&name, shape, chunks).map_err(refuse)?;
            chunks = chunks.checked_add(tensor.chunks).ok_or_else(|| refuse("makes too many chunks"))?;
            // A section of a large tensor has more than half of the chunks it could have.
            if chunks.div_ceil(SECTION_CHUNKS) > MAX_SECTIONS {
                return Err(refuse("makes too many sections"));
            }
            parameters += tensor.len as u64;
            list.push(tensor);
        }
        let sections = cut_sections(&list);
        let whole = |reason| Error::Layout { tensor: String::new(), reason };
        match sections.len() - 1 {
            0 => Err(whole("list is empty")),
            n if n > MAX_SECTIONS => Err(whole("list makes too many sections")),
            _ => Ok(Self {
                digest: digest(&list),
                tensors: list.into(),
                sections: sections.into(),
                parameters,
            }),
        }
    }

    /// Total number of elements.
    pub fn num_parameters(&self) -> u64 {
        self.parameters
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// SHA-256 over the names and shapes in order; `docs/update-format.md` has the exact bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Number of sections: the unit that is hashed, fetched by range and decoded on its own.
    pub fn num_sections(&self) -> usize {
        self.sections.len() - 1
    }

    /// The sections that hold `tensor`'s chunks.
    pub fn tensor_sections(&self, tensor: usize) -> Range<usize> {
        let chunks = self.tensors[tensor].chunks();
        let first = self.sections.partition_point(|&start| start <= chunks.start) - 1;
        let last = self.sections.partition_point(|&start| start < chunks.end);
        first..last
    }

    /// The chunks of section `section`, in the order in which they are written.
    pub(crate) fn section(&self, section: usize) -> impl ExactSizeIterator<Item = Chunk> + '_ {
        let range = self.sections[section]..self.sections[section + 1];
        let mut tensor = self.tensors.partition_point(|t| t.first_chunk <= range.start) - 1;
        range.map(move |i| {
            if i == self.tensors[tensor].first_chunk + self.tensors[tensor].chunks {
                tensor += 1;
            }
            let (base, width, stride, len) = self.tensors[tensor].chunk(i - self.tensors[tensor].first_chunk);
            Chunk { tensor, base, width, stride, len }
        })
    }

    /// Number of elements in section `section`.
    pub(crate) fn section_elements(&self, section: usize) -> u64 {
        self.pieces(section).map(|(_, elements)| elements.len() as u64).sum()
    }

    /// The tensors of section `section`, each with the flat indices of its elements there: always one stretch, because a
    /// section ends with a row of tiles. Together with the tile's size that says which chunks there are, row after row.
    pub fn pieces(&self, section: usize) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let range = self.sections[section]..self.sections[section + 1];
        let first = self.tensors.partition_point(|t| t.first_chunk <= range.start) - 1;
        self.tensors[first..].iter().enumerate().map_while(move |(i, tensor)| {
            let own = tensor.chunks();
            let (start, end) = (range.start.max(own.start), range.end.min(own.end));
            let element = |chunk: usize| tensor.element(chunk - own.start);
            (start < end).then(|| (first + i, element(start)..element(end)))
        })
    }

    /// Cuts `tensors` into what belongs to each section, so that sections can be worked on at the same time.
    pub(crate) fn split<'t>(&self, tensors: &'t mut [Vec<f32>]) -> Vec<Section<'t>> {
        let mut rest: Vec<&mut [f32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
        let mut cut = |section| {
            let pieces = self.pieces(section).map(|(tensor, elements)| {
                let (piece, after) = std::mem::take(&mut rest[tensor]).split_at_mut(elements.len());
                rest[tensor] = after;
                Piece { tensor, start: elements.start, elements: piece }
            });
            Section { index: section, pieces: pieces.collect() }
        };
        (0..self.num_sections()).map(&mut cut).collect()
    }

    /// Checks that `lengths` are those of the tensors.
    pub(crate) fn check_lengths(&self, lengths: impl ExactSizeIterator<Item = usize>) -> Result<()> {
        let (expected, actual) = (self.tensors.len(), lengths.len());
        if actual != expected {
            return Err(Error::Shape { what: "number of tensors", expected, actual });
        }
        for (tensor, actual) in self.tensors.iter().zip(lengths) {
            if actual != tensor.len {
                return Err(Error::Shape { what: "elements of a tensor", expected: tensor.len, actual });
            }
        }
        Ok(())
    }

    /// Zeros in the shape of the layout: a fresh error feedback, or a dense result to add into.
    pub fn zeros(&self) -> Vec<Vec<f32>> {
        self.tensors.iter().map(|t| vec![0.0; t.len]).collect()
    }
}

/// A section's share of some tensors.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    pub(crate) index: usize,
    pieces: Vec<Piece<'t>>,
}

#[derive(Debug)]
struct Piece<'t> {
    tensor: usize,
    /// Flat index of the first element.
    start: usize,
    elements: &'t mut [f32],
}

impl Section<'_> {
    /// The elements of the tensor that `chunk` belongs to, and the flat index of the first of them.
    #[inline]
    pub(crate) fn of(&mut self, chunk: &Chunk) -> (usize, &mut [f32]) {
        let first = self.pieces[0].tensor;
        let piece = &mut self.pieces[chunk.tensor - first];
        (piece.start, piece.elements)
    }

    /// `element ← element − value` at the `positions` of `chunk`.
    #[inline]
    pub(crate) fn subtract(&mut self, chunk: &Chunk, positions: &[u16], values: &[f32]) {
        let (start, elements) = self.of(chunk);
        for (&position, value) in positions.iter().zip(values) {
            elements[chunk.index(position.into()) - start] -= value;
        }
    }

    /// All elements, a slice for each tensor.
    pub(crate) fn slices(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.pieces.iter_mut().map(|piece| &mut *piece.elements)
    }
}

/// Checks one tensor and counts its elements and chunks.
fn lay_out(name: &str, shape: Vec<usize>, first_chunk: usize) -> Result<Tensor, &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("has a name that is empty or too long");
    }
    if shape.len() > MAX_DIMENSIONS {
        return Err("has more than 8 dimensions");
    }
    let count = |n: usize, d: &usize| n.checked_mul(*d);
    let len = shape.iter().try_fold(1, count).ok_or("has more elements than can be counted")?;
    if len == 0 {
        return Err("has no elements");
    }
    let mut tensor = Tensor { name: name.to_owned(), shape, len, first_chunk, chunks: 0, across: 1 };
    let chunks = match tensor.columns() {
        Some(columns) => {
            tensor.across = columns.div_ceil(TILE);
            tensor.shape[0].div_ceil(TILE).checked_mul(tensor.across)
        }
        None => Some(len.div_ceil(CHUNK)),
    };
    tensor.chunks = chunks.ok_or("makes too many chunks")?;
    Ok(tensor)
}

/// Cuts the chunks into sections and returns where each starts, with the end of the last appended.
///
/// Small neighbours share a section, a tensor is cut only when it alone has more than [`SECTION_CHUNKS`], and then after
/// the last row of tiles that fits. So small models do not pay for a table of tiny sections, a peer that holds whole
/// tensors or rows can encode its sections by itself, and no two sections share a row of a matrix.
fn cut_sections(tensors: &[Tensor]) -> Vec<usize> {
    let mut starts = vec![0];
    let mut open = 0;
    let mut end = 0;
    for tensor in tensors {
        end = tensor.first_chunk + tensor.chunks;
        if end - open <= SECTION_CHUNKS {
            continue;
        }
        if tensor.first_chunk > open {
            open = tensor.first_chunk;
            starts.push(open);
        }
        let whole_rows = SECTION_CHUNKS / tensor.across * tensor.across;
        while end - open > SECTION_CHUNKS {
            open += whole_rows;
            starts.push(open);
        }
    }
    if end > open {
        starts.push(end);
    }
    starts
}

fn digest(tensors: &[Tensor]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"brigade layout v1\n");
    hash.update((tensors.len() as u32).to_le_bytes());
    for tensor in tensors {
        hash.update((tensor.name.len() as u32).to_le_bytes());
        hash.update(tensor.name.as_bytes());
        hash.update((tensor.shape.len() as u32).to_le_bytes());
        for &dimension in &tensor.shape {
            hash.update((dimension as u64).to_le_bytes());
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layout(shapes: &[&[usize]]) -> Layout {
        Layout::new(shapes.iter().enumerate().map(|(i, s)| (format!("t{i}"), s.to_vec()))).unwrap()
    }

    #[test]
    fn every_element_is_in_exactly_one_chunk() {
        let layout = layout(&[&[130, 70], &[5000], &[], &[3, 64, 100], &[64, 64], &[1, 200], &[200, 1]]);
        let mut seen: Vec<Vec<u32>> = layout.tensors().iter().map(|t| vec![0; t.len()]).collect();
        for section in 0..layout.num_sections() {
            for chunk in layout.section(section) {
                assert!((1..=CHUNK).contains(&chunk.len));
                for position in 0..chunk.len {
                    seen[chunk.tensor][chunk.index(position)] += 1;
                }
            }
        }
        assert!(seen.iter().flatten().all(|&n| n == 1));
        assert_eq!(layout.num_parameters(), 130 * 70 + 5000 + 1 + 19200 + 4096 + 200 + 200);
    }

    #[test]
    fn tiles_are_row_major_and_ragged() {
        let layout = layout(&[&[130, 70]]);
        let chunks: Vec<_> = layout.section(0).map(|c| (c.base, c.width, c.len)).collect();
        let row = |r: usize, h: usize| [(r * 70, 64, 64 * h), (r * 70 + 64, 6, 6 * h)];
        assert_eq!(chunks, [row(0, 64), row(64, 64), row(128, 2)].concat());
    }

    #[test]
    fn small_tensors_share_a_section_and_large_ones_are_cut_from_their_start() {
        let mib = 4096 * 1024;
        let layout = layout(&[&[10], &[4096 * 1023], &[1], &[2 * mib + 5], &[7]]);
        // 1 + 1023 chunks | 1 chunk | 1024 | 1024 | 1 + 1
        assert_eq!(*layout.sections, [0, 1024, 1025, 2049, 3073, 3075]);
        assert_eq!(layout.tensor_sections(0), 0..1);
        assert_eq!(layout.tensor_sections(2), 1..2);
        assert_eq!(layout.tensor_sections(3), 2..5);
        assert_eq!(layout.tensor_sections(4), 4..5);
    }

    #[test]
    fn digest_tells_names_shapes_and_order_apart() {
        let of = |list: &[(&str, &[usize])]| {
            Layout::new(list.iter().map(|(n, s)| (n.to_string(), s.to_vec()))).unwrap().digest()
        };
        let digests = [
            of(&[("a", &[2, 3]), ("b", &[4])]),
            of(&[("b", &[4]), ("a", &[2, 3])]),
            of(&[("a", &[3, 2]), ("b", &[4])]),
            of(&[("a", &[6]), ("b", &[4])]),
            of(&[("ab", &[2, 3]), ("b", &[4])]),
            of(&[("a", &[2, 3])]),
        ];
        assert_eq!(digests.iter().collect::<HashSet<_>>().len(), digests.len());
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let new = |list: &[(&str, &[usize])]| {
            Layout::new(list.iter().map(|(n, s)| (n.to_string(), s.to_vec()))).unwrap_err()
        };
        for bad in [
            new(&[]),
            new(&[("", &[1])]),
            new(&[("a", &[0, 3])]),
            new(&[("a", &[1]), ("a", &[2])]),
            new(&[("a", &[usize::MAX, 2])]),
            new(&[("a", &[usize::MAX])]),
            new(&[("a", &[1]), ("b", &[usize::MAX])]),
            new(&[("a", &[1; 9])]),
        ] {
            assert!(matches!(bad, Error::Layout { .. }), "{bad:?}");
        }
    }
}
