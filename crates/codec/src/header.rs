//! The frame around the sections: what a file is for, and where its sections are.
//!
//! ```text
//! magic (8) | header length (u32) | header (bincode 2) | SHA-256 of all before (32) | section 0 | section 1 | …
//! ```
//!
//! The header lists each section's length and SHA-256, and is itself hashed, so no byte of a file is left uncovered.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::bound;
use crate::error::{Error, Result};
use crate::frame;
use crate::info::FileInfo;
use crate::layout::Layout;
use crate::quantize::CodeBits;
use crate::section::Format;

/// bincode 2, little-endian, integers of fixed width; the limit is above the largest header that a layout can have.
const WIRE: Configuration<LittleEndian, Fixint, Limit<{ 1 << 26 }>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<{ 1 << 26 }>();

/// Bytes in front of the header: magic and length.
const PREFIX: usize = 12;
/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Whose update, for which window, from which start: what a file must say to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// SHA-256 of the run's manifest.
    pub run: [u8; 32],
    /// The window the update is for.
    pub window: u64,
    /// Public key of the peer.
    pub peer: [u8; 32],
    /// State root of θ at the window's start.
    pub start_state_root: [u8; 32],
}

/// Which window's delta, from which start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaBinding {
    /// SHA-256 of the run's manifest.
    pub run: [u8; 32],
    /// The window the delta closes.
    pub window: u64,
    /// State root of the θ that the delta is to be applied to.
    pub start_state_root: [u8; 32],
}

/// The two kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Update,
    Delta,
}

impl Kind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Update => *b"BRIGUPD\x01",
            Self::Delta => *b"BRIGDEL\x01",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delta => "delta",
        }
    }
}

/// One section's length and hash.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Entry {
    len: u32,
    sha256: [u8; DIGEST],
}

/// The header, field for field as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Header {
    run: [u8; 32],
    window: u64,
    /// All zero in a delta.
    peer: [u8; 32],
    start_state_root: [u8; 32],
    layout: [u8; 32],
    /// Values kept in 4096; 0 where counts are written.
    top_k: u32,
    bits: u8,
    sections: Vec<Entry>,
}

impl Header {
    fn new(binding: &Binding, layout: &Layout, format: Format) -> Self {
        let &Binding { run, window, peer, start_state_root } = binding;
        let (top_k, bits) = (format.top_k.unwrap_or(0), format.bits as u8);
        Self {
            run,
            window,
            peer,
            start_state_root,
            layout: layout.digest(),
            top_k,
            bits,
            sections: Vec::new(),
        }
    }

    /// What the header says, for people.
    pub(crate) fn info(&self, is_delta: bool) -> Result<FileInfo> {
        let &Self { run, window, peer, start_state_root, layout, top_k, bits, .. } = self;
        let unknown = || Error::Header(format!("a value of {bits} bits"));
        Ok(FileInfo {
            is_delta,
            binding: Binding { run, window, peer, start_state_root },
            layout,
            top_k,
            bits: CodeBits::from_number(bits).ok_or_else(unknown)?,
            sections: self.sections.iter().map(|entry| (entry.len, entry.sha256)).collect(),
        })
    }

    /// Compares what a file says with what the reader expects.
    fn check(&self, expected: &Self) -> Result<()> {
        let hashes = [
            ("run", self.run, expected.run),
            ("peer", self.peer, expected.peer),
            ("start state root", self.start_state_root, expected.start_state_root),
            ("layout", self.layout, expected.layout),
        ];
        let numbers = [
            ("window", self.window, expected.window),
            ("top_k", self.top_k.into(), expected.top_k.into()),
            ("bits", self.bits.into(), expected.bits.into()),
        ];
        for (field, found, expected) in hashes {
            differ(field, found == expected, || hex(&expected), || hex(&found))?;
        }
        for (field, found, expected) in numbers {
            differ(field, found == expected, || expected.to_string(), || found.to_string())?;
        }
        Ok(())
    }
}

