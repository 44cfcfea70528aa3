//! One section: up to 1024 chunks, coded together and decodable on their own.
//!
//! A section is a preamble and a stream. For each chunk the stream holds its scale, in a delta also how many values it
//! has, and then one symbol for each value: the distance from the value before and the magnitude level together, with
//! the sign and the low digits of the distance as raw bits. Value j is in lane j mod 16, the rest in lane 0.

use crate::layout::CHUNK;
use crate::quantize::{CodeBits, MAX_LEVELS};
use crate::rans::MIN_STREAM;
use crate::table::{MAX_SYMBOLS, table_bytes};

/// Distances in units of 2^`low_bits` that have a symbol of their own; the last one says that more follows.
pub(crate) const DISTANCES: usize = MAX_SYMBOLS / MAX_LEVELS;
/// The distance that says so.
pub(crate) const FAR: u32 = DISTANCES as u32 - 1;
/// Most low bits of a distance.
pub(crate) const MAX_LOW_BITS: u32 = 7;
/// Bits of any position or scale code.
pub(crate) const WORD_BITS: u32 = CHUNK.ilog2();

/// Symbols of a scale: its difference from the scale before (−7 to 6, folded), a chunk of zeros, a scale in full.
pub(crate) const SCALE_SYMBOLS: usize = 16;
pub(crate) const ZERO_CHUNK: u32 = 14;
pub(crate) const FULL_SCALE: u32 = 15;

/// What a reader knows before it sees a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) bits: CodeBits,
    /// How many values a chunk has: known (in 4096), or written in front of each chunk.
    pub(crate) top_k: Option<u32>,
}

impl Format {
    pub(crate) fn symbols(self) -> usize {
        DISTANCES * self.bits.levels()
    }

    /// Most bytes in front of the stream.
    pub(crate) fn max_preamble_len(self) -> usize {
        let counts = if self.top_k.is_some() { 0 } else { 4 };
        3 + counts + table_bytes(self.symbols()) + table_bytes(SCALE_SYMBOLS) + MIN_STREAM
    }
}

/// Values kept in a chunk of `len` elements when `top_k` are in one of 4096: rounded up, so never none.
pub(crate) fn kept_in_chunk(top_k: u32, len: usize) -> usize {
    (top_k as usize * len).div_ceil(CHUNK)
}

