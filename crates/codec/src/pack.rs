//! Packing one section: values in, bytes out.

use std::ops::Range;

use crate::layout::{CHUNK, Chunk};
use crate::quantize::{Fit, Levels, Spread};
use crate::rans::{Encoder, LANES};
use crate::section::{FAR, FULL_SCALE, Format, SCALE_SYMBOLS, WORD_BITS, ZERO_CHUNK, count_bits, low_bits};
use crate::simd::Simd;
use crate::table::{MAX_SYMBOLS, Table};

/// Takes the values of a section chunk by chunk and makes its bytes: [`begin`](Self::begin), then
/// [`push`](Self::push) for each chunk, then [`finish`](Self::finish).
///
/// A chunk is quantised as soon as the levels of its section are known, mostly at once: its part of the error feedback
/// is then still in the processor's cache, and the values need not be kept.
#[derive(Debug)]
pub(crate) struct Packer {
    simd: Simd,
    format: Format,
    /// How far apart the levels of the section are; unknown while `spread` is still small.
    levels: Option<(Fit, Levels)>,
    spread: Spread,
    /// Chunks that wait for the levels, from the section's first one on, and their values.
    waiting: Vec<Chunk>,
    values: Vec<f32>,
    magnitudes: Vec<f32>,
    positions: Vec<u16>,
    /// Sign and level of each value, of chunks that do not wait.
    codes: Vec<u8>,
    /// Code of each such chunk's scale, 0 if it is zero.
    scales: Vec<u16>,
    /// Where each chunk's values end.
    ends: Vec<usize>,
    /// Elements of all chunks.
    elements: u64,
    symbols: Symbols,
    encoder: Encoder,
}

impl Packer {
    pub(crate) fn new(simd: Simd, format: Format) -> Self {
        let (spread, waiting, values, magnitudes) = (Spread::new(), Vec::new(), Vec::new(), Vec::new());
        let (positions, codes, scales, ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (symbols, encoder) = (Symbols::new(), Encoder::new());
        let (levels, elements) = (None, 0);
        Self {
            simd,
            format,
            levels,
            spread,
            waiting,
            values,
            magnitudes,
            positions,
            codes,
            scales,
            ends,
            elements,
            symbols,
            encoder,
        }
    }

    /// Forgets everything: of a section that has been packed, or was left unfinished.
    pub(crate) fn begin(&mut self) {
        self.waiting.clear();
        self.values.clear();
        self.spread.clear();
        self.positions.clear();
        self.codes.clear();
        self.scales.clear();
        self.ends.clear();
        self.elements = 0;
        let bits = self.format.bits;
        self.levels = (bits.levels() == 1).then(|| (Fit::ONE_LEVEL, Levels::new(bits, 0)));
    }

    /// As [`begin`](Self::begin), for a section whose chunks come with codes of these levels.
    pub(crate) fn begin_coded(&mut self, fit: Fit, levels: Levels) {
        self.begin();
        self.levels = Some((fit, levels));
    }

    /// Appends a chunk that is quantised already.
    pub(crate) fn push_coded(&mut self, chunk: &Chunk, positions: &[u16], codes: &[u8], scale: u16) {
        self.positions.extend_from_slice(positions);
        self.ends.push(self.positions.len());
        self.elements += chunk.len as u64;
        self.codes.extend_from_slice(codes);
        self.scales.push(scale);
    }

    /// Appends a chunk: its values, at increasing positions.
    ///
    /// `decoded` gets each chunk whose levels are now known, with its positions and the values that a reader will see. A
    /// chunk whose values are too small for the least scale is zero to a reader. The sum of magnitudes in a chunk must be
    /// finite in f64, which it is for all finite f32. `values` is left with anything.
    pub(crate) fn push(
        &mut self,
        chunk: &Chunk,
        positions: &[u16],
        values: &mut [f32],
        mut decoded: impl FnMut(&Chunk, &[u16], &[f32]),
    ) {
        debug_assert_eq!(positions.len(), values.len());
        self.positions.extend_from_slice(positions);
        self.ends.push(self.positions.len());
        self.elements += chunk.len as u64;
        if let Some((fit, levels)) = self.levels {
            self.quantize(fit, &levels, values);
            return decoded(chunk, positions, values);
        }
        self.waiting.push(*chunk);
        self.values.extend_from_slice(values);
        let mean = self.measure(values);
        self.spread.add(&self.magnitudes, mean);
        if self.spread.is_known() {
            self.settle(decoded);
        }
    }

    /// The section's bytes.
    pub(crate) fn finish(&mut self, decoded: impl FnMut(&Chunk, &[u16], &[f32])) -> Vec<u8> {
        if self.levels.is_none() {
            self.settle(decoded);
        }
        self.encode()
    }

    /// Fixes the levels and quantises all that has waited for them.
    fn settle(&mut self, mut decoded: impl FnMut(&Chunk, &[u16], &[f32])) {
        let fit = self.spread.fit(self.format.bits);
        let levels = Levels::new(self.format.bits, fit.step);
        self.levels = Some((fit, levels));
        let (mut values, waiting) = (std::mem::take(&mut self.values), std::mem::take(&mut self.waiting));
        for (number, chunk) in waiting.iter().enumerate() {
            let range = self.range(number);
            self.quantize(fit, &levels, &mut values[range.clone()]);
            decoded(chunk, &self.positions[range.clone()], &values[range]);
        }
        (self.values, self.waiting) = (values, waiting);
    }

    /// Takes the magnitudes of `values` and returns their mean, NaN where there are none.
    fn measure(&mut self, values: &[f32]) -> f64 {
        self.magnitudes.clear();
        self.magnitudes.extend(values.iter().map(|value| value.abs()));
        self.simd.sum(&self.magnitudes) / values.len() as f64
    }

    /// Gives the next chunk its scale and each value its level, and replaces the value by what the level stands for.
    fn quantize(&mut self, fit: Fit, levels: &Levels, values: &mut [f32]) {
        let mean = self.measure(values);
        let scale = levels.fit_scale(self.simd, &self.magnitudes, fit.start * mean);
        let first = self.codes.len();
        self.codes.resize(first + values.len(), 0);
        levels.assign(self.simd, scale, values, &mut self.codes[first..]);
        self.scales.push(scale);
    }

    fn range(&self, chunk: usize) -> Range<usize> {
        let start = chunk.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        start..self.ends[chunk]
    }

    fn encode(&mut self) -> Vec<u8> {
        let low_bits = low_bits(self.elements, self.positions.len() as u64);
        let table = self.fit_table(low_bits);
        let differences = differences(&self.scales);
        let mut uses = [0_u32; SCALE_SYMBOLS];
        differences.iter().for_each(|&symbol| uses[symbol as usize] += 1);
        let scale_table = Table::fit(&uses);
        let counts = self.counts();

        for chunk in (0..self.scales.len()).rev() {
            let scale = self.scales[chunk];
            if scale > 0 {
                let count = self.find_symbols(chunk, low_bits) as u64;
                self.symbols.put(self.simd, &mut self.encoder, &table);
                if self.format.top_k.is_none() {
                    self.encoder.put_bits(0, count - u64::from(counts[0]), count_bits(counts));
                }
            }
            if differences[chunk] == FULL_SCALE {
                self.encoder.put_bits(0, u64::from(scale) - 1, WORD_BITS);
            }
            self.encoder.put(0, &scale_table, differences[chunk] as usize, 0, 0);
        }
        let step = self.levels.map_or(0, |(fit, _)| fit.step);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&step.to_le_bytes());
        bytes.push(low_bits as u8);
        if self.format.top_k.is_none() {
            counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
        }
        scale_table.write(&mut bytes);
        table.write(&mut bytes);
        self.encoder.finish(&mut bytes);
        bytes
    }

