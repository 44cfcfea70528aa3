//! `BRIGADE_…` variables: settings of the environment, which take the place of the file's.

use toml::{Table, Value};

use super::ConfigError;

/// What every such variable begins with.
const PREFIX: &str = "BRIGADE_";

/// Variables of the tests, which are no settings.
const TESTS: &str = "BRIGADE_TEST_";

/// Variables of the build, which may still be set where the program runs.
const BUILD: [&str; 5] =
    ["BRIGADE_BUILT_COMMIT", "BRIGADE_BUILT_TARGET", "BRIGADE_CACHE", "BRIGADE_COMMIT", "BRIGADE_TF_MIRROR"];

/// A setting of the environment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Override {
    /// The variable.
    pub(super) variable: String,
    /// The setting, section by section.
    pub(super) path: Vec<String>,
    value: Value,
}

impl Override {
    /// The setting as one writes it: `run.endpoint`.
    pub(super) fn setting(&self) -> String {
        self.path.join(".")
    }
}

/// The settings among `variables`, by name: `BRIGADE_RUN__ENDPOINT` is `run.endpoint`, each two underscores a section. A value that is
/// a number, a truth value, a list or a quoted text in TOML is that; any other is text.
pub(super) fn among(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Override> {
    let setting = |(variable, text): (String, String)| {
        let is_setting = !variable.starts_with(TESTS) && !BUILD.contains(&variable.as_str());
        let name = variable.strip_prefix(PREFIX).filter(|_| is_setting)?;
        let path = name.to_lowercase().split("__").map(str::to_owned).collect();
        let value = toml::from_str::<Table>(&format!("v = {text}")).ok().filter(|table| table.len() == 1);
        let value = value.and_then(|mut table| table.remove("v")).unwrap_or(Value::String(text));
        Some(Override { variable, path, value })
    };
    let mut found: Vec<Override> = variables.into_iter().filter_map(setting).collect();
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    found
}

/// Puts `overrides` into `settings`, making sections that are not there.
///
/// # Errors
/// [`ConfigError::Invalid`] names a variable that goes through what is no section.
pub(super) fn apply(settings: &mut Table, overrides: &[Override]) -> Result<(), ConfigError> {
    for Override { variable, path, value } in overrides {
        let mut section = &mut *settings;
        for name in &path[..path.len() - 1] {
            let inner = section.entry(name).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else {
                let reason = format!("`{name}` is a setting, not a section");
                return Err(ConfigError::Invalid { field: variable.clone(), reason });
            };
            section = inner;
        }
        section.insert(path[path.len() - 1].clone(), value.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn with(file: &str, variables: &[(&str, &str)]) -> Result<Table, ConfigError> {
        let mut settings = toml::from_str(file).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        apply(&mut settings, &among(variables))?;
        Ok(settings)
    }

    #[test]
    fn a_variable_takes_the_place_of_a_setting_or_makes_it() {
        let found = with(
            "poll_milliseconds = 1000\n[run]\nbucket = \"a\"\n",
            &[
                ("BRIGADE_RUN__BUCKET", "b"),
                ("BRIGADE_POLL_MILLISECONDS", "5"),
                ("BRIGADE_COMPUTE__OFFLOAD", "true"),
                ("BRIGADE_BUCKET__BUCKET", "\"123\""),
                ("BRIGADE_BUCKET__READER__ACCESS_KEY_ID", "env:KEY"),
                ("BRIGADE_TEST_PYTHON", "python3"),
                ("BRIGADE_CACHE", "/cache"),
                ("HOME", "/"),
            ],
        );
        let expected = "poll_milliseconds = 5\n[run]\nbucket = \"b\"\n[compute]\noffload = true\n[bucket]\nbucket = \"123\"\n\
                        [bucket.reader]\naccess_key_id = \"env:KEY\"\n";
        assert_eq!(found.unwrap(), toml::from_str(expected).unwrap());
    }

    #[test]
    fn text_that_only_looks_like_toml_is_text() {
        for text in ["a # b", "https://host:9000", "", "x = 1", "1\ny = 2", "'"] {
            let found = with("", &[("BRIGADE_STATE", text)]).unwrap();
            assert_eq!(found["state"].as_str(), Some(text));
        }
    }

    #[test]
    fn a_setting_has_no_sections() {
        let error = with("state = \"s\"", &[("BRIGADE_STATE__DIR", "x")]).unwrap_err().to_string();
        assert!(error.contains("BRIGADE_STATE__DIR") && error.contains("`state`"), "{error}");
    }
}
