//! Which S3 a store speaks: what its name gives away, else what it says when it is asked.

use brigade_bucket::{Access, Bucket, BucketAddress, BucketError, Dialect, by_host};

use super::ask::Ask;
use crate::config::hasty;

/// Finds out from a store itself: what it is, nothing if it does not give that away, or why it does not answer.
pub type Recognise = fn(&BucketAddress) -> Result<Option<Dialect>, BucketError>;

/// One request without a key: a refusal gives the server away as well as an answer does.
///
/// # Errors
/// When the address is none, or nothing answers there.
pub fn by_asking(address: &BucketAddress) -> Result<Option<Dialect>, BucketError> {
    // The dialect that takes any address, one without TLS too.
    let address = BucketAddress { dialect: Dialect::Minio, ..address.clone() };
    let bucket = Bucket::open(&address, Access::Anonymous, hasty())?;
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Ok(None);
    };
    match (runtime.block_on(bucket.now()), bucket.recognised()) {
        (_, Some(dialect)) => Ok(Some(dialect)),
        (Err(error @ BucketError::Unreachable { .. }), None) => Err(error),
        (_, None) => Ok(None),
    }
}

/// The dialect of the store at `address`, whose own is not looked at.
///
/// # Errors
/// When the address is none, or neither its name nor an answer tells and nobody says it.
pub(super) fn find(
    given: Option<Dialect>,
    address: &BucketAddress,
    recognise: Recognise,
    ask: &mut dyn Ask,
) -> anyhow::Result<Dialect> {
    let Some(endpoint) = &address.endpoint else { return Ok(given.unwrap_or(Dialect::Aws)) };
    if let Some(dialect) = given.or_else(|| by_host(endpoint)) {
        return Ok(dialect);
    }
    BucketAddress { dialect: Dialect::Minio, ..address.clone() }.validate()?;
    let why = match recognise(address) {
        Ok(Some(dialect)) => return Ok(dialect),
        Ok(None) => "it does not say so itself".to_owned(),
        Err(error) => format!("it cannot be asked: {error}"),
    };
    let question = format!("which S3 {endpoint} speaks; {why}");
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
        assert_eq!(find(Some(Dialect::Minio), r2, |_| Ok(Some(Dialect::Ceph))).unwrap(), Dialect::Minio);
        assert_eq!(find(None, r2, |_| Ok(Some(Dialect::Ceph))).unwrap(), Dialect::R2);
        assert_eq!(find(None, "", |_| Ok(Some(Dialect::Ceph))).unwrap(), Dialect::Aws);
        assert_eq!(find(None, "https://s3.example", |_| Ok(Some(Dialect::Ceph))).unwrap(), Dialect::Ceph);
        let error = find(None, "https://s3.example", |_| Ok(None)).unwrap_err().to_string();
        assert!(error.contains("--dialect") && error.contains("s3.example"), "{error}");
        let error = find(None, "s3.example:9000", |_| Ok(None)).unwrap_err().to_string();
        assert!(error.contains("endpoint") && !error.contains("--dialect"), "{error}");
    }

    #[test]
    fn a_store_that_is_not_there_is_told_of() {
        let error =
            find(None, &address("http://127.0.0.1:1"), by_asking, &mut Silent).unwrap_err().to_string();
        assert!(error.contains("cannot be asked") && error.contains("127.0.0.1:1"), "{error}");
    }
}
