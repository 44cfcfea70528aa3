//! Access keys as settings name them: by reference. What is typed in goes into a file of its own, readable by its owner alone.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;

use super::ask::Ask;
use super::quoted;

/// Folder of the secrets, beside the settings.
const SECRETS: &str = "secrets";

/// An access key and its secret, each `env:NAME` or `file:PATH`; or what the AWS environment offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Whatever the AWS environment offers: nothing is written.
    Environment,
    /// References.
    Pair {
        /// Of the access key.
        id: String,
        /// Of its secret.
        secret: String,
    },
}

/// Which keys are asked for.
pub(super) struct Which<'a> {
    /// For a person: `the run's bucket`.
    pub(super) of: &'a str,
    /// What options begin with: `--run` of `--run-key-id` and `--run-secret`.
    pub(super) option: &'a str,
    /// Variables that are expected when nobody says where the keys are.
    pub(super) variables: [&'a str; 2],
    /// Whether the AWS environment may stand for them.
    pub(super) may_be_environment: bool,
}

impl Keys {
    /// From what the command line `gave`, or from answers; `folder` is where settings and secrets lie.
    ///
    /// # Errors
    /// When a secret is given on the command line, where everybody on the machine sees it, or cannot be kept.
    pub(super) fn find(
        which: &Which<'_>,
        gave: &[Option<String>; 2],
        ask: &mut dyn Ask,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let options = [format!("{}-key-id", which.option), format!("{}-secret", which.option)];
        for (option, given) in options.iter().zip(gave) {
            if let Some(text) = given.as_deref().filter(|text| !is_reference(text)) {
                anyhow::ensure!(
                    text.is_empty(),
                    "{option}: give env:NAME or file:PATH; everybody on this machine can read a command line"
                );
            }
        }
        let has_environment = std::env::var_os("AWS_ACCESS_KEY_ID").is_some();
        if which.may_be_environment && *gave == [None, None] && has_environment {
            return Ok(Self::Environment);
        }
        let mut found = Vec::new();
        for ((option, given), (what, variable)) in options
            .iter()
            .zip(gave)
            .zip(["access key id", "secret access key"].into_iter().zip(which.variables))
        {
            let answer = match given {
                Some(given) => given.clone(),
                None => {
                    let question =
                        format!("{what} of {} (or env:NAME, file:PATH; empty: env:{variable})", which.of);
                    ask.secret(option, &question)?
                }
            };
            found.push(keep(&answer, variable, folder)?);
        }
        let secret = found.pop().context("two were asked for")?;
        let id = found.pop().context("two were asked for")?;
        Ok(Self::Pair { id, secret })
    }

    /// Lines of a settings file.
    pub(super) fn lines(&self) -> String {
        match self {
            Self::Environment => {
                "# access_key_id, secret_access_key: those of the AWS environment\n".to_owned()
            }
            Self::Pair { id, secret } => {
                format!("access_key_id = {}\nsecret_access_key = {}\n", quoted(id), quoted(secret))
            }
        }
    }

    /// Variables that it refers to and that are not set.
    pub(super) fn unset(&self) -> Vec<String> {
        let Self::Pair { id, secret } = self else { return Vec::new() };
        let names = [id, secret].into_iter().filter_map(|text| text.strip_prefix("env:"));
        names.filter(|name| std::env::var_os(name).is_none()).map(str::to_owned).collect()
    }
}

fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}

/// A reference to `answer`, which is written into a file of its own unless it is one.
fn keep(answer: &str, variable: &str, folder: &Path) -> anyhow::Result<String> {
    if answer.is_empty() {
        return Ok(format!("env:{variable}"));
    }
    if is_reference(answer) {
        return Ok(answer.to_owned());
    }
    let (secrets, name) = (folder.join(SECRETS), variable.to_lowercase());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets)?;
    let path = secrets.join(&name);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.with_context(|| format!("cannot keep a secret in {}", path.display()))?;
    writeln!(file, "{answer}")?;
    Ok(format!("file:{SECRETS}/{name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::super::ask::Silent;
    use super::*;

    const WHICH: Which<'_> = Which {
        of: "the run's bucket",
        option: "--run",
        variables: ["RUN_KEY_ID", "RUN_SECRET"],
        may_be_environment: false,
    };

    struct Typed(Vec<&'static str>);

    impl Ask for Typed {
        fn text(&mut self, _: &str, _: &str, _: Option<&str>) -> anyhow::Result<String> {
            unreachable!("keys are secrets")
        }

        fn secret(&mut self, _: &str, _: &str) -> anyhow::Result<String> {
            Ok(self.0.remove(0).to_owned())
        }

        fn choice(&mut self, _: &str, _: &str, _: &[&str], _: Option<&str>) -> anyhow::Result<String> {
            unreachable!("keys are secrets")
        }
    }

    #[test]
    fn what_is_typed_is_kept_where_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys =
            Keys::find(&WHICH, &[None, None], &mut Typed(vec!["MARKED-ID", "MARKED-SECRET"]), folder.path());
        let keys = keys.unwrap();
        assert!(!keys.lines().contains("MARKED"), "{}", keys.lines());
        let path = folder.path().join("secrets/run_secret");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "MARKED-SECRET\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keys.lines().contains("secret_access_key = \"file:secrets/run_secret\""), "{}", keys.lines());
    }

    #[test]
    fn references_stay_and_without_an_answer_variables_are_expected() {
        let folder = tempfile::tempdir().unwrap();
        let given = ["env:HOME", "file:/run/secret"].map(|text| Some(text.to_owned()));
        let keys = Keys::find(&WHICH, &given, &mut Silent, folder.path()).unwrap();
        assert_eq!(keys, Keys::Pair { id: "env:HOME".into(), secret: "file:/run/secret".into() });
        assert_eq!(keys.unset(), Vec::<String>::new());
        let keys = Keys::find(&WHICH, &[None, None], &mut Silent, folder.path()).unwrap();
        assert_eq!(keys.unset(), ["RUN_KEY_ID", "RUN_SECRET"]);
        assert!(!folder.path().join("secrets").exists());
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let given = ["env:ID", "MARKED-SECRET"].map(|text| Some(text.to_owned()));
        let error = Keys::find(&WHICH, &given, &mut Silent, folder.path()).unwrap_err().to_string();
        assert!(error.contains("--run-secret") && !error.contains("MARKED"), "{error}");
    }
}
