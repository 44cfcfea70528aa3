//! The entropy coder: rANS (J. Duda, arXiv 1311.2540) with one 64-bit state and 32-bit words.
//!
//! The state x lies in [2^32, 2^64). A symbol that owns `freq` of the `2^bits` slots from `start` on turns x into
//! `x / freq · 2^bits + start + x mod freq`; reading undoes it. A stack: what is written last is read first, so
//! writers work backwards. The writer starts from x = 2^32, and a reader that has read everything must be back at that
//! value with no words left: a strong check that costs four bytes a section.

/// Lower end of the state's interval, and the state of an empty message.
const LOW: u64 = 1 << 32;
/// Slots of a uniform symbol, as a power of two. More would leave the state too few bits to divide without loss.
const UNIFORM_BITS: u32 = 28;
/// Largest alphabet of a uniform symbol: beyond it the rounding of slots would cost bits.
pub(crate) const MAX_UNIFORM: u32 = 1 << 20;

/// Why a stream cannot be read.
pub(crate) type Reason = &'static str;

/// First slot of `value` out of `n` equal shares of 2^28.
fn uniform_start(value: u32, n: u32) -> u32 {
    ((u64::from(value) << UNIFORM_BITS).div_ceil(u64::from(n))) as u32
}

/// Writes a message backwards.
#[derive(Debug)]
pub(crate) struct Encoder {
    state: u64,
    words: Vec<u32>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { state: LOW, words: Vec::new() }
    }

    /// Pushes a symbol that owns slots `start..start + freq` of `2^bits`; `freq` ≥ 1, `bits` ≤ 32.
    pub(crate) fn put(&mut self, start: u32, freq: u32, bits: u32) {
        debug_assert!(freq >= 1 && bits <= 32 && u64::from(start) + u64::from(freq) <= 1 << bits);
        let freq = u64::from(freq);
        if freq == 1 << bits {
            return; // certain: costs nothing
        }
        if self.state >= freq << (64 - bits) {
            self.words.push(self.state as u32);
            self.state >>= 32;
        }
        self.state = ((self.state / freq) << bits) + self.state % freq + u64::from(start);
    }

    /// Pushes the low `bits` ≤ 32 bits of `value` as they are.
    pub(crate) fn put_bits(&mut self, value: u32, bits: u32) {
        self.put(value, 1, bits);
    }

    /// Pushes `value` < `n` ≤ 2^20, all values equally likely.
    pub(crate) fn put_uniform(&mut self, value: u32, n: u32) {
        debug_assert!(value < n && n <= MAX_UNIFORM);
        let start = uniform_start(value, n);
        self.put(start, uniform_start(value + 1, n) - start, UNIFORM_BITS);
    }

    /// Appends the state and the words, in the order in which they will be read.
    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.state.to_le_bytes());
        for word in self.words.iter().rev() {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// Reads a message forwards. Total: any bytes lead to values or to an error.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    state: u64,
    words: std::slice::ChunksExact<'a, u8>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Reason> {
        let (state, words) = bytes.split_first_chunk::<8>().ok_or("the stream has no state")?;
        let (state, words) = (u64::from_le_bytes(*state), words.chunks_exact(4));
        if state < LOW {
            return Err("the stream's state is out of range");
        }
        if !words.remainder().is_empty() {
            return Err("the stream ends within a word");
        }
        Ok(Self { state, words })
    }

    /// The slot, out of `2^bits`, that the next symbol owns.
    pub(crate) fn peek(&self, bits: u32) -> u32 {
        (self.state & ((1 << bits) - 1)) as u32
    }

    /// Drops the symbol that owns slots `start..start + freq` of `2^bits`, among them the one peeked at.
    pub(crate) fn advance(&mut self, start: u32, freq: u32, bits: u32) -> Result<(), Reason> {
        let slot = self.state & ((1 << bits) - 1);
        debug_assert!(freq >= 1 && (u64::from(start)..u64::from(start) + u64::from(freq)).contains(&slot));
        self.state = u64::from(freq) * (self.state >> bits) + slot - u64::from(start);
        if self.state < LOW {
            let word = self.words.next().ok_or("the stream is truncated")?;
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.state = self.state << 32 | u64::from(word);
        }
        Ok(())
    }

    /// Reads `bits` ≤ 32 bits as they are.
    pub(crate) fn bits(&mut self, bits: u32) -> Result<u32, Reason> {
        let value = self.peek(bits);
        self.advance(value, 1, bits)?;
        Ok(value)
    }

    /// Reads a value below `n`, 1 ≤ `n` ≤ 2^20.
    pub(crate) fn uniform(&mut self, n: u32) -> Result<u32, Reason> {
        if n == 1 {
            return Ok(0);
        }
        let value = ((u64::from(self.peek(UNIFORM_BITS)) * u64::from(n)) >> UNIFORM_BITS) as u32;
        let start = uniform_start(value, n);
        self.advance(start, uniform_start(value + 1, n) - start, UNIFORM_BITS)?;
        Ok(value)
    }

    /// Checks that the whole message was read.
    pub(crate) fn finish(&self) -> Result<(), Reason> {
        if self.words.len() != 0 {
            return Err("the stream has words left over");
        }
        if self.state != LOW {
            return Err("the stream does not end in its first state");
        }
        Ok(())
    }

    /// Information not read yet, in bits: differences of this tell what a symbol cost.
    pub(crate) fn bits_left(&self) -> f64 {
        (self.state as f64).log2() + 32.0 * self.words.len() as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Symbol { cuts: (u32, u32), bits: u32 },
        Bits { value: u32, bits: u32 },
        Uniform { value: u32, n: u32 },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1..=20_u32).prop_flat_map(|bits| (0..1_u32 << bits, 0..1_u32 << bits, 0..1_u32 << bits)
                .prop_map(move |(at, a, b)| {
                    let cuts = (a.min(b).min(at), a.max(b).max(at) + 1);
                    Op::Symbol { cuts, bits }
                })),
            (0..=32_u32, any::<u32>()).prop_map(|(bits, value)| {
                Op::Bits { value: (u64::from(value) & ((1 << bits) - 1)) as u32, bits }
            }),
            (1..=MAX_UNIFORM).prop_flat_map(|n| (0..n).prop_map(move |value| Op::Uniform { value, n })),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(ops in prop::collection::vec(op(), 0..200)) {
            let mut encoder = Encoder::new();
            for op in ops.iter().rev() {
                match *op {
                    Op::Symbol { cuts, bits } => encoder.put(cuts.0, cuts.1 - cuts.0, bits),
                    Op::Bits { value, bits } => encoder.put_bits(value, bits),
                    Op::Uniform { value, n } => encoder.put_uniform(value, n),
                }
            }
            let mut bytes = Vec::new();
            encoder.finish(&mut bytes);
            let mut decoder = Decoder::new(&bytes).unwrap();
            for op in &ops {
                match *op {
                    Op::Symbol { cuts, bits } => {
                        let slot = decoder.peek(bits);
                        prop_assert!((cuts.0..cuts.1).contains(&slot));
                        decoder.advance(cuts.0, cuts.1 - cuts.0, bits).unwrap();
                    }
                    Op::Bits { value, bits } => prop_assert_eq!(decoder.bits(bits).unwrap(), value),
                    Op::Uniform { value, n } => prop_assert_eq!(decoder.uniform(n).unwrap(), value),
                }
            }
            decoder.finish().unwrap();
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), n in 1..=MAX_UNIFORM) {
            let Ok(mut decoder) = Decoder::new(&bytes) else { return Ok(()) };
            while decoder.uniform(n).and_then(|_| decoder.bits(7)).is_ok() {}
        }
    }

    #[test]
    fn cost_is_the_information() {
        let mut encoder = Encoder::new();
        for i in 0..10_000 {
            encoder.put_uniform(i % 1000, 1000);
        }
        let mut bytes = Vec::new();
        encoder.finish(&mut bytes);
        let bits = bytes.len() as f64 * 8.0;
        let ideal = 10_000.0 * 1000_f64.log2();
        assert!(bits > ideal && bits < ideal * 1.0001 + 64.0, "{bits} against {ideal}");
    }
}
