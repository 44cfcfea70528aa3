//! Secrets by reference: `env:NAME`, `file:PATH`, or, where nothing better is at hand, the text itself.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::ConfigError;

/// A secret as a configuration file spells it. Shows itself to nobody.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretRef(String);

impl std::str::FromStr for SecretRef {
    type Err = String;

    /// From a command line, where secrets themselves are refused: other processes can read it.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("env:") || text.starts_with("file:") {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be env:NAME or file:PATH: whatever stands on a command line can be read by others"
                .into())
        }
    }
}

impl SecretRef {
    /// The value of an environment variable.
    pub fn env(name: &str) -> Self {
        Self(format!("env:{name}"))
    }

    /// The secret itself. `field` names the setting in errors; relative `file:` paths start at `folder`.
    ///
    /// # Errors
    /// [`ConfigError::Secret`] names the setting, and the variable or file that is missing.
    pub fn resolve(&self, field: &str, folder: &Path) -> Result<String, ConfigError> {
        let failed = |reason: String| ConfigError::Secret { field: field.to_owned(), reason };
        let text = if let Some(name) = self.0.strip_prefix("env:") {
            std::env::var(name)
                .map_err(|_| failed(format!("the variable {name} is not set; export it, or name another")))?
        } else if let Some(path) = self.file(folder) {
            std::fs::read_to_string(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?
        } else {
            self.0.clone()
        };
        let text = text.trim().to_owned();
        if text.is_empty() { Err(failed("is empty".into())) } else { Ok(text) }
    }
}

impl SecretRef {
    /// The file that it is in, if it is in one; relative paths start at `folder`.
    pub fn file(&self, folder: &Path) -> Option<PathBuf> {
        self.0.strip_prefix("file:").map(|path| folder.join(path))
    }

    /// A reference is no secret and helps to find a mistake; anything else may be one.
    fn masked(&self) -> &str {
        let is_reference = self.0.starts_with("env:") || self.0.starts_with("file:");
        if is_reference { &self.0 } else { "***" }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.masked())
    }
}

/// Masked: what is printed or written again never holds a secret.
impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_followed_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "hush\n").unwrap();
        let resolve = |text: &str| SecretRef(text.into()).resolve("bucket.secret_access_key", folder.path());
        assert_eq!(resolve("file:key").unwrap(), "hush");
        assert_eq!(resolve("plain").unwrap(), "plain");
        let error = resolve("env:BRIGADE_NO_SUCH_VARIABLE").unwrap_err().to_string();
        assert!(error.contains("bucket.secret_access_key") && error.contains("BRIGADE_NO_SUCH_VARIABLE"));
        assert!(resolve("file:missing").unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn debug_masks() {
        assert_eq!(format!("{:?}", SecretRef("hush".into())), "***");
        assert_eq!(format!("{:?}", SecretRef("env:NAME".into())), "env:NAME");
        assert_eq!(serde_json::to_value(SecretRef("hush".into())).unwrap(), "***");
    }
}
