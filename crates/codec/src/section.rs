//! One section: up to 1024 chunks, coded together and decodable on their own.
//!
//! A section is a preamble of 16-bit numbers, then one rANS stream. For each chunk the stream holds its scale, in a
//! delta also how many values it has, their positions, their signs, and their magnitude levels.

use crate::layout::{CHUNK, Chunk};
use crate::quantize::{CodeBits, Levels, MAX_LEVELS, MAX_SCALE_CODE, MAX_STEP, Spread, scale_value};
use crate::rans::{Decoder, Encoder, Reason};
use crate::subset;

/// Slots of a magnitude's table, as a power of two.
const LEVEL_BITS: u32 = 15;
/// Signs are written this many at a time.
const SIGN_GROUP: usize = 32;

/// What a reader knows before it sees a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) bits: CodeBits,
    /// How many values a chunk has: known (in 4096), or written in front of each chunk.
    pub(crate) top_k: Option<u32>,
}

impl Format {
    /// Bytes of the preamble: three numbers, two more if counts are written, and a share for all levels but the last.
    pub(crate) fn preamble_len(self) -> usize {
        2 * (3 + 2 * usize::from(self.top_k.is_none()) + self.bits.levels() - 1)
    }
}

/// Values kept in a chunk of `len` elements when `top_k` are in one of 4096: rounded up, so never none.
pub(crate) fn kept_in_chunk(top_k: u32, len: usize) -> usize {
    (top_k as usize * len).div_ceil(CHUNK)
}

/// The values to be coded, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    positions: Vec<u16>,
    values: Vec<f32>,
    /// Where each chunk's values end.
    ends: Vec<usize>,
}

impl Kept {
    /// Appends a chunk: its values at increasing positions.
    pub(crate) fn push(&mut self, positions: &[u16], values: impl Iterator<Item = f32>) {
        self.positions.extend_from_slice(positions);
        self.values.extend(values);
        debug_assert_eq!(self.positions.len(), self.values.len());
        self.ends.push(self.positions.len());
    }

    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.values.clear();
        self.ends.clear();
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
}

/// The numbers in front of a section's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Preamble {
    /// Least and greatest code of a scale, both 0 if every chunk is zero.
    scales: [u16; 2],
    /// Distance of the levels in 256ths of the scale.
    step: u16,
    /// Least and greatest number of values in a chunk that is not zero, where they are written.
    counts: [u16; 2],
    /// First slot of each level, and the end of the last.
    starts: [u16; MAX_LEVELS + 1],
}

impl Preamble {
    fn write(&self, format: Format, out: &mut Vec<u8>) {
        let mut put = |number: u16| out.extend_from_slice(&number.to_le_bytes());
        self.scales.into_iter().for_each(&mut put);
        put(self.step);
        if format.top_k.is_none() {
            self.counts.into_iter().for_each(&mut put);
        }
        for pair in self.starts.windows(2).take(format.bits.levels() - 1) {
            put(pair[1] - pair[0]);
        }
    }

    /// Reads and checks; `bytes` has the preamble's length.
    fn read(bytes: &[u8], format: Format) -> Result<Self, Reason> {
        let mut numbers = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let mut next = || numbers.next().ok_or("the preamble is truncated");
        let scales = [next()?, next()?];
        if scales[0] > scales[1] || scales[1] > MAX_SCALE_CODE || (scales[0] == 0) != (scales[1] == 0) {
            return Err("the range of scales is impossible");
        }
        let (step, levels) = (next()?, format.bits.levels());
        if step > MAX_STEP || (step > 0) != (levels > 1) {
            return Err("the step is out of range");
        }
        let counts = if format.top_k.is_none() { [next()?, next()?] } else { [0, 0] };
        let empty = scales[1] == 0 || format.top_k.is_some();
        if counts[0] > counts[1] || usize::from(counts[1]) > CHUNK || (counts[0] == 0) != empty {
            return Err("the range of counts is impossible");
        }
        let mut starts = [1 << LEVEL_BITS; MAX_LEVELS + 1];
        starts[0] = 0;
        for level in 1..levels {
            let start = u32::from(starts[level - 1]) + u32::from(next()?);
            if start > 1 << LEVEL_BITS {
                return Err("the shares of the levels exceed the whole");
            }
            starts[level] = start as u16;
        }
        Ok(Self { scales, step, counts, starts })
    }

