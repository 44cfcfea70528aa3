//! An address made ready to be used: checked more strictly than its record, and resolved to URLs.

use std::net::IpAddr;

use brigade_protocol::{BucketAddress, Dialect};
use reqwest::Url;

use crate::wire::is_public;
use crate::{BucketError, Result};

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `http(s)://host[:port]`, as the URL standard normalises it.
    pub(crate) origin: String,
    /// The URL that keys are appended to.
    pub(crate) url: String,
    /// The endpoint's host, when it is a literal address: no resolver sees those.
    pub(crate) literal: Option<IpAddr>,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) prefix: String,
    pub(crate) dialect: Dialect,
}

impl Place {
    /// Checks an address that anybody may have written.
    pub(crate) fn of(address: &BucketAddress) -> Result<Self> {
        address.validate()?;
        let BucketAddress { endpoint, region, bucket, prefix, dialect } = address.clone();
        if !is_bucket_name(&bucket) {
            let reason = "must be 3 to 63 of a-z, 0-9, - and ., with a letter or digit at both ends";
            return Err(BucketError::InvalidAddress { field: "bucket", reason });
        }
        let (origin, url) = match endpoint {
            Some(endpoint) => {
                let origin = origin(&endpoint, dialect)?;
                (origin.clone(), format!("{origin}/{bucket}"))
            }
            None if dialect == Dialect::Aws => amazon(&region, &bucket),
            None => {
                let reason = "is missing; only the dialect `aws` has one of its own";
                return Err(BucketError::InvalidAddress { field: "endpoint", reason });
            }
        };
        let host = Url::parse(&origin).ok().and_then(|url| url.host_str().map(str::to_owned));
        let literal = host.and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        Ok(Self { origin, url, literal, bucket, region, prefix, dialect })
    }
}

/// Whether `If-Match` takes the ETag in quotation marks, as RFC 9110 says. Ceph compares with the bare one.
pub(crate) fn quotes_etags(dialect: Dialect) -> bool {
    dialect != Dialect::Ceph
}

/// Whether a CompleteMultipartUpload with `If-None-Match: *` is honoured. Ceph 16 overwrites.
pub(crate) fn creates_multipart_once(dialect: Dialect) -> bool {
    dialect != Dialect::Ceph
}

/// Whether an object belongs to the account that wrote it, even in somebody else's bucket.
pub(crate) fn writer_owns(dialect: Dialect) -> bool {
    dialect == Dialect::Ceph
}

fn origin(endpoint: &str, dialect: Dialect) -> Result<String> {
    let wrong = |reason| Err(BucketError::InvalidAddress { field: "endpoint", reason });
    // The parser of the HTTP client itself: it also reads 2130706433 and 0x7f.1 as addresses.
    let Ok(url) = Url::parse(endpoint) else { return wrong("is no URL") };
    match url.scheme() {
        "https" => {}
        "http" if !matches!(dialect, Dialect::Aws | Dialect::R2) => {}
        "http" => {
            return wrong(
                "must begin with https:// for aws and r2; `minio`, `ceph` and `embedded` are spoken over http:// too",
            );
        }
        _ => return wrong("must begin with https:// or http://"),
    }
    let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    if !bare || url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
        return wrong("must be https://host or https://host:port, with no user, path or query");
    }
    Ok(url.origin().ascii_serialization())
}

/// Whether the store at `address` is, by its name, one within a machine or a private network. What another name resolves to is not
/// looked at.
pub fn names_private_host(address: &BucketAddress) -> bool {
    let is_private = |place: Place| match place.literal {
        Some(host) => !is_public(host),
        None => Url::parse(&place.origin).is_ok_and(|url| url.host_str() == Some("localhost")),
    };
    Place::of(address).is_ok_and(is_private)
}

