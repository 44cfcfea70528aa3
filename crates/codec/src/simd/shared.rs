//! What several updates have at the same positions of a chunk, and nothing else.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::{SLACK, Simd, Width};
use crate::layout::CHUNK;

impl Simd {
    /// Numbers the positions with more than one use, from 1 on, in `rows`; the others get 0. Returns how many there are.
    #[inline]
    pub(crate) fn number_shared(self, uses: &[u8; CHUNK], rows: &mut [u16; CHUNK]) -> usize {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { number_shared_avx512(uses, rows) },
            _ => number_shared(uses, rows),
        }
    }

    /// The `values` whose position has a number in `rows`, and these numbers. Returns how many there are. In both
    /// results there is room for [`SLACK`] more than all.
    #[inline]
    pub(crate) fn pick_shared(
        self,
        rows: &[u16; CHUNK],
        positions: &[u16],
        values: &[f32],
        picked_rows: &mut [u16],
        picked: &mut [f32],
    ) -> usize {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { pick_shared_avx512(rows, positions, values, picked_rows, picked) },
            _ => pick_shared(rows, positions, values, picked_rows, picked),
        }
    }
}

fn number_shared(uses: &[u8; CHUNK], rows: &mut [u16; CHUNK]) -> usize {
    let mut last = 0;
    for (row, &uses) in rows.iter_mut().zip(uses) {
        let shared = uses > 1;
        last += u16::from(shared);
        *row = if shared { last } else { 0 };
    }
    last.into()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn number_shared_avx512(uses: &[u8; CHUNK], rows: &mut [u16; CHUNK]) -> usize {
    let mut last = 0;
    let first = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    for (uses, rows) in uses.as_chunks::<SLACK>().0.iter().zip(rows.as_chunks_mut::<SLACK>().0) {
        // SAFETY: reads the sixteen bytes of the array; no alignment is asked for.
        let uses = unsafe { _mm_loadu_si128(uses.as_ptr().cast()) };
        let shared = _mm_cmpgt_epu8_mask(uses, _mm_set1_epi8(1));
        let numbers = _mm512_add_epi32(first, _mm512_set1_epi32(last));
        let numbers = _mm512_cvtepi32_epi16(_mm512_maskz_expand_epi32(shared, numbers));
        // SAFETY: writes over the sixteen numbers of the array; no alignment is asked for.
        unsafe { _mm256_storeu_si256(rows.as_mut_ptr().cast(), numbers) };
        last += shared.count_ones() as i32;
    }
    last as usize
}

fn pick_shared(
    rows: &[u16; CHUNK],
    positions: &[u16],
    values: &[f32],
    picked_rows: &mut [u16],
    picked: &mut [f32],
) -> usize {
    let mut count = 0;
    for (&position, &value) in positions.iter().zip(values) {
        let row = rows[usize::from(position) % CHUNK];
        (picked_rows[count], picked[count]) = (row, value);
        // No branch: which positions are shared is a matter of chance, which a processor cannot guess.
        count += usize::from(row > 0);
    }
    count
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn pick_shared_avx512(
    rows: &[u16; CHUNK],
    positions: &[u16],
    values: &[f32],
    picked_rows: &mut [u16],
    picked: &mut [f32],
) -> usize {
    let (groups, rest) = positions.as_chunks::<SLACK>();
    let (whole, last) = values.split_at(groups.len() * SLACK);
    let mut count = 0;
    for (positions, values) in groups.iter().zip(whole.as_chunks::<SLACK>().0) {
        // SAFETY: reads the sixteen elements of each array; no alignment is asked for.
        let (places, values) =
            unsafe { (_mm256_loadu_si256(positions.as_ptr().cast()), _mm512_loadu_ps(values.as_ptr())) };
        let places = _mm512_and_si512(_mm512_cvtepu16_epi32(places), _mm512_set1_epi32(CHUNK as i32 - 1));
        // Two neighbours at a time, so that no read goes beyond the last.
        let pairs = _mm512_srli_epi32::<1>(places);
        // SAFETY: half of a number below CHUNK is below the number of pairs, each of 32 bits.
        let pairs = unsafe { _mm512_i32gather_epi32::<4>(pairs, rows.as_ptr().cast()) };
        let odd = _mm512_test_epi32_mask(places, _mm512_set1_epi32(1));
        let numbers = _mm512_mask_srli_epi32::<16>(pairs, odd, pairs);
        let numbers = _mm512_and_si512(numbers, _mm512_set1_epi32(0xffff));
        let shared = _mm512_test_epi32_mask(numbers, numbers);
        let to =
            (picked_rows[count..].first_chunk_mut::<SLACK>(), picked[count..].first_chunk_mut::<SLACK>());
        let (to_rows, to) = to.0.zip(to.1).expect("there is room behind all that could be picked");
        let numbers = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(shared, numbers));
        // SAFETY: writes sixteen elements over those of each array; no alignment is asked for.
        unsafe {
            _mm256_storeu_si256(to_rows.as_mut_ptr().cast(), numbers);
            _mm512_storeu_ps(to.as_mut_ptr(), _mm512_maskz_compress_ps(shared, values));
        }
        count += shared.count_ones() as usize;
    }
    count + pick_shared(rows, rest, last, &mut picked_rows[count..], &mut picked[count..])
}
