//! One peer's side: error feedback, top-k, quantiser, file.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::header::{self, Binding, Kind};
use crate::layout::{CHUNK, Chunk, Layout, Section};
use crate::pack::Packer;
use crate::quantize::CodeBits;
use crate::section::{Format, kept_in_chunk};
use crate::simd::Simd;
use crate::topk::TopK;

/// Largest magnitude of an input. Far above anything that trains, far below what could overflow on the way.
pub const MAX_MAGNITUDE: f32 = (1_u64 << 60) as f32;

/// How updates of a run are compressed. Every peer of a run has the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodecConfig {
    /// Values kept in a chunk of 4096, 1 to 4096. A chunk of n elements keeps ⌈top_k·n/4096⌉.
    pub top_k: u32,
    /// How a kept value is coded.
    pub bits: CodeBits,
    /// β, 0 to 1: how much of the old residual is carried into the next window.
    pub error_feedback_decay: f32,
}

impl CodecConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        check_top_k(self.top_k)?;
        let beta = self.error_feedback_decay;
        if !(0.0..=1.0).contains(&beta) {
            return Err(Error::Config { field: "error_feedback_decay", value: beta.into(), range: "0..=1" });
        }
        Ok(())
    }

    pub(crate) fn format(&self) -> Format {
        Format { bits: self.bits, top_k: Some(self.top_k) }
    }
}

pub(crate) fn check_top_k(top_k: u32) -> Result<()> {
    if (1..=CHUNK as u32).contains(&top_k) {
        return Ok(());
    }
    Err(Error::Config { field: "top_k", value: top_k.into(), range: "1..=4096" })
}

/// Folds the pseudo-gradient `delta` into the error feedback `e` and returns the update file.
///
/// `e ← β·e + Δ` (one f32 multiplication, one addition); the largest magnitudes of every chunk are quantised and
/// written; `e ← e − decoded`. Both `delta` and `e` have one slice for each tensor of the layout, in its order. Each is
/// read once. Sections are worked on in parallel; given the same inputs, the bytes are the same on every machine and with
/// any number of threads.
///
/// # Errors
/// [`Error::Config`] and [`Error::Shape`], before anything is changed. [`Error::Value`] for a sum that is not finite or
/// is beyond 2^60; part of `e` is then old and part is new, so that it must be thrown away. ([`Error::TooLong`] would
/// mean that the bound which readers apply is wrong.)
pub fn compress(
    layout: &Layout,
    binding: &Binding,
    config: &CodecConfig,
    delta: &[&[f32]],
    e: &mut [Vec<f32>],
) -> Result<Vec<u8>> {
    config.check()?;
    layout.check_lengths(delta.iter().map(|t| t.len()))?;
    layout.check_lengths(e.iter().map(Vec::len))?;
    let sections = layout.split(e);
    let sections: Vec<Result<Vec<u8>>> = sections
        .into_par_iter()
        .map_init(
            || Scratch::new(config.format()),
            |scratch, section| compress_section(layout, section, config, delta, scratch),
        )
        .collect();
    // The first section's error, whatever thread was first.
    let sections = sections.into_iter().collect::<Result<Vec<_>>>()?;
    header::write(Kind::Update, binding, layout, config.format(), sections)
}

/// Buffers that one section after the other uses.
struct Scratch {
    simd: Simd,
    chunk: Vec<f32>,
    topk: TopK,
    positions: Vec<u16>,
    values: Vec<f32>,
    packer: Packer,
}

impl Scratch {
    fn new(format: Format) -> Self {
        let simd = Simd::detect();
        let (chunk, positions, values) = (vec![0.0; CHUNK], Vec::new(), Vec::new());
        Self { simd, chunk, topk: TopK::new(simd), positions, values, packer: Packer::new(simd, format) }
    }
}

fn compress_section(
    layout: &Layout,
    mut e: Section<'_>,
    config: &CodecConfig,
    delta: &[&[f32]],
    scratch: &mut Scratch,
) -> Result<Vec<u8>> {
    let Scratch { simd, chunk: sums, topk, positions, values, packer } = scratch;
    packer.begin();
    for chunk in layout.section(e.index) {
        let sums = &mut sums[..chunk.len];
        let (start, elements) = e.of(&chunk);
        let delta = &delta[chunk.tensor][start..start + elements.len()];
        let most = simd.fold(&chunk, start, config.error_feedback_decay, delta, elements, sums);
        // The bits of infinity and NaN are above those of any finite magnitude.
        if most > MAX_MAGNITUDE.to_bits() {
            let places: Vec<u16> = (0..chunk.len as u16).collect();
            return Err(find_bad("pseudo-gradient with error feedback", &chunk, &places, sums));
        }
        topk.select(sums, kept_in_chunk(config.top_k, chunk.len), positions);
        values.clear();
        values.extend(positions.iter().map(|&position| sums[usize::from(position)]));
        packer.push(&chunk, positions, values, |chunk, positions, decoded| {
            e.subtract(chunk, positions, decoded)
        });
    }
    Ok(packer.finish(|chunk, positions, decoded| e.subtract(chunk, positions, decoded)))
}

/// The first of the `values` at `positions` of `chunk` that is not finite or beyond 2^60.
pub(crate) fn find_bad(what: &'static str, chunk: &Chunk, positions: &[u16], values: &[f32]) -> Error {
    let is_bad = |value: &f32| value.abs().to_bits() > MAX_MAGNITUDE.to_bits();
    let i = values.iter().position(is_bad).unwrap_or(0);
    Error::Value { what, tensor: chunk.tensor, index: chunk.index(positions[i].into()), value: values[i] }
}
