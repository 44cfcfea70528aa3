//! A folder for a miner, a validator or an aggregator: settings with comments, identity, secrets.

use std::fmt::Write as _;
use std::path::Path;

use brigade_bucket::{BucketAddress, Dialect, names_private_host};

use super::address::Known;
use super::ask::Ask;
use super::dialect::Recognise;
use super::keys::{Keys, Secrets, Which};
use super::{Made, create, expect_none, identity, quoted};
use crate::config::Role;
use crate::run::url::RunUrl;
use crate::spelling::word;

/// What is known of a participant's own bucket; what is not is asked.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Its name.
    pub bucket: Option<String>,
    /// Its store; Amazon's when empty.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Key prefix.
    pub prefix: Option<String>,
    /// Which S3 its store speaks.
    pub dialect: Option<Dialect>,
    /// References to the key that writes.
    pub keys: [Option<String>; 2],
    /// References to the key that only reads.
    pub reader: [Option<String>; 2],
}

/// What is known of a participant; what is not is asked.
#[derive(Clone, Debug)]
pub struct Participant {
    /// What it is.
    pub role: Role,
    /// The run.
    pub run: Option<RunUrl>,
    /// References to its key to the run's bucket.
    pub run_keys: [Option<String>; 2],
    /// Its own bucket; an aggregator has none.
    pub own: Own,
    /// Follow peers to private addresses.
    pub allow_private_endpoints: bool,
    /// How a store is asked which S3 it speaks.
    pub recognise: Recognise,
}

impl Participant {
    /// Asks for what is missing, and writes settings, identity and secrets into `folder`.
    ///
    /// # Errors
    /// When there are no answers, one is no setting, or a file is there already.
    pub fn make(&self, folder: &Path, ask: &mut dyn Ask) -> anyhow::Result<Made> {
        let name = self.role.name();
        let settings = folder.join(format!("{name}.toml"));
        expect_none(&settings)?;
        let run = match &self.run {
            Some(run) => run.clone(),
            None => {
                let check = |text: &str| text.parse::<RunUrl>().map(drop).map_err(|error| error.to_string());
                ask.text_that("--run", "the run's URL, from its operator", None, &check)?.parse()?
            }
        };
        let mut secrets = Secrets::new(folder);
        let which = Which {
            of: "the run's bucket",
            option: "--run",
            variables: ["RUN_KEY_ID", "RUN_SECRET"],
            may_be_environment: self.role == Role::Aggregator,
            not: None,
        };
        let run_keys = Keys::find(&which, &self.run_keys, ask, &mut secrets)?;
        let own = match self.role {
            Role::Aggregator => None,
            _ => Some(self.own.find(&run, self.recognise, ask, &mut secrets)?),
        };
        std::fs::create_dir_all(folder)?;
        secrets.write()?;
        let identity = identity(&folder.join("identity.json"))?;
        let mut variables = run_keys.unset();
        variables.extend(own.iter().flat_map(|own| own.keys.unset().into_iter().chain(own.reader.unset())));
        create(&settings, &self.text(&run, &run_keys, own.as_ref()))?;
        Ok(Made { settings, identity, variables, vocabulary: None })
    }

    fn text(&self, run: &RunUrl, run_keys: &Keys, own: Option<&OwnBucket>) -> String {
        let name = self.role.name();
        let mut text = format!(
            "# Brigade: the settings of {}. Every key is in docs/configuration.md; BRIGADE_… variables take their place.\n\
             # `brigade {name} --config {name}.toml --print-config` shows what takes effect.\n\n\
             role = \"{name}\"\n\
             identity = \"identity.json\"      # who this {name} is; keep it, and to yourself\n\
             state = \"state\"                 # what survives a restart, and caches; keep it\n\
             run_id = \"{}\"\n",
            self.role, run.id
        );
        // Whoever meets at a private address is private, too.
        if self.allow_private_endpoints || names_private_host(&run.bucket) {
            text += "# Follow peers to buckets on loopback and private addresses: only within one machine or network.\n\
                     allow_private_endpoints = true\n";
        }
        text += "\n# The run's bucket, with your key there, from the operator.\n[run]\n";
        text += &bucket_lines(&run.bucket, run_keys);
        if let Some(OwnBucket { address, keys, reader }) = own {
            text += "\n# Your own bucket, with a key that writes.\n[bucket]\n";
            text += &bucket_lines(address, keys);
            text += "\n# A key that reads [bucket] and nothing else: sealed to the aggregator and the validators.\n[bucket.reader]\n";
            text += &reader.lines();
            text += "\n# [compute]\n# device = \"auto\"               # or cpu, cuda:0, …\n\
                     # threads = 8                   # all cores when left out\n\
                     # micro_batch = 1               # fewer sequences at once need less memory\n";
        }
        text
    }
}

