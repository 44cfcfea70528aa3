//! From the fuzzer's bytes to a file.
//!
//! The first byte says what the others are: its lowest two bits the form ([`RAW`] and those that follow), the next five
//! which of the target's [settings](Setting) the reader has, the highest whether the file [goes on](File::goes_on).

use std::ops::Range;
use std::sync::LazyLock;

use brigade_codec::{Binding, CodeBits, CodecConfig, DeltaBinding, DeltaConfig, Layout};
use sha2::{Digest as _, Sha256};

use crate::reference::{self, Chunk, Format, Value};

/// Bytes of a header in front of its list of sections, after 12 bytes of magic and length.
const FIXED: usize = 149;
/// Bytes of a header for each section.
const ENTRY: usize = 36;

/// The tensors of the golden files.
pub const GOLDEN: &[&[usize]] = &[&[130, 70], &[5000], &[]];
/// The tensor of the worked example.
pub const EXAMPLE: &[&[usize]] = &[&[8]];
/// The second tensor has as many chunks as a section can have, so the first has a section of its own.
pub const TWO_SECTIONS: &[&[usize]] = &[&[3], &[65_536, 1]];

/// A layout and a format that a reader expects.
#[derive(Debug)]
pub struct Setting {
    /// How tensors are cut.
    pub layout: Layout,
    /// How values are coded.
    pub format: Format,
    /// [`Setting::layout`] by the reference.
    pub sections: Vec<Vec<Chunk>>,
}

impl Setting {
    /// # Panics
    /// If no layout has these shapes, or the codec does not name tensors and sections as the reference does.
    pub fn new(shapes: &[&[usize]], bits: CodeBits, top_k: Option<u32>) -> Self {
        // As in the golden files.
        let names: &[&str] = if shapes == GOLDEN { &["matrix", "vector", "scalar"] } else { &["w", "x"] };
        let tensors = names.iter().zip(shapes).map(|(name, shape)| (name.to_string(), shape.to_vec()));
        let layout = Layout::new(tensors).expect("the shapes are those of a layout");
        let sections = reference::sections(shapes);
        assert_eq!(layout.num_sections(), sections.len());
        Self { layout, format: Format { bits, top_k }, sections }
    }

    /// The settings of an update's reader.
    pub fn config(&self) -> CodecConfig {
        let top_k = self.format.top_k.unwrap_or(64);
        CodecConfig { top_k, bits: self.format.bits, error_feedback_decay: 0.95 }
    }

    /// The settings of a delta's reader.
    pub fn delta_config(&self) -> DeltaConfig {
        DeltaConfig { bits: self.format.bits, top_k: self.format.top_k }
    }

    /// Where a file's sections are, by its own header; `None` if there are not so many, or they are not there.
    pub fn ranges(&self, file: &[u8]) -> Option<Vec<Range<usize>>> {
        let mut at = self.frame_len();
        let range = |section: usize| {
            let entry = 12 + FIXED + ENTRY * section;
            let len = u32::from_le_bytes(*file.get(entry..)?.first_chunk()?) as usize;
            let range = at..at.checked_add(len).filter(|&end| end <= file.len())?;
            at = range.end;
            Some(range)
        };
        (0..self.sections.len()).map(range).collect()
    }

    fn frame_len(&self) -> usize {
        12 + FIXED + ENTRY * self.sections.len() + 32
    }

    /// The values of a file with these sections, by the reference; `None` if it must be refused.
    pub fn values(&self, sections: &[&[u8]]) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        for (bytes, chunks) in sections.iter().zip(&self.sections) {
            values.extend(reference::read(bytes, self.format, chunks)?.values?);
        }
        Some(values)
    }
}

/// The kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A peer's update.
    Update,
    /// A merged delta.
    Delta,
}

/// What every update of the targets is for: that of the golden file.
pub const BINDING: Binding = Binding { run: [1; 32], window: 258, peer: [1; 32], start_state_root: [3; 32] };
/// The same for deltas.
pub const DELTA_BINDING: DeltaBinding = DeltaBinding { run: [1; 32], window: 258, start_state_root: [3; 32] };

