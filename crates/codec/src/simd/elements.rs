//! Over every element: error feedback, thresholds, the merge's sums.

use super::{Simd, Width};
use crate::layout::{CHUNK, Chunk};

/// Elements that [`Simd::fold_touched`] may write behind the last.
pub(crate) const SLACK: usize = 16;

impl Simd {
    /// Bit i of the masks says whether the magnitude of `values[i]` has at least the bits `threshold`.
    pub(crate) fn reach(self, values: &[f32], threshold: u32, masks: &mut [u64; CHUNK / 64]) {
        masks.fill(0);
        let (blocks, rest) = values.as_chunks::<64>();
        for (mask, block) in masks.iter_mut().zip(blocks) {
            *mask = match self.0 {
                Width::Scalar => reach_scalar(block, threshold),
                // SAFETY: this width exists only where the processor has AVX2.
                #[cfg(target_arch = "x86_64")]
                Width::Avx2 => unsafe { reach_avx2(block, threshold) },
                // SAFETY: this width exists only where the processor has AVX-512.
                #[cfg(target_arch = "x86_64")]
                Width::Avx512 => unsafe { reach_avx512(block, threshold) },
            };
        }
        if !rest.is_empty() {
            masks[blocks.len()] = reach_scalar(rest, threshold);
        }
    }
}

impl Simd {
    /// `e ← e + sum` over the elements of `chunk` that are touched (not 0); `positions` and `values` begin with their
    /// positions and new values then. Returns how many there are, and the bits of the largest magnitude.
    ///
    /// `sums` and `touched` have an entry for each element of the chunk, and `base` is the flat index of the first element of
    /// `e`. `positions` and `values` have [`SLACK`] more elements than the chunk.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn fold_touched(
        self,
        chunk: &Chunk,
        base: usize,
        sums: &[f32],
        touched: &[u8],
        e: &mut [f32],
        positions: &mut [u16],
        values: &mut [f32],
    ) -> (usize, u32) {
        let (mut kept, mut most) = (0, 0);
        for row in 0..chunk.len / chunk.width {
            let (first, at) = (row * chunk.width, chunk.base - base + row * chunk.stride);
            let (sums, touched) = (&sums[first..first + chunk.width], &touched[first..first + chunk.width]);
            // The next tile's row, for when its turn comes.
            prefetch(e, at + chunk.width);
            let e = &mut e[at..at + chunk.width];
            let (positions, values) = (&mut positions[kept..], &mut values[kept..]);
            let (more, largest) = match self.0 {
                // SAFETY: this width exists only where the processor has AVX-512.
                #[cfg(target_arch = "x86_64")]
                Width::Avx512 => unsafe { fold_row_avx512(first, sums, touched, e, positions, values) },
                _ => fold_row(first, sums, touched, e, positions, values),
            };
            (kept, most) = (kept + more, most.max(largest));
        }
        (kept, most)
    }
}

/// What [`Simd::fold_touched`] does with one row, whose elements are at `first` and behind it.
fn fold_row(
    first: usize,
    sums: &[f32],
    touched: &[u8],
    e: &mut [f32],
    positions: &mut [u16],
    values: &mut [f32],
) -> (usize, u32) {
    let (mut kept, mut most) = (0, 0);
    for (i, ((e, sum), &touched)) in e.iter_mut().zip(sums).zip(touched).enumerate() {
        if touched != 0 {
            *e += sum;
            (positions[kept], values[kept]) = ((first + i) as u16, *e);
            most = most.max(e.abs().to_bits());
            kept += 1;
        }
    }
    (kept, most)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn fold_row_avx512(
    first: usize,
    sums: &[f32],
    touched: &[u8],
    e: &mut [f32],
    positions: &mut [u16],
    values: &mut [f32],
) -> (usize, u32) {
    use std::arch::x86_64::*;
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let mut places = _mm512_add_epi32(
        _mm512_set1_epi32(first as i32),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    );
    let (mut kept, mut most) = (0, _mm512_setzero_si512());
    let (groups, rest) = e.as_chunks_mut::<SLACK>();
    let whole = groups.len() * SLACK;
    for ((e, sums), touched) in
        groups.iter_mut().zip(sums.as_chunks::<SLACK>().0).zip(touched.as_chunks::<SLACK>().0)
    {
        // SAFETY: reads the sixteen elements of each array; no alignment is asked for.
        let (touched, sums, old) = unsafe {
            (
                _mm_loadu_si128(touched.as_ptr().cast()),
                _mm512_loadu_ps(sums.as_ptr()),
                _mm512_loadu_ps(e.as_ptr()),
            )
        };
        let mask = _mm_test_epi8_mask(touched, touched);
        let new = _mm512_mask_add_ps(old, mask, old, sums);
        let bits = _mm512_and_si512(_mm512_castps_si512(new), magnitude);
        most = _mm512_mask_max_epu32(most, mask, most, bits);
        let (positions, values) =
            (positions[kept..].first_chunk_mut::<SLACK>(), values[kept..].first_chunk_mut::<SLACK>());
        let (positions, values) = positions.zip(values).expect("there is room behind the chunk's elements");
        let place = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(mask, places));
        // SAFETY: writes sixteen elements over those of each array; no alignment is asked for.
        unsafe {
            _mm512_storeu_ps(e.as_mut_ptr(), new);
            _mm256_storeu_si256(positions.as_mut_ptr().cast(), place);
            _mm512_storeu_ps(values.as_mut_ptr(), _mm512_maskz_compress_ps(mask, new));
        }
        places = _mm512_add_epi32(places, _mm512_set1_epi32(SLACK as i32));
        kept += mask.count_ones() as usize;
    }
    let (positions, values) = (&mut positions[kept..], &mut values[kept..]);
    let (more, last) = fold_row(first + whole, &sums[whole..], &touched[whole..], rest, positions, values);
    (kept + more, last.max(_mm512_reduce_max_epu32(most)))
}

