//! Many updates into one delta.

use crate::encode::{check_values, subtract_decoded};
use crate::error::{Error, Result};
use crate::header::{self, Binding, DeltaBinding, Kind};
use crate::layout::{CHUNK, Chunk, Layout};
use crate::quantize::CodeBits;
use crate::section::{self, Format, Kept, Reader};
use crate::update::{Update, advance};

/// Largest coefficient of an update.
const MAX_COEFFICIENT: f32 = (1_u64 << 32) as f32;

/// How a run's deltas are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaConfig {
    /// How a value is coded. Two is the default: with error feedback it trains as well as four (`docs/decisions/0001`).
    pub bits: CodeBits,
}

impl Default for DeltaConfig {
    fn default() -> Self {
        Self { bits: CodeBits::Two }
    }
}

impl DeltaConfig {
    pub(crate) fn format(self) -> Format {
        Format { bits: self.bits, top_k: None }
    }
}

impl DeltaBinding {
    /// As it stands in the header: a delta is no peer's.
    pub(crate) fn in_header(&self) -> Binding {
        let &Self { run, window, start_state_root } = self;
        Binding { run, window, peer: [0; 32], start_state_root }
    }
}

/// Merges updates into a delta file, with the aggregator's own error feedback `e`.
///
/// `m = Σ coefficient·value` over `updates` in the order given, starting from zero, each term one f32 multiplication and
/// one addition; `e ← e + m`; on the union of the coordinates that updates with a coefficient other than zero have kept,
/// `e` is quantised and written, and `e ← e − decoded`. Elsewhere `e` does not change. The caller has folded outer
/// learning rate, weights and clipping into the coefficients. Same inputs, same bytes, on every machine.
///
/// Memory: one section of each update, and one of the delta, beside the finished part of the file.
///
/// # Errors
/// [`Error::Binding`] if an update is for another run, window, start or layout; [`Error::Shape`] if `e` has not the
/// layout's tensors; [`Error::Value`] if a coefficient or an element of `e` is not finite or out of range. All are
/// found before anything is changed.
pub fn merge(
    layout: &Layout,
    binding: &DeltaBinding,
    config: &DeltaConfig,
    updates: &[(&Update, f32)],
    e: &mut [Vec<f32>],
) -> Result<Vec<u8>> {
    layout.check_lengths(e.iter().map(Vec::len))?;
    check_values("error feedback", e.iter().map(Vec::as_slice))?;
    for (i, (update, coefficient)) in updates.iter().enumerate() {
        check_update(layout, binding, update)?;
        if coefficient.is_nan() || coefficient.abs() > MAX_COEFFICIENT {
            return Err(Error::Value { what: "coefficient", tensor: 0, index: i, value: *coefficient });
        }
    }
    let voices: Vec<_> = updates.iter().filter(|(_, coefficient)| *coefficient != 0.0).collect();
    let mut sum = Sum::new();
    let mut kept = Kept::default();
    let mut sections = Vec::with_capacity(layout.num_sections());
    for section in 0..layout.num_sections() {
        let chunks: Vec<Chunk> = layout.section(section).collect();
        let mut readers: Vec<_> = voices.iter().map(|(u, c)| (u.sections().reader(section), *c)).collect();
        kept.clear();
        for chunk in &chunks {
            sum.collect(chunk, &mut readers);
            sum.fold_into(chunk, &mut e[chunk.tensor], &mut kept);
        }
        let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.len).collect();
        sections.push(section::encode(config.format(), &lengths, &mut kept));
        subtract_decoded(&chunks, &kept, e);
    }
    header::write(Kind::Delta, &binding.in_header(), layout, config.format(), &sections)
}

fn check_update(layout: &Layout, binding: &DeltaBinding, update: &Update) -> Result<()> {
    let of = update.binding();
    let refuse = |field| Error::Binding { field, expected: "the delta's".into(), found: "another".into() };
    if update.layout().digest() != layout.digest() {
        return Err(refuse("layout"));
    }
    if of.run != binding.run {
        return Err(refuse("run"));
    }
    if of.start_state_root != binding.start_state_root {
        return Err(refuse("start state root"));
    }
    if of.window != binding.window {
        let (expected, found) = (binding.window.to_string(), of.window.to_string());
        return Err(Error::Binding { field: "window", expected, found });
    }
    Ok(())
}

/// The weighted sum of one chunk, and which of its elements any update has kept.
struct Sum {
    values: Vec<f32>,
    touched: [u64; CHUNK / 64],
    positions: Vec<u16>,
}

impl Sum {
    fn new() -> Self {
        Self { values: vec![0.0; CHUNK], touched: [0; CHUNK / 64], positions: Vec::new() }
    }

    /// Reads `chunk` from every update and adds it up.
    fn collect(&mut self, chunk: &Chunk, readers: &mut [(Reader<'_>, f32)]) {
        self.values[..chunk.len].fill(0.0);
        self.touched.fill(0);
        for (reader, coefficient) in readers {
            advance(reader, chunk);
            for (&position, &value) in reader.positions.iter().zip(&reader.values) {
                let position = usize::from(position);
                self.values[position] += *coefficient * value;
                self.touched[position / 64] |= 1 << (position % 64);
            }
        }
        self.positions.clear();
        for (word, &bits) in self.touched.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                self.positions.push((word * 64) as u16 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
            }
        }
    }

    /// `e ← e + m` on the union, whose values are then to be coded.
    fn fold_into(&self, chunk: &Chunk, e: &mut [f32], kept: &mut Kept) {
        let add = |&position: &u16| {
            let at = &mut e[chunk.index(position.into())];
            *at += self.values[usize::from(position)];
            *at
        };
        kept.push(&self.positions, self.positions.iter().map(add));
    }
}
