//! Reading with the entropy coder: its sixteen lanes side by side, of one stream or of several in turns.

use super::{Simd, Width};
use crate::reader::Values;

impl Simd {
    /// Reads groups of values until there are no more, a distance is far, or the stream is about to end; what comes next
    /// is for [`Values::read_all`].
    #[inline]
    pub(crate) fn read_groups(self, values: &mut Values<'_, '_>) {
        match self.0 {
            // SAFETY: this width exists only where the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { avx512::read_groups(values) },
            _ => {}
        }
    }

    /// The same for two streams in turns, as long as both go on; nothing, if their tables do not fit into registers or are not
    /// alike. A step of one stream waits for the one before it, and leaves the processor time for the other's.
    #[inline]
    pub(crate) fn read_groups_of_two(self, a: &mut Values<'_, '_>, b: &mut Values<'_, '_>) {
        match self.0 {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { avx512::read_groups_of_two(a, b) },
            _ => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use crate::quantize::MAX_LEVELS;
    use crate::rans::{self, LANES};
    use crate::reader::Values;
    use crate::section::{DISTANCES, FAR};
    use crate::table::{MAX_SYMBOLS, SLOT_BITS, SLOTS, Slot, Table};

    /// Symbols whose first slots fit into one vector.
    const ONE_VECTOR: usize = 32;
    /// Symbols whose first slots fit into two.
    const TWO_VECTORS: usize = 64;
    /// More than that: all that there can be.
    const MANY: usize = MAX_SYMBOLS;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    pub(super) fn read_groups(values: &mut Values<'_, '_>) {
        match DISTANCES << values.level_bits {
            ONE_VECTOR => read_one::<ONE_VECTOR>(values),
            TWO_VECTORS => read_one::<TWO_VECTORS>(values),
            _ => read_one::<MANY>(values),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    pub(super) fn read_groups_of_two(a: &mut Values<'_, '_>, b: &mut Values<'_, '_>) {
        match (DISTANCES << a.level_bits, DISTANCES << b.level_bits) {
            (ONE_VECTOR, ONE_VECTOR) => read_two::<ONE_VECTOR>(a, b),
            (TWO_VECTORS, TWO_VECTORS) => read_two::<TWO_VECTORS>(a, b),
            _ => {}
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn read_one<const SYMBOLS: usize>(from: &mut Values<'_, '_>) {
        let (mut stream, mut done) = (Stream::<SYMBOLS>::load(from), 0);
        for (positions, values) in from.positions.iter_mut().zip(&mut *from.values) {
            if !stream.read(positions, values) {
                break;
            }
            done += 1;
        }
        stream.store(from, done);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn read_two<const SYMBOLS: usize>(a: &mut Values<'_, '_>, b: &mut Values<'_, '_>) {
        let (mut stream_a, mut stream_b) = (Stream::<SYMBOLS>::load(a), Stream::<SYMBOLS>::load(b));
        let (mut done_a, mut done_b) = (0, 0);
        let groups_a = a.positions.iter_mut().zip(&mut *a.values);
        let groups_b = b.positions.iter_mut().zip(&mut *b.values);
        for ((positions_a, values_a), (positions_b, values_b)) in groups_a.zip(groups_b) {
            if !stream_a.read(positions_a, values_a) {
                break;
            }
            done_a += 1;
            if !stream_b.read(positions_b, values_b) {
                break;
            }
            done_b += 1;
        }
        stream_a.store(a, done_a);
        stream_b.store(b, done_b);
    }

    /// A reader's state in registers, with the tables that its kind of [search](Self::find) needs.
    struct Stream<'r, const SYMBOLS: usize> {
        lanes: [__m512i; 2],
        words: &'r [[u8; 4]],
        /// The word that is needed next.
        next: usize,
        /// The place behind the value before.
        end: u32,
        /// First slot of each symbol, and how many it has, in numbers of 16 bits.
        starts: [__m512i; 2],
        shares: [__m512i; 2],
        /// First slots of the symbols at a quarter, at half and at three quarters, in every lane.
        quarters: [__m256i; 3],
        slots: &'r [Slot; SLOTS],
        magnitudes: __m512,
        raw_bits: __m128i,
        raw_mask: __m256i,
        level_shift: __m128i,
        level_mask: __m256i,
        low_shift: __m128i,
    }

    /// What a slot says, for each lane in 16 bits.
    struct Found {
        symbol: __m256i,
        share: __m256i,
        /// Place within the share.
        offset: __m256i,
    }

    /// In step with `Decoder::symbol` and `Values::next`.
    impl<'r, const SYMBOLS: usize> Stream<'r, SYMBOLS> {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn load(reader: &Values<'r, '_>) -> Self {
            let Values { decoder, table, magnitudes, level_bits, low_bits, expected, .. } = reader;
            let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
            // SAFETY: reads eight magnitudes and twice eight lanes; no alignment is asked for.
            let (magnitudes, lanes) = unsafe {
                let lanes = decoder.lanes.as_ptr();
                let halves = [_mm512_loadu_si512(lanes.cast()), _mm512_loadu_si512(lanes.add(8).cast())];
                const { assert!(MAX_LEVELS == 8) };
                (_mm512_castps256_ps512(_mm256_loadu_ps(magnitudes.as_ptr())), halves)
            };
            let (starts, shares) = Self::load_table(table);
            Self {
                lanes,
                words: decoder.words,
                next: decoder.next,
                end: *expected,
                starts,
                shares,
                quarters: [1, 2, 3].map(|n| _mm256_set1_epi16(table.starts()[n * SYMBOLS / 4] as i16)),
                slots: table.slots(),
                magnitudes,
                raw_bits: count(*low_bits + 1),
                raw_mask: _mm256_set1_epi16((1 << (*low_bits + 1)) - 1),
                level_shift: count(*level_bits),
                level_mask: _mm256_set1_epi16((1 << *level_bits) - 1),
                low_shift: count(*low_bits),
            }
        }

        /// First slots and shares of the symbols, as many as fit.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn load_table(table: &Table) -> ([__m512i; 2], [__m512i; 2]) {
            let starts: &[u16; TWO_VECTORS + 1] = table.starts().first_chunk().expect("there are 257");
            let at = |first: usize| {
                // SAFETY: reads 32 of the numbers from `first` ≤ 33 on; no alignment is asked for.
                unsafe { _mm512_loadu_si512(starts[first..first + 32].as_ptr().cast()) }
            };
            let first = [at(0), at(32)];
            let behind = [at(1), at(33)];
            (first, [0, 1].map(|half| _mm512_sub_epi16(behind[half], first[half])))
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
            reader.expected = self.end;
            reader.skip(done);
        }

        /// Entry `index` of a table, for each lane.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn look_up(table: &[__m512i; 2], index: __m256i) -> __m256i {
            let index = _mm512_castsi256_si512(index);
            _mm512_castsi512_si256(if SYMBOLS == ONE_VECTOR {
                _mm512_permutexvar_epi16(index, table[0])
            } else {
                _mm512_permutex2var_epi16(table[0], index, table[1])
            })
        }

        /// Whose the slots are: the last symbol that begins at or before each.
        ///
        /// Few symbols are searched within registers, in three rounds that compare with up to three starts each.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn find(&self, slot: __m256i) -> Found {
            if SYMBOLS == MANY {
                return self.fetch(slot);
            }
            // No slot and no start is above 4096, so that signs do not matter.
            let behind = _mm256_add_epi16(slot, _mm256_set1_epi16(1));
            // Three in parallel, so that the next round waits for one of them only.
            let begun = |start| _mm256_cmpgt_epi16(behind, start);
            let three = |a, b, c| _mm256_add_epi16(_mm256_add_epi16(a, b), c);
            // A comparison that holds is −1.
            let [a, b, c] = self.quarters.map(begun);
            let quarter = _mm256_sub_epi16(_mm256_setzero_si256(), three(a, b, c));
            let mut symbol = if SYMBOLS == ONE_VECTOR {
                _mm256_slli_epi16::<3>(quarter)
            } else {
                _mm256_slli_epi16::<4>(quarter)
            };
            let at =
                |symbol, step| Self::look_up(&self.starts, _mm256_or_si256(symbol, _mm256_set1_epi16(step)));
            if SYMBOLS == ONE_VECTOR {
                let part = three(begun(at(symbol, 2)), begun(at(symbol, 4)), begun(at(symbol, 6)));
                symbol = _mm256_sub_epi16(symbol, _mm256_slli_epi16::<1>(part));
                symbol = _mm256_sub_epi16(symbol, begun(at(symbol, 1)));
            } else {
                let part = three(begun(at(symbol, 4)), begun(at(symbol, 8)), begun(at(symbol, 12)));
                symbol = _mm256_sub_epi16(symbol, _mm256_slli_epi16::<2>(part));
                let part = three(begun(at(symbol, 1)), begun(at(symbol, 2)), begun(at(symbol, 3)));
                symbol = _mm256_sub_epi16(symbol, part);
            }
            let start = Self::look_up(&self.starts, symbol);
            Found {
                symbol,
                share: Self::look_up(&self.shares, symbol),
                offset: _mm256_sub_epi16(slot, start),
            }
        }

        /// The same from the table of all slots.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn fetch(&self, slot: __m256i) -> Found {
            let twelve = _mm512_set1_epi32(SLOTS as i32 - 1);
            let index = _mm512_and_si512(_mm512_cvtepu16_epi32(slot), twelve);
            // SAFETY: twelve bits are less than the number of slots, each a 32-bit number.
            let slot = unsafe { _mm512_i32gather_epi32::<4>(index, self.slots.as_ptr().cast()) };
            let share = _mm512_and_si512(_mm512_srli_epi32::<8>(slot), twelve);
            Found {
                symbol: _mm512_cvtepi32_epi16(_mm512_and_si512(slot, _mm512_set1_epi32(0xff))),
                share: _mm512_cvtepi32_epi16(_mm512_add_epi32(share, _mm512_set1_epi32(1))),
                offset: _mm512_cvtepi32_epi16(_mm512_srli_epi32::<20>(slot)),
            }
        }

        /// Reads a group; false, and nothing has changed, if a distance in it is far or the stream is about to end.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn read(&mut self, positions: &mut [u16; LANES], values: &mut [f32; LANES]) -> bool {
            let shifted = self.lanes.map(|lanes| _mm512_srl_epi64(lanes, self.raw_bits));
            let slot = _mm256_and_si256(low_words(shifted), _mm256_set1_epi16(SLOTS as i16 - 1));
            let Found { symbol, share, offset } = self.find(slot);
            let units = _mm256_srl_epi16(symbol, self.level_shift);
            let far = _mm256_cmpeq_epi16(units, _mm256_set1_epi16(FAR as i16));
            if _mm256_testz_si256(far, far) == 0 {
                return false;
            }
            // As many as all lanes could need.
            let words = self.words.get(self.next..).and_then(|words| words.first_chunk::<LANES>());
            let Some(words) = words else { return false };
            let raw = _mm256_and_si256(low_words(self.lanes), self.raw_mask);
            self.advance(shifted, share, offset, words);
            let distance =
                _mm256_or_si256(_mm256_sll_epi16(units, self.low_shift), _mm256_srli_epi16::<1>(raw));
            let place = self.places(distance);
            let value = self.values(symbol, raw);
            // SAFETY: writes over the sixteen positions and the sixteen values; no alignment is asked for.
            unsafe {
                _mm256_storeu_si256(positions.as_mut_ptr().cast(), place);
                _mm512_storeu_ps(values.as_mut_ptr(), value);
            }
            true
        }

        /// Takes the symbols off the lanes; those that are too low then get a word each, in their order.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn advance(
            &mut self,
            shifted: [__m512i; 2],
            share: __m256i,
            offset: __m256i,
            words: &[[u8; 4]; LANES],
        ) {
            let bottom = _mm512_set1_epi64(rans::BOTTOM as i64);
            let (share, offset) = (widen_16(share), widen_16(offset));
            let mut x = [_mm512_setzero_si512(); 2];
            for half in 0..2 {
                // A 64-bit product takes three times as long as two of 32 by 32 bits, and everything waits for it.
                let rest = _mm512_srli_epi64::<SLOT_BITS>(shifted[half]);
                let high = _mm512_mul_epu32(share[half], _mm512_srli_epi64::<32>(rest));
                let low = _mm512_add_epi64(_mm512_mul_epu32(share[half], rest), offset[half]);
                x[half] = _mm512_add_epi64(_mm512_slli_epi64::<32>(high), low);
            }
            let needs = x.map(|x| _mm512_cmplt_epu64_mask(x, bottom));
            let all = _mm512_kunpackb(needs[1].into(), needs[0].into());
            // SAFETY: reads the sixteen words; no alignment is asked for.
            let needed = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
            let needed = widen_32(_mm512_maskz_expand_epi32(all, needed));
            for half in 0..2 {
                let moved = _mm512_slli_epi64::<32>(x[half]);
                self.lanes[half] = _mm512_mask_or_epi64(x[half], needs[half], moved, needed[half]);
            }
            self.next += all.count_ones() as usize;
        }

        /// Positions from distances that are not far: sums of the steps so far, in four rounds.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn places(&mut self, distance: __m256i) -> __m256i {
            // A step is 31·2^7 at most, so that sixteen of them fit into 16 bits.
            let sum = _mm256_add_epi16(distance, _mm256_set1_epi16(1));
            let sum = _mm256_add_epi16(sum, _mm256_bslli_epi128::<2>(sum));
            let sum = _mm256_add_epi16(sum, _mm256_bslli_epi128::<4>(sum));
            let sum = _mm256_add_epi16(sum, _mm256_bslli_epi128::<8>(sum));
            // The first eight are before all of the others.
            let first = _mm256_permute2x128_si256::<0x08>(sum, sum);
            let first = _mm256_shuffle_epi8(first, _mm256_set1_epi16(0x0f0e));
            let sum = _mm256_add_epi16(sum, first);
            let before = _mm256_set1_epi16(self.end.wrapping_sub(1) as i16);
            self.end = self.end.wrapping_add(_mm256_extract_epi16::<15>(sum) as u32);
            _mm256_add_epi16(sum, before)
        }

