//! Inner products of all pairs of updates, straight from the sparse codes.

use crate::error::{Error, Result};
use crate::layout::CHUNK;
use crate::update::{Update, advance};

/// The G×G matrix of inner products, row after row; G is the number of `updates`.
///
/// Products and sums in f64, over chunks in the order of the file and within a chunk by position, so that the result is
/// the same on every machine. The diagonal holds squared norms; memory is one section of each update.
///
/// # Errors
/// [`Error::Binding`] if the updates are not all of one layout.
pub fn gram(updates: &[&Update]) -> Result<Vec<f64>> {
    let g = updates.len();
    let mut products = vec![0.0; g * g];
    let Some(first) = updates.first() else { return Ok(products) };
    let layout = first.layout();
    if updates.iter().any(|update| update.layout().digest() != layout.digest()) {
        let (expected, found) = ("the same for all".to_owned(), "another".to_owned());
        return Err(Error::Binding { field: "layout", expected, found });
    }
    let mut dense = vec![0.0_f64; CHUNK];
    for section in 0..layout.num_sections() {
        let mut readers: Vec<_> = updates.iter().map(|u| u.sections().reader(section)).collect();
        for chunk in layout.section(section) {
            readers.iter_mut().for_each(|reader| advance(reader, &chunk));
            for (row, a) in readers.iter().enumerate() {
                let entries = || a.positions.iter().map(|&p| usize::from(p)).zip(&a.values);
                entries().for_each(|(position, &value)| dense[position] = value.into());
                for (column, b) in readers.iter().enumerate().skip(row) {
                    let pairs = b.positions.iter().zip(&b.values);
                    let product: f64 = pairs.map(|(&p, &v)| dense[usize::from(p)] * f64::from(v)).sum();
                    products[row * g + column] += product;
                }
                entries().for_each(|(position, _)| dense[position] = 0.0);
            }
        }
    }
    for row in 0..g {
        for column in 0..row {
            products[row * g + column] = products[column * g + row];
        }
    }
    Ok(products)
}