    /// Number of different scale symbols: 0 for a zero chunk, then one for each code in the range.
    fn scale_symbols(&self) -> u32 {
        if self.scales[1] == 0 { 1 } else { u32::from(self.scales[1] - self.scales[0]) + 2 }
    }

    fn count_symbols(&self) -> u32 {
        u32::from(self.counts[1] - self.counts[0]) + 1
    }
}

/// A section's values as codes.
struct Codes {
    preamble: Preamble,
    scales: Vec<u16>,
    levels: Vec<u8>,
}

/// Codes the chunks in `kept`, whose lengths are `lengths`, and leaves in `kept` the values that a reader will see.
///
/// A chunk whose values are too small for the least scale is written as zero. The sum of magnitudes in a chunk must be
/// finite in f64, which it is for all finite f32.
pub(crate) fn encode(format: Format, lengths: &[usize], kept: &mut Kept) -> Vec<u8> {
    debug_assert_eq!(lengths.len(), kept.ends.len());
    let codes = quantize(format, kept);
    let mut encoder = Encoder::new();
    for chunk in (0..lengths.len()).rev() {
        put_chunk(&mut encoder, format, &codes, kept, chunk, lengths[chunk]);
    }
    let mut bytes = Vec::new();
    codes.preamble.write(format, &mut bytes);
    encoder.finish(&mut bytes);
    bytes
}

/// Fits step and scales, gives every value its level, and replaces it by what the level stands for.
fn quantize(format: Format, kept: &mut Kept) -> Codes {
    let magnitudes: Vec<f32> = kept.values.iter().map(|value| value.abs()).collect();
    let chunks = || (0..kept.ends.len()).map(|chunk| kept.range(chunk));
    let mean = |m: &[f32]| m.iter().map(|&m| f64::from(m)).sum::<f64>() / m.len() as f64;
    let means: Vec<f64> = chunks().map(|range| mean(&magnitudes[range])).collect();
    let mut spread = Spread::new();
    for (range, &mean) in chunks().zip(&means) {
        // Below the least scale a chunk becomes zero. An empty chunk's mean is NaN and is left out too.
        if mean >= f64::from(scale_value(1)) {
            spread.add(&magnitudes[range], mean);
        }
    }
    let fit = spread.fit(format.bits);
    let levels = Levels::new(format.bits, fit.step);
    let scale = |(range, mean): (_, &f64)| levels.fit_scale(&magnitudes[range], fit.start * mean);
    let scales: Vec<u16> = chunks().zip(&means).map(scale).collect();

    let mut codes = vec![0; magnitudes.len()];
    let (mut uses, mut counts) = ([0_u64; MAX_LEVELS], [u16::MAX, 0]);
    for (range, &scale) in chunks().zip(&scales).collect::<Vec<_>>() {
        let values = levels.values(scale_value(scale));
        if scale > 0 {
            counts = [counts[0].min(range.len() as u16), counts[1].max(range.len() as u16)];
        }
        for i in range {
            let level = if scale > 0 { levels.nearest(&values, magnitudes[i]) } else { 0 };
            codes[i] = level;
            uses[usize::from(level)] += u64::from(scale > 0);
            // With scale 0 every level is 0.
            kept.values[i] = values[usize::from(level)].copysign(kept.values[i]);
        }
    }
    let written = || scales.iter().copied().filter(|&scale| scale > 0);
    let scale_range = [written().min().unwrap_or(0), written().max().unwrap_or(0)];
    if format.top_k.is_some() || scale_range[1] == 0 {
        counts = [0, 0];
    }
    let starts = share_slots(&uses);
    Codes {
        preamble: Preamble { scales: scale_range, step: fit.step, counts, starts },
        scales,
        levels: codes,
    }
}

/// Slots in proportion to `uses`, at least one for a level that is used; the likeliest takes what rounding leaves.
fn share_slots(uses: &[u64; MAX_LEVELS]) -> [u16; MAX_LEVELS + 1] {
    const WHOLE: u16 = 1 << LEVEL_BITS;
    let total = uses.iter().sum::<u64>().max(1);
    let mut shares = uses.map(|n| if n == 0 { 0 } else { ((n << LEVEL_BITS) / total).max(1) as u16 });
    let likeliest = (0..MAX_LEVELS).rev().max_by_key(|&level| uses[level]).unwrap_or(0);
    let others = (0..MAX_LEVELS).filter(|&level| level != likeliest).map(|level| shares[level]).sum::<u16>();
    shares[likeliest] = WHOLE - others;
    let mut starts = [0; MAX_LEVELS + 1];
    for level in 0..MAX_LEVELS {
        starts[level + 1] = starts[level] + shares[level];
    }
    starts
}

