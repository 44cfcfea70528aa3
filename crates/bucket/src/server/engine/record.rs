//! What is known about a stored body, and how it is kept in the same file.
//!
//! A file is `body ‖ record (JSON) ‖ CRC-32 of the record ‖ its length (both u32, little-endian) ‖ magic`. Body and
//! record reach the disk in one file and come into force by one rename, so no crash can part them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disk::read_at;
use super::layout::Version;
use crate::server::checksum::{Algorithm, Sum};

const MAGIC: &[u8; 8] = b"BRIGADE1";
const FOOTER: u64 = 16;
/// The longest record: 10,000 parts at under 200 bytes each, and the metadata that HTTP headers can carry.
const MAX_RECORD: u64 = 4 << 20;
/// What the first read of a file's end fetches; most records fit.
const FIRST_READ: u64 = 2048;

/// Headers that are stored with an object and sent back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    /// `x-amz-meta-*`, without that prefix.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) user: BTreeMap<String, String>,
}

/// The record of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) key: String,
    /// Bytes of the whole object, wherever they lie.
    pub(crate) size: u64,
    /// Without quotes: MD5 in hexadecimal, or MD5 of the parts' MD5s, a dash and their number.
    pub(crate) etag: String,
    pub(crate) headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<Sum>,
    /// Where the body lies if it came in parts: the file itself then holds none of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) assembled: Option<Assembled>,
}

/// The parts that make up an object, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assembled {
    pub(crate) upload_id: String,
    pub(crate) parts: Vec<Segment>,
}

/// One part of an assembled object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) sequence: u64,
    pub(crate) modified_ms: u64,
    pub(crate) size: u64,
}

impl Segment {
    pub(crate) fn version(&self) -> Version {
        Version { sequence: self.sequence, modified_ms: self.modified_ms }
    }
}

/// The record of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub(crate) size: u64,
    /// MD5, in hexadecimal.
    pub(crate) etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<Sum>,
}

/// The record of an upload that is still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) key: String,
    pub(crate) initiated_ms: u64,
    pub(crate) headers: Headers,
    /// The checksum that the finished object will carry, and whether it is over the whole object rather than
    /// over the parts' checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<(Algorithm, bool)>,
}

/// The bytes that follow the body.
pub(super) fn encode<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record)?;
    let length = bytes.len() as u64;
    if length > MAX_RECORD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the record is too long"));
    }
    let crc = s3s::crypto::Crc32::checksum_u32(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    Ok(bytes)
}

/// Reads the record at a file's end; also returns the length of the body before it.
///
/// # Errors
/// `InvalidData` if the file does not end in a whole record.
pub(super) fn decode<T: DeserializeOwned>(file: &File) -> io::Result<(T, u64)> {
    let torn = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let whole = file.metadata()?.len();
    if whole < FOOTER {
        return Err(torn("the file is shorter than a record's footer"));
    }
    let mut tail = read_at(file, whole.saturating_sub(FIRST_READ), whole.min(FIRST_READ) as usize)?;
    let footer: [u8; FOOTER as usize] =
        tail[tail.len() - FOOTER as usize..].try_into().map_err(io::Error::other)?;
    if &footer[8..] != MAGIC {
        return Err(torn("the file does not end in a record"));
    }
    let crc = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]);
    let length = u64::from(u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]]));
    if length > MAX_RECORD || length + FOOTER > whole {
        return Err(torn("the record's length is impossible"));
    }
    if length + FOOTER > tail.len() as u64 {
        tail = read_at(file, whole - length - FOOTER, (length + FOOTER) as usize)?;
    }
    let end = tail.len() - FOOTER as usize;
    let json = &tail[end - length as usize..end];
    if s3s::crypto::Crc32::checksum_u32(json) != crc {
        return Err(torn("the record's CRC does not match"));
    }
    Ok((serde_json::from_slice(json)?, whole - length - FOOTER))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn stored(body: &[u8], record: &PartRecord) -> Vec<u8> {
        [body, &encode(record).unwrap()].concat()
    }

    fn read(bytes: &[u8]) -> io::Result<(PartRecord, u64)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        decode(&file)
    }

    #[test]
    fn a_record_comes_back_whatever_the_body() {
        for (body, etag) in [(0, 3), (5, 32), (100_000, 32), (10, 50_000)] {
            let record = PartRecord { size: body, etag: "e".repeat(etag), checksum: None };
            assert_eq!(read(&stored(&vec![7; body as usize], &record)).unwrap(), (record, body));
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_seen() {
        let record = PartRecord { size: 3, etag: "abc".into(), checksum: None };
        let good = stored(b"xyz", &record);
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 3..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(read(&bad).is_err(), "flip at {at}");
        }
    }
}
