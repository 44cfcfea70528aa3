//! Which S3 a store speaks: what its name gives away, else what it says when it is asked.

use brigade_bucket::{Access, Bucket, BucketAddress, Dialect, by_host};

use super::ask::Ask;
use crate::config::hasty;

/// Finds out from a store itself; `None` when it does not answer, or not so that one could tell.
pub type Recognise = fn(&BucketAddress) -> Option<Dialect>;

/// One request without a key: a refusal gives the server away as well as an answer does.
#[must_use]
pub fn by_asking(address: &BucketAddress) -> Option<Dialect> {
    // The dialect that takes any address, one without TLS too.
    let address = BucketAddress { dialect: Dialect::Minio, ..address.clone() };
    let bucket = Bucket::open(&address, Access::Anonymous, hasty()).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    if let Err(error) = runtime.block_on(bucket.now()) {
        tracing::debug!(%error, "the store does not say what it is");
    }
    bucket.recognised()
}

/// The dialect of the store at `address`, whose own is not looked at.
///
/// # Errors
/// When neither its name nor an answer tells, and nobody says it.
pub(super) fn find(
    given: Option<Dialect>,
    address: &BucketAddress,
    recognise: Recognise,
    ask: &mut dyn Ask,
) -> anyhow::Result<Dialect> {
    let Some(endpoint) = &address.endpoint else { return Ok(given.unwrap_or(Dialect::Aws)) };
    if let Some(dialect) = given.or_else(|| by_host(endpoint)).or_else(|| recognise(address)) {
        return Ok(dialect);
    }
    let question = format!("which S3 {endpoint} speaks; it did not say so itself");
    let answer = ask.choice("--dialect", &question, &["minio", "ceph", "embedded", "aws", "r2"], None)?;
    Ok(serde_json::from_value(answer.into())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::ask::Silent;
    use super::*;

    fn address(endpoint: &str) -> BucketAddress {
        let endpoint = Some(endpoint.to_owned()).filter(|endpoint| !endpoint.is_empty());
        BucketAddress {
            endpoint,
            region: "us-east-1".into(),
            bucket: "run".into(),
            prefix: String::new(),
            dialect: Dialect::Aws,
        }
    }

    #[test]
    fn what_is_said_comes_first_then_the_name_then_the_answer() {
        let find = |given, endpoint, recognise: Recognise| {
            super::find(given, &address(endpoint), recognise, &mut Silent)
        };
        let r2 = "https://0123.r2.cloudflarestorage.com";
        assert_eq!(find(Some(Dialect::Minio), r2, |_| Some(Dialect::Ceph)).unwrap(), Dialect::Minio);
        assert_eq!(find(None, r2, |_| Some(Dialect::Ceph)).unwrap(), Dialect::R2);
        assert_eq!(find(None, "", |_| Some(Dialect::Ceph)).unwrap(), Dialect::Aws);
        assert_eq!(find(None, "https://s3.example", |_| Some(Dialect::Ceph)).unwrap(), Dialect::Ceph);
        let error = find(None, "https://s3.example", |_| None).unwrap_err().to_string();
        assert!(error.contains("--dialect") && error.contains("s3.example"), "{error}");
    }

    #[test]
    fn a_store_that_is_not_there_says_nothing() {
        assert_eq!(by_asking(&address("http://127.0.0.1:1")), None);
    }
}
