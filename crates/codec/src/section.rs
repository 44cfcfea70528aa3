//! One section: up to 1024 chunks, coded together and decodable on their own.
//!
//! A section is a preamble and a stream. For each chunk the stream holds its scale, in a delta also how many values it
//! has, and then one symbol for each value: the distance from the value before and the magnitude level together, with
//! the sign and the low digits of the distance as raw bits. Value j is in lane j mod 16, the rest in lane 0.

use crate::layout::CHUNK;
use crate::quantize::{CodeBits, Levels, MAX_LEVELS, MAX_SCALE_CODE, MAX_STEP};
use crate::rans::{Decoder, Encoder, LANES, MIN_STREAM, Reason};
use crate::simd::Simd;
use crate::table::{MAX_SYMBOLS, Table, table_bytes};

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
const ZERO_CHUNK: u32 = 14;
const FULL_SCALE: u32 = 15;

/// What a reader knows before it sees a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) bits: CodeBits,
    /// How many values a chunk has: known (in 4096), or written in front of each chunk.
    pub(crate) top_k: Option<u32>,
}

impl Format {
    fn symbols(self) -> usize {
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

/// The values to be coded, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    positions: Vec<u16>,
    values: Vec<f32>,
    /// Where each chunk's values end.
    ends: Vec<usize>,
    /// Elements of all chunks.
    elements: u64,
}

impl Kept {
    /// Appends a chunk of `len` elements: its values at increasing positions.
    pub(crate) fn push(&mut self, len: usize, positions: &[u16], values: impl Iterator<Item = f32>) {
        self.positions.extend_from_slice(positions);
        self.values.extend(values);
        debug_assert_eq!(self.positions.len(), self.values.len());
        self.ends.push(self.positions.len());
        self.elements += len as u64;
    }

    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.values.clear();
        self.ends.clear();
        self.elements = 0;
    }

    fn range(&self, chunk: usize) -> std::ops::Range<usize> {
        let start = chunk.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        start..self.ends[chunk]
    }

    /// Positions and values of a chunk; after [`encode`] the values are those that a reader will see.
    pub(crate) fn chunk(&self, chunk: usize) -> (&[u16], &[f32]) {
        let range = self.range(chunk);
        (&self.positions[range.clone()], &self.values[range])
    }

    fn chunks(&self) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> + ExactSizeIterator + '_ {
        (0..self.ends.len()).map(|chunk| self.range(chunk))
    }
}

/// Buffers that one section after the other is coded with.
#[derive(Debug)]
pub(crate) struct Coder {
    simd: Simd,
    magnitudes: Vec<f32>,
    codes: Vec<u8>,
    symbols: Symbols,
    level_bits: u32,
    encoder: Encoder,
}

impl Coder {
    pub(crate) fn new(simd: Simd) -> Self {
        let (magnitudes, codes, symbols) = (Vec::new(), Vec::new(), Symbols::default());
        Self { simd, magnitudes, codes, symbols, level_bits: 0, encoder: Encoder::new() }
    }

    /// Codes the chunks in `kept` and leaves in `kept` the values that a reader will see.
    ///
    /// A chunk whose values are too small for the least scale is written as zero. The sum of magnitudes in a chunk must
    /// be finite in f64, which it is for all finite f32.
    pub(crate) fn encode(&mut self, format: Format, kept: &mut Kept) -> Vec<u8> {
        self.level_bits = format.bits.level_bits();
        let (step, scales) = self.quantize(format, kept);
        let low_bits = low_bits(kept.elements, kept.values.len() as u64);
        let table = self.find_symbols(format, kept, &scales, low_bits);
        let differences = differences(&scales);
        let mut uses = [0_u32; SCALE_SYMBOLS];
        differences.iter().for_each(|&symbol| uses[symbol as usize] += 1);
        let scale_table = Table::fit(&uses);
        let counts = counts(kept, &scales);

        for (chunk, range) in kept.chunks().enumerate().rev() {
            if scales[chunk] > 0 {
                self.put_values(range.clone(), &table, low_bits);
                if format.top_k.is_none() {
                    self.encoder.put_bits(0, range.len() as u64 - u64::from(counts[0]), count_bits(counts));
                }
            }
            if differences[chunk] == FULL_SCALE {
                self.encoder.put_bits(0, u64::from(scales[chunk]) - 1, WORD_BITS);
            }
            self.encoder.put(0, &scale_table, differences[chunk] as usize, 0, 0);
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&step.to_le_bytes());
        bytes.push(low_bits as u8);
        if format.top_k.is_none() {
            counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
        }
        scale_table.write(&mut bytes);
        table.write(&mut bytes);
        self.encoder.finish(&mut bytes);
        bytes
    }

