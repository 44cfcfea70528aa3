//! The loops that run over every parameter, or over every kept value, as wide as the processor allows.
//!
//! The only `unsafe` of this crate is here: calling a function that was compiled for instructions which not every
//! processor has. A [`Simd`] other than scalar exists only if [`Simd::all`] has found those instructions, and its
//! fields are private, so the calls are sound. What the functions do is safe code, but for vector loads and stores,
//! gathers and a prefetch: each has its argument beside it, from the length of an array or the width of an index.
//!
//! All widths give the same bits: sums run in eight lanes that are part of the format (element i goes to lane i mod 8),
//! and nothing is fused. The tests hold every width that the machine has against the scalar one, here and in `section`.
#![allow(unsafe_code)]

use crate::layout::{CHUNK, Chunk};
use crate::quantize::{MAX_LEVELS, Ruler};
use crate::rans::{self, Encoder};
use crate::reader::Values;
use crate::section::FAR;
use crate::table::Table;

/// Lanes of a sum.
const LANES: usize = 8;
/// Elements that [`Simd::fold_touched`] may write behind the last.
pub(crate) const SLACK: usize = 16;
/// Columns of a matrix come in multiples of this.
pub(crate) const COLUMNS: usize = 8;

/// Which instructions are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Simd(Width);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Defines a method of [`Simd`] that runs one body, compiled for every width.
macro_rules! for_every_width {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        impl Simd {
            $(#[$doc])*
            #[inline]
            #[allow(clippy::too_many_arguments)]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
                    #[allow(clippy::too_many_arguments)]
                    fn avx2($($arg: $type),*) $(-> $result)? {
                        $body($($arg),*)
                    }
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
                    #[allow(clippy::too_many_arguments)]
                    fn avx512($($arg: $type),*) $(-> $result)? {
                        $body($($arg),*)
                    }
                    match self.0 {
                        // SAFETY: this width exists only where the processor has these instructions.
                        Width::Avx512 => return unsafe { avx512($($arg),*) },
                        // SAFETY: as above.
                        Width::Avx2 => return unsafe { avx2($($arg),*) },
                        Width::Scalar => {}
                    }
                }
                $body($($arg),*)
            }
        }
    };
}

for_every_width! {
    /// `e ← β·e + Δ` over the rows of `chunk`, a copy of the result in `out`, and the bits of its largest magnitude.
    ///
    /// `base` is the flat index of the first element of `e` and `delta`.
    fold = fold_body(chunk: &Chunk, base: usize, beta: f32, delta: &[f32], e: &mut [f32], out: &mut [f32]) -> u32
}

for_every_width! {
    /// The sum of `values`, in eight lanes.
    sum = sum_body(values: &[f32]) -> f64
}

for_every_width! {
    /// The sum of the squares of `values`, in eight lanes.
    sum_of_squares = sum_of_squares_body(values: &[f32]) -> f64
}

for_every_width! {
    /// Σ m·r and Σ r² over the `magnitudes` m, with r the ratio of the level that `ruler` gives m; both in eight lanes.
    project = project_body(magnitudes: &[f32], ruler: Ruler) -> (f64, f64)
}

for_every_width! {
    /// Adds `values[i]` times the beginning of row `positions[i]` of `rows` to `sums`, in f64, one i after the other. Rows have
    /// `width` columns; that and the number of `sums` are multiples of [`COLUMNS`].
    add_rows = add_rows_body(rows: &[f32], width: usize, positions: &[u16], values: &[f32], sums: &mut [f64])
}

for_every_width! {
    /// For each position its distance from the place behind the one before, split into units of 2^`low_bits` and the rest;
    /// with the value's code they make its place in the table and its raw bits.
    distances = distances_body(
        positions: &[u16], codes: &[u8], level_bits: u32, low_bits: u32, tables: &mut [u8], raw: &mut [u8], units: &mut [u16]
    )
}

for_every_width! {
    /// Gives each value its code: how many `thresholds` its magnitude exceeds, and its sign in the highest bit; and
    /// replaces it by that magnitude.
    quantize = quantize_body(
        levels: usize, thresholds: &[f32; MAX_LEVELS], magnitudes: &[f32; MAX_LEVELS], values: &mut [f32], codes: &mut [u8]
    )
}

impl Simd {
    /// The widest that this processor has.
    pub(crate) fn detect() -> Self {
        Self::all().last().copied().unwrap_or(Self(Width::Scalar))
    }

