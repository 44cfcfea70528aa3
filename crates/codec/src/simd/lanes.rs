//! The entropy coder: all its lanes in two vectors of eight.

use super::{Simd, Width};
use crate::rans::{self, Encoder};
use crate::reader::Values;
#[cfg(target_arch = "x86_64")]
use crate::section::FAR;
use crate::table::Table;
#[cfg(target_arch = "x86_64")]
use crate::table::{SLOTS, Slot};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

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
    /// Reads groups of values until there are no more, a distance is far, or the stream is about to end; what comes next
    /// is for [`Values::read`].
    #[inline]
    pub(crate) fn read_groups(self, reader: &mut Values<'_, '_>) {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { read_groups_avx512(reader) },
            _ => {}
        }
    }
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn read_groups_avx512(reader: &mut Values<'_, '_>) {
    let (mut stream, mut done) = (Stream::load(reader), 0);
    for (positions, values) in reader.positions.iter_mut().zip(&mut *reader.values) {
        if !stream.read(positions, values) {
            break;
        }
        done += 1;
    }
    stream.store(reader, done);
}

/// A reader's state in registers.
#[cfg(target_arch = "x86_64")]
struct Stream<'r> {
    lanes: [__m512i; 2],
    words: &'r [[u8; 4]],
    /// The word that is needed next.
    next: usize,
    /// The place behind the value before, in every lane.
    end: __m256i,
    slots: &'r [Slot; SLOTS],
    magnitudes: __m256,
    raw_bits: __m128i,
    level_shift: __m128i,
    low_shift: __m128i,
    raw_mask: __m512i,
    level_mask: __m256i,
}

/// One lane of the decoder for each lane of two vectors; in step with `Decoder::symbol` and `Values::next`.
#[cfg(target_arch = "x86_64")]
impl<'r> Stream<'r> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn load(reader: &Values<'r, '_>) -> Self {
        let Values { decoder, table, magnitudes, level_bits, low_bits, expected, .. } = reader;
        let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
        // SAFETY: reads eight magnitudes and twice eight lanes; no alignment is asked for.
        let (magnitudes, lanes) = unsafe {
            let lanes = decoder.lanes.as_ptr();
            let halves = [_mm512_loadu_si512(lanes.cast()), _mm512_loadu_si512(lanes.add(8).cast())];
            (_mm256_loadu_ps(magnitudes.as_ptr()), halves)
        };
        Self {
            lanes,
            words: decoder.words,
            next: decoder.next,
            end: _mm256_set1_epi32(*expected as i32),
            slots: table.slots(),
            magnitudes,
            raw_bits: count(*low_bits + 1),
            level_shift: count(*level_bits),
            low_shift: count(*low_bits),
            raw_mask: _mm512_set1_epi64((1_i64 << (*low_bits + 1)) - 1),
            level_mask: _mm256_set1_epi32((1 << *level_bits) - 1),
        }
    }

    /// Gives the state back after `done` groups.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn store(self, reader: &mut Values<'_, '_>, done: usize) {
        // SAFETY: writes the sixteen lanes; no alignment is asked for.
        unsafe {
            let to = reader.decoder.lanes.as_mut_ptr();
            _mm512_storeu_si512(to.cast(), self.lanes[0]);
            _mm512_storeu_si512(to.add(8).cast(), self.lanes[1]);
        }
        reader.decoder.next = self.next;
        reader.expected = _mm256_extract_epi32::<0>(self.end) as u32;
        reader.skip(done);
    }

    /// Reads a group; false, and nothing has changed, if a distance in it is far or the stream is about to end.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn read(&mut self, positions: &mut [u16; rans::LANES], values: &mut [f32; rans::LANES]) -> bool {
        let (twelve, far) = (_mm512_set1_epi64(0xfff), _mm256_set1_epi32(FAR as i32));
        let bottom = _mm512_set1_epi64(rans::BOTTOM as i64);
        let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi32(1));
        let shifted = self.lanes.map(|lanes| _mm512_srl_epi64(lanes, self.raw_bits));
        // SAFETY: twelve bits are less than the number of slots, each a 32-bit number.
        let slot = shifted.map(|x| unsafe {
            _mm512_i64gather_epi32::<4>(_mm512_and_si512(x, twelve), self.slots.as_ptr().cast())
        });
        let symbol = slot.map(|slot| _mm256_and_si256(slot, _mm256_set1_epi32(0xff)));
        let units = symbol.map(|symbol| _mm256_srl_epi32(symbol, self.level_shift));
        if units.map(|units| _mm256_cmpeq_epi32_mask(units, far)) != [0; 2] {
            return false;
        }
        // As many as both halves could need.
        let words = self.words.get(self.next..).and_then(|words| words.first_chunk::<{ rans::LANES }>());
        let Some(words) = words else { return false };
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

            let raw = _mm512_cvtepi64_epi32(_mm512_and_si512(self.lanes[half], self.raw_mask));
            self.lanes[half] = _mm512_mask_or_epi64(x, needs, _mm512_slli_epi64::<32>(x), needed);
            let distance =
                _mm256_or_si256(_mm256_sll_epi32(units[half], self.low_shift), _mm256_srli_epi32::<1>(raw));
            // Sums of the steps so far, in three rounds.
            let sum = _mm256_add_epi32(distance, one);
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<7>(sum, zero));
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<6>(sum, zero));
            let sum = _mm256_add_epi32(sum, _mm256_alignr_epi32::<4>(sum, zero));
            let behind = _mm256_add_epi32(sum, self.end);
            self.end = _mm256_add_epi32(self.end, _mm256_permutevar8x32_epi32(sum, _mm256_set1_epi32(7)));
            let place = _mm256_cvtepi32_epi16(_mm256_sub_epi32(behind, one));
            let level = _mm256_and_si256(symbol[half], self.level_mask);
            let magnitude = _mm256_permutevar8x32_ps(self.magnitudes, level);
            let value = _mm256_or_ps(magnitude, _mm256_castsi256_ps(_mm256_slli_epi32::<31>(raw)));
            // SAFETY: writes eight positions and eight values over one half of the group's sixteen; no alignment is
            // asked for.
            unsafe {
                _mm_storeu_si128(positions.as_mut_ptr().add(8 * half).cast(), place);
                _mm256_storeu_ps(values.as_mut_ptr().add(8 * half), value);
            }
        }
        self.next += used;
        true
    }
}