    /// Fits step and scales, gives every value its level, and replaces it by what the level stands for. Returns the step
    /// and each chunk's scale, 0 if it is zero.
    fn quantize(&mut self, format: Format, kept: &mut Kept) -> (u16, Vec<u16>) {
        let Self { simd, magnitudes, codes, .. } = self;
        magnitudes.clear();
        magnitudes.extend(kept.values.iter().map(|value| value.abs()));
        codes.resize(magnitudes.len(), 0);
        let ranges: Vec<_> = kept.chunks().collect();
        let (fit, means) = crate::quantize::fit(*simd, format.bits, magnitudes, &ranges);
        let levels = Levels::new(format.bits, fit.step);
        let scale = |(range, mean): (std::ops::Range<usize>, f64)| {
            let scale = levels.fit_scale(*simd, &magnitudes[range.clone()], fit.start * mean);
            levels.assign(*simd, scale, &mut kept.values[range.clone()], &mut codes[range]);
            scale
        };
        (fit.step, ranges.into_iter().zip(means).map(scale).collect())
    }

    /// Finds each value's symbol, and the table for those that are written.
    fn find_symbols(&mut self, format: Format, kept: &Kept, scales: &[u16], low_bits: u32) -> Table {
        let symbols = &mut self.symbols;
        symbols.resize(self.codes.len());
        let mut uses = Uses::default();
        for (range, &scale) in kept.chunks().zip(scales) {
            let (positions, codes) = (&kept.positions[range.clone()], &self.codes[range.clone()]);
            let (tables, raw) = (&mut symbols.tables[range.clone()], &mut symbols.raw[range.clone()]);
            let units = &mut symbols.units[range];
            self.simd.distances(positions, codes, format.bits.level_bits(), low_bits, tables, raw, units);
            if scale > 0 {
                uses.count(tables);
            }
        }
        Table::fit(&uses.total()[..format.symbols()])
    }

    /// Puts the values in `range` into the stream, from the last to the first.
    fn put_values(&mut self, range: std::ops::Range<usize>, table: &Table, low_bits: u32) {
        let Self { simd, symbols, encoder, .. } = self;
        let (groups, last) = symbols.tables[range.clone()].as_chunks::<LANES>();
        let (raw_groups, _) = symbols.raw[range.clone()].as_chunks::<LANES>();
        let mut left = groups.len();
        let put = |encoder: &mut Encoder, group: usize, len: usize| {
            for lane in (0..len).rev() {
                let at = range.start + group * LANES + lane;
                if let Some(beyond) = u32::from(symbols.units[at]).checked_sub(FAR) {
                    encoder.put_bits(lane, beyond.into(), WORD_BITS - low_bits);
                }
                encoder.put(lane, table, symbols.tables[at].into(), symbols.raw[at].into(), low_bits + 1);
            }
        };
        put(encoder, left, last.len());
        // A group in which a distance is far goes value by value.
        let far = FAR << self.level_bits;
        while left > 0 {
            left = simd.put_groups(encoder, table, &groups[..left], &raw_groups[..left], low_bits + 1, far);
            if left > 0 {
                left -= 1;
                put(encoder, left, LANES);
            }
        }
    }
}

/// Values on their way into the stream, side by side.
#[derive(Debug, Default)]
struct Symbols {
    /// Place in the table: distance and level.
    tables: Vec<u8>,
    /// Sign and low bits of the distance.
    raw: Vec<u8>,
    /// The distance without its low bits.
    units: Vec<u16>,
}

impl Symbols {
    fn resize(&mut self, len: usize) {
        self.tables.resize(len, 0);
        self.raw.resize(len, 0);
        self.units.resize(len, 0);
    }
}

