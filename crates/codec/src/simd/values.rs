//! Over the values that are kept: sums, inner products, levels, distances.

use super::COLUMNS;
use crate::quantize::{MAX_LEVELS, Ruler};
use crate::section::FAR;

/// Lanes of a sum.
const LANES: usize = 8;

#[inline(always)]
pub(super) fn sum_body(values: &[f32]) -> f64 {
    sum_of(values, |value| value)
}

#[inline(always)]
pub(super) fn sum_of_squares_body(values: &[f32]) -> f64 {
    sum_of(values, |value| value * value)
}

#[inline(always)]
fn sum_of(values: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += term(value.into());
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value.into());
    }
    total(&lanes)
}

#[inline(always)]
pub(super) fn project_body(magnitudes: &[f32], ruler: Ruler) -> (f64, f64) {
    let (mut cross, mut square) = ([0.0; LANES], [0.0; LANES]);
    // Ratios of many values first: all in one loop, the compiler would go lane by lane.
    let mut ratios = [0.0; 8 * LANES];
    for magnitudes in magnitudes.chunks(ratios.len()) {
        let ratios = &mut ratios[..magnitudes.len()];
        for (ratio, &magnitude) in ratios.iter_mut().zip(magnitudes) {
            *ratio = ruler.ratio(magnitude);
        }
        let ((blocks, rest), (ratios, last)) = (magnitudes.as_chunks::<LANES>(), ratios.as_chunks::<LANES>());
        for (block, ratios) in blocks.iter().zip(ratios) {
            add_products(&mut cross, block, ratios);
            add_products(&mut square, ratios, ratios);
        }
        add_products(&mut cross, rest, last);
        add_products(&mut square, last, last);
    }
    (total(&cross), total(&square))
}

/// `lane ← lane + a·b`, for as many lanes as there are factors.
#[inline(always)]
fn add_products(lanes: &mut [f64; LANES], a: &[f32], b: &[f32]) {
    for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
        *lane += f64::from(a) * f64::from(b);
    }
}

#[inline(always)]
pub(super) fn add_rows_body(rows: &[f32], width: usize, positions: &[u16], values: &[f32], sums: &mut [f64]) {
    // As many as there are registers for; a row's cache line is then fetched once.
    const WIDE: usize = 3 * COLUMNS;
    let (wide, rest) = sums.as_chunks_mut::<WIDE>();
    let done = wide.len() * WIDE;
    for (block, sums) in wide.iter_mut().enumerate() {
        add_columns::<WIDE>(rows, width, block * WIDE, positions, values, sums);
    }
    match rest.len() / COLUMNS {
        2 => add_columns::<{ 2 * COLUMNS }>(rows, width, done, positions, values, rest),
        1 => add_columns::<COLUMNS>(rows, width, done, positions, values, rest),
        _ => {}
    }
}

#[inline(always)]
fn add_columns<const N: usize>(
    rows: &[f32],
    width: usize,
    first: usize,
    positions: &[u16],
    values: &[f32],
    sums: &mut [f64],
) {
    let Some(sums) = sums.first_chunk_mut::<N>() else { return };
    let mut local = *sums;
    for (&position, &value) in positions.iter().zip(values) {
        let Some(row) = rows[usize::from(position) * width + first..].first_chunk::<N>() else { return };
        for (sum, &other) in local.iter_mut().zip(row) {
            *sum += f64::from(value) * f64::from(other);
        }
    }
    *sums = local;
}

#[inline(always)]
fn total(lanes: &[f64; LANES]) -> f64 {
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

#[inline(always)]
pub(super) fn distances_body(
    positions: &[u16],
    codes: &[u8],
    level_bits: u32,
    low_bits: u32,
    tables: &mut [u8],
    raw: &mut [u8],
    units: &mut [u16],
) {
    let split = |distance: u16, code: u8| {
        let whole = distance >> low_bits;
        let near = whole.min(FAR as u16);
        let table = near << level_bits | u16::from(code & 0x7f);
        let low = (distance & ((1 << low_bits) - 1)) << 1 | u16::from(code >> 7);
        (table as u8, low as u8, whole)
    };
    let Some((&first, rest)) = positions.split_first() else { return };
    (tables[0], raw[0], units[0]) = split(first, codes[0]);
    let places = tables[1..].iter_mut().zip(&mut raw[1..]).zip(&mut units[1..]);
    for ((((table, raw), units), (&position, &before)), &code) in
        places.zip(rest.iter().zip(positions)).zip(&codes[1..])
    {
        (*table, *raw, *units) = split(position - before - 1, code);
    }
}

#[inline(always)]
pub(super) fn quantize_body(
    levels: usize,
    thresholds: &[f32; MAX_LEVELS],
    magnitudes: &[f32; MAX_LEVELS],
    values: &mut [f32],
    codes: &mut [u8],
) {
    match levels {
        1 => quantize_to::<1>(thresholds, magnitudes, values, codes),
        2 => quantize_to::<2>(thresholds, magnitudes, values, codes),
        4 => quantize_to::<4>(thresholds, magnitudes, values, codes),
        _ => quantize_to::<MAX_LEVELS>(thresholds, magnitudes, values, codes),
    }
}

#[inline(always)]
fn quantize_to<const N: usize>(
    thresholds: &[f32; MAX_LEVELS],
    magnitudes: &[f32; MAX_LEVELS],
    values: &mut [f32],
    codes: &mut [u8],
) {
    for (value, code) in values.iter_mut().zip(codes) {
        let sign = value.to_bits() & (1 << 31);
        let (mut level, mut magnitude) = (0, magnitudes[0]);
        for above in 1..N {
            let exceeds = value.abs() > thresholds[above - 1];
            level += u32::from(exceeds);
            magnitude = if exceeds { magnitudes[above] } else { magnitude };
        }
        *code = (level | sign >> 24) as u8;
        *value = f32::from_bits(magnitude.to_bits() | sign);
    }
}
