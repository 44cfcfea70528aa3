//! Access keys as settings name them: by reference. What is typed in goes into a file of its own, readable by its owner alone.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::ask::Ask;
use super::quoted;
use crate::config::SecretRef;

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
    /// An access key that it must not be, and why.
    pub(super) not: Option<(&'a str, &'a str)>,
}

impl Keys {
    /// From what the command line `gave`, or from answers, of which `secrets` keeps what is no reference.
    ///
    /// # Errors
    /// When a secret is given on the command line, where everybody on the machine sees it.
    pub(super) fn find(
        which: &Which<'_>,
        gave: &[Option<String>; 2],
        ask: &mut dyn Ask,
        secrets: &mut Secrets,
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
        let [id_variable, secret_variable] = which.variables;
        let check = |answer: &str| match which.not {
            Some((not, why)) if secrets.meant(answer) == not => Err(why.to_owned()),
            _ => Ok(()),
        };
        let id = match &gave[0] {
            Some(id) => {
                check(id).map_err(|why| anyhow::anyhow!("{}: {why}", options[0]))?;
                id.clone()
            }
            None => {
                let (default, question) =
                    (secrets.usual(id_variable), format!("access key for {}", which.of));
                ask.text_that(&options[0], &question, Some(&default), &check)?
            }
        };
        let secret = match &gave[1] {
            Some(secret) => secret.clone(),
            None => {
                ask.secret(&options[1], &format!("its secret (empty: {})", secrets.usual(secret_variable)))?
            }
        };
        let id = secrets.keep(&id, id_variable);
        Ok(Self::Pair { id, secret: secrets.keep(&secret, secret_variable) })
    }