fn reach_scalar(values: &[f32], threshold: u32) -> u64 {
    let reaches = |value: &f32| u64::from(value.abs().to_bits() >= threshold);
    values.iter().enumerate().fold(0, |mask, (i, value)| mask | reaches(value) << i)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn reach_avx2(values: &[f32; 64], threshold: u32) -> u64 {
    use std::arch::x86_64::{
        _mm256_and_si256, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256, _mm256_movemask_ps,
        _mm256_set1_epi32,
    };
    // Magnitudes have no sign bit, so a signed comparison will do; at least t is more than t − 1.
    let below = _mm256_set1_epi32(threshold as i32 - 1);
    let magnitude = _mm256_set1_epi32(i32::MAX);
    let mut mask = 0;
    for (i, eight) in values.as_chunks::<8>().0.iter().enumerate() {
        // SAFETY: reads the eight values of the array; no alignment is asked for.
        let bits = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
        let reaches = _mm256_cmpgt_epi32(_mm256_and_si256(bits, magnitude), below);
        mask |= u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(reaches)) as u32) << (8 * i);
    }
    mask
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn reach_avx512(values: &[f32; 64], threshold: u32) -> u64 {
    use std::arch::x86_64::{
        _mm512_and_si512, _mm512_cmpge_epu32_mask, _mm512_loadu_si512, _mm512_set1_epi32,
    };
    let least = _mm512_set1_epi32(threshold as i32);
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let mut mask = 0;
    for (i, sixteen) in values.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: reads the sixteen values of the array; no alignment is asked for.
        let bits = unsafe { _mm512_loadu_si512(sixteen.as_ptr().cast()) };
        mask |= u64::from(_mm512_cmpge_epu32_mask(_mm512_and_si512(bits, magnitude), least)) << (16 * i);
    }
    mask
}

#[inline(always)]
pub(super) fn fold_body(
    chunk: &Chunk,
    base: usize,
    beta: f32,
    delta: &[f32],
    e: &mut [f32],
    out: &mut [f32],
) -> u32 {
    let mut most = 0;
    for (row, out) in out.chunks_exact_mut(chunk.width).enumerate() {
        let start = chunk.base - base + row * chunk.stride;
        // The next tile's row lies behind this one's. A tile is too short for the processor to notice a pattern.
        prefetch(e, start + chunk.width);
        prefetch(delta, start + chunk.width);
        let (e, delta) = (&mut e[start..start + chunk.width], &delta[start..start + chunk.width]);
        for ((e, delta), out) in e.iter_mut().zip(delta).zip(out) {
            let sum = beta * *e + delta;
            *e = sum;
            *out = sum;
            most = most.max(sum.abs().to_bits());
        }
    }
    most
}

/// Asks for the cache lines of the 64 values from `values[start]` on, as far as there are any.
#[inline(always)]
fn prefetch(values: &[f32], start: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in values.get(start..(start + 64).min(values.len())).unwrap_or(&[]).chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint for an address within the slice; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, start);
}
