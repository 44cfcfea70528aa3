//! One peer's side: error feedback, top-k, quantiser, file.

use crate::error::{Error, Result};
use crate::header::{self, Binding, Kind};
use crate::layout::{CHUNK, Chunk, Layout};
use crate::quantize::CodeBits;
use crate::section::{self, Format, Kept, kept_in_chunk};
use crate::topk;

/// Largest magnitude of an input. Far above anything that trains, far below what could overflow on the way.
const MAX_MAGNITUDE: f32 = (1_u64 << 60) as f32;

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
        if !(1..=CHUNK as u32).contains(&self.top_k) {
            return Err(Error::Config { field: "top_k", value: self.top_k.into(), range: "1..=4096" });
        }
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

/// Folds the pseudo-gradient `delta` into the error feedback `e` and returns the update file.
///
/// `e ← β·e + Δ` (one f32 multiplication, one addition); the largest magnitudes of every chunk are quantised and
/// written; `e ← e − decoded`. Both `delta` and `e` have one slice for each tensor of the layout, in its order.
/// Given the same inputs, the bytes are the same on every machine.
///
/// # Errors
/// [`Error::Config`], [`Error::Shape`], or [`Error::Value`] for an element of `delta` or `e` that is not finite or is
/// beyond 2^60. All are found before anything is changed: after one of them `e` is as it was. ([`Error::TooLong`] would
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
    check_values("pseudo-gradient", delta.iter().copied())?;
    check_values("error feedback", e.iter().map(Vec::as_slice))?;

    let mut scratch = Scratch::default();
    let sections: Vec<Vec<u8>> = (0..layout.num_sections())
        .map(|i| compress_section(layout, i, config, delta, e, &mut scratch))
        .collect();
    header::write(Kind::Update, binding, layout, config.format(), &sections)
}

/// Buffers that one section after the other uses.
#[derive(Default)]
struct Scratch {
    chunk: Vec<f32>,
    topk: topk::Scratch,
    positions: Vec<u16>,
    kept: Kept,
}

fn compress_section(
    layout: &Layout,
    section: usize,
    config: &CodecConfig,
    delta: &[&[f32]],
    e: &mut [Vec<f32>],
    scratch: &mut Scratch,
) -> Vec<u8> {
    let Scratch { chunk: values, topk, positions, kept } = scratch;
    let chunks: Vec<Chunk> = layout.section(section).collect();
    kept.clear();
    for chunk in &chunks {
        fold(chunk, config.error_feedback_decay, delta[chunk.tensor], &mut e[chunk.tensor], values);
        topk::select(values, kept_in_chunk(config.top_k, chunk.len), topk, positions);
        kept.push(positions, positions.iter().map(|&p| values[usize::from(p)]));
    }
    let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.len).collect();
    let bytes = section::encode(config.format(), &lengths, kept);
    subtract_decoded(&chunks, kept, e);
    bytes
}

/// `e ← β·e + Δ` over one chunk, and a copy of the result in `values`.
fn fold(chunk: &Chunk, beta: f32, delta: &[f32], e: &mut [f32], values: &mut Vec<f32>) {
    values.resize(chunk.len, 0.0);
    for (row, values) in values.chunks_exact_mut(chunk.width).enumerate() {
        let start = chunk.base + row * chunk.stride;
        let range = start..start + chunk.width;
        for ((e, delta), value) in e[range.clone()].iter_mut().zip(&delta[range]).zip(values) {
            *e = beta * *e + delta;
            *value = *e;
        }
    }
}

/// `e ← e − decoded` for every kept value of a section.
pub(crate) fn subtract_decoded(chunks: &[Chunk], kept: &Kept, e: &mut [Vec<f32>]) {
    for (i, chunk) in chunks.iter().enumerate() {
        let (positions, decoded) = kept.chunk(i);
        for (&position, decoded) in positions.iter().zip(decoded) {
            e[chunk.tensor][chunk.index(position.into())] -= decoded;
        }
    }
}

/// Refuses values that are not finite or beyond 2^60.
pub(crate) fn check_values<'a>(what: &'static str, tensors: impl Iterator<Item = &'a [f32]>) -> Result<()> {
    // The bits of infinity and NaN are above those of any finite magnitude.
    let magnitude = |value: &f32| value.abs().to_bits();
    let limit = MAX_MAGNITUDE.to_bits();
    for (tensor, values) in tensors.enumerate() {
        // No branch for each value: where a bad one is matters only once there is one.
        let bad = |block: &[f32]| block.iter().fold(false, |bad, value| bad | (magnitude(value) > limit));
        if !values.chunks(CHUNK).any(bad) {
            continue;
        }
        if let Some(index) = values.iter().position(|value| magnitude(value) > limit) {
            return Err(Error::Value { what, tensor, index, value: values[index] });
        }
    }
    Ok(())
}