/// Low bits of a distance when `kept` of `elements` are kept: what is left of an average distance is 3 to 6 units.
pub(crate) fn low_bits(elements: u64, kept: u64) -> u32 {
    let average = (4 * elements).checked_div(3 * kept).unwrap_or(0);
    average.checked_ilog2().unwrap_or(0).saturating_sub(2).min(MAX_LOW_BITS)
}
/// Bits of a count above the least.
pub(crate) fn count_bits(counts: [u16; 2]) -> u32 {
    (counts[1] - counts[0]).checked_ilog2().map_or(0, |log| log + 1)
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Chunk;
    use crate::pack::Packer;
    use crate::rans::{LANES, Reason};
    use crate::reader::Reader;
    use crate::simd::Simd;
    use crate::table::Table;
    use proptest::prelude::*;

    const LEN: usize = 1500;

    /// Positions, and the bits of the values.
    type ChunkSeen = (Vec<u16>, Vec<u32>);

    /// All that a reader of `chunks` chunks sees, up to the first error.
    fn seen(simd: Simd, bytes: &[u8], format: Format, chunks: usize) -> (Vec<ChunkSeen>, Option<Reason>) {
        let mut chunks_seen = Vec::new();
        let outcome = Reader::with(simd, bytes, format).and_then(|mut reader| {
            for _ in 0..chunks {
                reader.next(LEN)?;
                let bits = reader.values.iter().map(|value| value.to_bits()).collect();
                chunks_seen.push((reader.positions.clone(), bits));
            }
            reader.finish()
        });
        (chunks_seen, outcome.err())
    }

    /// Chunks with some positions and values each.
    fn kept(spread: u32, seed: u32, chunks: usize) -> Vec<(Vec<u16>, Vec<f32>)> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut chunk = |_| {
            let positions: Vec<u16> = (0..LEN as u16).filter(|_| next() % spread == 0).collect();
            let values = positions.iter().map(|_| (next() as f32 - 8_388_608.0) * 1e-9).collect();
            (positions, values)
        };
        (0..chunks).map(&mut chunk).collect()
    }

    /// The bytes of a section, and what a reader is said to see.
    fn pack(simd: Simd, format: Format, kept: &[(Vec<u16>, Vec<f32>)]) -> (Vec<u8>, Vec<ChunkSeen>) {
        let mut packer = Packer::new(simd, format);
        packer.begin();
        let chunk = Chunk { tensor: 0, base: 0, width: LEN, stride: 0, len: LEN };
        let mut all = Vec::new();
        let mut decoded = |_: &Chunk, positions: &[u16], values: &[f32]| {
            all.push((positions.to_vec(), values.iter().map(|value| value.to_bits()).collect()));
        };
        for (positions, values) in kept {
            packer.push(&chunk, positions, &mut values.clone(), &mut decoded);
        }
        let bytes = packer.finish(&mut decoded);
        (bytes, all)
    }

    proptest! {
        /// Whole streams, and streams with some bits flipped: every width writes the same and reads the same, or fails
        /// in the same place for the same reason.
        #[test]
        fn all_widths_write_and_read_the_same(
            spread in 1..300_u32, seed in any::<u32>(), chunks in 1..12_usize, bits in 1..=4_u8,
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..4),
        ) {
            let format = Format { bits: CodeBits::from_number(bits).unwrap(), top_k: None };
            let kept = kept(spread, seed, chunks);
            let written: Vec<_> = Simd::all().iter().map(|&simd| pack(simd, format, &kept)).collect();
            prop_assert!(written.windows(2).all(|pair| pair[0] == pair[1]));
            let (mut bytes, expected) = written[0].clone();
            let scalar = seen(Simd::all()[0], &bytes, format, chunks);
            prop_assert_eq!(scalar.1, None);
            prop_assert_eq!(expected.len(), chunks);
            for (expected, seen) in expected.iter().zip(&scalar.0) {
                // What is too small for any scale is zero, and has no positions.
                let is_zero = expected.1.iter().all(|&bits| f32::from_bits(bits) == 0.0);
                prop_assert!(expected == seen || is_zero && seen.0.is_empty());
            }
            for (index, bit) in flips {
                let at = index.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let scalar = seen(Simd::all()[0], &bytes, format, chunks);
            for &simd in Simd::all() {
                prop_assert_eq!(&scalar, &seen(simd, &bytes, format, chunks));
            }
        }

        /// Sections side by side are read as one by one, whatever their densities.
        #[test]
        fn many_are_read_like_one(
            spreads in prop::collection::vec(1..300_u32, 1..6), seed in any::<u32>(), chunks in 1..6_usize,
            bits in 1..=4_u8,
        ) {
            let format = Format { bits: CodeBits::from_number(bits).unwrap(), top_k: None };
            let section = |(i, &spread): (usize, &u32)| {
                pack(Simd::all()[0], format, &kept(spread, seed.wrapping_add(i as u32), chunks)).0
            };
            let sections: Vec<_> = spreads.iter().enumerate().map(section).collect();
            for &simd in Simd::all() {
                let open = || sections.iter().map(|bytes| Reader::with(simd, bytes, format).unwrap());
                let (mut alone, mut together): (Vec<_>, Vec<_>) = (open().collect(), open().collect());
                for _ in 0..chunks {
                    alone.iter_mut().try_for_each(|reader| reader.next(LEN)).unwrap();
                    Reader::next_of_all(&mut together, LEN).unwrap();
                    for (alone, together) in alone.iter().zip(&together) {
                        prop_assert_eq!(&alone.positions, &together.positions);
                        prop_assert_eq!(&alone.values, &together.values);
                    }
                }
                prop_assert!(together.iter().all(|reader| reader.finish().is_ok()));
            }
        }

        /// Any lanes and any words behind a preamble that is in order.
        #[test]
        fn all_widths_read_garbage_the_same(
            lanes in prop::collection::vec((1_u64 << 32).., LANES), words in prop::collection::vec(any::<u32>(), 0..400),
            shares in prop::collection::vec(0..1000_u32, 64), scales in prop::collection::vec(0..1000_u32, 16),
            low_bits in 0..8_u8, counts in (1..200_u16, 0..1300_u16), bits in 1..=4_u8,
        ) {
            let format = Format { bits: CodeBits::from_number(bits).unwrap(), top_k: None };
            let shares = &shares[..format.symbols().min(64)];
            let mut bytes = vec![0, u8::from(bits > 1), low_bits];
            [counts.0, counts.0 + counts.1].iter().for_each(|count| bytes.extend(count.to_le_bytes()));
            Table::fit(&scales).write(&mut bytes);
            Table::fit(shares).write(&mut bytes);
            lanes.iter().for_each(|lane| bytes.extend(lane.to_le_bytes()));
            words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            let scalar = seen(Simd::all()[0], &bytes, format, 5);
            for &simd in Simd::all() {
                prop_assert_eq!(&scalar, &seen(simd, &bytes, format, 5));
            }
        }
    }
}
