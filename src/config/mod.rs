//! Configuration files (TOML): one kind for participants, one for the operator who creates a run.

mod blame;
mod overrides;
mod participant;
mod role;
mod run;
mod secret;

pub use blame::{blame, explain};
pub use participant::{BucketSection, Compute, KeyPair, Participant, Recompute, hasty};
pub use role::Role;
pub use run::{ModelSection, RunSettings, ValidatorEntry};
pub use secret::SecretRef;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// What can be wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no valid TOML, or a setting is unknown or of the wrong kind.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A setting is missing.
    #[error("{}: {field} is missing; {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The setting, with its section.
        field: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A secret cannot be found.
    #[error("{field}: {reason}")]
    Secret {
        /// The setting.
        field: String,
        /// Why.
        reason: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{field}: {reason}")]
    Invalid {
        /// The setting.
        field: String,
        /// Why.
        reason: String,
    },
}

/// Reads a TOML file, refusing settings that nobody knows.
///
/// # Errors
/// [`ConfigError::Read`] or [`ConfigError::Parse`], with line and, for a misspelt key, the nearest match.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let here = text.lines().nth(line - 1).map(str::trim);
        // The key or the section. What else stands in a line may be a secret.
        let key = here.and_then(|here| match here.starts_with('[') {
            true => Some(here),
            false => here.split_once('=').map(|(key, _)| key.trim()),
        });
        let mut message = with_nearest(error.message());
        if let Some(key) = key.filter(|key| !message.contains(*key)) {
            message = format!("{key}: {message}");
        }
        ConfigError::Parse { path: path.into(), line, message }
    })
}

/// The same with settings of the environment in the place of the file's. Returns which they were, as `run.endpoint` by variable.
///
/// # Errors
/// As [`read`]; [`ConfigError::Invalid`] names the variables when it is one of those.
fn read_with<T: DeserializeOwned>(
    path: &Path,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(T, Vec<(String, String)>), ConfigError> {
    let overrides = overrides::among(variables);
    if overrides.is_empty() {
        return Ok((read(path)?, Vec::new()));
    }
    let mut settings: toml::Table = read(path)?;
    overrides::apply(&mut settings, &overrides)?;
    let names: Vec<&str> = overrides.iter().map(|found| found.variable.as_str()).collect();
    let invalid = |error: toml::de::Error| ConfigError::Invalid {
        field: format!("{} with {} of the environment", path.display(), names.join(", ")),
        reason: with_nearest(error.to_string().trim()),
    };
    let settings = T::deserialize(settings).map_err(invalid)?;
    Ok((settings, overrides.into_iter().map(|found| (found.setting(), found.variable)).collect()))
}

/// Adds the nearest match to serde's message on an unknown field.
fn with_nearest(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let nearest = message
        .starts_with("unknown field")
        .then(|| {
            let unknown = quoted.next()?;
            quoted.min_by_key(|known| strsim::damerau_levenshtein(unknown, known))
        })
        .flatten();
    match nearest {
        Some(known) => {
            format!("{}; did you mean `{known}`?", message.split(", expected").next().unwrap_or(&message))
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_gets_its_line_and_the_nearest_match() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code)]
        struct Settings {
            identity: String,
            bucket: Option<String>,
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("miner.toml");
        std::fs::write(&path, "identity = \"a\"\nbukcet = \"b\"\n").unwrap();
        let error = read::<Settings>(&path).unwrap_err().to_string();
        assert!(error.contains("miner.toml:2: unknown field `bukcet`; did you mean `bucket`?"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}