    /// The table that suits the values which are written.
    fn fit_table(&mut self, low_bits: u32) -> Table {
        let mut uses = Uses::default();
        for chunk in 0..self.scales.len() {
            if self.scales[chunk] > 0 {
                let count = self.find_symbols(chunk, low_bits);
                uses.count(&self.symbols.tables[..count]);
            }
        }
        Table::fit(&uses.total()[..self.format.symbols()])
    }

    /// Leaves a chunk's symbols in `symbols`; returns how many there are.
    fn find_symbols(&mut self, chunk: usize, low_bits: u32) -> usize {
        let range = self.range(chunk);
        let (positions, codes) = (&self.positions[range.clone()], &self.codes[range.clone()]);
        self.symbols.find(self.simd, self.format, positions, codes, low_bits);
        range.len()
    }

    /// Least and greatest number of values in a chunk that is not zero; both 0 if there is none.
    fn counts(&self) -> [u16; 2] {
        let is_written = |chunk: &usize| self.scales[*chunk] > 0;
        let written = (0..self.scales.len()).filter(is_written).map(|chunk| self.range(chunk).len() as u16);
        let range = written.fold([u16::MAX, 0], |[least, most], n| [least.min(n), most.max(n)]);
        if range[1] == 0 { [0, 0] } else { range }
    }
}

/// The values of one chunk on their way into the stream, side by side.
#[derive(Debug)]
struct Symbols {
    len: usize,
    level_bits: u32,
    low_bits: u32,
    /// Place in the table: distance and level.
    tables: Box<[u8; CHUNK]>,
    /// Sign and low bits of the distance.
    raw: Box<[u8; CHUNK]>,
    /// The distance without its low bits.
    units: Box<[u16; CHUNK]>,
}

impl Symbols {
    fn new() -> Self {
        let (tables, raw, units) = (Box::new([0; CHUNK]), Box::new([0; CHUNK]), Box::new([0; CHUNK]));
        Self { len: 0, level_bits: 0, low_bits: 0, tables, raw, units }
    }

    fn find(&mut self, simd: Simd, format: Format, positions: &[u16], codes: &[u8], low_bits: u32) {
        let len = positions.len();
        (self.len, self.level_bits, self.low_bits) = (len, format.bits.level_bits(), low_bits);
        let (tables, raw, units) = (&mut self.tables[..len], &mut self.raw[..len], &mut self.units[..len]);
        simd.distances(positions, codes, self.level_bits, low_bits, tables, raw, units);
    }

    /// Puts the values into the stream, from the last to the first.
    fn put(&self, simd: Simd, encoder: &mut Encoder, table: &Table) {
        let (groups, last) = self.tables[..self.len].as_chunks::<LANES>();
        let (raw_groups, _) = self.raw[..self.len].as_chunks::<LANES>();
        let mut left = groups.len();
        let put = |encoder: &mut Encoder, group: usize, len: usize| {
            for lane in (0..len).rev() {
                let at = group * LANES + lane;
                if let Some(beyond) = u32::from(self.units[at]).checked_sub(FAR) {
                    encoder.put_bits(lane, beyond.into(), WORD_BITS - self.low_bits);
                }
                encoder.put(lane, table, self.tables[at].into(), self.raw[at].into(), self.low_bits + 1);
            }
        };
        put(encoder, left, last.len());
        // A group in which a distance is far goes value by value.
        let far = FAR << self.level_bits;
        while left > 0 {
            left =
                simd.put_groups(encoder, table, &groups[..left], &raw_groups[..left], self.low_bits + 1, far);
            if left > 0 {
                left -= 1;
                put(encoder, left, LANES);
            }
        }
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
