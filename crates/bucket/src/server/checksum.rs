//! The checksums of the S3 protocol: computed while a body streams in, compared before anything is replaced.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto;
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// An `x-amz-checksum-*` algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    #[serde(rename = "CRC32")]
    Crc32,
    #[serde(rename = "CRC32C")]
    Crc32c,
    #[serde(rename = "CRC64NVME")]
    Crc64Nvme,
    #[serde(rename = "SHA1")]
    Sha1,
    #[serde(rename = "SHA256")]
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As `x-amz-checksum-algorithm` spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header, or trailer, that carries the checksum.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, StoreError> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| StoreError::Invalid(format!("{name:?} is not a checksum algorithm")))
    }

    /// The CRC whose parts can be combined; `None` for hashes, of which only a hash of hashes can be taken.
    fn crc(self) -> Option<(CrcAlgorithm, usize)> {
        match self {
            Self::Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
            Self::Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
            Self::Crc64Nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Whether the finished object's checksum is over the whole object, where the client does not say.
    pub(crate) fn whole_by_default(self) -> bool {
        self == Self::Crc64Nvme
    }
}

/// A checksum and what it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) algorithm: Algorithm,
    /// Base64; a checksum over parts' checksums ends in a dash and their number.
    pub(crate) value: String,
}

impl Sum {
    /// True if it is a checksum over the parts' checksums rather than over the object's bytes.
    pub(crate) fn is_composite(&self) -> bool {
        self.value.contains('-')
    }
}

/// The checksum fields that many S3 messages share.
macro_rules! sums {
    ($message:expr) => {{
        let message = &$message;
        [
            ($crate::server::checksum::Algorithm::Crc32, message.checksum_crc32.clone()),
            ($crate::server::checksum::Algorithm::Crc32c, message.checksum_crc32c.clone()),
            ($crate::server::checksum::Algorithm::Crc64Nvme, message.checksum_crc64nvme.clone()),
            ($crate::server::checksum::Algorithm::Sha1, message.checksum_sha1.clone()),
            ($crate::server::checksum::Algorithm::Sha256, message.checksum_sha256.clone()),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| {
            value.map(|value| $crate::server::checksum::Sum { algorithm, value })
        })
        .collect::<Vec<_>>()
    }};
}

/// Fills in the one checksum field that applies; the type of the message is the caller's.
macro_rules! set_sum {
    ($message:expr, $sum:expr) => {
        if let Some(sum) = $sum {
            let value = Some(sum.value.clone());
            match sum.algorithm {
                $crate::server::checksum::Algorithm::Crc32 => $message.checksum_crc32 = value,
                $crate::server::checksum::Algorithm::Crc32c => $message.checksum_crc32c = value,
                $crate::server::checksum::Algorithm::Crc64Nvme => $message.checksum_crc64nvme = value,
                $crate::server::checksum::Algorithm::Sha1 => $message.checksum_sha1 = value,
                $crate::server::checksum::Algorithm::Sha256 => $message.checksum_sha256 = value,
            }
        }
    };
}

pub(crate) use {set_sum, sums};

/// Whether a stored checksum covers the object's bytes or its parts' checksums, as S3 names it.
pub(crate) fn checksum_type(sum: &Sum) -> dto::ChecksumType {
    let name = if sum.is_composite() { dto::ChecksumType::COMPOSITE } else { dto::ChecksumType::FULL_OBJECT };
    dto::ChecksumType::from_static(name)
}

/// What a client says of its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) sums: Vec<Sum>,
}

impl Expected {
    /// Reads `Content-MD5`.
    pub(crate) fn with_md5(mut self, content_md5: Option<&str>) -> Result<Self, StoreError> {
        if let Some(text) = content_md5 {
            let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            self.md5 =
                Some(bytes.ok_or_else(|| StoreError::Invalid("Content-MD5 is not an MD5 in Base64".into()))?);
        }
        Ok(self)
    }

    /// Refuses a body that is not what the client meant to send.
    pub(crate) fn check(&self, digest: &Digest) -> Result<(), StoreError> {
        if self.md5.is_some_and(|md5| md5 != digest.md5) {
            return Err(StoreError::Digest("Content-MD5"));
        }
        for expected in &self.sums {
            if !digest.sums.contains(expected) {
                return Err(StoreError::Digest(expected.algorithm.header()));
            }
        }
        Ok(())
    }
}

/// Computes MD5 (the ETag) and the checksums asked for, in one pass.
pub(crate) struct Digester {
    md5: Md5,
    sums: ChecksumHasher,
}

/// What came out of a [`Digester`].
#[derive(Clone, Debug)]
pub(crate) struct Digest {
    pub(crate) md5: [u8; 16],
    pub(crate) sums: Vec<Sum>,
}

