//! Writing with the entropy coder: all its lanes in two vectors of eight.

use super::{Simd, Width};
use crate::rans::{self, Encoder};
use crate::table::Table;
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
