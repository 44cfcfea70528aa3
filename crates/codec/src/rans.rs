//! The entropy coder: rANS (Duda, arXiv 1311.2540) in sixteen lanes over one stream of 32-bit words.
//!
//! A lane is a 64-bit number of at least 2^32. What lanes hold does not depend on each other, so a processor works on
//! sixteen symbols at a time; they share the words, in the order in which the reader needs them. A symbol may carry raw
//! bits along, which saves a step for what cannot be compressed.

use crate::table::{FewSymbols, SLOT_BITS, SLOTS, Table};

/// Independent states.
pub(crate) const LANES: usize = 16;
/// A lane is never below this between two operations.
pub(crate) const BOTTOM: u64 = 1 << 32;
/// Bytes of a stream without words.
pub(crate) const MIN_STREAM: usize = 8 * LANES;

/// Which rule a stream breaks.
pub(crate) type Reason = &'static str;

/// Writes a stream from its end to its beginning.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) lanes: [u64; LANES],
    /// The words moved out so far; the reader needs the last one first.
    pub(crate) words: Vec<u32>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { lanes: [BOTTOM; LANES], words: Vec::new() }
    }

    /// Puts `symbol` in front of what `lane` has, with the `raw_bits` ≤ 8 low bits `raw` that come along.
    #[inline]
    pub(crate) fn put(&mut self, lane: usize, table: &Table, symbol: usize, raw: u64, raw_bits: u32) {
        let (start, share) = table.share(symbol);
        let x = self.make_room(lane, share, SLOT_BITS + raw_bits);
        let (quotient, remainder) = table.divide(x, symbol);
        self.lanes[lane] = (quotient << SLOT_BITS | (start + remainder)) << raw_bits | raw;
    }

    /// Puts the number `value` of `bits` ≤ 12 bits in front of what `lane` has.
    pub(crate) fn put_bits(&mut self, lane: usize, value: u64, bits: u32) {
        let x = self.make_room(lane, 1, bits);
        self.lanes[lane] = x << bits | value;
    }

    /// Moves a word of the lane out if it could not hold a symbol of `share` in 2^`bits` slots otherwise.
    #[inline]
    fn make_room(&mut self, lane: usize, share: u64, bits: u32) -> u64 {
        let x = self.lanes[lane];
        if bits == 0 || x >> (64 - bits) < share {
            return x;
        }
        self.words.push(x as u32);
        x >> 32
    }

    /// Appends the stream: the lanes, then the words, the last one that was moved out first. Begins anew.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        out.reserve(MIN_STREAM + 4 * self.words.len());
        self.lanes.iter().for_each(|lane| out.extend_from_slice(&lane.to_le_bytes()));
        self.words.iter().rev().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        self.lanes = [BOTTOM; LANES];
        self.words.clear();
    }
}

