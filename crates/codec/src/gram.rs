//! Inner products of all pairs of updates, straight from the sparse codes.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::layout::CHUNK;
use crate::reader::Reader;
use crate::simd::{COLUMNS, SLACK, Simd};
use crate::update::{Update, advance};

/// Sections whose matrices are held at the same time.
const BLOCK: usize = 256;

/// The G×G matrix of inner products, row after row; G is the number of `updates`.
///
/// Products and sums in f64: within a section over chunks in the order of the file and within a chunk by position, then
/// over sections; so the result is the same on every machine. The diagonal holds the squares of [`Update::norm`].
/// Memory, for each thread, is a chunk of each update.
///
/// # Errors
/// [`Error::Binding`] if the updates are not all of one layout; [`Error::Read`] and [`Error::Digest`] for updates that were
/// opened where they are.
pub fn gram(updates: &[&Update]) -> Result<Vec<f64>> {
    let g = updates.len();
    let mut products = vec![0.0; g * g];
    let Some(first) = updates.first() else { return Ok(products) };
    let layout = first.layout();
    if updates.iter().any(|update| update.layout().digest() != layout.digest()) {
        let (expected, found) = ("the same for all".to_owned(), "another".to_owned());
        return Err(Error::Binding { field: "layout", expected, found });
    }
    for first in (0..layout.num_sections()).step_by(BLOCK) {
        let sections: Vec<Vec<f64>> = (first..layout.num_sections().min(first + BLOCK))
            .into_par_iter()
            .map_init(|| Products::new(g), |scratch, section| scratch.of_section(updates, section))
            .collect::<Result<_>>()?;
        // In the order of the file, whatever thread was first.
        for section in sections {
            let rows = section.chunks_exact(section.len() / g);
            for (u, (row, sums)) in rows.zip(products.chunks_exact_mut(g)).enumerate() {
                sums[..u].iter_mut().zip(row).for_each(|(sum, product)| *sum += product);
            }
        }
    }
    for (u, update) in updates.iter().enumerate() {
        products[u * g + u] = update.sections().squares();
        (0..u).for_each(|v| products[v * g + u] = products[u * g + v]);
    }
    Ok(products)
}

/// One chunk of all updates, side by side.
///
/// Most positions belong to one update alone. What cannot meet anything is left out, and the rest is so little that it
/// stays in the processor's nearest cache.
struct Products {
    simd: Simd,
    /// Number of updates, rounded up to whole [`COLUMNS`].
    width: usize,
    /// How many updates have a value at each position; 255 if there are more.
    uses: Box<[u8; CHUNK]>,
    /// Which row a position has, from 1 on; 0 for none.
    numbers: Box<[u16; CHUNK]>,
    /// Row r, column u: the value that update u has at the r-th position that several have.
    rows: Vec<f32>,
    /// Of one update: the rows where it has a value, and the values.
    own_rows: Vec<u16>,
    own: Vec<f32>,
}

impl Products {
    fn new(updates: usize) -> Self {
        let (width, room) = (updates.next_multiple_of(COLUMNS), CHUNK + SLACK);
        Self {
            simd: Simd::detect(),
            width,
            uses: Box::new([0; CHUNK]),
            numbers: Box::new([0; CHUNK]),
            rows: vec![0.0; (CHUNK + 1) * width],
            own_rows: vec![0; room],
            own: vec![0.0; room],
        }
    }

    /// The matrix of one section, of `width` columns, below its diagonal.
    fn of_section(&mut self, updates: &[&Update], section: usize) -> Result<Vec<f64>> {
        let mut products = vec![0.0; updates.len() * self.width];
        let load = |update: &&Update| update.sections().load(section);
        let loaded = updates.iter().map(load).collect::<Result<Vec<_>>>()?;
        let mut readers: Vec<_> =
            updates.iter().zip(&loaded).map(|(u, bytes)| u.sections().reader(bytes)).collect();
        let layout = updates[0].layout();
        for chunk in layout.section(section) {
            self.uses.fill(0);
            advance(&mut readers, &chunk);
            for reader in &readers {
                for &position in &reader.positions {
                    let uses = &mut self.uses[usize::from(position) % CHUNK];
                    *uses = uses.saturating_add(1);
                }
            }
            self.of_chunk(&readers, &mut products);
        }
        Ok(products)
    }

    /// Adds the products of the chunk that `readers` are at.
    fn of_chunk(&mut self, readers: &[Reader<'_>], products: &mut [f64]) {
        let (simd, width) = (self.simd, self.width);
        let shared = simd.number_shared(&self.uses, &mut self.numbers);
        let rows = &mut self.rows[..(shared + 1) * width];
        rows.fill(0.0);
        for (update, (reader, sums)) in readers.iter().zip(products.chunks_exact_mut(width)).enumerate() {
            let (positions, values) = (&reader.positions, &reader.values);
            let picked =
                simd.pick_shared(&self.numbers, positions, values, &mut self.own_rows, &mut self.own);
            let (own_rows, own) = (&self.own_rows[..picked], &self.own[..picked]);
            // Each update meets those before it.
            let sums = &mut sums[..update.next_multiple_of(COLUMNS)];
            simd.add_rows(rows, width, own_rows, own, sums);
            for (&row, &value) in own_rows.iter().zip(own) {
                rows[usize::from(row) * width + update] = value;
            }
        }
    }
}
