//! The file behind `--config` of a miner, a validator or an aggregator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brigade_bucket::admin::Admin;
use brigade_bucket::{Access, Bucket, BucketAddress, BucketOptions, Credentials, Dialect};
use brigade_protocol::Digest;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Role, SecretRef};

/// A participant's settings. Paths are relative to the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    /// What the participant is. Without it everything goes that the other settings allow.
    #[serde(default)]
    pub role: Option<Role>,
    /// Identity file, as `brigade identity new` makes it.
    pub identity: PathBuf,
    /// Folder for what must survive a restart, and for caches.
    pub state: PathBuf,
    /// The run's id: the SHA-256 of its manifest. Whoever holds it need not trust the bucket.
    pub run_id: Digest,
    /// The run's bucket. A miner's key there reads everything and creates objects under `lobby/`.
    pub run: BucketSection,
    /// The participant's own bucket; an aggregator has none.
    #[serde(default)]
    pub bucket: Option<BucketSection>,
    /// What to train on.
    #[serde(default)]
    pub compute: Compute,
    /// Follow peers to buckets on loopback and private addresses. Only for runs within one machine or network: it
    /// lets a stranger aim this process at it.
    #[serde(default)]
    pub allow_private_endpoints: bool,
    /// Where `GET /metrics` is answered, for Prometheus: `127.0.0.1:9464`. Nowhere when absent.
    #[serde(default)]
    pub metrics: Option<std::net::SocketAddr>,
    /// Milliseconds between looks at the object that is waited for.
    #[serde(default = "default_poll")]
    pub poll_milliseconds: u64,
    /// Where the settings were read from.
    #[serde(skip)]
    path: PathBuf,
    /// Which of them the environment has: setting and variable.
    #[serde(skip)]
    from_environment: Vec<(String, String)>,
}

fn default_poll() -> u64 {
    1000
}

/// A bucket and the keys to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSection {
    /// `https://host[:port]`; leave out for Amazon S3.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region, as the store's signatures need it.
    #[serde(default = "default_region")]
    pub region: String,
    /// Bucket name.
    pub bucket: String,
    /// Key prefix.
    #[serde(default)]
    pub prefix: String,
    /// Which S3 the server speaks: aws, r2, ceph, minio or embedded.
    pub dialect: Dialect,
    /// Access key; without one, whatever the AWS environment offers.
    #[serde(default)]
    pub access_key_id: Option<SecretRef>,
    /// Secret key.
    #[serde(default)]
    pub secret_access_key: Option<SecretRef>,
    /// A read-only key to this bucket, sealed to the aggregator and the validators on joining.
    #[serde(default)]
    pub reader: Option<KeyPair>,
}

fn default_region() -> String {
    "us-east-1".into()
}

/// An access key and its secret.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// Access key.
    pub access_key_id: SecretRef,
    /// Secret key.
    pub secret_access_key: SecretRef,
}

/// What to train on.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compute {
    /// `auto`, `cpu`, or `cuda:N`.
    pub device: Option<String>,
    /// `auto`, `float32` or `bfloat16`.
    pub dtype: Option<String>,
    /// CPU threads; all cores when absent.
    pub threads: Option<usize>,
    /// Processes that a miner spreads its model over, each with a GPU of its own, from `device` on (on the CPU, with its part
    /// of the threads). One when absent. The run's batch must be a multiple of it.
    pub ranks: Option<usize>,
    /// Sequences that go through the model at once; the whole batch, or a rank's share of it, when absent.
    pub micro_batch: Option<usize>,
    /// Which blocks keep only their input and are run again in their backward pass; none when absent.
    pub recompute: Option<Recompute>,
    /// Whether the optimiser's moments lie in the host's memory between steps; on the device when absent.
    pub offload: Option<bool>,
    /// How `ranks` exchange tensors on GPUs: `host`, also when absent, or `nccl`.
    pub exchange: Option<String>,
}

/// Which blocks are run again: `"none"`, `"all"`, or a number n for every n-th.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "recompute must be \"none\", \"all\", or a number of at least 1")]
pub enum Recompute {
    /// Every n-th.
    Every(usize),
    /// None or all, by that word.
    Word(String),
}