    /// All that this processor has, from the narrowest.
    pub(crate) fn all() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            const ALL: [Simd; 3] = [Simd(Width::Scalar), Simd(Width::Avx2), Simd(Width::Avx512)];
            macro_rules! has {
                ($($feature:tt),*) => { true $(&& std::arch::is_x86_feature_detected!($feature))* };
            }
            let avx2 = has!("avx2", "bmi1", "bmi2", "popcnt");
            let avx512 = avx2 && has!("avx512f", "avx512bw", "avx512dq", "avx512vl");
            &ALL[..1 + usize::from(avx2) + usize::from(avx512)]
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Simd(Width::Scalar)]
    }

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
    /// Reads groups of values until there are no more, a distance is far, or the stream is about to end. Returns how many
    /// groups were read; what comes next is for [`Values::read`].
    #[inline]
    pub(crate) fn read_groups(
        self,
        reader: &mut Values<'_, '_>,
        positions: &mut [[u16; rans::LANES]],
        values: &mut [[f32; rans::LANES]],
    ) -> usize {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { read_groups_avx512(reader, positions, values) },
            _ => 0,
        }
    }
}

impl Simd {
    /// Puts groups of symbols, from the last, until one has a symbol from `far` on. Returns how many are left.
    #[inline]
    pub(crate) fn put_groups(
        self,
        encoder: &mut Encoder,
        table: &Table,
        symbols: &[[u8; rans::LANES]],
        raw: &[[u8; rans::LANES]],
        raw_bits: u32,
        far: u32,
    ) -> usize {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { put_groups_avx512(encoder, table, symbols, raw, raw_bits, far) },
            _ => symbols.len(),
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

/// One lane of the encoder for each lane of two vectors; in step with `Encoder::put`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn put_groups_avx512(
    encoder: &mut Encoder,
    table: &Table,
    symbols: &[[u8; rans::LANES]],
    raw: &[[u8; rans::LANES]],
    raw_bits: u32,
    far: u32,
) -> usize {
    use std::arch::x86_64::*;
    let entries = table.starts_and_shares();
    let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
    let (room, raw_shift) = (count(52 - raw_bits), count(raw_bits));
    let half_mask = _mm512_set1_epi64(0xffff);
    let reversed = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    let far = _mm256_set1_epi32(far as i32);
    // SAFETY: reads twice eight lanes; no alignment is asked for.
    let mut lanes = unsafe {
        let lanes = encoder.lanes.as_ptr();
        [_mm512_loadu_si512(lanes.cast()), _mm512_loadu_si512(lanes.add(8).cast())]
    };
    let mut left = symbols.len();
    for (symbols, raw) in symbols.iter().zip(raw).rev() {
        // SAFETY: reads the sixteen bytes of each group; no alignment is asked for.
        let (symbols, raw) =
            unsafe { (_mm_loadu_si128(symbols.as_ptr().cast()), _mm_loadu_si128(raw.as_ptr().cast())) };
        let symbols = [_mm256_cvtepu8_epi32(symbols), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(symbols))];
        let raw = [_mm512_cvtepu8_epi64(raw), _mm512_cvtepu8_epi64(_mm_srli_si128::<8>(raw))];
        if symbols.map(|symbols| _mm256_cmpge_epi32_mask(symbols, far)) != [0; 2] {
            break;
        }
        for half in [1, 0] {
            // SAFETY: a symbol is a byte, and there are 256 entries of 32 bits.
            let entry = unsafe { _mm256_i32gather_epi32::<4>(entries.as_ptr().cast(), symbols[half]) };
            let entry = _mm512_cvtepu32_epi64(entry);
            let (start, share) = (_mm512_and_si512(entry, half_mask), _mm512_srli_epi64::<16>(entry));
            let needs = _mm512_cmpge_epu64_mask(_mm512_srl_epi64(lanes[half], room), share);
            let words = _mm256_permutevar8x32_epi32(_mm512_cvtepi64_epi32(lanes[half]), reversed);
            let words = _mm256_maskz_compress_epi32(needs.reverse_bits(), words);
            let mut moved = [0_u32; 8];
            // SAFETY: writes eight words; no alignment is asked for.
            unsafe { _mm256_storeu_si256(moved.as_mut_ptr().cast(), words) };
            let len = encoder.words.len();
            encoder.words.extend_from_slice(&moved);
            encoder.words.truncate(len + needs.count_ones() as usize);
            let x = _mm512_mask_srli_epi64::<32>(lanes[half], needs, lanes[half]);
            // Now x < share·2^52, so the quotient fits into the fraction of a double, and what rounding makes of it is
            // at most one off either way.
            let quotient = _mm512_div_pd(_mm512_cvtepu64_pd(x), _mm512_cvtepu64_pd(share));
            let quotient = _mm512_cvttpd_epu64(quotient);
            let rest = _mm512_sub_epi64(x, _mm512_mullo_epi64(quotient, share));
            let over = _mm512_movepi64_mask(rest);
            let quotient = _mm512_mask_sub_epi64(quotient, over, quotient, _mm512_set1_epi64(1));
            let rest = _mm512_mask_add_epi64(rest, over, rest, share);
            let under = _mm512_cmpge_epi64_mask(rest, share);
            let quotient = _mm512_mask_add_epi64(quotient, under, quotient, _mm512_set1_epi64(1));
            let rest = _mm512_mask_sub_epi64(rest, under, rest, share);
            let x = _mm512_or_si512(_mm512_slli_epi64::<12>(quotient), _mm512_add_epi64(start, rest));
            lanes[half] = _mm512_or_si512(_mm512_sll_epi64(x, raw_shift), raw[half]);
        }
        left -= 1;
    }
    // SAFETY: writes the sixteen lanes; no alignment is asked for.
    unsafe {
        let to = encoder.lanes.as_mut_ptr();
        _mm512_storeu_si512(to.cast(), lanes[0]);
        _mm512_storeu_si512(to.add(8).cast(), lanes[1]);
    }
    left
}