/// A participant's own bucket.
struct OwnBucket {
    address: BucketAddress,
    keys: Keys,
    reader: Keys,
}

impl Own {
    fn find(
        &self,
        run: &RunUrl,
        recognise: Recognise,
        ask: &mut dyn Ask,
        secrets: &mut Secrets,
    ) -> anyhow::Result<OwnBucket> {
        let known = Known {
            question: "your own bucket's name",
            bucket: self.bucket.as_deref(),
            endpoint: self.endpoint.as_deref(),
            region: self.region.as_deref(),
            prefix: self.prefix.as_deref().unwrap_or_default(),
            dialect: self.dialect,
            beside: Some(&run.bucket),
        };
        let address = known.find(recognise, ask)?;
        let which = Which {
            of: "your bucket",
            option: "--bucket",
            variables: ["MY_KEY_ID", "MY_SECRET"],
            may_be_environment: true,
            not: None,
        };
        let keys = Keys::find(&which, &self.keys, ask, secrets)?;
        let writer = keys.id(secrets);
        let why = "this key writes your bucket, and all who read it get the one that you name here: make one that only reads";
        let which = Which {
            of: "others to read your bucket",
            option: "--reader",
            variables: ["READER_KEY_ID", "READER_SECRET"],
            may_be_environment: false,
            not: Some((&writer, why)),
        };
        let reader = Keys::find(&which, &self.reader, ask, secrets)?;
        Ok(OwnBucket { address, keys, reader })
    }
}

/// Lines of a bucket's section.
pub(super) fn bucket_lines(address: &BucketAddress, keys: &Keys) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "dialect = {}", quoted(&word(&address.dialect)));
    if let Some(endpoint) = &address.endpoint {
        let _ = writeln!(text, "endpoint = {}", quoted(endpoint));
    }
    let _ = writeln!(text, "region = {}\nbucket = {}", quoted(&address.region), quoted(&address.bucket));
    if !address.prefix.is_empty() {
        let _ = writeln!(text, "prefix = {}", quoted(&address.prefix));
    }
    text + &keys.lines()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::ask::Silent;
    use super::*;
    use crate::config;

    const URL: &str = "s3://a-run?endpoint=http://127.0.0.1:9000&dialect=embedded#0101010101010101010101010101010101010101010101010101010101010101";

    fn miner() -> Participant {
        let keys = || [Some("env:HOME".to_owned()), Some("env:HOME".to_owned())];
        let reader = || [Some("env:CARGO_PKG_NAME".to_owned()), Some("env:CARGO_PKG_NAME".to_owned())];
        Participant {
            role: Role::Miner,
            run: Some(URL.parse().unwrap()),
            run_keys: keys(),
            own: Own { bucket: Some("mine".into()), keys: keys(), reader: reader(), ..Own::default() },
            allow_private_endpoints: true,
            recognise: |_| Ok(None),
        }
    }

    #[test]
    fn what_is_written_is_read_by_the_role() {
        let folder = tempfile::tempdir().unwrap();
        let made = miner().make(&folder.path().join("deep/er"), &mut Silent).unwrap();
        assert_eq!(made.variables, Vec::<String>::new());
        let settings = config::Participant::read(&made.settings).unwrap();
        assert_eq!(settings.run.address("run").unwrap(), URL.parse::<RunUrl>().unwrap().bucket);
        let own = settings.own().unwrap().address("bucket").unwrap();
        // Where nothing else is said, it lies in the same store.
        assert_eq!((own.bucket.as_str(), own.dialect), ("mine", Dialect::Embedded));
        assert!(settings.open_own().is_ok() && settings.reader().is_ok() && settings.allow_private_endpoints);
        assert_eq!(crate::identity::Identity::load(&settings.identity).unwrap().id(), made.identity.id());
        let error = miner().make(&folder.path().join("deep/er"), &mut Silent).unwrap_err().to_string();
        assert!(error.contains("miner.toml") && error.contains("--dir"), "{error}");
    }

    #[test]
    fn what_nobody_answers_is_named_by_its_option() {
        let folder = tempfile::tempdir().unwrap();
        let error = |participant: Participant| {
            participant.make(&folder.path().join("new"), &mut Silent).unwrap_err().to_string()
        };
        assert!(error(Participant { run: None, ..miner() }).contains("--run"));
        assert!(
            error(Participant { own: Own { bucket: None, ..miner().own }, ..miner() }).contains("--bucket")
        );
    }
}
