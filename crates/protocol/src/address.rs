//! Where a bucket is. An address holds no secret: it travels in signed records.

use serde::{Deserialize, Serialize};

use crate::Error;

/// How a store departs from S3 as Amazon speaks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Amazon S3.
    #[default]
    Aws,
    /// Cloudflare R2.
    R2,
    /// Ceph's RADOS gateway.
    Ceph,
    /// MinIO.
    Minio,
    /// Brigade's own embedded server.
    Embedded,
}

/// A bucket, or a part of one under a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketAddress {
    /// `http://` or `https://` and the host; absent for Amazon's own endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region, as the store's signatures need it.
    #[serde(default = "default_region")]
    pub region: String,
    /// Bucket name.
    pub bucket: String,
    /// Key prefix without slashes at its ends; empty for the whole bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// How the store departs from Amazon's S3.
    #[serde(default)]
    pub dialect: Dialect,
}

fn default_region() -> String {
    "us-east-1".into()
}

impl BucketAddress {
    /// Checks lengths and characters: an address may come from a stranger.
    ///
    /// # Errors
    /// [`Error::Address`] names the field and what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        if let Some(endpoint) = &self.endpoint {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            // An `@` would hide credentials, or another host, in front of the one that a person reads.
            let plain = |host: &str| {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]/".contains(&b))
            };
            if endpoint.len() > 256 || !host.is_some_and(plain) {
                return Err(Error::address("endpoint", "must be http(s)://host[:port]"));
            }
        }
        let name = |text: &str, extra: &[u8]| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b) || extra.contains(&b))
        };
        if !(3..=63).contains(&self.bucket.len()) || !name(&self.bucket, b"") {
            return Err(Error::address("bucket", "must be 3 to 63 letters, digits, `-`, `.` or `_`"));
        }
        if self.region.is_empty() || self.region.len() > 64 || !name(&self.region, b"") {
            return Err(Error::address("region", "must be 1 to 64 letters, digits, `-`, `.` or `_`"));
        }
        let part_is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if self.prefix.len() > 512
            || !name(&self.prefix, b"/=")
            || !(self.prefix.is_empty() || self.prefix.split('/').all(part_is_plain))
        {
            return Err(Error::address("prefix", "must be plain path parts without slashes at the ends"));
        }
        Ok(())
    }
}

impl std::fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> BucketAddress {
        BucketAddress {
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: "us-east-1".into(),
            bucket: "run".into(),
            prefix: "a/b".into(),
            dialect: Dialect::Embedded,
        }
    }

    #[test]
    fn strangers_addresses_are_bounded() {
        address().validate().unwrap();
        for endpoint in ["ftp://host", "http://", "http://user:secret@host", "http://a b", "host:80"] {
            let bad = BucketAddress { endpoint: Some(endpoint.into()), ..address() };
            assert!(bad.validate().is_err(), "{endpoint}");
        }
        for prefix in ["/a", "a/", "a//b", "a/../b", "a b"] {
            let bad = BucketAddress { prefix: prefix.into(), ..address() };
            assert!(bad.validate().is_err(), "{prefix}");
        }
        assert!(BucketAddress { bucket: "a/b".into(), ..address() }.validate().is_err());
    }
}
