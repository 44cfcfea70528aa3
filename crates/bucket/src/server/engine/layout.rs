//! Where everything lies under the root folder, and what file names mean.
//!
//! ```text
//! lock                                    held by the one process that serves this root
//! layout.json                             {"layout":1}
//! tmp/                                    bodies on their way in; emptied at start
//! damaged/                                files that could not be understood, kept for a person
//! buckets/{bucket}/bucket.json            when it was created
//! buckets/{bucket}/lifecycle.json         its lifecycle rules, if any
//! buckets/{bucket}/objects/{hh}/{name}    one file per object: body, then record
//! buckets/{bucket}/uploads/{id}/upload    an upload that is still open
//! buckets/{bucket}/uploads/{id}/{part}    its parts; they stay when the upload becomes an object
//! ```
//!
//! An object's name is `{sha256 of the key}-{sequence}-{milliseconds}`, both numbers in hexadecimal. A hash takes
//! any key: `a` beside `a/b`, `../`, 1024 bytes, names that differ in case only. The record inside repeats the
//! key. The sequence number makes each version's name unique: a version is put in place by one rename, and of
//! two that a crash left behind the higher one counts.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

/// The layout that this code reads and writes.
pub(super) const LAYOUT: u32 = 1;

/// The number of folders over which a bucket's objects are spread, and of locks that guard their commits.
pub(super) const STRIPES: usize = 256;

/// A key's place on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place([u8; 32]);

impl Place {
    pub(super) fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    pub(super) fn stripe(self) -> usize {
        usize::from(self.0[0])
    }

    /// The path of one version, relative to the bucket's `objects` folder.
    pub(super) fn path(self, version: Version) -> PathBuf {
        PathBuf::from(stripe_folder(self.stripe())).join(format!(
            "{}-{}",
            hex::encode(self.0),
            version.suffix()
        ))
    }

    /// Reads back a file name; `None` if this layout never writes such a name.
    pub(super) fn parse(name: &str) -> Option<(Self, Version)> {
        let (hash, version) = name.split_once('-')?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).ok()?;
        Some((Self(bytes), Version::parse(version)?))
    }
}

/// The name of a stripe's folder: two hexadecimal digits.
pub(super) fn stripe_folder(stripe: usize) -> String {
    format!("{stripe:02x}")
}

/// What a commit adds to a file's name: its place in the order of all commits, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// Grows with every commit, over restarts too.
    pub(crate) sequence: u64,
    /// `Last-Modified`, in milliseconds since 1970. Never falls.
    pub(crate) modified_ms: u64,
}

impl Version {
    fn suffix(self) -> String {
        format!("{:016x}-{:012x}", self.sequence, self.modified_ms)
    }

    fn parse(text: &str) -> Option<Self> {
        let (sequence, modified) = text.split_once('-')?;
        if sequence.len() != 16 || modified.len() != 12 {
            return None;
        }
        Some(Self {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            modified_ms: u64::from_str_radix(modified, 16).ok()?,
        })
    }
}

/// A part's file name inside its upload's folder.
pub(super) fn part_name(number: u32, version: Version) -> String {
    format!("{number:05}-{}", version.suffix())
}

/// Reads back a part's file name.
pub(super) fn parse_part_name(name: &str) -> Option<(u32, Version)> {
    let (number, version) = name.split_once('-')?;
    Some((number.parse().ok()?, Version::parse(version)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let version = Version { sequence: 77, modified_ms: 1_750_000_000_123 };
        for key in ["a", "a/b", "../x", "sp ace+%25 é", &"k".repeat(1024)] {
            let path = Place::of(key).path(version);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.len() < 128);
            let (place, read) = Place::parse(name).unwrap();
            assert!(place == Place::of(key) && read == version);
        }
        assert_eq!(parse_part_name(&part_name(10_000, version)), Some((10_000, version)));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in ["", "-", "README", "00-0000000000000001-000000000001", "zz-1-1", "00001-1-1"] {
            assert!(Place::parse(name).is_none(), "{name}");
        }
        assert!(parse_part_name("upload").is_none());
        assert!(parse_part_name("00001").is_none());
    }
}
