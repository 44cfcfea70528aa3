//! What a person writes to say where the server keeps its objects and who may touch them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::ServerError;
use super::grants::{KeyGrant, check_keys};

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::grants::{Action, Grant};
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
}
