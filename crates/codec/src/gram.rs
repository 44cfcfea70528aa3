//! Inner products of all pairs of updates, straight from the sparse codes.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::layout::CHUNK;
use crate::simd::{COLUMNS, Simd};
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
struct Products {
    simd: Simd,
    /// Number of updates, rounded up to whole [`COLUMNS`].
    width: usize,
    /// Row p, column u: the value that update u has at position p.
    rows: Vec<f32>,
}

impl Products {
    fn new(updates: usize) -> Self {
        let width = updates.next_multiple_of(COLUMNS);
        Self { simd: Simd::detect(), width, rows: vec![0.0; CHUNK * width] }
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
            // Each update meets those before it.
            for (update, (reader, sums)) in
                readers.iter_mut().zip(products.chunks_exact_mut(self.width)).enumerate()
            {
                advance(reader, &chunk);
                let sums = &mut sums[..update.next_multiple_of(COLUMNS)];
                self.simd.add_rows(&self.rows, self.width, &reader.positions, &reader.values, sums);
                for (&position, &value) in reader.positions.iter().zip(&reader.values) {
                    self.rows[usize::from(position) * self.width + update] = value;
                }
            }
            for (update, reader) in readers.iter().enumerate() {
                for &position in &reader.positions {
                    self.rows[usize::from(position) * self.width + update] = 0.0;
                }
            }
        }
        Ok(products)
    }
}
