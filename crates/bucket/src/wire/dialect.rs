//! Which S3 a server speaks, by what its answers give away.

use std::sync::Mutex;

use brigade_protocol::Dialect;
use hyper::header::{HeaderMap, SERVER};

/// What was recognised so far; shared by a bucket's clones.
#[derive(Debug, Default)]
pub(crate) struct Recognised(Mutex<Option<Dialect>>);

impl Recognised {
    pub(crate) fn get(&self) -> Option<Dialect> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Looks at one answer; what was recognised before stays.
    pub(crate) fn observe(&self, origin: &str, headers: &HeaderMap) {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known = known.or_else(|| by_headers(headers)).or_else(|| by_host(origin));
    }
}

/// The dialect that an endpoint's host gives away: those of the two clouds.
pub fn by_host(endpoint: &str) -> Option<Dialect> {
    let host = endpoint.split("://").last()?.split(['/', ':']).next()?;
    let ends = |end: &str| host == end || host.ends_with(&format!(".{end}"));
    // Amazon's other names there are machines and balancers of its customers, behind which any server may be.
    let is_s3 = |label: &str| label == "s3" || label.starts_with("s3-") || label == "bucket";
    let is_amazons = ends("amazonaws.com") || ends("amazonaws.com.cn");
    if is_amazons && host.split('.').any(is_s3) {
        Some(Dialect::Aws)
    } else if ends("r2.cloudflarestorage.com") {
        Some(Dialect::R2)
    } else {
        None
    }
}

/// Servers that one runs oneself name themselves; Ceph before 18 does so only by the form of its request ids.
fn by_headers(headers: &HeaderMap) -> Option<Dialect> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let server = text(SERVER.as_str());
    let is_ceph_id = |id: &str| {
        let digits = id.strip_prefix("tx").and_then(|rest| rest.split('-').next()).unwrap_or_default();
        digits.len() >= 21 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if server.starts_with("brigade/") {
        Some(Dialect::Embedded)
    } else if server.starts_with("MinIO") {
        Some(Dialect::Minio)
    } else if server.starts_with("AmazonS3") {
        Some(Dialect::Aws)
    } else if server.starts_with("Ceph") || is_ceph_id(text("x-amz-request-id")) {
        Some(Dialect::Ceph)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    #[test]
    fn stores_are_known_by_their_hosts() {
        assert_eq!(by_host("https://0123.r2.cloudflarestorage.com"), Some(Dialect::R2));
        assert_eq!(by_host("https://s3.eu-central-1.amazonaws.com:443"), Some(Dialect::Aws));
        assert_eq!(by_host("https://a-bucket.s3.us-east-1.amazonaws.com"), Some(Dialect::Aws));
        assert_eq!(by_host("https://amazonaws.com.example"), None);
        assert_eq!(by_host("http://ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:9000"), None);
        assert_eq!(by_host("https://minio-123.eu-west-1.elb.amazonaws.com"), None);
        assert_eq!(by_host(""), None);
    }

    #[test]
    fn stores_are_known_by_their_answers() {
        for (name, value, expected) in [
            ("server", "brigade/0.1.0", Some(Dialect::Embedded)),
            ("server", "MinIO", Some(Dialect::Minio)),
            ("server", "Ceph Object Gateway (squid)", Some(Dialect::Ceph)),
            ("x-amz-request-id", "tx00000f1d9bd45a2ea8a9a-0067464e2d-4155-default", Some(Dialect::Ceph)),
            ("x-amz-request-id", "656c76696e6727732072657175657374", None),
            ("server", "nginx", None),
        ] {
            let recognised = Recognised::default();
            let header = (HeaderName::from_static(name), HeaderValue::from_static(value));
            recognised.observe("https://store.example", &HeaderMap::from_iter([header]));
            assert_eq!(recognised.get(), expected, "{value}");
        }
    }
}