/// Amazon's endpoint: virtual-hosted, except where the certificate does not cover the bucket's dots.
fn amazon(region: &str, bucket: &str) -> (String, String) {
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    if bucket.contains('.') {
        let origin = format!("https://s3.{region}.amazonaws.com{suffix}");
        return (origin.clone(), format!("{origin}/{bucket}"));
    }
    let origin = format!("https://{bucket}.s3.{region}.amazonaws.com{suffix}");
    (origin.clone(), origin)
}

fn is_bucket_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
        && !text.contains("..")
}

/// Whether `text` is a key that needs no escaping anywhere: in a URL, in XML, or on a command line.
pub(crate) fn is_key(text: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b'=');
    text.len() <= max
        && text.bytes().all(plain)
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(dialect: Dialect, endpoint: Option<&str>, bucket: &str) -> BucketAddress {
        let endpoint = endpoint.map(str::to_owned);
        BucketAddress {
            endpoint,
            region: "eu-west-1".into(),
            bucket: bucket.into(),
            prefix: String::new(),
            dialect,
        }
    }

    fn minio(endpoint: &str) -> Result<Place> {
        Place::of(&address(Dialect::Minio, Some(endpoint), "bucket"))
    }

    #[test]
    fn urls() {
        let aws = Place::of(&address(Dialect::Aws, None, "run-a")).unwrap();
        assert_eq!(aws.url, "https://run-a.s3.eu-west-1.amazonaws.com");
        assert_eq!(aws.origin, aws.url);
        let china = BucketAddress { region: "cn-north-1".into(), ..address(Dialect::Aws, None, "a.b") };
        assert_eq!(Place::of(&china).unwrap().url, "https://s3.cn-north-1.amazonaws.com.cn/a.b");
        let local = minio("http://127.0.0.1:9000/").unwrap();
        assert_eq!((&*local.url, &*local.origin), ("http://127.0.0.1:9000/bucket", "http://127.0.0.1:9000"));
        assert_eq!(minio("https://s3.example.org:443").unwrap().url, "https://s3.example.org/bucket");
        assert_eq!(minio("https://s3.example.org").unwrap().literal, None);
    }

    #[test]
    fn every_spelling_of_an_address_is_seen() {
        let spellings = [
            "http://127.0.0.1",
            "http://2130706433",
            "http://0x7f.1",
            "http://0177.0.0.1",
            "http://127.1",
            "http://127.0.0.1.",
        ];
        for spelling in spellings {
            assert_eq!(minio(spelling).unwrap().literal.unwrap().to_string(), "127.0.0.1", "{spelling}");
        }
        assert_eq!(minio("http://[::1]:9000").unwrap().literal.unwrap().to_string(), "::1");
    }

    #[test]
    fn hostile_addresses_are_refused() {
        for endpoint in [
            "",
            "host:80",
            "ftp://host",
            "file:///etc/passwd",
            "http://user:secret@host",
            "http://host/path",
            "http://host?x=1",
            "http://host#x",
            "http://ho st",
            "http://host\r\nX-Evil: 1",
            "http://",
            "http://:80",
            "http://host:99999",
            &format!("https://{}", "a".repeat(300)),
        ] {
            assert!(minio(endpoint).is_err(), "{endpoint:?}");
        }
        let plain = address(Dialect::R2, Some("http://account.r2.cloudflarestorage.com"), "bucket");
        assert!(Place::of(&plain).unwrap_err().to_string().contains("https://"));
        assert!(Place::of(&address(Dialect::Ceph, None, "bucket")).is_err());
        for bucket in ["", "ab", "Upper", "a..b", "-ab", "ab-", "a/b", "a b", "a\nb", "a_b", &"a".repeat(64)]
        {
            assert!(Place::of(&address(Dialect::Aws, None, bucket)).is_err(), "{bucket:?}");
        }
    }

    #[test]
    fn keys_are_plain() {
        assert!(is_key("windows/0000000001/open.json", 512) && is_key("a=b/c", 512));
        for key in ["", "/a", "a/", "../a", "a//b", "a?b", "a%2fb", "a\nb", "é", "aaaa"] {
            assert!(!is_key(key, 3), "{key:?}");
        }
    }
}