/// How often symbols occur. Counted in turns, because two of the same in a row would wait for each other.
#[derive(Debug)]
struct Uses([[u32; MAX_SYMBOLS]; 4]);

impl Default for Uses {
    fn default() -> Self {
        Self([[0; MAX_SYMBOLS]; 4])
    }
}

impl Uses {
    fn count(&mut self, symbols: &[u8]) {
        let (turns, rest) = symbols.as_chunks::<4>();
        for turn in turns {
            for (uses, &symbol) in self.0.iter_mut().zip(turn) {
                uses[usize::from(symbol)] += 1;
            }
        }
        rest.iter().for_each(|&symbol| self.0[0][usize::from(symbol)] += 1);
    }

    fn total(&self) -> [u32; MAX_SYMBOLS] {
        std::array::from_fn(|symbol| self.0.iter().map(|uses| uses[symbol]).sum())
    }
}

/// The symbols of the scales.
fn differences(scales: &[u16]) -> Vec<u32> {
    let mut before = 0;
    let symbol = |&scale: &u16| {
        if scale == 0 {
            return ZERO_CHUNK;
        }
        let difference = i32::from(scale) - i32::from(std::mem::replace(&mut before, scale));
        let folded = (difference << 1 ^ difference >> 31) as u32;
        folded.checked_sub(ZERO_CHUNK).map_or(folded, |_| FULL_SCALE)
    };
    scales.iter().map(symbol).collect()
}

/// Least and greatest number of values in a chunk that is not zero; both 0 if there is none.
fn counts(kept: &Kept, scales: &[u16]) -> [u16; 2] {
    let written = kept.chunks().zip(scales).filter(|(_, scale)| **scale > 0).map(|(r, _)| r.len() as u16);
    let range = written.fold([u16::MAX, 0], |[least, most], n| [least.min(n), most.max(n)]);
    if range[1] == 0 { [0, 0] } else { range }
}

/// Bits of a count above the least.
fn count_bits(counts: [u16; 2]) -> u32 {
    (counts[1] - counts[0]).checked_ilog2().map_or(0, |log| log + 1)
}