/// One lane of the decoder for each lane of two vectors; in step with `Decoder::symbol` and `Values::next`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn read_groups_avx512(
    reader: &mut Values<'_, '_>,
    positions: &mut [[u16; rans::LANES]],
    values: &mut [[f32; rans::LANES]],
) -> usize {
    use std::arch::x86_64::*;
    let Values { decoder, table, magnitudes, level_bits, low_bits, expected } = reader;
    let slots = table.slots();
    let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
    let (raw_bits, level_shift, low_shift) = (count(*low_bits + 1), count(*level_bits), count(*low_bits));
    let raw_mask = _mm512_set1_epi64((1_i64 << (*low_bits + 1)) - 1);
    let level_mask = _mm256_set1_epi32((1 << *level_bits) - 1);
    let (twelve, far) = (_mm512_set1_epi64(0xfff), _mm256_set1_epi32(FAR as i32));
    let bottom = _mm512_set1_epi64(rans::BOTTOM as i64);
    let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi32(1));
    // SAFETY: reads eight magnitudes and twice eight lanes; no alignment is asked for.
    let (magnitudes, mut lanes) = unsafe {
        let lanes = decoder.lanes.as_ptr();
        let halves = [_mm512_loadu_si512(lanes.cast()), _mm512_loadu_si512(lanes.add(8).cast())];
        (_mm256_loadu_ps(magnitudes.as_ptr()), halves)
    };
    let (mut done, mut next, mut end) = (0, decoder.next, _mm256_set1_epi32(*expected as i32));
    for (positions, values) in positions.iter_mut().zip(values) {
        let shifted = lanes.map(|lanes| _mm512_srl_epi64(lanes, raw_bits));
        // SAFETY: twelve bits are less than the number of slots, each a 32-bit number.
        let slot = shifted.map(|x| unsafe {
            _mm512_i64gather_epi32::<4>(_mm512_and_si512(x, twelve), slots.as_ptr().cast())
        });
        let symbol = slot.map(|slot| _mm256_and_si256(slot, _mm256_set1_epi32(0xff)));
        let units = symbol.map(|symbol| _mm256_srl_epi32(symbol, level_shift));
        let is_far = units.map(|units| _mm256_cmpeq_epi32_mask(units, far));
        if is_far != [0; 2] {
            break;
        }
        // As many as both halves could need.
        let Some(words) = decoder.words.get(next..).and_then(|words| words.first_chunk::<{ rans::LANES }>())
        else {
            break;
        };
        let mut used = 0;
        for half in 0..2 {
            let wide = _mm512_cvtepu32_epi64(slot[half]);
            let share = _mm512_and_si512(_mm512_srli_epi64::<8>(wide), twelve);
            let share = _mm512_add_epi64(share, _mm512_set1_epi64(1));
            // A 64-bit product takes three times as long as two of 32 by 32 bits, and everything waits for it.
            let rest = _mm512_srli_epi64::<12>(shifted[half]);
            let high = _mm512_mul_epu32(share, _mm512_srli_epi64::<32>(rest));
            let product = _mm512_add_epi64(_mm512_slli_epi64::<32>(high), _mm512_mul_epu32(share, rest));
            let x = _mm512_add_epi64(product, _mm512_srli_epi64::<20>(wide));
            // The lanes that need a word get one each, in their order.
            let needs = _mm512_cmplt_epu64_mask(x, bottom);
            // SAFETY: at most eight words were used, so this reads eight of the sixteen; no alignment is asked for.
            let needed = unsafe { _mm256_loadu_si256(words[used..used + 8].as_ptr().cast()) };
            let needed = _mm512_cvtepu32_epi64(_mm256_maskz_expand_epi32(needs, needed));
            used += needs.count_ones() as usize;

            let raw = _mm512_cvtepi64_epi32(_mm512_and_si512(lanes[half], raw_mask));
            lanes[half] = _mm512_mask_or_epi64(x, needs, _mm512_slli_epi64::<32>(x), needed);
            let distance =
                _mm256_or_si256(_mm256_sll_epi32(units[half], low_shift), _mm256_srli_epi32::<1>(raw));
            // Sums of the steps so far, in three rounds.
            let sum = _mm256_add_epi32(distance, one);
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<7>(sum, zero));
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<6>(sum, zero));
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<4>(sum, zero));
            let behind = _mm256_add_epi32(sum, end);
            end = _mm256_add_epi32(end, _mm256_permutevar8x32_epi32(sum, _mm256_set1_epi32(7)));
            let place = _mm256_cvtepi32_epi16(_mm256_sub_epi32(behind, one));
            let magnitude = _mm256_permutevar8x32_ps(magnitudes, _mm256_and_si256(symbol[half], level_mask));
            let value = _mm256_or_ps(magnitude, _mm256_castsi256_ps(_mm256_slli_epi32::<31>(raw)));
            // SAFETY: writes eight positions and eight values over one half of the group's sixteen; no alignment is
            // asked for.
            unsafe {
                _mm_storeu_si128(positions.as_mut_ptr().add(8 * half).cast(), place);
                _mm256_storeu_ps(values.as_mut_ptr().add(8 * half), value);
            }
        }
        next += used;
        done += 1;
    }
    // SAFETY: writes the sixteen lanes; no alignment is asked for.
    unsafe {
        let to = decoder.lanes.as_mut_ptr();
        _mm512_storeu_si512(to.cast(), lanes[0]);
        _mm512_storeu_si512(to.add(8).cast(), lanes[1]);
    }
    (decoder.next, *expected) = (next, _mm256_extract_epi32::<0>(end) as u32);
    done
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
fn fold_body(chunk: &Chunk, base: usize, beta: f32, delta: &[f32], e: &mut [f32], out: &mut [f32]) -> u32 {
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

#[inline(always)]
fn sum_body(values: &[f32]) -> f64 {
    sum_of(values, |value| value)
}

#[inline(always)]
fn sum_of_squares_body(values: &[f32]) -> f64 {
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
fn project_body(magnitudes: &[f32], ruler: Ruler) -> (f64, f64) {
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
fn add_rows_body(rows: &[f32], width: usize, positions: &[u16], values: &[f32], sums: &mut [f64]) {
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
fn distances_body(
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
fn total(lanes: &[f64; LANES]) -> f64 {
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

#[inline(always)]
fn quantize_body(
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            (-1e3..1e3_f32),
            any::<u32>().prop_map(|bits| f32::from_bits(bits & 0xdfff_ffff)), // below 2^65
            Just(0.0),
            Just(-0.0),
            Just(1.0),
        ];
        prop::collection::vec(value, 0..300)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn all_widths_agree(values in values(), threshold in any::<u32>(), beta in 0.0..1.0_f32, scale in 1e-3..1e3_f64) {
            let scalar = Simd::all()[0];
            let magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
            let threshold = threshold >> 1;
            for &simd in Simd::all() {
                let (mut expected, mut found) = ([0; 64], [0; 64]);
                scalar.reach(&values, threshold, &mut expected);
                simd.reach(&values, threshold, &mut found);
                prop_assert_eq!(expected, found);
                for (i, value) in values.iter().enumerate() {
                    prop_assert_eq!(found[i / 64] >> (i % 64) & 1 == 1, value.abs().to_bits() >= threshold);
                }
                prop_assert_eq!(scalar.sum(&magnitudes).to_bits(), simd.sum(&magnitudes).to_bits());
                let squares = |simd: Simd| simd.sum_of_squares(&values).to_bits();
                prop_assert_eq!(squares(scalar), squares(simd));
                for (levels, step) in [(1, 0.0), (2, 0.75), (4, 0.5), (8, 0.125)] {
                    let per_step = if step > 0.0 { 1.0 / f64::from(step) } else { 256.0 };
                    let ruler = Ruler {
                        slope: (per_step / scale) as f32, offset: -per_step as f32, top: (levels - 1) as f32, step,
                    };
                    prop_assert_eq!(scalar.project(&magnitudes, ruler), simd.project(&magnitudes, ruler));
                    let table: [f32; MAX_LEVELS] = std::array::from_fn(|i| scale as f32 * (1.0 + i as f32 * step));
                    let thresholds = table.map(|magnitude| magnitude + 0.5 * step);
                    let of = |simd: Simd| {
                        let (mut values, mut codes) = (values.clone(), vec![0; values.len()]);
                        simd.quantize(levels, &thresholds, &table, &mut values, &mut codes);
                        (bits(&values), codes)
                    };
                    prop_assert_eq!(of(scalar), of(simd));
                }
                let positions: Vec<u16> = (0..magnitudes.len()).map(|i| (i * 7 % 10) as u16).collect();
                let rows: Vec<f32> = values.iter().cycle().take(10 * 6 * COLUMNS).copied().collect();
                for blocks in (0..=5).filter(|_| !rows.is_empty()) {
                    let of = |simd: Simd| {
                        let mut sums = vec![0.5; blocks * COLUMNS];
                        simd.add_rows(&rows, 6 * COLUMNS, &positions, &values, &mut sums);
                        sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(of(scalar), of(simd));
                }
                let chunk = Chunk { tensor: 0, base: 5, width: values.len().max(1), stride: 0, len: values.len() };
                let of = |simd: Simd| {
                    let (mut e, mut out) = (values.clone(), vec![0.0; values.len()]);
                    e.reverse();
                    let most = simd.fold(&chunk, 5, beta, &values, &mut e, &mut out);
                    prop_assert_eq!(bits(&e), bits(&out));
                    Ok((bits(&out), most))
                };
                prop_assert_eq!(of(scalar)?, of(simd)?);
            }
        }
    }

    proptest! {
        /// Tiles and runs of all widths, what is touched and what is not, NaN and infinity too.
        #[test]
        fn all_widths_fold_the_same(
            width in 1..150_usize, rows in 1..5_usize, gap in 0..9_usize, seed in any::<u64>(), touching in 1..9_u64,
        ) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            let chunk = Chunk { tensor: 0, base: 9, width, stride: width + gap, len: width * rows };
            let e: Vec<f32> = (0..5 + rows * (width + gap)).map(|_| f32::from_bits(next() as u32)).collect();
            let sums: Vec<f32> = (0..chunk.len).map(|_| f32::from_bits((next() as u32) << 1)).collect();
            let touched: Vec<u8> = (0..chunk.len).map(|_| u8::from(next() % touching == 0)).collect();
            let mut expected = e.clone();
            let mut places = Vec::new();
            for place in (0..chunk.len).filter(|&place| touched[place] != 0) {
                expected[chunk.index(place) - 5] += sums[place];
                places.push(place as u16);
            }
            let is_nan_in_both = |a: f32, b: f32| a.is_nan() && b.is_nan();
            let values: Vec<f32> = places.iter().map(|&place| expected[chunk.index(place.into()) - 5]).collect();
            let largest = values.iter().map(|value| value.abs().to_bits()).max().unwrap_or(0);
            for &simd in Simd::all() {
                let mut e = e.clone();
                let (mut positions, mut found) = (vec![0; chunk.len + SLACK], vec![0.0; chunk.len + SLACK]);
                let (kept, most) = simd.fold_touched(&chunk, 5, &sums, &touched, &mut e, &mut positions, &mut found);
                prop_assert_eq!(&positions[..kept], &places);
                prop_assert!(found[..kept].iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits() || is_nan_in_both(*a, *b)));
                prop_assert!(e.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || is_nan_in_both(*a, *b)));
                prop_assert!(most == largest || most > f32::INFINITY.to_bits() && largest > f32::INFINITY.to_bits());
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        let simd = Simd::detect();
        assert_eq!(simd.sum(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), 45.0);
        let ruler = Ruler { slope: 4.0, offset: -4.0, top: 3.0, step: 0.25 };
        // Places −4, 0.4, 0.6, 1.5, 9: levels 0, 0, 1, 2, 3.
        let (cross, square) = simd.project(&[0.0, 1.1, 1.15, 1.375, 3.25], ruler);
        let ratios = [1.0, 1.0, 1.25, 1.5, 1.75_f64];
        let magnitudes = [0.0, 1.1_f32, 1.15, 1.375, 3.25];
        let expected: f64 = magnitudes.iter().zip(ratios).map(|(m, r)| f64::from(*m) * r).sum();
        assert!((cross - expected).abs() < 1e-12);
        assert_eq!(square, ratios.iter().map(|r| r * r).sum::<f64>());
    }
}
