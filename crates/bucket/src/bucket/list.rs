//! Lists, with a bound.

use futures::TryStreamExt;
use object_store::path::Path;

use super::{Bucket, ObjectMeta};
use crate::{BucketError, Result};

impl Bucket {
    /// All objects under `prefix` (whole path segments; empty for all), in key order.
    ///
    /// # Errors
    /// [`BucketError::TooMany`] when there are more than `limit`; others as the server says.
    pub async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<ObjectMeta>> {
        let objects = self.list_after(prefix, None, limit.saturating_add(1)).await?;
        if objects.len() > limit {
            let (bucket, prefix) = (self.inner.name.clone(), prefix.to_owned());
            return Err(BucketError::TooMany { bucket, prefix, limit });
        }
        Ok(objects)
    }

    /// The first `max` objects under `prefix` whose key is greater than `after`, in key order.
    ///
    /// # Errors
    /// As the server says; [`BucketError::Malformed`] when it lists what was not asked for.
    pub async fn list_after(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        let root = &self.inner.prefix;
        let path = match (root.is_empty(), prefix.is_empty()) {
            (true, true) => None,
            (false, true) => {
                Some(Path::parse(root).map_err(|_| self.invalid(root, "is not a usable prefix"))?)
            }
            _ => Some(self.path(prefix)?),
        };
        let mut listed = match after {
            Some(after) => self.inner.store.list_with_offset(path.as_ref(), &self.path(after)?),
            None => self.inner.store.list(path.as_ref()),
        };
        let mut objects = Vec::new();
        while objects.len() < max {
            let Some(meta) = listed.try_next().await.map_err(|error| self.error(prefix, &error))? else {
                break;
            };
            let location = meta.location.as_ref();
            let key = if root.is_empty() {
                Some(location)
            } else {
                location.strip_prefix(root.as_str()).and_then(|rest| rest.strip_prefix('/'))
            };
            let Some(key) = key.filter(|key| key.starts_with(prefix)) else {
                let reason = "the server listed a key outside of the prefix".to_owned();
                let (bucket, key) = (self.inner.name.clone(), prefix.to_owned());
                return Err(BucketError::Malformed { bucket, key, reason });
            };
            objects.push(self.meta(key, &meta));
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn bounded_lists() {
        let bucket = Bucket::in_memory("bucket");
        for key in ["a/3", "a/1", "a/2", "b/1", "ab"] {
            bucket.put(key, Bytes::from_static(b"x")).await.unwrap();
        }
        let keys = |list: Vec<ObjectMeta>| list.into_iter().map(|meta| meta.key).collect::<Vec<_>>();
        assert_eq!(keys(bucket.list("a", 3).await.unwrap()), ["a/1", "a/2", "a/3"]);
        assert!(matches!(bucket.list("a", 2).await, Err(BucketError::TooMany { limit: 2, .. })));
        assert_eq!(keys(bucket.list_after("a", Some("a/1"), 1).await.unwrap()), ["a/2"]);
        assert_eq!(bucket.list("", 10).await.unwrap().len(), 5);
        assert!(bucket.list("c", 10).await.unwrap().is_empty());
    }
}