        /// A sign and a level to a value.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
        fn values(&self, symbol: __m256i, raw: __m256i) -> __m512 {
            let level = _mm512_cvtepu16_epi32(_mm256_and_si256(symbol, self.level_mask));
            let magnitude = _mm512_permutexvar_ps(level, self.magnitudes);
            let sign = _mm512_slli_epi32::<31>(_mm512_cvtepu16_epi32(raw));
            _mm512_or_ps(magnitude, _mm512_castsi512_ps(sign))
        }
    }

    /// The lowest 16 bits of each lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn low_words(lanes: [__m512i; 2]) -> __m256i {
        // Word 4i is the lowest of lane i; those of the second vector follow on those of the first.
        let places = _mm256_setr_epi16(0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60);
        let places = _mm512_castsi256_si512(places);
        _mm512_castsi512_si256(_mm512_permutex2var_epi16(lanes[0], places, lanes[1]))
    }

    /// Sixteen numbers of 16 bits as twice eight of 64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn widen_16(numbers: __m256i) -> [__m512i; 2] {
        let halves = [_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers)];
        halves.map(|half| _mm512_cvtepu16_epi64(half))
    }

    /// Sixteen numbers of 32 bits as twice eight of 64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
    fn widen_32(numbers: __m512i) -> [__m512i; 2] {
        let halves = [_mm512_castsi512_si256(numbers), _mm512_extracti64x4_epi64::<1>(numbers)];
        halves.map(|half| _mm512_cvtepu32_epi64(half))
    }
}
