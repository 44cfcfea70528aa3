//! Access keys and what they open.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::ServerError;

/// One access key and what it opens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyGrant {
    /// The public half, sent with every request.
    pub access_key_id: String,
    /// The secret half, which signs requests and is never sent.
    pub secret_access_key: Secret,
    /// What the key opens. A request needs one grant that covers it.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

impl KeyGrant {
    pub(super) fn allows(&self, action: Action, bucket: &str, key: &str) -> bool {
        self.grants.iter().any(|grant| grant.allows(action, bucket, key))
    }

    /// True if any grant speaks of the bucket: enough to learn that it exists.
    pub(super) fn sees(&self, bucket: &str) -> bool {
        self.grants.iter().any(|grant| grant.covers_bucket(bucket))
    }

    /// True if the action is allowed on some key of the bucket; the request's own check decides on which.
    pub(super) fn may(&self, action: Action, bucket: &str) -> bool {
        let acts = |actions: &[Action]| actions.contains(&action) || actions.contains(&Action::All);
        self.grants.iter().any(|grant| grant.covers_bucket(bucket) && acts(&grant.actions))
    }
}

/// A secret string that hides itself from logs: its `Debug` form says nothing.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret)
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

/// Permission to do some things to some keys of some buckets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A bucket's name; a trailing `*` stands for any ending, so `*` alone is every bucket.
    pub bucket: String,
    /// Only keys that begin so. Absent: every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What may be done.
    pub actions: Vec<Action>,
}

impl Grant {
    /// Permission for `actions` on every key of the buckets that match `bucket`.
    pub fn new(bucket: impl Into<String>, actions: impl Into<Vec<Action>>) -> Self {
        Self { bucket: bucket.into(), prefix: None, actions: actions.into() }
    }

    /// The same, narrowed to keys that begin with `prefix`.
    pub fn under(self, prefix: impl Into<String>) -> Self {
        Self { prefix: Some(prefix.into()), ..self }
    }

    /// True if the grant speaks of this bucket at all.
    pub(super) fn covers_bucket(&self, bucket: &str) -> bool {
        match self.bucket.strip_suffix('*') {
            Some(start) => bucket.starts_with(start),
            None => bucket == self.bucket,
        }
    }

    /// True if the grant allows `action` in `bucket` on every key that begins with `key`.
    pub(super) fn allows(&self, action: Action, bucket: &str, key: &str) -> bool {
        self.covers_bucket(bucket)
            && self.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_str()))
            && (self.actions.contains(&action) || self.actions.contains(&Action::All))
    }
}

/// What a grant lets a key do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Read objects and their metadata.
    Read,
    /// List objects and unfinished uploads; under a prefix grant, only with a prefix at least that long.
    List,
    /// Put, copy to and upload in parts. Overwriting is writing.
    Write,
    /// Delete objects.
    Delete,
    /// Create buckets.
    CreateBucket,
    /// Delete empty buckets.
    DeleteBucket,
    /// Set and remove a bucket's lifecycle rules.
    Configure,
    /// All of these.
    #[serde(rename = "*")]
    All,
}

/// Refuses keys that would never work, or that would silently shadow each other.
pub(super) fn check_keys(keys: &[KeyGrant]) -> Result<(), ServerError> {
    let mut seen = HashSet::new();
    for key in keys {
        let id = &key.access_key_id;
        if id.is_empty() || id.contains(|c: char| c == '/' || c == ',' || c.is_whitespace() || c.is_control())
        {
            return Err(ServerError::Invalid(format!(
                "access_key_id {id:?} must be non-empty, without '/', ',' or spaces"
            )));
        }
        if key.secret_access_key.expose().len() < 8 {
            return Err(ServerError::Invalid(format!(
                "the secret of {id:?} must have at least 8 characters"
            )));
        }
        if !seen.insert(id) {
            return Err(ServerError::Invalid(format!("access_key_id {id:?} is given twice")));
        }
        for grant in &key.grants {
            if grant.bucket.trim_end_matches('*').contains('*') || grant.bucket.ends_with("**") {
                let bucket = &grant.bucket;
                return Err(ServerError::Invalid(format!(
                    "{id:?}: bucket {bucket:?}: '*' may stand only at the end"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, grants: Vec<Grant>) -> KeyGrant {
        KeyGrant { access_key_id: id.into(), secret_access_key: "long enough".into(), grants }
    }

    #[test]
    fn grants_match_buckets_and_prefixes() {
        let grant = Grant::new("peer-*", [Action::Read]).under("open/");
        assert!(grant.allows(Action::Read, "peer-7", "open/x"));
        assert!(!grant.allows(Action::Read, "peer-7", "closed/x"));
        assert!(!grant.allows(Action::Read, "run", "open/x"));
        assert!(!grant.allows(Action::Write, "peer-7", "open/x"));
        assert!(Grant::new("*", [Action::All]).allows(Action::DeleteBucket, "any", ""));
    }

    #[test]
    fn useless_keys_are_refused() {
        assert!(check_keys(&[key("A", vec![]), key("A", vec![])]).is_err());
        assert!(check_keys(&[key("", vec![])]).is_err());
        assert!(check_keys(&[key("a/b", vec![])]).is_err());
        assert!(check_keys(&[key("A", vec![Grant::new("a*b", [Action::Read])])]).is_err());
        assert!(check_keys(&[KeyGrant { secret_access_key: "short".into(), ..key("A", vec![]) }]).is_err());
    }
}
