//! The keys that open a bucket.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{BucketError, Result};

/// An S3 key pair. Serialised only into sealed blobs; `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(try_from = "RawCredentials")]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<String>,
}

/// What a sealed blob holds, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredentials {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
}

impl Credentials {
    /// A key pair, and the token that comes with temporary ones.
    ///
    /// # Errors
    /// [`BucketError::InvalidCredentials`] when a field is empty, too long, or not printable ASCII: such a value
    /// cannot travel in a header, and the HTTP client would panic on it.
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Result<Self> {
        let credentials = Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token,
        };
        check("access_key_id", &credentials.access_key_id, 128)?;
        check("secret_access_key", &credentials.secret_access_key, 256)?;
        if let Some(token) = &credentials.session_token {
            check("session_token", token, 8192)?;
        }
        Ok(credentials)
    }

    /// The public half.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The secret half.
    pub fn secret_access_key(&self) -> &str {
        &self.secret_access_key
    }

    /// The token of temporary keys.
    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }
}

fn check(field: &'static str, value: &str, max: usize) -> Result<()> {
    let reason = match value {
        "" => "is empty",
        _ if value.len() > max => "is too long",
        _ if !value.bytes().all(|b| b.is_ascii_graphic()) => "holds a space or a character that is not ASCII",
        _ => return Ok(()),
    };
    Err(BucketError::InvalidCredentials { field, reason })
}

impl TryFrom<RawCredentials> for Credentials {
    type Error = BucketError;

    fn try_from(raw: RawCredentials) -> Result<Self> {
        Self::new(raw.access_key_id, raw.secret_access_key, raw.session_token)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.access_key_id.chars().take(4).collect();
        write!(f, "Credentials({shown}…)")
    }
}

/// How a bucket is opened.
#[derive(Clone, Debug)]
pub enum Access {
    /// With these keys.
    Keys(Credentials),
    /// With what the environment offers: `AWS_*` variables, a web identity, a container's or an instance's role.
    ///
    /// Never use this on an address that a stranger wrote.
    Environment,
    /// Unsigned, for public buckets.
    Anonymous,
}

impl From<Credentials> for Access {
    fn from(credentials: Credentials) -> Self {
        Self::Keys(credentials)
    }
}

impl From<Option<Credentials>> for Access {
    fn from(credentials: Option<Credentials>) -> Self {
        credentials.map_or(Self::Environment, Self::Keys)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn debug_masks() {
        let keys = Credentials::new("AKIAEXAMPLE", "hunter2hunter2", Some("tokentoken".into())).unwrap();
        let shown = format!("{keys:?} {:?}", Access::from(keys.clone()));
        assert!(!shown.contains("hunter2") && !shown.contains("tokentoken") && !shown.contains("EXAMPLE"));
    }

    #[test]
    fn json_round_trip_and_refusals() {
        let keys = Credentials::new("key", "secret", None).unwrap();
        let text = serde_json::to_string(&keys).unwrap();
        assert_eq!(text, r#"{"access_key_id":"key","secret_access_key":"secret"}"#);
        assert_eq!(serde_json::from_str::<Credentials>(&text).unwrap(), keys);
        for bad in [
            r#"{"access_key_id":"","secret_access_key":"s"}"#,
            r#"{"access_key_id":"k","secret_access_key":"s\n"}"#,
            r#"{"access_key_id":"k","secret_access_key":"s","session_token":"a\r\nX-Evil: 1"}"#,
            r#"{"access_key_id":"k","secret_access_key":"s","endpoint":"http://x"}"#,
        ] {
            let error = serde_json::from_str::<Credentials>(bad).unwrap_err().to_string();
            assert!(!error.contains("Evil"), "{error}");
        }
    }
}