impl Participant {
    /// Reads the file and makes its paths absolute. `BRIGADE_…` variables take the place of its settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line and the setting, or the variable.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        // What is no text is no setting either.
        let variables = std::env::vars_os();
        Self::read_with(
            path,
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    fn read_with(
        path: &Path,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let (mut settings, from_environment) = super::read_with::<Self>(path, variables)?;
        settings.from_environment = from_environment;
        // A path of one part has an empty parent, which no call of the system takes for this folder.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        settings.identity = folder.join(&settings.identity);
        settings.state = folder.join(&settings.state);
        settings.path = path.to_owned();
        if settings.poll_milliseconds == 0 {
            let field = "poll_milliseconds".into();
            return Err(ConfigError::Invalid { field, reason: "must be at least 1".into() });
        }
        Ok(settings)
    }

    /// The settings as they take effect, as TOML: paths from the file's folder, defaults filled in, secrets masked.
    ///
    /// # Errors
    /// When they cannot be written as TOML.
    pub fn print(&self) -> anyhow::Result<String> {
        let mut text = format!("# {}\n", self.path.display());
        for (setting, variable) in &self.from_environment {
            text += &format!("# {setting} is that of {variable}\n");
        }
        Ok(text + &toml::to_string_pretty(&toml::Table::try_from(self)?)?)
    }

    /// Files that secrets are in.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let sections = [Some(&self.run), self.bucket.as_ref()].into_iter().flatten();
        let of_section = |section: &BucketSection| {
            let reader =
                section.reader.iter().flat_map(|pair| [&pair.access_key_id, &pair.secret_access_key]);
            let own = section.access_key_id.iter().chain(&section.secret_access_key);
            own.chain(reader).filter_map(|secret| secret.file(folder)).collect::<Vec<_>>()
        };
        sections.flat_map(of_section).collect()
    }

    /// Whether these are the settings of `role`, as far as they say so.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] says whose they are.
    pub fn expect_role(&self, role: Role) -> Result<(), ConfigError> {
        match self.role.filter(|said| *said != role) {
            None => Ok(()),
            Some(said) => {
                let (path, name) = (self.path.display(), said.name());
                let reason =
                    format!("{path} has the settings of {said}; `brigade {name} --config {path}` runs it");
                Err(ConfigError::Invalid { field: "role".into(), reason })
            }
        }
    }

    /// The pause between two looks at the object that is waited for.
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_milliseconds)
    }

    /// How strangers' buckets are opened.
    pub fn peer_options(&self) -> BucketOptions {
        BucketOptions { public_only: !self.allow_private_endpoints, ..BucketOptions::default() }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Opens the run's bucket.
    ///
    /// # Errors
    /// When the address or a key cannot be used.
    pub fn open_run(&self) -> anyhow::Result<Bucket> {
        self.open_run_with(BucketOptions::default())
    }

    /// The same, as patiently as `options` say.
    ///
    /// # Errors
    /// As [`open_run`](Self::open_run).
    pub fn open_run_with(&self, options: BucketOptions) -> anyhow::Result<Bucket> {
        self.run.open("run", self.folder(), options)
    }

    /// The participant's own bucket.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] when the file has no `[bucket]`.
    pub fn own(&self) -> Result<&BucketSection, ConfigError> {
        self.bucket.as_ref().ok_or_else(|| ConfigError::Missing {
            path: self.path.clone(),
            field: "[bucket]",
            remedy: "name the bucket that this participant writes to, and its keys",
        })
    }

    /// Opens the participant's own bucket.
    ///
    /// # Errors
    /// When there is none, or the address or a key cannot be used.
    pub fn open_own(&self) -> anyhow::Result<Bucket> {
        self.open_own_with(BucketOptions::default())
    }

    /// The same, as patiently as `options` say.
    ///
    /// # Errors
    /// As [`open_own`](Self::open_own).
    pub fn open_own_with(&self, options: BucketOptions) -> anyhow::Result<Bucket> {
        self.own()?.open("bucket", self.folder(), options)
    }

    /// The key pair of a section, named `name`; nothing when it is the environment's.
    ///
    /// # Errors
    /// When a secret cannot be found.
    pub fn keys_of(&self, section: &BucketSection, name: &str) -> anyhow::Result<Option<Credentials>> {
        match section.access(name, self.folder())? {
            Access::Keys(keys) => Ok(Some(keys)),
            _ => Ok(None),
        }
    }

    /// The owner's view of a section, named `name`, in haste; nothing when its keys are the environment's.
    ///
    /// # Errors
    /// When the address or a secret cannot be used.
    pub fn admin(&self, section: &BucketSection, name: &str) -> anyhow::Result<Option<Admin>> {
        let Some(keys) = self.keys_of(section, name)? else { return Ok(None) };
        Ok(Some(Admin::open(&section.address(name)?, &keys, hasty())?))
    }

    /// Which settings the environment has: setting and variable.
    pub fn from_environment(&self) -> &[(String, String)] {
        &self.from_environment
    }

    /// The key that others read the own bucket with.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] without `[bucket.reader]`, or when a secret cannot be found.
    pub fn reader(&self) -> anyhow::Result<Credentials> {
        let reader = self.own()?.reader.as_ref().ok_or_else(|| ConfigError::Missing {
            path: self.path.clone(),
            field: "[bucket.reader]",
            remedy: "give a read-only key, with which the aggregator and the validators read this bucket",
        })?;
        reader.resolve("bucket.reader", self.folder())
    }
}

