//! ListObjects, in both versions.

use std::fmt::Write as _;

use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, ObjectStorageClass,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Store;
use super::convert::{etag, length, timestamp};
use crate::server::body::blocking;
use crate::server::engine::{Page, Query, Start};
use crate::server::error::StoreError;

/// How many keys and common prefixes one page holds at most, as in S3.
const MOST_KEYS: i32 = 1000;

fn limit(max_keys: Option<i32>) -> Result<usize, StoreError> {
    let asked = max_keys.unwrap_or(MOST_KEYS);
    usize::try_from(asked.min(MOST_KEYS))
        .map_err(|_| StoreError::Invalid("max-keys must not be negative".into()))
}

/// How names are written in the answer: as they are, or percent-encoded where the client asked for that since
/// XML cannot carry every character.
#[derive(Clone, Copy)]
struct Spelling {
    encoded: bool,
}

impl Spelling {
    fn read(encoding: Option<&EncodingType>) -> Result<Self, StoreError> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { encoded: false }),
            Some(EncodingType::URL) => Ok(Self { encoded: true }),
            Some(other) => Err(StoreError::Invalid(format!("encoding-type {other:?} is not known"))),
        }
    }

    fn write(self, name: String) -> String {
        if !self.encoded {
            return name;
        }
        let mut text = String::with_capacity(name.len());
        for byte in name.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    text.push(byte.into())
                }
                other => {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "%{other:02X}");
                }
            }
        }
        text
    }
}

fn contents(keys: Vec<(String, crate::server::engine::Entry)>, spelling: Spelling) -> Vec<Object> {
    let object = |(key, entry): (String, crate::server::engine::Entry)| Object {
        key: Some(spelling.write(key)),
        e_tag: etag(&entry.etag),
        size: Some(length(entry.size)),
        last_modified: Some(timestamp(entry.version.modified_ms)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    };
    keys.into_iter().map(object).collect()
}

fn rolled_up(prefixes: Vec<String>, spelling: Spelling) -> Vec<CommonPrefix> {
    prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(spelling.write(prefix)) }).collect()
}

async fn page(store: &Store, bucket: &str, query: Query) -> S3Result<Page> {
    let bucket = store.engine.bucket(bucket)?;
    Ok(blocking(move || Ok(bucket.list(&query))).await?)
}

/// Where the next page begins, as an opaque string.
fn token(start: &Start) -> Option<String> {
    match start {
        Start::Beginning => None,
        Start::After(key) => Some(format!("k{}", hex::encode(key))),
        Start::Past(prefix) => Some(format!("p{}", hex::encode(prefix))),
    }
}

fn read_token(token: &str) -> Result<Start, StoreError> {
    let wrong = || StoreError::Invalid("the continuation token is not one of this server's".into());
    let name = |hexadecimal| {
        let bytes = hex::decode(hexadecimal).map_err(|_| wrong())?;
        String::from_utf8(bytes).map_err(|_| wrong())
    };
    match (token.strip_prefix('k'), token.strip_prefix('p')) {
        (Some(key), _) => Ok(Start::After(name(key)?)),
        (_, Some(prefix)) => Ok(Start::Past(name(prefix)?)),
        _ => Err(wrong()),
    }
}

pub(super) async fn list_objects_v2(
    store: &Store,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = req.input;
    let spelling = Spelling::read(input.encoding_type.as_ref())?;
    let start = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => read_token(token)?,
        (None, Some(key)) if !key.is_empty() => Start::After(key.clone()),
        _ => Start::Beginning,
    };
    let limit = limit(input.max_keys)?;
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        start,
        limit,
    };
    let page = page(store, &input.bucket, query).await?;
    let count = page.keys.len() + page.prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(spelling.write(input.prefix.unwrap_or_default())),
        delimiter: input.delimiter.map(|delimiter| spelling.write(delimiter)),
        max_keys: Some(limit as i32),
        key_count: Some(count as i32),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().and_then(token),
        continuation_token: input.continuation_token,
        start_after: input.start_after.map(|key| spelling.write(key)),
        contents: Some(contents(page.keys, spelling)),
        common_prefixes: Some(rolled_up(page.prefixes, spelling)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub(super) async fn list_objects(
    store: &Store,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = req.input;
    let spelling = Spelling::read(input.encoding_type.as_ref())?;
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let start = match (&input.marker, &delimiter) {
        // The marker of a page that ended in a common prefix is that prefix: none of its keys come again.
        (Some(marker), Some(delimiter)) if marker.ends_with(delimiter.as_str()) => {
            Start::Past(marker.clone())
        }
        (Some(marker), _) if !marker.is_empty() => Start::After(marker.clone()),
        _ => Start::Beginning,
    };
    let limit = limit(input.max_keys)?;
    let query = Query { prefix: input.prefix.clone().unwrap_or_default(), delimiter, start, limit };
    let page = page(store, &input.bucket, query).await?;
    let next = page.next.as_ref().and_then(|next| match next {
        Start::After(name) | Start::Past(name) => Some(spelling.write(name.clone())),
        Start::Beginning => None,
    });
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(spelling.write(input.prefix.unwrap_or_default())),
        delimiter: input.delimiter.map(|delimiter| spelling.write(delimiter)),
        marker: Some(spelling.write(input.marker.unwrap_or_default())),
        max_keys: Some(limit as i32),
        is_truncated: Some(page.next.is_some()),
        next_marker: next,
        contents: Some(contents(page.keys, spelling)),
        common_prefixes: Some(rolled_up(page.prefixes, spelling)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_others_are_refused() {
        for start in [Start::After("a/é".into()), Start::Past("p/".into())] {
            assert_eq!(read_token(&token(&start).unwrap()).unwrap(), start);
        }
        for bad in ["", "x", "kzz", "kff", "hello"] {
            assert!(read_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_percent_encoded_on_request() {
        assert_eq!(Spelling { encoded: true }.write("a b/é\u{1}+~".into()), "a%20b/%C3%A9%01%2B~");
        assert_eq!(Spelling { encoded: false }.write("a b".into()), "a b");
    }
}
