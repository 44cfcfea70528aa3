//! The demo's folder: settings, identities and keys of every participant, as they would lie on their own machines.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_bucket::server::{Action, Grant, KeyGrant, Secret, ServerConfig};
use brigade_bucket::{Access, Bucket, BucketAddress, BucketOptions, Credentials, Dialect};
use brigade_protocol::Digest;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::cast::Part;
use crate::identity::Identity;

/// The run's bucket.
const RUN_BUCKET: &str = "run";

/// What the demo remembers from one start to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) run_id: Digest,
    pub(super) windows: u64,
    pub(super) miners: u32,
    pub(super) model: String,
    #[serde(default)]
    pub(super) attacks: Vec<Part>,
}

/// A key pair of the demo's store.
#[derive(Clone, Serialize, Deserialize)]
struct Pair {
    access_key_id: String,
    secret_access_key: String,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
}

impl Place {
    pub(super) fn new(root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root: std::path::absolute(root)? })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The settings file of a participant.
    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.root.join(name).join("config.toml")
    }

    /// The run that this folder holds already.
    pub(super) fn memory(&self) -> anyhow::Result<Option<Memory>> {
        let path = self.path("demo.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    pub(super) fn remember(&self, memory: &Memory) -> anyhow::Result<()> {
        write(&self.path("demo.json"), &serde_json::to_string_pretty(memory)?)
    }

    /// Writes the store's settings: a bucket for the run and one for every participant, a key that writes and a key
    /// that reads for each, and a key with which an observer reads everything.
    pub(super) fn prepare_store(&self, participants: &[String]) -> anyhow::Result<()> {
        if self.path("server.toml").exists() {
            return Ok(());
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut keys = Vec::new();
        let all = || vec![Action::All];
        let read = || vec![Action::Read, Action::List];
        for name in participants {
            let own = format!("peer-{name}");
            let lobby = RunKey::Lobby(self.identity(name)?.id()).to_string();
            keys.push(self.key(
                name,
                vec![
                    Grant::new(&*own, all()),
                    Grant::new(RUN_BUCKET, read()),
                    Grant::new(RUN_BUCKET, [Action::Write]).under(lobby),
                ],
            )?);
            keys.push(self.key(&format!("{name}-reader"), vec![Grant::new(own, read())])?);
        }
        keys.push(self.key("aggregator", vec![Grant::new(RUN_BUCKET, all())])?);
        keys.push(self.key("observer", vec![Grant::new("*", read())])?);
        let buckets = participants.iter().map(|name| format!("peer-{name}")).chain([RUN_BUCKET.to_owned()]);
        let config = ServerConfig {
            root: "store".into(),
            listen: ([127, 0, 0, 1], port).into(),
            buckets: buckets.collect(),
            keys,
            ..ServerConfig::new("store")
        };
        write(&self.path("server.toml"), &toml::to_string(&config)?)
    }

    /// Makes a key pair, keeps it under `keys/`, and grants it.
    fn key(&self, name: &str, grants: Vec<Grant>) -> anyhow::Result<KeyGrant> {
        let mut random = [0; 30];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let pair = Pair {
            access_key_id: format!("BRIGADE{}", hex::encode_upper(&random[..6])),
            secret_access_key: hex::encode(&random[6..]),
        };
        write(&self.path(&format!("keys/{name}.json")), &serde_json::to_string_pretty(&pair)?)?;
        Ok(KeyGrant {
            access_key_id: pair.access_key_id,
            secret_access_key: Secret::new(pair.secret_access_key),
            grants,
        })
    }

    fn pair(&self, name: &str) -> anyhow::Result<Pair> {
        let path = self.path(&format!("keys/{name}.json"));
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Where the store listens.
    pub(super) fn endpoint(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", ServerConfig::from_file(self.path("server.toml"))?.listen))
    }

    fn address(&self, bucket: &str) -> anyhow::Result<BucketAddress> {
        Ok(BucketAddress {
            endpoint: Some(self.endpoint()?),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            prefix: String::new(),
            dialect: Dialect::Embedded,
        })
    }

    /// A bucket, opened with the key that is kept under `key`.
    pub(super) fn bucket(&self, bucket: &str, key: &str) -> anyhow::Result<Bucket> {
        let pair = self.pair(key)?;
        let credentials = Credentials::new(pair.access_key_id, pair.secret_access_key, None)?;
        Ok(Bucket::open(&self.address(bucket)?, Access::Keys(credentials), BucketOptions::default())?)
    }

    /// The run's bucket, opened by the aggregator.
    pub(super) fn run_bucket(&self) -> anyhow::Result<Bucket> {
        self.bucket(RUN_BUCKET, "aggregator")
    }

    /// The identity of a participant, made on first use.
    pub(super) fn identity(&self, name: &str) -> anyhow::Result<Identity> {
        let path = self.root.join(name).join("identity.json");
        if path.exists() {
            return Ok(Identity::load(&path)?);
        }
        std::fs::create_dir_all(self.root.join(name))?;
        let identity = Identity::generate()?;
        identity.save_new(&path)?;
        Ok(identity)
    }

    /// `[bucket]` as a settings file spells it.
    pub(super) fn bucket_table(&self, bucket: &str, key: &str) -> anyhow::Result<Table> {
        let mut table = Table::new();
        table.insert("endpoint".into(), self.endpoint()?.into());
        table.insert("bucket".into(), bucket.into());
        table.insert("dialect".into(), "embedded".into());
        table.extend(self.key_table(key)?);
        Ok(table)
    }

    fn key_table(&self, key: &str) -> anyhow::Result<Table> {
        let pair = self.pair(key)?;
        Ok([
            ("access_key_id".to_owned(), Value::from(pair.access_key_id)),
            ("secret_access_key".to_owned(), Value::from(pair.secret_access_key)),
        ]
        .into_iter()
        .collect())
    }

    /// Writes the settings file of a participant: the very file that its owner would write.
    pub(super) fn write_config(&self, name: &str, run_id: &Digest, threads: usize) -> anyhow::Result<()> {
        let is_aggregator = name == "aggregator";
        let mut config = Table::new();
        config.insert("identity".into(), "identity.json".into());
        config.insert("state".into(), "state".into());
        config.insert("run_id".into(), run_id.to_string().into());
        config.insert("poll_milliseconds".into(), 100.into());
        // Everybody's store is on this machine.
        config.insert("allow_private_endpoints".into(), true.into());
        config.insert("run".into(), self.bucket_table(RUN_BUCKET, name)?.into());
        if !is_aggregator {
            let mut bucket = self.bucket_table(&format!("peer-{name}"), name)?;
            bucket.insert("reader".into(), self.key_table(&format!("{name}-reader"))?.into());
            config.insert("bucket".into(), bucket.into());
            let threads = i64::try_from(threads).context("too many threads")?;
            config
                .insert("compute".into(), Table::from_iter([("threads".to_owned(), threads.into())]).into());
        }
        write(&self.config(name), &toml::to_string(&config)?)
    }

    /// Writes `run.toml`, the terms as an operator would write them.
    pub(super) fn write_run(&self, terms: &Table) -> anyhow::Result<()> {
        write(&self.path("run.toml"), &toml::to_string(terms)?)
    }

    /// `[bucket]` of `run.toml`.
    pub(super) fn run_table(&self) -> anyhow::Result<Table> {
        self.bucket_table(RUN_BUCKET, "aggregator")
    }
}

/// Writes a file that may hold a secret: only its owner may read it.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