impl KeyPair {
    fn resolve(&self, section: &str, folder: &Path) -> anyhow::Result<Credentials> {
        let id = self.access_key_id.resolve(&format!("{section}.access_key_id"), folder)?;
        let secret = self.secret_access_key.resolve(&format!("{section}.secret_access_key"), folder)?;
        Ok(Credentials::new(id, secret, None)?)
    }
}

impl BucketSection {
    /// Where the bucket is.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the setting that is no part of an address.
    pub fn address(&self, section: &str) -> Result<BucketAddress, ConfigError> {
        let address = BucketAddress {
            endpoint: self.endpoint.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
            region: self.region.clone(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            dialect: self.dialect,
        };
        let invalid = |error: brigade_protocol::Error| ConfigError::Invalid {
            field: format!("[{section}]"),
            reason: error.to_string(),
        };
        address.validate().map_err(invalid)?;
        Ok(address)
    }

    /// Opens the bucket. `section` names it in errors; relative `file:` paths start at `folder`.
    ///
    /// # Errors
    /// When the address or a key cannot be used.
    pub fn open(&self, section: &str, folder: &Path, options: BucketOptions) -> anyhow::Result<Bucket> {
        let access = self.access(section, folder)?;
        Ok(Bucket::open(&self.address(section)?, access, options)?)
    }

    fn access(&self, section: &str, folder: &Path) -> anyhow::Result<Access> {
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(secret)) => {
                let pair = KeyPair { access_key_id: id.clone(), secret_access_key: secret.clone() };
                Ok(Access::Keys(pair.resolve(section, folder)?))
            }
            (None, None) => Ok(Access::Environment),
            _ => {
                let field = format!("[{section}]");
                let reason = "access_key_id and secret_access_key go together".into();
                Err(ConfigError::Invalid { field, reason }.into())
            }
        }
    }
}

/// How a bucket is tried that perhaps does not work: who waits for an answer is not to wait as long as a role may.
pub fn hasty() -> BucketOptions {
    BucketOptions {
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(15),
        max_retries: 3,
        retry_timeout: Duration::from_secs(4),
        max_backoff: Duration::from_secs(1),
        ..BucketOptions::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FILE: &str = "identity = \"identity.json\"\nstate = \"state\"\n\
        run_id = \"0101010101010101010101010101010101010101010101010101010101010101\"\n\
        [run]\nbucket = \"run\"\ndialect = \"aws\"\naccess_key_id = \"MARKED-ID\"\nsecret_access_key = \"MARKED-SECRET\"\n";

    fn read(variables: &[(&str, &str)]) -> Result<Participant, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("miner.toml");
        std::fs::write(&path, FILE).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Participant::read_with(&path, variables)
    }

    #[test]
    fn what_takes_effect_is_printed_without_secrets() {
        let settings = read(&[("BRIGADE_RUN__BUCKET", "other"), ("BRIGADE_COMPUTE__THREADS", "3")]).unwrap();
        assert_eq!((settings.run.bucket.as_str(), settings.compute.threads), ("other", Some(3)));
        let text = settings.print().unwrap();
        assert!(!text.contains("MARKED"), "{text}");
        assert!(text.contains("# run.bucket is that of BRIGADE_RUN__BUCKET\n"), "{text}");
        let printed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(printed["run"]["bucket"].as_str(), Some("other"));
        assert_eq!(printed["run"]["region"].as_str(), Some("us-east-1"));
        assert_eq!(printed["poll_milliseconds"].as_integer(), Some(1000));
    }

    #[test]
    fn a_wrong_variable_is_named_with_the_nearest_match() {
        let error = read(&[("BRIGADE_COMPUTE__THREDS", "3")]).unwrap_err().to_string();
        assert!(error.contains("BRIGADE_COMPUTE__THREDS") && error.contains("`threads`"), "{error}");
        let error = read(&[("BRIGADE_COMPUTE__THREADS", "many")]).unwrap_err().to_string();
        assert!(error.contains("BRIGADE_COMPUTE__THREADS") && error.contains("many"), "{error}");
    }
}