/// Reads a section chunk by chunk. Total: any bytes lead to values or to an error.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    simd: Simd,
    format: Format,
    levels: Levels,
    low_bits: u32,
    counts: [u16; 2],
    scales: Table,
    table: Table,
    decoder: Decoder<'a>,
    /// Code of the last scale that was not zero.
    scale: u16,
    /// Positions of the current chunk's values, increasing.
    pub(crate) positions: Vec<u16>,
    /// Its values, as many.
    pub(crate) values: Vec<f32>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], format: Format) -> Result<Self, Reason> {
        Self::with(Simd::detect(), bytes, format)
    }

    fn with(simd: Simd, mut bytes: &'a [u8], format: Format) -> Result<Self, Reason> {
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
        let scales = Table::read(rest, SCALE_SYMBOLS)?;
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
            positions: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Reads the next chunk, of `len` elements, into `positions` and `values`; both are empty if it is zero.
    #[inline]
    pub(crate) fn next(&mut self, len: usize) -> Result<(), Reason> {
        let (scale, count) = self.read_head(len)?;
        self.read_values(scale, count, len)
    }

    /// First part of a chunk: code of its scale, and how many values it has.
    pub(crate) fn read_head(&mut self, len: usize) -> Result<(u16, usize), Reason> {
        let (symbol, _) = self.decoder.symbol(0, &self.scales, 0);
        match symbol {
            ZERO_CHUNK => return Ok((0, 0)),
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
        Ok((self.scale, count))
    }

    /// Second part of a chunk: its values.
    pub(crate) fn read_values(&mut self, scale: u16, count: usize, len: usize) -> Result<(), Reason> {
        self.positions.clear();
        self.values.clear();
        if scale == 0 {
            return self.decoder.check();
        }
        self.positions.resize(count, 0);
        self.values.resize(count, 0.0);
        let mut value = Values {
            decoder: self.decoder,
            table: &self.table,
            magnitudes: self.levels.magnitudes(scale),
            level_bits: self.format.bits.level_bits(),
            low_bits: self.low_bits,
            expected: 0,
        };
        let (mut positions, last_positions) = self.positions.as_chunks_mut::<LANES>();
        let (mut values, last_values) = self.values.as_chunks_mut::<LANES>();
        loop {
            let done = self.simd.read_groups(&mut value, positions, values);
            (positions, values) = (&mut positions[done..], &mut values[done..]);
            // Where a distance is far, or the stream is about to end.
            let (Some((group, rest)), Some((decoded, others))) =
                (positions.split_first_mut(), values.split_first_mut())
            else {
                break;
            };
            value.read(group, decoded);
            (positions, values) = (rest, others);
        }
        value.read(last_positions, last_values);
        self.decoder = value.decoder;
        // Positions only grow, so if the last is within the chunk all are, and none was cut short to 16 bits.
        if value.expected as usize > len {
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

/// What one value after the other is read with.
pub(crate) struct Values<'r, 'a> {
    pub(crate) decoder: Decoder<'a>,
    pub(crate) table: &'r Table,
    pub(crate) magnitudes: [f32; MAX_LEVELS],
    pub(crate) level_bits: u32,
    pub(crate) low_bits: u32,
    /// The place behind the value before. At most 4096 steps of less than 2^20 fit into 32 bits.
    pub(crate) expected: u32,
}

impl Values<'_, '_> {
    /// Reads a group of values, one from each lane; the last group may be shorter.
    #[inline(always)]
    pub(crate) fn read(&mut self, positions: &mut [u16], values: &mut [f32]) {
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
mod tests {
    use super::*;
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

    fn kept(spread: u32, seed: u32, chunks: usize) -> Kept {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut kept = Kept::default();
        for _ in 0..chunks {
            let positions: Vec<u16> = (0..LEN as u16).filter(|_| next() % spread == 0).collect();
            let values: Vec<f32> = positions.iter().map(|_| (next() as f32 - 8_388_608.0) * 1e-9).collect();
            kept.push(LEN, &positions, values.into_iter());
        }
        kept
    }

    proptest! {
        /// Whole streams, and streams with some bits flipped: every width writes the same and reads the same, or fails
        /// in the same place for the same reason.
        #[test]
        fn all_widths_write_and_read_the_same(
            spread in 1..300_u32, seed in any::<u32>(), chunks in 1..6_usize, bits in 1..=4_u8,
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..4),
        ) {
            let format = Format { bits: CodeBits::from_number(bits).unwrap(), top_k: None };
            let written: Vec<Vec<u8>> =
                Simd::all().iter().map(|&simd| Coder::new(simd).encode(format, &mut kept(spread, seed, chunks))).collect();
            prop_assert!(written.windows(2).all(|pair| pair[0] == pair[1]));
            let mut bytes = written[0].clone();
            let scalar = seen(Simd::all()[0], &bytes, format, chunks);
            prop_assert_eq!(scalar.1, None);
            let mut expected = kept(spread, seed, chunks);
            Coder::new(Simd::all()[0]).encode(format, &mut expected);
            for (i, (positions, values)) in scalar.0.iter().enumerate() {
                let (kept, decoded) = expected.chunk(i);
                if !values.is_empty() {
                    prop_assert_eq!(kept, &positions[..]);
                    prop_assert_eq!(decoded.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.clone());
                }
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

        /// Any lanes and any words behind a preamble that is in order.
        #[test]
        fn all_widths_read_garbage_the_same(
            lanes in prop::collection::vec((1_u64 << 32).., LANES), words in prop::collection::vec(any::<u32>(), 0..400),
            shares in prop::collection::vec(0..1000_u32, 64), scales in prop::collection::vec(0..1000_u32, 16),
            low_bits in 0..8_u8, counts in (1..200_u16, 0..1300_u16),
        ) {
            let format = Format { bits: CodeBits::Two, top_k: None };
            let mut bytes = vec![0, 1, low_bits];
            [counts.0, counts.0 + counts.1].iter().for_each(|count| bytes.extend(count.to_le_bytes()));
            Table::fit(&scales).write(&mut bytes);
            Table::fit(&shares).write(&mut bytes);
            lanes.iter().for_each(|lane| bytes.extend(lane.to_le_bytes()));
            words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            let scalar = seen(Simd::all()[0], &bytes, format, 5);
            for &simd in Simd::all() {
                prop_assert_eq!(&scalar, &seen(simd, &bytes, format, 5));
            }
        }
    }
}