    /// The access key; where it cannot be had yet, the reference to it.
    pub(super) fn id(&self, secrets: &Secrets) -> String {
        match self {
            Self::Environment => secrets.meant("env:AWS_ACCESS_KEY_ID"),
            Self::Pair { id, .. } => secrets.meant(id),
        }
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

/// What was typed and is to lie in a file of its own. Nothing is written before everything was answered: who gives up half-way leaves
/// nothing behind.
#[derive(Debug)]
pub(super) struct Secrets {
    folder: PathBuf,
    typed: Vec<(String, String)>,
}

impl Secrets {
    /// Those beside settings in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), typed: Vec::new() }
    }

    /// Where a secret is when nobody says it: in a file that was written before, else in the environment.
    fn usual(&self, variable: &str) -> String {
        let name = variable.to_lowercase();
        match self.folder.join(SECRETS).join(&name).exists() {
            true => format!("file:{SECRETS}/{name}"),
            false => format!("env:{variable}"),
        }
    }

    /// What an answer stands for, where that is there already; else itself.
    fn meant(&self, answer: &str) -> String {
        let typed = |(name, _): &&(String, String)| answer == format!("file:{SECRETS}/{name}");
        let text = match self.typed.iter().find(typed) {
            Some((_, text)) => Some(text.clone()),
            None => {
                let reference = answer.parse::<SecretRef>().ok();
                reference.and_then(|reference| reference.resolve("", &self.folder).ok())
            }
        };
        text.unwrap_or_else(|| answer.to_owned())
    }

    /// A reference to `answer`, which is to be written into a file of its own unless it is one.
    fn keep(&mut self, answer: &str, variable: &str) -> String {
        if answer.is_empty() {
            return self.usual(variable);
        }
        if is_reference(answer) {
            return answer.to_owned();
        }
        let name = variable.to_lowercase();
        let reference = format!("file:{SECRETS}/{name}");
        self.typed.push((name, answer.to_owned()));
        reference
    }

    /// Writes them, for their owner alone.
    ///
    /// # Errors
    /// When a file cannot be written, or holds another secret already.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let secrets = self.folder.join(SECRETS);
        let files: Vec<(PathBuf, String)> =
            self.typed.iter().map(|(name, secret)| (secrets.join(name), format!("{secret}\n"))).collect();
        let is_there = |(path, text): &&(PathBuf, String)| path.exists() && !holds(path, text);
        if let Some((path, _)) = files.iter().find(is_there) {
            anyhow::bail!(
                "{} holds another secret already; remove it, or give the new one as file:PATH",
                path.display()
            );
        }
        if !files.is_empty() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets)?;
        }
        for (path, text) in files.iter().filter(|(path, _)| !path.exists()) {
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let mut file = file.with_context(|| format!("cannot keep a secret in {}", path.display()))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|held| held == text)
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
        not: None,
    };

    struct Typed(Vec<&'static str>);

    impl Ask for Typed {
        fn text(&mut self, _: &str, _: &str, _: Option<&str>) -> anyhow::Result<String> {
            Ok(self.0.remove(0).to_owned())
        }

        fn secret(&mut self, _: &str, _: &str) -> anyhow::Result<String> {
            Ok(self.0.remove(0).to_owned())
        }

        fn choice(&mut self, _: &str, _: &str, _: &[&str], _: Option<&str>) -> anyhow::Result<String> {
            unreachable!("there is nothing to choose")
        }
    }

    fn typed(folder: &Path, id: &'static str, secret: &'static str) -> (Keys, Secrets) {
        let mut secrets = Secrets::new(folder);
        let keys = Keys::find(&WHICH, &[None, None], &mut Typed(vec![id, secret]), &mut secrets).unwrap();
        (keys, secrets)
    }

    #[test]
    fn what_is_typed_is_kept_where_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, secrets) = typed(folder.path(), "MARKED-ID", "MARKED-SECRET");
        assert!(!keys.lines().contains("MARKED"), "{}", keys.lines());
        assert!(!folder.path().join("secrets").exists(), "before all is answered");
        secrets.write().unwrap();
        let path = folder.path().join("secrets/run_secret");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "MARKED-SECRET\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keys.lines().contains("secret_access_key = \"file:secrets/run_secret\""), "{}", keys.lines());
        // Once more with the same is fine; with another it is not lost without a word.
        secrets.write().unwrap();
        let error = typed(folder.path(), "MARKED-ID", "MARKED-OTHER").1.write().unwrap_err().to_string();
        assert!(
            error.contains("run_secret") && error.contains("remove it") && !error.contains("MARKED"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "MARKED-SECRET\n");
        // Whoever comes to the same folder need not say it again.
        let keys = Keys::find(&WHICH, &[None, None], &mut Silent, &mut Secrets::new(folder.path())).unwrap();
        assert_eq!(keys.unset(), Vec::<String>::new());
    }

    #[test]
    fn references_stay_and_without_an_answer_variables_are_expected() {
        let folder = tempfile::tempdir().unwrap();
        let mut secrets = Secrets::new(folder.path());
        let given = ["env:HOME", "file:/run/secret"].map(|text| Some(text.to_owned()));
        let keys = Keys::find(&WHICH, &given, &mut Silent, &mut secrets).unwrap();
        assert_eq!(keys, Keys::Pair { id: "env:HOME".into(), secret: "file:/run/secret".into() });
        assert_eq!(keys.unset(), Vec::<String>::new());
        let keys = Keys::find(&WHICH, &[None, None], &mut Silent, &mut secrets).unwrap();
        assert_eq!(keys.unset(), ["RUN_KEY_ID", "RUN_SECRET"]);
        secrets.write().unwrap();
        assert!(!folder.path().join("secrets").exists());
    }

    #[test]
    fn the_key_that_writes_is_none_for_readers() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("id"), "WRITER\n").unwrap();
        let (writer, secrets) = typed(folder.path(), "WRITER", "MARKED-SECRET");
        let writer = writer.id(&secrets);
        let which = Which { option: "--reader", not: Some((&writer, "it writes")), ..WHICH };
        let find = |gave: Option<&str>, answer| {
            let mut secrets = Secrets { folder: secrets.folder.clone(), typed: secrets.typed.clone() };
            let gave = [gave.map(str::to_owned), None];
            Keys::find(&which, &gave, &mut Typed(vec![answer, "secret"]), &mut secrets)
        };
        // As it is typed, by the file that it will be in, and by another.
        for answer in ["WRITER", "file:secrets/run_key_id", "file:id"] {
            let error = find(None, answer).unwrap_err().to_string();
            assert_eq!(error, "--reader-key-id: it writes");
        }
        assert!(find(Some("file:id"), "").is_err() && find(Some("env:BRIGADE_TEST_UNSET"), "").is_ok());
        assert!(find(None, "READER").is_ok());
        // What is not there yet is known by its name.
        let unset = || Some("env:BRIGADE_TEST_UNSET".to_owned());
        let keys = Keys::Pair { id: unset().unwrap(), secret: String::new() };
        let id = keys.id(&secrets);
        let which = Which { option: "--reader", not: Some((&id, "it writes")), ..WHICH };
        let mut empty = Secrets::new(folder.path());
        assert!(Keys::find(&which, &[unset(), unset()], &mut Silent, &mut empty).is_err());
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
        let given = ["env:ID", "MARKED-SECRET"].map(|text| Some(text.to_owned()));
        let error = Keys::find(&WHICH, &given, &mut Silent, &mut Secrets::new(Path::new("")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--run-secret") && !error.contains("MARKED"), "{error}");
    }
}