fn differ(
    field: &'static str,
    equal: bool,
    expected: impl FnOnce() -> String,
    found: impl FnOnce() -> String,
) -> Result<()> {
    if equal { Ok(()) } else { Err(Error::Binding { field, expected: expected(), found: found() }) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST] {
    Sha256::digest(bytes).into()
}

/// Checks the hash of a section's bytes.
pub(crate) fn check_section(section: usize, expected: &[u8; DIGEST], bytes: &[u8]) -> Result<()> {
    if sha256(bytes) == *expected {
        return Ok(());
    }
    Err(Error::Digest { what: format!("section {section}") })
}

/// Bytes of a header with `sections` entries.
fn header_len(sections: usize) -> usize {
    // run, window, peer, start state root, layout, top_k, bits, number of sections; then the sections.
    (32 + 8 + 32 + 32 + 32 + 4 + 1 + 8) + sections * (4 + DIGEST)
}

/// Bytes in front of the first section: what a reader fetches first.
pub(crate) fn frame_len(sections: usize) -> usize {
    PREFIX + header_len(sections) + DIGEST
}

/// Puts the frame around `sections`, hashing and copying them in parallel; each is let go once it has been copied.
pub(crate) fn write(
    kind: Kind,
    binding: &Binding,
    layout: &Layout,
    format: Format,
    sections: Vec<Vec<u8>>,
) -> Result<Vec<u8>> {
    let entry = |(i, section): (usize, &Vec<u8>)| {
        let (actual, limit) = (section.len() as u64, bound::section_bytes(layout, i, format));
        if actual > limit {
            return Err(Error::TooLong { what: "section", limit, actual });
        }
        Ok(Entry { len: section.len() as u32, sha256: sha256(section) })
    };
    let mut header = Header::new(binding, layout, format);
    let entries: Vec<Result<Entry>> = sections.par_iter().enumerate().map(entry).collect();
    header.sections = entries.into_iter().collect::<Result<_>>()?;
    let header = bincode::encode_to_vec(&header, WIRE).map_err(|e| Error::Header(e.to_string()))?;
    let mut front = Vec::with_capacity(frame_len(sections.len()));
    front.extend_from_slice(&kind.magic());
    front.extend_from_slice(&(header.len() as u32).to_le_bytes());
    front.extend_from_slice(&header);
    front.extend_from_slice(&sha256(&front));
    Ok(concatenate(&front, sections))
}

/// `front` and then `sections`. The threads share the copying, and with it the first touch of each page.
fn concatenate(front: &[u8], sections: Vec<Vec<u8>>) -> Vec<u8> {
    let payload: usize = sections.iter().map(Vec::len).sum();
    let mut file = vec![0; front.len() + payload];
    let (start, mut rest) = file.split_at_mut(front.len());
    start.copy_from_slice(front);
    let mut places = Vec::with_capacity(sections.len());
    for section in sections {
        let (place, behind) = rest.split_at_mut(section.len());
        places.push((place, section));
        rest = behind;
    }
    places.into_par_iter().for_each(|(place, section)| place.copy_from_slice(&section));
    file
}

/// Checks the frame of a hostile file against what the reader expects.
///
/// Returns the hash that covers it, and what it says of the sections. Those are not looked at yet.
pub(crate) fn read(
    kind: Kind,
    bytes: &[u8],
    binding: &Binding,
    layout: &Layout,
    format: Format,
) -> Result<([u8; DIGEST], Vec<frame::Entry>)> {
    let (header, digest) = read_header(kind, bytes, layout.num_sections())?;
    header.check(&Header::new(binding, layout, format))?;
    let mut at = frame_len(header.sections.len()) as u64;
    let mut sections = Vec::with_capacity(header.sections.len());
    for (i, entry) in header.sections.iter().enumerate() {
        let (actual, limit) = (u64::from(entry.len), bound::section_bytes(layout, i, format));
        if actual > limit {
            return Err(Error::TooLong { what: "section", limit, actual });
        }
        let range = at..at + actual;
        at = range.end;
        sections.push(frame::Entry { range, sha256: entry.sha256 });
    }
    Ok((digest, sections))
}

/// Reads the header of a file of either kind, for whatever it may be.
pub(crate) fn read_any(bytes: &[u8]) -> Result<(Kind, Header)> {
    let kind = if bytes.starts_with(&Kind::Delta.magic()) { Kind::Delta } else { Kind::Update };
    let short = || Error::Length { what: "file", expected: frame_len(1) as u64, actual: bytes.len() as u64 };
    let claimed = bytes.get(8..PREFIX).and_then(|claimed| claimed.first_chunk::<4>()).ok_or_else(short)?;
    // No more sections than the claimed length has room for, and than the bytes that are there.
    let claimed = (u32::from_le_bytes(*claimed) as usize).min(bytes.len());
    let sections = claimed.saturating_sub(header_len(0)) / (header_len(1) - header_len(0));
    Ok((kind, read_header(kind, bytes, sections)?.0))
}

/// Checks magic, length and hash of the header, which must list `sections` sections, and decodes it. Returns its hash too.
fn read_header(kind: Kind, bytes: &[u8], sections: usize) -> Result<(Header, [u8; DIGEST])> {
    let (frame, header) = (frame_len(sections), header_len(sections));
    let short = || Error::Length { what: "file", expected: frame as u64, actual: bytes.len() as u64 };
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    if *magic != kind.magic() {
        return Err(Error::Magic(kind.name()));
    }
    let (claimed, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let claimed = u32::from_le_bytes(*claimed);
    if claimed as usize != header {
        return Err(Error::Length { what: "header", expected: header as u64, actual: claimed.into() });
    }
    let (hashed, rest) = bytes.split_at_checked(PREFIX + header).ok_or_else(short)?;
    let (digest, _) = rest.split_first_chunk::<DIGEST>().ok_or_else(short)?;
    if sha256(hashed) != *digest {
        return Err(Error::Digest { what: "header".to_owned() });
    }
    // Before bincode sets memory aside for as many as the header says.
    let count = hashed[..PREFIX + header_len(0)].last_chunk::<8>().map(|count| u64::from_le_bytes(*count));
    if count != Some(sections as u64) {
        return Err(Error::Header(format!("lists {} sections, expected {sections}", count.unwrap_or(0))));
    }
    let (decoded, used): (Header, usize) =
        bincode::decode_from_slice(&hashed[PREFIX..], WIRE).map_err(|e| Error::Header(e.to_string()))?;
    if used != header || decoded.sections.len() != sections {
        return Err(Error::Header(format!("lists {} sections, expected {sections}", decoded.sections.len())));
    }
    Ok((decoded, *digest))
}