impl Digester {
    pub(crate) fn new(algorithms: &[Algorithm]) -> Self {
        let wants = |algorithm| algorithms.contains(&algorithm);
        Self {
            md5: Md5::new(),
            sums: ChecksumHasher {
                crc32: wants(Algorithm::Crc32).then(Crc32::new),
                crc32c: wants(Algorithm::Crc32c).then(Crc32c::new),
                sha1: wants(Algorithm::Sha1).then(Sha1::new),
                sha256: wants(Algorithm::Sha256).then(Sha256::new),
                crc64nvme: wants(Algorithm::Crc64Nvme).then(Crc64Nvme::new),
            },
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest { md5: self.md5.finalize(), sums: sums!(self.sums.finalize()) }
    }
}

impl Digest {
    pub(crate) fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

/// The ETag of an object assembled from parts: MD5 over the parts' binary MD5s, a dash, their number.
/// `None` if a part's ETag is not an MD5.
pub(crate) fn assembled_etag<'a>(parts: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    let count = parts.len();
    let mut md5 = Md5::new();
    for etag in parts {
        md5.update(&hex::decode(etag).ok()?);
    }
    Some(format!("{}-{count}", hex::encode(md5.finalize())))
}

/// The checksum of an object assembled from parts of known checksum and length: over all bytes if `whole`,
/// otherwise over the parts' checksums, a dash and their number. `None` if the algorithm or a value forbids it.
pub(crate) fn assembled_sum(algorithm: Algorithm, whole: bool, parts: &[(&str, u64)]) -> Option<Sum> {
    let values = parts.iter().map(|(value, _)| BASE64.decode(value).ok()).collect::<Option<Vec<_>>>()?;
    let value = if whole {
        let (crc, width) = algorithm.crc()?;
        let mut total: Option<u64> = None;
        for (value, (_, length)) in values.iter().zip(parts) {
            let mut wide = [0; 8];
            wide.get_mut(8 - width..)?.copy_from_slice(value.get(..width)?);
            let next = u64::from_be_bytes(wide);
            total = Some(total.map_or(next, |sum| checksum_combine(crc, sum, next, *length)));
        }
        BASE64.encode(total?.to_be_bytes().get(8 - width..)?)
    } else {
        let mut over = Digester::new(&[algorithm]);
        values.iter().for_each(|value| over.update(value));
        format!("{}-{}", over.finish().sums.pop()?.value, parts.len())
    };
    Some(Sum { algorithm, value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        let mut digester = Digester::new(&Algorithm::ALL);
        digester.update(bytes);
        digester.finish()
    }

    /// Published check values: CRC catalogue for "123456789", RFC 1321, FIPS 180-4 examples.
    #[test]
    fn known_values() {
        let nine = digest(b"123456789");
        let value = |digest: &Digest, algorithm| {
            let sum = digest.sums.iter().find(|sum| sum.algorithm == algorithm).unwrap();
            hex::encode(BASE64.decode(&sum.value).unwrap())
        };
        assert_eq!(value(&nine, Algorithm::Crc32), "cbf43926");
        assert_eq!(value(&nine, Algorithm::Crc32c), "e3069283");
        assert_eq!(value(&nine, Algorithm::Crc64Nvme), "ae8b14860a799888");
        let abc = digest(b"abc");
        assert_eq!(abc.etag(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(value(&abc, Algorithm::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            value(&abc, Algorithm::Sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn combined_crcs_are_those_of_the_whole() {
        let parts: [&[u8]; 4] = [b"one", b"", b"three, a longer one", b"4"];
        let whole = digest(&parts.concat());
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let sum_of =
                |digest: Digest| digest.sums.into_iter().find(|sum| sum.algorithm == algorithm).unwrap();
            let sums: Vec<_> =
                parts.iter().map(|part| (sum_of(digest(part)).value, part.len() as u64)).collect();
            let pairs: Vec<_> = sums.iter().map(|(value, length)| (value.as_str(), *length)).collect();
            assert_eq!(assembled_sum(algorithm, true, &pairs).unwrap(), sum_of(whole.clone()));
            assert!(assembled_sum(algorithm, false, &pairs).unwrap().value.ends_with("-4"));
        }
        assert!(assembled_sum(Algorithm::Sha256, true, &[("AAAA", 1)]).is_none());
        assert!(assembled_sum(Algorithm::Crc32, true, &[("not base64!", 1)]).is_none());
        assert!(assembled_sum(Algorithm::Crc32, true, &[("AA==", 1)]).is_none());
    }

    #[test]
    fn a_wrong_value_is_refused() {
        let right = digest(b"abc");
        let mut expected = Expected { md5: Some(right.md5), sums: right.sums.clone() };
        expected.check(&right).unwrap();
        expected.sums[2].value = "AAAA".into();
        assert!(expected.check(&right).is_err());
        assert!(Expected { md5: Some([0; 16]), sums: vec![] }.check(&right).is_err());
        assert!(Expected::default().with_md5(Some("short")).is_err());
    }
}
