//! What a person writes to say where the server keeps its objects and who may touch them.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::ServerError;

/// The largest object accepted unless the configuration says otherwise: 64 GiB.
pub const DEFAULT_MAX_OBJECT_BYTES: u64 = 64 << 30;

/// The embedded server's configuration, as read from a TOML or JSON file.
///
/// ```toml
/// root = "/var/lib/brigade"
/// listen = "127.0.0.1:9000"
/// buckets = ["run"]
///
/// [[keys]]
/// access_key_id = "AGGREGATOR"
/// secret_access_key = "…"
/// grants = [{ bucket = "*", actions = ["*"] }]
/// ```
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// The folder that holds every object. Made if it is absent; one server at a time may have it.
    pub root: PathBuf,
    /// The address to listen on; port 0 takes any free port.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Buckets to create at start where they do not exist yet.
    #[serde(default)]
    pub buckets: Vec<String>,
    /// Keys that hold for as long as the server runs.
    #[serde(default)]
    pub keys: Vec<KeyGrant>,
    /// A file of more keys ([`KeysFile`]), read again whenever it changes. It may appear later.
    #[serde(default)]
    pub keys_file: Option<PathBuf>,
    /// The largest object, in bytes, whether put at once or in parts.
    #[serde(default = "default_max_object_bytes")]
    pub max_object_bytes: u64,
    /// How many connections are served at once; more wait to be accepted.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Whether a write is on the disk before it is acknowledged. Only a test has reason to say no.
    #[serde(default = "default_fsync")]
    pub fsync: bool,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 9000))
}

fn default_max_object_bytes() -> u64 {
    DEFAULT_MAX_OBJECT_BYTES
}

/// Leaves room, under the usual limit of 1024 open files, for the files that the connections read and write.
fn default_max_connections() -> usize {
    512
}

fn default_fsync() -> bool {
    true
}

impl ServerConfig {
    /// The defaults over the folder `root`: any free port on the loopback address, no bucket and no key.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            buckets: Vec::new(),
            keys: Vec::new(),
            keys_file: None,
            max_object_bytes: DEFAULT_MAX_OBJECT_BYTES,
            max_connections: default_max_connections(),
            fsync: true,
        }
    }

    /// Reads a configuration file: JSON if its name ends in `.json`, TOML otherwise. Relative paths in it are
    /// taken from the file's own folder, so that the server can be started from anywhere.
    ///
    /// # Errors
    /// [`ServerError::Disk`] if the file cannot be read, [`ServerError::Config`] if it says something unknown.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ServerError> {
        let path = path.as_ref();
        let mut config: Self = read_file(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.root = folder.join(&config.root);
        config.keys_file = config.keys_file.map(|file| folder.join(file));
        Ok(config)
    }
}

/// The content of [`ServerConfig::keys_file`]: nothing but keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// The keys.
    #[serde(default)]
    pub keys: Vec<KeyGrant>,
}

impl KeysFile {
    /// Reads the file: JSON if its name ends in `.json`, TOML otherwise.
    ///
    /// # Errors
    /// [`ServerError::Disk`] if the file cannot be read, [`ServerError::Config`] or [`ServerError::Invalid`] if
    /// it does not say what it must.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ServerError> {
        let file: Self = read_file(path.as_ref())?;
        check_keys(&file.keys)?;
        Ok(file)
    }

    /// Writes the file, readable by its owner alone, and puts it in place whole: a server that reads it at
    /// this moment sees the old keys or the new ones.
    ///
    /// # Errors
    /// [`ServerError::Disk`] if the file cannot be written, [`ServerError::Invalid`] if the keys could not be
    /// read back.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ServerError> {
        let path = path.as_ref();
        check_keys(&self.keys)?;
        let refused = |reason: String| ServerError::Config { path: path.to_owned(), reason };
        let text = if is_json(path) {
            serde_json::to_string_pretty(self).map_err(|error| refused(error.to_string()))?
        } else {
            toml::to_string_pretty(self).map_err(|error| refused(error.to_string()))?
        };
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        write_private(&fresh, text.as_bytes())
            .and_then(|()| std::fs::rename(&fresh, path))
            .map_err(|source| ServerError::Disk { action: "write", path: path.to_owned(), source })
    }
}

/// Writes a file that only its owner may read, whatever the process's umask says.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    // A file left over from a crash may have wider permissions than the one about to be made.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T, ServerError> {
    let text = std::fs::read_to_string(path).map_err(|source| ServerError::Disk {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let parsed = if is_json(path) {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        // TOML's long message quotes the offending line, which may hold a secret.
        toml::from_str(&text).map_err(|error| format!("{} at {:?}", error.message(), error.span()))
    };
    parsed.map_err(|reason| ServerError::Config { path: path.to_owned(), reason })
}

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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(id: &str, grants: Vec<Grant>) -> KeyGrant {
        KeyGrant { access_key_id: id.into(), secret_access_key: "long enough".into(), grants }
    }

    #[test]
    fn a_file_says_all_of_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        let text = "root = 'data'\nlisten = '127.0.0.1:0'\nkeys_file = 'keys.toml'\n[[keys]]\n\
                    access_key_id = 'A'\nsecret_access_key = 'ssssssss'\n\
                    grants = [{ bucket = 'run', prefix = 'windows/', actions = ['read', 'list'] }]\n";
        std::fs::write(&path, text).unwrap();
        let config = ServerConfig::from_file(&path).unwrap();
        assert_eq!(config.root, folder.path().join("data"));
        assert_eq!(config.keys_file, Some(folder.path().join("keys.toml")));
        assert_eq!(
            config.keys[0].grants[0],
            Grant::new("run", [Action::Read, Action::List]).under("windows/")
        );
        assert!(config.fsync);

        std::fs::write(&path, format!("{text}colour = 'red'\n")).unwrap();
        let error = ServerConfig::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn no_secret_in_debug_or_in_a_parse_error() {
        let config = ServerConfig { keys: vec![key("A", vec![])], ..ServerConfig::new("/x") };
        assert!(!format!("{config:?}").contains("long enough"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "[[keys]]\nsecret_access_key = 'hush hush' oops\n").unwrap();
        let error = format!("{:?}", KeysFile::read(&path).unwrap_err());
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn keys_come_back_as_written_and_private() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["keys.toml", "keys.json"] {
            let path = folder.path().join(name);
            let file = KeysFile { keys: vec![key("A", vec![Grant::new("*", [Action::All]).under("p/")])] };
            file.write(&path).unwrap();
            assert_eq!(KeysFile::read(&path).unwrap().keys, file.keys);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
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