/// The settings of the target `update`.
pub static UPDATES: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    vec![
        Setting::new(GOLDEN, CodeBits::Two, Some(64)),
        Setting::new(EXAMPLE, CodeBits::Two, Some(1536)),
        Setting::new(GOLDEN, CodeBits::Four, Some(64)),
        Setting::new(GOLDEN, CodeBits::One, Some(500)),
        Setting::new(EXAMPLE, CodeBits::Three, Some(4096)),
        Setting::new(TWO_SECTIONS, CodeBits::Two, Some(64)),
    ]
});

/// The settings of the target `delta`.
pub static DELTAS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    vec![
        Setting::new(GOLDEN, CodeBits::Two, None),
        Setting::new(EXAMPLE, CodeBits::Two, None),
        Setting::new(GOLDEN, CodeBits::Four, None),
        Setting::new(GOLDEN, CodeBits::One, None),
        Setting::new(EXAMPLE, CodeBits::Three, None),
        Setting::new(TWO_SECTIONS, CodeBits::Two, None),
        Setting::new(GOLDEN, CodeBits::Two, Some(64)),
    ]
});

/// A file, and what the reference makes of it.
#[derive(Debug)]
pub struct File {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its values; `None` if it must be refused.
    pub values: Option<Vec<Value>>,
    /// Whether its frame was made here, so that only the sections can be at fault.
    pub framed: bool,
    /// Whether to do with it, if it is accepted, what is many times slower than to read it.
    pub goes_on: bool,
}

/// The form of an input whose first byte leaves 0: a whole file as it is.
pub const RAW: u8 = 0;
/// Leaves 1: a whole file whose hashes are to be put right.
pub const REHASHED: u8 = 1;
/// Leaves 2: sections, for which a frame is to be made; each but the last behind its length in two bytes.
pub const SECTIONS: u8 = 2;
/// Leaves 3: sections whose streams are to be put right at their end too.
pub const SETTLED: u8 = 3;

/// The first byte for a form and the place of a setting.
pub fn selector(form: u8, setting: usize, goes_on: bool) -> u8 {
    form | (setting as u8) << 2 | u8::from(goes_on) << 7
}

/// Makes a file of an input; `None` if there is none in it.
pub fn file<'s>(kind: Kind, settings: &'s [Setting], input: &[u8]) -> Option<(&'s Setting, File)> {
    let (&first, rest) = input.split_first()?;
    let setting = &settings[usize::from(first >> 2 & 31) % settings.len()];
    let form = first & 3;
    let (bytes, values) = match form {
        RAW | REHASHED => whole(kind, setting, rest, form == REHASHED),
        _ => built(kind, setting, rest, form == SETTLED)?,
    };
    Some((setting, File { bytes, values, framed: form >= SECTIONS, goes_on: first >= 1 << 7 }))
}

/// A file as it is, perhaps under fresh hashes, and its values.
fn whole(kind: Kind, setting: &Setting, file: &[u8], fresh: bool) -> (Vec<u8>, Option<Vec<Value>>) {
    let mut bytes = file.to_vec();
    if fresh {
        rehash(setting, &mut bytes);
    }
    let ranges = setting.ranges(&bytes);
    let sections = ranges.map(|ranges| ranges.into_iter().map(|range| &bytes[range]).collect::<Vec<_>>());
    // There is one frame for given sections, to the last byte.
    let framed = sections.filter(|sections| frame(kind, setting, sections) == bytes);
    let values = framed.and_then(|sections| setting.values(&sections));
    (bytes, values)
}

