//! A run as one passes it on: where its bucket is, and what its manifest must be.

use std::fmt;
use std::str::FromStr;

use brigade_protocol::{BucketAddress, Dialect, Digest};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::spelling::word;

/// `s3://BUCKET[/PREFIX][?endpoint=URL&region=REGION&dialect=DIALECT]#RUN_ID`: what is left out is Amazon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunUrl {
    /// The run's bucket.
    pub bucket: BucketAddress,
    /// The SHA-256 of its manifest: whoever has it need not trust the bucket.
    pub id: Digest,
}

/// Why a text is no run's URL.
#[derive(Debug, thiserror::Error)]
#[error(
    "{reason}; a run's URL is s3://BUCKET[/PREFIX][?endpoint=…&region=…&dialect=…]#RUN_ID, as `brigade run create` prints it"
)]
pub struct NoRunUrl {
    reason: String,
}

fn none(reason: impl fmt::Display) -> NoRunUrl {
    NoRunUrl { reason: reason.to_string() }
}

impl FromStr for RunUrl {
    type Err = NoRunUrl;

    fn from_str(text: &str) -> Result<Self, NoRunUrl> {
        if text.is_empty() {
            return Err(none("it is empty: put quotes around the URL, as a shell ends a command at its `&`"));
        }
        let url = Url::parse(text).map_err(|error| none(format_args!("`{text}`: {error}")))?;
        if url.scheme() != "s3"
            || !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
        {
            return Err(none(
                "it must begin with s3:// and have no user and no port (those are the endpoint's)",
            ));
        }
        let id = url.fragment().ok_or_else(|| none("no #RUN_ID at its end"))?;
        let id = id.parse().map_err(|error| none(format_args!("RUN_ID `{id}`: {error}")))?;
        let mut bucket = BucketAddress {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: url.host_str().unwrap_or_default().to_owned(),
            prefix: url.path().trim_matches('/').to_owned(),
            dialect: Dialect::Aws,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "endpoint" => bucket.endpoint = Some(value.into_owned()),
                "region" => bucket.region = value.into_owned(),
                "dialect" => {
                    let known = Dialect::deserialize(serde_json::Value::from(value.as_ref()));
                    bucket.dialect = known.map_err(|error| none(format_args!("dialect: {error}")))?;
                }
                other => return Err(none(format_args!("`{other}` is none of endpoint, region, dialect"))),
            }
        }
        bucket.validate().map_err(none)?;
        Ok(Self { bucket, id })
    }
}

impl fmt::Display for RunUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BucketAddress { endpoint, region, bucket, prefix, dialect } = &self.bucket;
        write!(f, "s3://{bucket}")?;
        if !prefix.is_empty() {
            write!(f, "/{prefix}")?;
        }
        let dialect = word(dialect);
        let dialect = Some(dialect.as_str()).filter(|name| *name != "aws");
        let region = Some(region.as_str()).filter(|region| *region != "us-east-1");
        let pairs = [("endpoint", endpoint.as_deref()), ("region", region), ("dialect", dialect)];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))));
        match query.finish() {
            empty if empty.is_empty() => {}
            query => write!(f, "?{query}")?,
        }
        write!(f, "#{}", self.id)
    }
}

impl Serialize for RunUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ID: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    #[test]
    fn what_is_written_is_read() {
        for text in [
            format!("s3://a-run#{ID}"),
            format!("s3://a-run/some/where?region=eu-central-1#{ID}"),
            format!("s3://a.run?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=auto&dialect=embedded#{ID}"),
        ] {
            let url: RunUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
        let by_hand = format!("s3://a-run/?endpoint=https://host:9000&dialect=ceph#{ID}");
        let url: RunUrl = by_hand.parse().unwrap();
        assert_eq!(url.bucket.endpoint.as_deref(), Some("https://host:9000"));
        assert_eq!((url.bucket.dialect, url.bucket.prefix.as_str()), (Dialect::Ceph, ""));
    }

    #[test]
    fn what_is_none_is_refused_by_what_is_wrong() {
        for (text, named) in [
            ("a-run".to_owned(), "a-run"),
            (format!("https://host/a-run#{ID}"), "s3://"),
            (format!("s3://key:secret@a-run#{ID}"), "no user"),
            ("s3://a-run".to_owned(), "RUN_ID"),
            ("s3://a-run#abc".to_owned(), "abc"),
            (format!("s3://a-run?dialect=gcs#{ID}"), "gcs"),
            (format!("s3://a-run?regoin=x#{ID}"), "regoin"),
            (format!("s3://a#{ID}"), "bucket"),
            (format!("s3://a-run?endpoint=ftp://host#{ID}"), "endpoint"),
        ] {
            let error = text.parse::<RunUrl>().unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("s3://BUCKET"), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
