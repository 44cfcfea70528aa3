//! Many updates into one delta.

use rayon::prelude::*;

use crate::encode::{MAX_MAGNITUDE, check_top_k, find_bad};
use crate::error::{Error, Result};
use crate::header::{self, Binding, DeltaBinding, Kind};
use crate::layout::{CHUNK, Chunk, Layout, Section};
use crate::pack::Packer;
use crate::quantize::CodeBits;
use crate::reader::Reader;
use crate::section::{Format, kept_in_chunk};
use crate::simd::{self, Simd};
use crate::topk::TopK;
use crate::update::{Update, advance};

/// Largest coefficient of an update.
const MAX_COEFFICIENT: f32 = (1_u64 << 32) as f32;

/// How a run's deltas are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaConfig {
    /// How a value is coded. Two is the default: one bit is smaller and ends better in short runs, but in long ones not
    /// always (`docs/benchmarks.md`).
    pub bits: CodeBits,
    /// Values kept in a chunk of 4096, as in an update; `None` keeps every coordinate that an update with a
    /// coefficient has kept.
    pub top_k: Option<u32>,
}

impl Default for DeltaConfig {
    fn default() -> Self {
        Self { bits: CodeBits::Two, top_k: None }
    }
}

impl DeltaConfig {
    pub(crate) fn format(self) -> Format {
        Format { bits: self.bits, top_k: self.top_k }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self.top_k {
            Some(top_k) => check_top_k(top_k),
            None => Ok(()),
        }
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
/// `e` is quantised and written (with [`DeltaConfig::top_k`], where it is largest instead), and `e ← e − decoded`.
/// Elsewhere `e` does not change. The caller has folded outer
/// learning rate, weights and clipping into the coefficients. Same inputs, same bytes, on every machine.
///
/// Memory, for each thread: a table and a chunk of each update, some 20 kB, and one section of the delta; beside the
/// finished part of the file.
///
/// # Errors
/// [`Error::Binding`] if an update is for another run, window, start or layout; [`Error::Shape`] if `e` has not the
/// layout's tensors; [`Error::Value`] if a coefficient is out of range: all found before anything is changed.
/// [`Error::Value`] also for a sum that is not finite or is beyond 2^60, [`Error::Read`] and [`Error::Digest`] for updates
/// that were opened where they are; `e` must then be thrown away.
pub fn merge(
    layout: &Layout,
    binding: &DeltaBinding,
    config: &DeltaConfig,
    updates: &[(&Update, f32)],
    e: &mut [Vec<f32>],
) -> Result<Vec<u8>> {
    config.check()?;
    layout.check_lengths(e.iter().map(Vec::len))?;
    for (i, (update, coefficient)) in updates.iter().enumerate() {
        check_update(layout, binding, update)?;
        if coefficient.is_nan() || coefficient.abs() > MAX_COEFFICIENT {
            return Err(Error::Value { what: "coefficient", tensor: 0, index: i, value: *coefficient });
        }
    }
    let voices: Vec<_> = updates.iter().copied().filter(|(_, coefficient)| *coefficient != 0.0).collect();
    let sections: Vec<Result<Vec<u8>>> = layout
        .split(e)
        .into_par_iter()
        .map_init(
            || Sum::new(config.format()),
            |sum, section| merge_section(layout, section, config, &voices, sum),
        )
        .collect();
    // The first section's error, whatever thread was first.
    let sections = sections.into_iter().collect::<Result<Vec<_>>>()?;
    header::write(Kind::Delta, &binding.in_header(), layout, config.format(), sections)
}

fn merge_section(
    layout: &Layout,
    mut e: Section<'_>,
    config: &DeltaConfig,
    voices: &[(&Update, f32)],
    sum: &mut Sum,
) -> Result<Vec<u8>> {
    let load = |(update, _): &(&Update, f32)| update.sections().load(e.index);
    let loaded = voices.iter().map(load).collect::<Result<Vec<_>>>()?;
    let mut readers: Vec<_> =
        voices.iter().zip(&loaded).map(|((update, _), bytes)| update.sections().reader(bytes)).collect();
    sum.packer.begin();
    for chunk in layout.section(e.index) {
        sum.collect(&chunk, voices, &mut readers);
        let mut kept = sum.fold_into(&chunk, &mut e)?;
        if let Some(top_k) = config.top_k {
            kept = sum.select(&chunk, &mut e, kept_in_chunk(top_k, chunk.len))?;
        }
        let (positions, values) = (&sum.positions[..kept], &mut sum.folded[..kept]);
        sum.packer.push(&chunk, positions, values, |chunk, positions, decoded| {
            e.subtract(chunk, positions, decoded)
        });
    }
    Ok(sum.packer.finish(|chunk, positions, decoded| e.subtract(chunk, positions, decoded)))
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
    simd: Simd,
    values: Vec<f32>,
    /// Not 0 where an update has kept the element. Bytes, because neighbours in one word would wait for each other.
    touched: Vec<u8>,
    /// Where values are coded, and the values: as many as there are, and room behind them.
    positions: Vec<u16>,
    folded: Vec<f32>,
    largest: Vec<u16>,
    topk: TopK,
    packer: Packer,
}

impl Sum {
    fn new(format: Format) -> Self {
        let (simd, room) = (Simd::detect(), CHUNK + simd::SLACK);
        let (values, touched) = (vec![0.0; CHUNK], vec![0; CHUNK]);
        let (positions, folded, largest) = (vec![0; room], vec![0.0; room], Vec::new());
        let (topk, packer) = (TopK::new(simd), Packer::new(simd, format));
        Self { simd, values, touched, positions, folded, largest, topk, packer }
    }

    /// Reads `chunk` from every update and adds it up.
    fn collect(&mut self, chunk: &Chunk, voices: &[(&Update, f32)], readers: &mut [Reader<'_>]) {
        self.values.fill(0.0);
        self.touched.fill(0);
        let (values, touched) = (&mut self.values[..CHUNK], &mut self.touched[..CHUNK]);
        advance(readers, chunk);
        for (reader, (_, coefficient)) in readers.iter().zip(voices) {
            for (&position, &value) in reader.positions.iter().zip(&reader.values) {
                let position = usize::from(position) % CHUNK;
                values[position] += *coefficient * value;
                touched[position] = 1;
            }
        }
    }

    /// `e ← e + m` on the union, whose values are then to be coded. Returns how many there are.
    fn fold_into(&mut self, chunk: &Chunk, e: &mut Section<'_>) -> Result<usize> {
        let (start, elements) = e.of(chunk);
        let (values, touched) = (&self.values, &self.touched);
        let (positions, folded) = (&mut self.positions, &mut self.folded);
        let (kept, most) = self.simd.fold_touched(chunk, start, values, touched, elements, positions, folded);
        self.check(chunk, kept, most)?;
        Ok(kept)
    }

    /// Refuses a sum that is not finite or is beyond 2^60: the bits of its magnitude are at most `most`.
    fn check(&self, chunk: &Chunk, kept: usize, most: u32) -> Result<()> {
        if most <= MAX_MAGNITUDE.to_bits() {
            return Ok(());
        }
        let (positions, folded) = (&self.positions[..kept], &self.folded[..kept]);
        Err(find_bad("merged pseudo-gradient with error feedback", chunk, positions, folded))
    }

    /// Replaces the union by the `k` largest magnitudes of `e` in the whole chunk: what was left out before counts too.
    fn select(&mut self, chunk: &Chunk, e: &mut Section<'_>, k: usize) -> Result<usize> {
        let (start, elements) = e.of(chunk);
        let values = &mut self.values[..chunk.len];
        for (row, values) in values.chunks_exact_mut(chunk.width).enumerate() {
            let at = chunk.base - start + row * chunk.stride;
            values.copy_from_slice(&elements[at..at + chunk.width]);
        }
        self.topk.select(values, k, &mut self.largest);
        let mut most = 0;
        let places = self.positions.iter_mut().zip(&mut self.folded);
        for (&largest, (position, folded)) in self.largest.iter().zip(places) {
            (*position, *folded) = (largest, values[usize::from(largest)]);
            most = most.max(folded.abs().to_bits());
        }
        self.check(chunk, k, most)?;
        Ok(k)
    }
}