/// A file around the sections of an input, perhaps settled, and its values.
fn built(
    kind: Kind,
    setting: &Setting,
    input: &[u8],
    settled: bool,
) -> Option<(Vec<u8>, Option<Vec<Value>>)> {
    let parts = cut(input, setting.sections.len())?;
    let mut sections: Vec<Vec<u8>> = parts.into_iter().map(<[u8]>::to_vec).collect();
    let mut sound = settled;
    if settled {
        for (section, chunks) in sections.iter_mut().zip(&setting.sections) {
            let reading = reference::read(section, setting.format, chunks)?;
            *section = reading.settle(section);
            sound &= reading.sound;
        }
    }
    let sections: Vec<&[u8]> = sections.iter().map(Vec::as_slice).collect();
    let values = setting.values(&sections);
    assert!(!sound || values.is_some(), "the reference cannot read what it wrote");
    Some((frame(kind, setting, &sections), values))
}

/// Files that say the same as an accepted one, or would, in other bytes: with a word behind the stream, without its last
/// word, with a share in two bytes that has room in one. All must be refused.
pub fn neighbours(kind: Kind, setting: &Setting, file: &[u8]) -> Vec<Vec<u8>> {
    let ranges = setting.ranges(file).expect("it was accepted");
    let (last, before) = ranges.split_last().expect("there is a section");
    let section = &file[last.clone()];
    let mut others = vec![[section, &[0; 4]].concat(), section[..section.len() - 4].to_vec()];
    // Behind step, low bits, perhaps counts, and the number of the scales' last symbol.
    let share = if setting.format.top_k.is_some() { 4 } else { 8 };
    if section[share] < 128 {
        others.push([&section[..share], &[section[share] | 128, 0], &section[share + 1..]].concat());
    }
    let frame = |last: Vec<u8>| {
        let sections = before.iter().map(|range| &file[range.clone()]).chain([&last[..]]);
        frame(kind, setting, &sections.collect::<Vec<_>>())
    };
    others.into_iter().map(frame).collect()
}

/// The parts of an input for `sections` sections.
fn cut(mut input: &[u8], sections: usize) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for _ in 1..sections {
        let (len, rest) = input.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        parts.push(part);
        input = rest;
    }
    parts.push(input);
    Some(parts)
}

/// A file around `sections`.
fn frame(kind: Kind, setting: &Setting, sections: &[&[u8]]) -> Vec<u8> {
    let (magic, peer) = match kind {
        Kind::Update => (b"BRIGUPD\x01", BINDING.peer),
        Kind::Delta => (b"BRIGDEL\x01", [0; 32]),
    };
    let mut bytes = magic.to_vec();
    bytes.extend(((FIXED + ENTRY * sections.len()) as u32).to_le_bytes());
    bytes.extend(BINDING.run);
    bytes.extend(BINDING.window.to_le_bytes());
    bytes.extend(peer);
    bytes.extend(BINDING.start_state_root);
    bytes.extend(setting.layout.digest());
    bytes.extend(setting.format.top_k.unwrap_or(0).to_le_bytes());
    bytes.push(setting.format.bits as u8);
    bytes.extend((sections.len() as u64).to_le_bytes());
    for section in sections {
        bytes.extend((section.len() as u32).to_le_bytes());
        bytes.extend([0; 32]);
    }
    bytes.extend([0; 32]);
    sections.iter().for_each(|section| bytes.extend_from_slice(section));
    rehash(setting, &mut bytes);
    bytes
}

/// Writes fresh hashes over those of a file, if it is long enough to have them.
fn rehash(setting: &Setting, bytes: &mut [u8]) {
    for (section, range) in setting.ranges(bytes).into_iter().flatten().enumerate() {
        let hash = Sha256::digest(&bytes[range]);
        let entry = 12 + FIXED + ENTRY * section;
        bytes[entry + 4..entry + ENTRY].copy_from_slice(&hash);
    }
    let header = setting.frame_len() - 32;
    if let Some((hashed, rest)) = bytes.split_at_mut_checked(header)
        && let Some(hash) = rest.first_chunk_mut::<32>()
    {
        *hash = Sha256::digest(hashed).into();
    }
}