/// Writes one chunk, last part first.
fn put_chunk(encoder: &mut Encoder, format: Format, codes: &Codes, kept: &Kept, chunk: usize, len: usize) {
    let preamble = &codes.preamble;
    let symbol = match codes.scales[chunk] {
        0 => 0,
        scale => scale - preamble.scales[0] + 1,
    };
    if symbol > 0 {
        let (positions, values) = kept.chunk(chunk);
        for &level in codes.levels[kept.range(chunk)].iter().rev() {
            let [start, end] = [preamble.starts[usize::from(level)], preamble.starts[usize::from(level) + 1]];
            encoder.put(start.into(), (end - start).into(), LEVEL_BITS);
        }
        for group in values.chunks(SIGN_GROUP).rev() {
            let sign = |word, (i, value): (usize, &f32)| word | u32::from(value.is_sign_negative()) << i;
            encoder.put_bits(group.iter().enumerate().fold(0, sign), group.len() as u32);
        }
        subset::put(encoder, positions, len);
        if format.top_k.is_none() {
            encoder
                .put_uniform((positions.len() as u16 - preamble.counts[0]).into(), preamble.count_symbols());
        }
    }
    encoder.put_uniform(symbol.into(), preamble.scale_symbols());
}

/// Reads a section chunk by chunk. Total: any bytes lead to values or to an error.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    format: Format,
    preamble: Preamble,
    levels: Levels,
    decoder: Decoder<'a>,
    /// Positions of the current chunk's values, increasing.
    pub(crate) positions: Vec<u16>,
    /// Its values, as many.
    pub(crate) values: Vec<f32>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], format: Format) -> Result<Self, Reason> {
        let (preamble, stream) =
            bytes.split_at_checked(format.preamble_len()).ok_or("the preamble is truncated")?;
        let preamble = Preamble::read(preamble, format)?;
        Ok(Self {
            format,
            preamble,
            levels: Levels::new(format.bits, preamble.step),
            decoder: Decoder::new(stream)?,
            positions: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Reads the next chunk into `positions` and `values`; both are empty if it is zero.
    pub(crate) fn next(&mut self, chunk: &Chunk) -> Result<(), Reason> {
        let scale = self.scale()?;
        self.read_positions(scale, chunk.len)?;
        self.read_values(scale)
    }

    /// First part of a chunk: its scale, 0 for a zero chunk.
    pub(crate) fn scale(&mut self) -> Result<f32, Reason> {
        let symbol = self.decoder.uniform(self.preamble.scale_symbols())? as u16;
        Ok(if symbol == 0 { 0.0 } else { scale_value(self.preamble.scales[0] + symbol - 1) })
    }

    /// Second part of a chunk of `len` elements: how many values, and where.
    pub(crate) fn read_positions(&mut self, scale: f32, len: usize) -> Result<(), Reason> {
        self.positions.clear();
        if scale == 0.0 {
            return Ok(());
        }
        let count = match self.format.top_k {
            Some(top_k) => kept_in_chunk(top_k, len),
            None => {
                let more = self.decoder.uniform(self.preamble.count_symbols())?;
                usize::from(self.preamble.counts[0]) + more as usize
            }
        };
        if count > len {
            return Err("a chunk has more values than elements");
        }
        subset::get(&mut self.decoder, count, len, &mut self.positions)
    }

    /// Third part of a chunk: signs and levels.
    pub(crate) fn read_values(&mut self, scale: f32) -> Result<(), Reason> {
        self.values.clear();
        let magnitudes = self.levels.values(scale);
        while self.values.len() < self.positions.len() {
            let group = SIGN_GROUP.min(self.positions.len() - self.values.len());
            let signs = self.decoder.bits(group as u32)?;
            self.values.extend((0..group).map(|i| if signs >> i & 1 == 1 { -1.0 } else { 1.0 }));
        }
        for value in &mut self.values {
            let slot = self.decoder.peek(LEVEL_BITS) as u16;
            let starts = &self.preamble.starts;
            let level = (1..MAX_LEVELS).take_while(|&level| slot >= starts[level]).count();
            let (start, end) = (starts[level], starts[level + 1]);
            self.decoder.advance(start.into(), (end - start).into(), LEVEL_BITS)?;
            *value = magnitudes[level].copysign(*value);
        }
        Ok(())
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
