//! Reading one section. Total: any bytes lead to values or to an error.

use crate::layout::CHUNK;
use crate::quantize::{Levels, MAX_LEVELS, MAX_SCALE_CODE, MAX_STEP};
use crate::rans::{Decoder, LANES, Reason};
use crate::section::{
    DISTANCES, FAR, FULL_SCALE, Format, MAX_LOW_BITS, SCALE_SYMBOLS, WORD_BITS, ZERO_CHUNK, count_bits,
    kept_in_chunk,
};
use crate::simd::Simd;
use crate::table::{FewSymbols, Table};

/// First part of a chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Head {
    /// Code of the scale, 0 if all values are zero.
    pub(crate) scale: u16,
    /// How many values there are.
    pub(crate) count: usize,
}

/// Reads a section chunk by chunk. Total: any bytes lead to values or to an error.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    simd: Simd,
    format: Format,
    levels: Levels,
    low_bits: u32,
    counts: [u16; 2],
    scales: FewSymbols,
    table: Table,
    decoder: Decoder<'a>,
    /// Code of the last scale that was not zero.
    scale: u16,
    /// Of the chunk that [`next_of_all`](Self::next_of_all) is about to read.
    head: Head,
    /// Positions of the current chunk's values, increasing.
    pub(crate) positions: Vec<u16>,
    /// Its values, as many.
    pub(crate) values: Vec<f32>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], format: Format) -> Result<Self, Reason> {
        Self::with(Simd::detect(), bytes, format)
    }

    pub(crate) fn with(simd: Simd, mut bytes: &'a [u8], format: Format) -> Result<Self, Reason> {
        let rest = &mut bytes;
        let step = u16::from_le_bytes(take(rest)?);
        if step > MAX_STEP || (step > 0) != (format.bits.levels() > 1) {
            return Err("the step is out of range");
        }
        let low_bits = u32::from(take::<1>(rest)?[0]);
        if low_bits > MAX_LOW_BITS {
            return Err("the low bits of distances are too many");
        }
        let counts = match format.top_k {
            Some(_) => [0, 0],
            None => [u16::from_le_bytes(take(rest)?), u16::from_le_bytes(take(rest)?)],
        };
        if counts[0] > counts[1] || usize::from(counts[1]) > CHUNK || (counts[0] == 0) != (counts[1] == 0) {
            return Err("the range of counts is impossible");
        }
        let scales = FewSymbols::new(&Table::read(rest, SCALE_SYMBOLS)?);
        let table = Table::read(rest, format.symbols())?;
        Ok(Self {
            simd,
            format,
            levels: Levels::new(format.bits, step),
            low_bits,
            counts,
            scales,
            table,
            decoder: Decoder::new(rest)?,
            scale: 0,
            head: Head::default(),
            positions: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Reads the next chunk, of `len` elements, into `positions` and `values`; both are empty if it is zero.
    #[inline]
    pub(crate) fn next(&mut self, len: usize) -> Result<(), Reason> {
        let head = self.read_head(len)?;
        self.read_values(head, len)
    }

    /// The same of many readers, whose bytes have all been read before without an error: after an error they are of no
    /// further use. Faster than one after the other.
    pub(crate) fn next_of_all(readers: &mut [Self], len: usize) -> Result<(), Reason> {
        // All heads first: a processor that has just written one lane must wait before it can read all of them at once.
        for reader in &mut *readers {
            reader.head = reader.read_head(len)?;
        }
        let (pairs, rest) = readers.as_chunks_mut::<2>();
        for [a, b] in pairs {
            let heads = [a.head, b.head];
            let [end_a, end_b] = Self::read_two([a, b], heads);
            a.check(end_a, len)?;
            b.check(end_b, len)?;
        }
        rest.iter_mut().try_for_each(|reader| reader.read_values(reader.head, len))
    }

    /// Reads the values of two chunks in turns; returns the places behind their last values.
    fn read_two([a, b]: [&mut Self; 2], heads: [Head; 2]) -> [u32; 2] {
        // Any width will do for both: all lead to the same.
        let simd = a.simd;
        let (mut a, mut b) = (a.values(heads[0]), b.values(heads[1]));
        simd.read_groups_of_two(&mut a, &mut b);
        [a.read_all(simd), b.read_all(simd)]
    }

    /// First part of a chunk: code of its scale, and how many values it has.
    pub(crate) fn read_head(&mut self, len: usize) -> Result<Head, Reason> {
        let symbol = self.decoder.symbol_of_few(&self.scales);
        match symbol {
            ZERO_CHUNK => return Ok(Head::default()),
            FULL_SCALE => self.scale = self.decoder.bits(0, WORD_BITS) as u16 + 1,
            folded => {
                let difference = (folded >> 1) as i16 ^ -((folded & 1) as i16);
                self.scale = self.scale.wrapping_add_signed(difference);
            }
        }
        if !(1..=MAX_SCALE_CODE).contains(&self.scale) {
            return Err("a scale is out of range");
        }
        let count = match self.format.top_k {
            Some(top_k) => kept_in_chunk(top_k, len),
            None => usize::from(self.counts[0]) + self.decoder.bits(0, count_bits(self.counts)) as usize,
        };
        if count == 0 || count > len {
            return Err("a chunk has more values than elements, or none");
        }
        if self.format.top_k.is_none() && count > usize::from(self.counts[1]) {
            return Err("a chunk has more values than its section says");
        }
        Ok(Head { scale: self.scale, count })
    }

    /// Second part of a chunk: its values.
    pub(crate) fn read_values(&mut self, head: Head, len: usize) -> Result<(), Reason> {
        let simd = self.simd;
        let place = self.values(head).read_all(simd);
        self.check(place, len)
    }

    /// Makes room for the values of a chunk that are to be read.
    fn values(&mut self, Head { scale, count }: Head) -> Values<'_, 'a> {
        // What was there is overwritten, and mostly as long.
        self.positions.resize(count, 0);
        self.values.resize(count, 0.0);
        let (positions, last_positions) = self.positions.as_chunks_mut::<LANES>();
        let (values, last_values) = self.values.as_chunks_mut::<LANES>();
        Values {
            decoder: &mut self.decoder,
            table: &self.table,
            magnitudes: self.levels.magnitudes(scale),
            level_bits: self.format.bits.level_bits(),
            low_bits: self.low_bits,
            expected: 0,
            positions,
            values,
            last_positions,
            last_values,
        }
    }

    /// Checks a chunk of `len` elements: `end` is the place behind its last value.
    fn check(&self, end: u32, len: usize) -> Result<(), Reason> {
        // Positions only grow, so if the last is within the chunk all are, and none was cut short to 16 bits.
        if end as usize > len {
            return Err("a position is outside its chunk");
        }
        self.decoder.check()
    }

    /// Entropy of a value's level by the table, in bits: the share of a symbol's cost that is not its distance's.
    pub(crate) fn level_bits(&self) -> f64 {
        let levels = self.format.bits.levels();
        let share =
            |level| (0..DISTANCES).map(|d| self.table.share(d * levels + level).1).sum::<u64>() as f64;
        let entropy = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        (0..levels).map(|level| entropy(share(level) / 4096.0)).sum()
    }

    /// Information not read yet, in bits.
    pub(crate) fn bits_left(&self) -> f64 {
        self.decoder.bits_left()
    }

    /// Checks that nothing is left over after the last chunk.
    pub(crate) fn finish(&self) -> Result<(), Reason> {
        self.decoder.finish()
    }
}

/// The values of a chunk that are still to be read, and with what.
pub(crate) struct Values<'r, 'a> {
    pub(crate) decoder: &'r mut Decoder<'a>,
    pub(crate) table: &'r Table,
    pub(crate) magnitudes: [f32; MAX_LEVELS],
    pub(crate) level_bits: u32,
    pub(crate) low_bits: u32,
    /// The place behind the value before. At most 4096 steps of less than 2^20 fit into 32 bits.
    pub(crate) expected: u32,
    /// Where the values go, a group for a value of each lane.
    pub(crate) positions: &'r mut [[u16; LANES]],
    pub(crate) values: &'r mut [[f32; LANES]],
    /// The last group, which may be shorter.
    last_positions: &'r mut [u16],
    last_values: &'r mut [f32],
}

impl Values<'_, '_> {
    /// Reads what is left. Returns the place behind the last value.
    #[inline]
    fn read_all(&mut self, simd: Simd) -> u32 {
        while !self.positions.is_empty() {
            simd.read_groups(self);
            // Where a distance is far, or the stream is about to end.
            let (Some(positions), Some(values)) = (self.positions.first_mut(), self.values.first_mut())
            else {
                break;
            };
            let (mut group, mut decoded) = (*positions, *values);
            self.read(&mut group, &mut decoded);
            (self.positions[0], self.values[0]) = (group, decoded);
            self.skip(1);
        }
        let (positions, values) =
            (std::mem::take(&mut self.last_positions), std::mem::take(&mut self.last_values));
        self.read(positions, values);
        self.expected
    }

    /// Moves on behind `groups` groups that have been read.
    #[inline(always)]
    pub(crate) fn skip(&mut self, groups: usize) {
        self.positions = &mut std::mem::take(&mut self.positions)[groups..];
        self.values = &mut std::mem::take(&mut self.values)[groups..];
    }

    /// Reads a group of values, one from each lane; the last group may be shorter.
    #[inline(always)]
    fn read(&mut self, positions: &mut [u16], values: &mut [f32]) {
        for (lane, (position, value)) in positions.iter_mut().zip(values).enumerate() {
            (*position, *value) = self.next(lane);
        }
    }

    /// Position and value of the next.
    #[inline(always)]
    fn next(&mut self, lane: usize) -> (u16, f32) {
        let (symbol, raw) = self.decoder.symbol(lane, self.table, self.low_bits + 1);
        let mut units = symbol >> self.level_bits;
        if units == FAR {
            units += self.decoder.bits(lane, WORD_BITS - self.low_bits);
        }
        let position = self.expected + (units << self.low_bits | raw >> 1);
        self.expected = position + 1;
        let level = symbol & ((1 << self.level_bits) - 1);
        let magnitude = self.magnitudes[level as usize % MAX_LEVELS];
        (position as u16, f32::from_bits(magnitude.to_bits() | raw << 31))
    }
}

/// The first `N` of `bytes`.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Reason> {
    let (first, rest) = bytes.split_first_chunk().ok_or("the preamble is truncated")?;
    *bytes = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests;