/// Reads a stream. Total: any bytes lead to symbols.
///
/// Words behind the end are read as zero; whether there were any is asked once for many symbols, by
/// [`check`](Self::check).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a> {
    pub(crate) lanes: [u64; LANES],
    pub(crate) words: &'a [[u8; 4]],
    /// The word that is needed next.
    pub(crate) next: usize,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(stream: &'a [u8]) -> Result<Self, Reason> {
        let (lanes, words) = stream.split_at_checked(MIN_STREAM).ok_or("the stream is truncated")?;
        let (words, []) = words.as_chunks::<4>() else { return Err("the stream ends within a word") };
        let mut states = [0; LANES];
        for (state, bytes) in states.iter_mut().zip(lanes.as_chunks::<8>().0) {
            *state = u64::from_le_bytes(*bytes);
            if *state < BOTTOM {
                return Err("a lane starts too low");
            }
        }
        Ok(Self { lanes: states, words, next: 0 })
    }

    /// The next symbol of `lane`, and the raw bits that came along.
    #[inline(always)]
    pub(crate) fn symbol(&mut self, lane: usize, table: &Table, raw_bits: u32) -> (u32, u32) {
        let x = self.lanes[lane];
        let raw = x as u32 & ((1 << raw_bits) - 1);
        let x = x >> raw_bits;
        let slot = table.slot(x as u32);
        self.refill(lane, slot.share() * (x >> SLOT_BITS) + slot.offset());
        (slot.symbol(), raw)
    }

    /// The next symbol of lane 0, which is one of few.
    #[inline(always)]
    pub(crate) fn symbol_of_few(&mut self, table: &FewSymbols) -> u32 {
        let x = self.lanes[0];
        let (symbol, start, share) = table.search(x as u32);
        let offset = (x & (SLOTS as u64 - 1)) - start;
        self.refill(0, share * (x >> SLOT_BITS) + offset);
        symbol
    }

    /// The next number of `bits` ≤ 12 bits of `lane`.
    #[inline(always)]
    pub(crate) fn bits(&mut self, lane: usize, bits: u32) -> u32 {
        let x = self.lanes[lane];
        self.refill(lane, x >> bits);
        x as u32 & ((1 << bits) - 1)
    }

    /// No branch: whether a lane needs a word is a matter of chance, which a processor cannot guess.
    #[inline(always)]
    fn refill(&mut self, lane: usize, x: u64) {
        let word = self.words.get(self.next).map_or(0, |word| u32::from_le_bytes(*word));
        let needs = x < BOTTOM;
        self.lanes[lane] =
            (x << (32 * u32::from(needs))) | (u64::from(word) & u64::from(needs).wrapping_neg());
        self.next += usize::from(needs);
    }

    /// Refuses a stream from which more was read than it has.
    pub(crate) fn check(&self) -> Result<(), Reason> {
        if self.next > self.words.len() { Err("the stream is truncated") } else { Ok(()) }
    }

    /// Checks that nothing is left over.
    pub(crate) fn finish(&self) -> Result<(), Reason> {
        self.check()?;
        if self.next < self.words.len() {
            return Err("the stream has words left over");
        }
        if self.lanes != [BOTTOM; LANES] {
            return Err("a lane does not end where it must");
        }
        Ok(())
    }

    /// Information not read yet, in bits.
    pub(crate) fn bits_left(&self) -> f64 {
        let words = self.words.len().saturating_sub(self.next);
        let lanes: f64 = self.lanes.iter().map(|&lane| (lane as f64 / BOTTOM as f64).log2()).sum();
        32.0 * words as f64 + lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(
            uses in prop::collection::vec(0..1000_u32, 1..256),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..13_u32), 0..400),
            raw_bits in 0..9_u32,
        ) {
            let table = Table::fit(&uses);
            let used: Vec<usize> = (0..uses.len()).filter(|&s| uses[s] > 0).collect();
            prop_assume!(!used.is_empty());
            let ops: Vec<_> = picks.iter().enumerate().map(|(i, (pick, raw, bits))| {
                let raw = u64::from(*raw) & ((1 << raw_bits) - 1);
                (i % LANES, used[pick.index(used.len())], raw, number_from(raw, *bits), *bits)
            }).collect();
            let mut encoder = Encoder::new();
            for &(lane, symbol, raw, number, bits) in ops.iter().rev() {
                encoder.put_bits(lane, number, bits);
                encoder.put(lane, &table, symbol, raw, raw_bits);
            }
            let mut bytes = Vec::new();
            encoder.finish(&mut bytes);
            let mut decoder = Decoder::new(&bytes).unwrap();
            for &(lane, symbol, raw, number, bits) in &ops {
                prop_assert_eq!(decoder.symbol(lane, &table, raw_bits), (symbol as u32, raw as u32));
                prop_assert_eq!(u64::from(decoder.bits(lane, bits)), number);
            }
            prop_assert!(decoder.bits_left().abs() < 1e-9);
            prop_assert_eq!(decoder.finish(), Ok(()));
            if bytes.len() > MIN_STREAM {
                let mut short = Decoder::new(&bytes[..bytes.len() - 4]).unwrap();
                for &(lane, _, _, _, bits) in &ops {
                    short.symbol(lane, &table, raw_bits);
                    short.bits(lane, bits);
                }
                prop_assert!(short.finish().is_err());
            }
        }
    }

    fn number_from(raw: u64, bits: u32) -> u64 {
        ((raw * 2_654_435_761) >> 7) & ((1 << bits) - 1)
    }

    #[test]
    fn streams_that_cannot_be_are_refused() {
        assert_eq!(Decoder::new(&[0; 127]).unwrap_err(), "the stream is truncated");
        assert_eq!(Decoder::new(&[0; 128]).unwrap_err(), "a lane starts too low");
        assert_eq!(Decoder::new(&[1; 130]).unwrap_err(), "the stream ends within a word");
        let mut bytes = Vec::new();
        Encoder::new().finish(&mut bytes);
        assert_eq!(Decoder::new(&bytes).unwrap().finish(), Ok(()));
        bytes.extend_from_slice(&[0; 4]);
        assert_eq!(Decoder::new(&bytes).unwrap().finish(), Err("the stream has words left over"));
    }
}
