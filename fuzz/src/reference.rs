//! A second reader of update and delta files, written from `docs/update-format.md` and for nothing but to be plain.
//!
//! Section numbers (§) are those of that page.

use brigade_codec::CodeBits;

/// Number of lanes (§4).
const LANES: usize = 16;
/// A lane is never below this.
const BOTTOM: u64 = 1 << 32;
/// Bits of the first f32 next to 2^(i/16) (§3).
const MANTISSAS: [u32; 16] = [
    0x3f800000, 0x3f85aac3, 0x3f8b95c2, 0x3f91c3d3, 0x3f9837f0, 0x3f9ef532, 0x3fa5fed7, 0x3fad583f,
    0x3fb504f3, 0x3fbd08a4, 0x3fc5672a, 0x3fce248c, 0x3fd744fd, 0x3fe0ccdf, 0x3feac0c7, 0x3ff5257d,
];

/// A tile or a run (§1).
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Position of the tensor in the layout.
    pub tensor: usize,
    /// Number of elements.
    pub len: usize,
    base: usize,
    width: usize,
    stride: usize,
}

impl Chunk {
    fn index(&self, position: usize) -> usize {
        self.base + position / self.width * self.stride + position % self.width
    }
}

/// The chunks of tensors with these shapes, section by section (§1).
pub fn sections(shapes: &[&[usize]]) -> Vec<Vec<Chunk>> {
    let mut sections = vec![Vec::new()];
    for (tensor, shape) in shapes.iter().enumerate() {
        let (rows, per_row) = chunks(tensor, shape);
        let mut open = sections.pop().expect("one section is always open");
        if open.len() + rows.len() > 1024 && !open.is_empty() {
            sections.push(std::mem::take(&mut open));
        }
        let mut rest = rows.as_slice();
        while rest.len() > 1024 {
            let (section, after) = rest.split_at(1024 / per_row * per_row);
            sections.push(section.to_vec());
            rest = after;
        }
        open.extend_from_slice(rest);
        sections.push(open);
    }
    sections
}

/// A tensor's chunks, and how many lie side by side.
fn chunks(tensor: usize, shape: &[usize]) -> (Vec<Chunk>, usize) {
    match *shape {
        [rows, columns] if columns <= 65_536 => {
            let tile = |row: usize, column: usize| {
                let (height, width) = ((rows - row).min(64), (columns - column).min(64));
                Chunk { tensor, len: height * width, base: row * columns + column, width, stride: columns }
            };
            let row = |row| (0..columns).step_by(64).map(move |column| tile(row, column));
            ((0..rows).step_by(64).flat_map(row).collect(), columns.div_ceil(64))
        }
        _ => {
            let elements: usize = shape.iter().product();
            let run = |base: usize| {
                let len = (elements - base).min(4096);
                Chunk { tensor, len, base, width: len, stride: len }
            };
            ((0..elements).step_by(4096).map(run).collect(), 1)
        }
    }
}

/// What a reader knows before it sees a section.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// How a value is coded.
    pub bits: CodeBits,
    /// Values kept in 4096, or `None` where a chunk says how many it has.
    pub top_k: Option<u32>,
}

/// A value of a file: tensor, flat index, value.
pub type Value = (usize, usize, f32);

/// A section as it was read.
#[derive(Debug)]
pub struct Reading {
    /// Its values, in order; `None` if a rule is broken.
    pub values: Option<Vec<Value>>,
    /// Whether no rule is broken but perhaps those of the stream's end.
    pub sound: bool,
    /// Bytes in front of the stream.
    preamble: usize,
    steps: Vec<Step>,
}

impl Reading {
    /// The section with its stream written anew: what is read from it is the same, and it ends as it must.
    pub fn settle(&self, section: &[u8]) -> Vec<u8> {
        let mut settled = section[..self.preamble].to_vec();
        settled.extend(write(&self.steps));
        settled
    }
}

/// The shares of symbols, and which symbol owns each slot (§4.1).
struct Table {
    /// First slot and number of slots of each symbol.
    shares: Vec<(u64, u64)>,
    owners: Vec<u64>,
}

impl Table {
    fn read(bytes: &mut &[u8], symbols: usize) -> Option<Self> {
        let last = usize::from(take::<1>(bytes)?[0]);
        let (mut shares, mut owners) = (Vec::new(), Vec::new());
        for symbol in 0..=last {
            let low = u64::from(take::<1>(bytes)?[0]);
            let share = if low < 128 { low } else { low - 128 + 128 * u64::from(take::<1>(bytes)?[0]) };
            if low >= 128 && share < 128 || symbol == last && share == 0 {
                return None;
            }
            shares.push((owners.len() as u64, share));
            owners.resize(owners.len() + share as usize, symbol as u64);
        }
        (last < symbols && owners.len() == 4096).then_some(Self { shares, owners })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// One thing that was read from a lane, so that it can be written again.
#[derive(Debug, Clone, Copy)]
enum Step {
    Symbol { lane: usize, start: u64, share: u64, raw: u64, raw_bits: u32 },
    Bits { lane: usize, value: u64, bits: u32 },
}

/// The stream of a section (§4). Words behind its end are zero.
struct Stream {
    lanes: Vec<u64>,
    words: Vec<u32>,
    next: usize,
    steps: Vec<Step>,
}

impl Stream {
    fn new(mut bytes: &[u8]) -> Option<Self> {
        let lanes: Vec<u64> =
            (0..LANES).map(|_| take(&mut bytes).map(u64::from_le_bytes)).collect::<Option<_>>()?;
        let words = bytes.chunks(4).map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
        let words = words.collect::<Option<_>>()?;
        lanes.iter().all(|&lane| lane >= BOTTOM).then_some(Self { lanes, words, next: 0, steps: Vec::new() })
    }

    fn symbol(&mut self, lane: usize, table: &Table, raw_bits: u32) -> (u64, u64) {
        let x = self.lanes[lane];
        let (raw, x) = (x % (1 << raw_bits), x >> raw_bits);
        let slot = x % 4096;
        let symbol = table.owners[slot as usize];
        let (start, share) = table.shares[symbol as usize];
        self.steps.push(Step::Symbol { lane, start, share, raw, raw_bits });
        self.refill(lane, share * (x / 4096) + slot - start);
        (symbol, raw)
    }

    fn bits(&mut self, lane: usize, bits: u32) -> u64 {
        let x = self.lanes[lane];
        let value = x % (1 << bits);
        self.steps.push(Step::Bits { lane, value, bits });
        self.refill(lane, x >> bits);
        value
    }

    fn refill(&mut self, lane: usize, mut x: u64) {
        if x < BOTTOM {
            x = x << 32 | u64::from(self.words.get(self.next).copied().unwrap_or(0));
            self.next += 1;
        }
        self.lanes[lane] = x;
    }
}

/// Writes a stream from its end to its beginning (§4).
fn write(steps: &[Step]) -> Vec<u8> {
    let (mut lanes, mut words) = ([BOTTOM; LANES], Vec::new());
    for step in steps.iter().rev() {
        let (lane, share, bits) = match *step {
            Step::Symbol { lane, share, raw_bits, .. } => (lane, share, 12 + raw_bits),
            Step::Bits { lane, bits, .. } => (lane, 1, bits),
        };
        let mut x = lanes[lane];
        if bits > 0 && x >> (64 - bits) >= share {
            words.push(x as u32);
            x >>= 32;
        }
        lanes[lane] = match *step {
            Step::Symbol { start, raw, raw_bits, .. } => {
                (x / share * 4096 + start + x % share) << raw_bits | raw
            }
            Step::Bits { value, .. } => x << bits | value,
        };
    }
    let lanes = lanes.iter().flat_map(|lane| lane.to_le_bytes());
    lanes.chain(words.iter().rev().flat_map(|word| word.to_le_bytes())).collect()
}

/// Reads a section (§3); `None` if its preamble or its first lanes break a rule. Where a later rule is broken, it reads on
/// as if there were no such rule, so that the stream can be written anew with nothing wrong in it but that.
pub fn read(mut bytes: &[u8], format: Format, chunks: &[Chunk]) -> Option<Reading> {
    let (whole, levels) = (bytes.len(), format.bits.levels());
    let step = u16::from_le_bytes(take(&mut bytes)?);
    let low = u32::from(take::<1>(&mut bytes)?[0]);
    if step > 4096 || (step == 0) != (levels == 1) || low > 7 {
        return None;
    }
    let mut counts = (0, 0);
    if format.top_k.is_none() {
        counts = (u16::from_le_bytes(take(&mut bytes)?), u16::from_le_bytes(take(&mut bytes)?));
        if counts.0 > counts.1 || counts.1 > 4096 || (counts.0 == 0) != (counts.1 == 0) {
            return None;
        }
    }
    let count_bits = 16 - (counts.1 - counts.0).leading_zeros();
    let scales = Table::read(&mut bytes, 16)?;
    let table = Table::read(&mut bytes, 32 * levels)?;
    let preamble = whole - bytes.len();
    let mut stream = Stream::new(bytes)?;

    let (mut code, mut values, mut sound) = (0, Vec::new(), true);
    for chunk in chunks {
        match stream.symbol(0, &scales, 0).0 as i64 {
            14 => continue,
            15 => code = stream.bits(0, 12) as i64 + 1,
            even if even % 2 == 0 => code += even / 2,
            odd => code -= (odd + 1) / 2,
        }
        let (count, most) = match format.top_k {
            Some(top_k) => ((top_k as usize * chunk.len).div_ceil(4096), chunk.len),
            None => {
                let count = usize::from(counts.0) + stream.bits(0, count_bits) as usize;
                (count, chunk.len.min(counts.1.into()))
            }
        };
        // One count beyond its chunk is enough to refuse a section; a thousand would fill the memory.
        if count > chunk.len && !sound {
            return None;
        }
        sound &= (1..=2048).contains(&code) && (1..=most).contains(&count);
        let mut place = 0;
        for j in 0..count {
            let lane = j % LANES;
            let (symbol, raw) = stream.symbol(lane, &table, low + 1);
            let mut units = symbol as usize / levels;
            if units == 31 {
                units += stream.bits(lane, 12 - low) as usize;
            }
            place += (units << low) + raw as usize / 2;
            sound &= place < chunk.len;
            if sound {
                let magnitude = magnitude(code as i32, symbol as usize % levels, step);
                let value = if raw % 2 == 1 { -magnitude } else { magnitude };
                values.push((chunk.tensor, chunk.index(place), value));
            }
            place += 1;
        }
    }
    let ends_well = stream.next == stream.words.len() && stream.lanes.iter().all(|&lane| lane == BOTTOM);
    let values = (sound && ends_well).then_some(values);
    Some(Reading { values, sound, preamble, steps: stream.steps })
}

/// What a level stands for in a chunk with that scale code (§3).
fn magnitude(code: i32, level: usize, step: u16) -> f32 {
    let power = (code - 1) / 16 - 96;
    let scale = 2_f32.powi(power) * f32::from_bits(MANTISSAS[(code as usize - 1) % 16]);
    (256 + level * usize::from(step)) as f32 / 256.0 * scale
}
