//! The keys in force, which may change while the server runs.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::config::KeysFile;
use super::engine::{lock, read, write};
use super::error::ServerError;
use super::grants::{KeyGrant, check_keys};

/// A changed keys file is noticed within this time; at once if a request comes with a key not known yet.
const RECHECK: Duration = Duration::from_millis(250);

/// The keys that the server honours. Clones share them: hold one to change the keys of a running server.
#[derive(Clone)]
pub struct KeyRing {
    shared: Arc<Shared>,
}

struct Shared {
    file: Option<PathBuf>,
    keys: RwLock<Keys>,
    watch: Mutex<Watch>,
}

#[derive(Default)]
struct Keys {
    /// From the configuration, or from [`KeyRing::replace`].
    fixed: HashMap<String, Arc<KeyGrant>>,
    /// From the keys file.
    filed: HashMap<String, Arc<KeyGrant>>,
}

/// When the file was last looked at, and what it was then.
#[derive(Default)]
struct Watch {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
}

/// What tells one content of a file from another without reading it. The inode catches a file that was replaced
/// by rename within one tick of the file system's clock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok()?, length: metadata.len(), inode })
    }
}

impl KeyRing {
    /// Takes the fixed keys, and those of the file if it exists yet.
    pub(super) fn new(fixed: &[KeyGrant], file: Option<PathBuf>) -> Result<Self, ServerError> {
        check_keys(fixed)?;
        let ring = Self {
            shared: Arc::new(Shared {
                file,
                keys: RwLock::new(Keys { fixed: by_id(fixed), filed: HashMap::new() }),
                watch: Mutex::default(),
            }),
        };
        if let Some(file) = ring.shared.file.as_deref().filter(|file| file.exists()) {
            // At start a bad file is the operator's to mend; later it leaves the keys as they were.
            KeysFile::read(file)?;
            ring.look(true);
        }
        Ok(ring)
    }

    /// Puts these keys in the place of those that the configuration gave. Keys from the keys file stay.
    ///
    /// # Errors
    /// [`ServerError::Invalid`] if the keys could not work; then nothing changes.
    pub fn replace(&self, keys: &[KeyGrant]) -> Result<(), ServerError> {
        check_keys(keys)?;
        write(&self.shared.keys).fixed = by_id(keys);
        Ok(())
    }

    /// The key of this name, if it is in force. A fixed key outranks one of the same name in the file.
    pub(super) fn find(&self, access_key_id: &str) -> Option<Arc<KeyGrant>> {
        self.look(false);
        self.known(access_key_id).or_else(|| {
            self.look(true);
            self.known(access_key_id)
        })
    }

    fn known(&self, access_key_id: &str) -> Option<Arc<KeyGrant>> {
        let keys = read(&self.shared.keys);
        keys.fixed.get(access_key_id).or_else(|| keys.filed.get(access_key_id)).cloned()
    }

    /// Reads the keys file again if it changed; asks only now and then unless it is `urgent`.
    fn look(&self, urgent: bool) {
        let Some(file) = &self.shared.file else { return };
        let mut watch = lock(&self.shared.watch);
        if !urgent && watch.looked.is_some_and(|looked| looked.elapsed() < RECHECK) {
            return;
        }
        watch.looked = Some(Instant::now());
        let stamp = Stamp::of(file);
        if stamp == watch.stamp {
            return;
        }
        watch.stamp = stamp;
        if stamp.is_none() {
            // Removing the file revokes its keys.
            tracing::warn!(path = %file.display(), "the keys file is gone, and its keys with it");
            write(&self.shared.keys).filed.clear();
            return;
        }
        match KeysFile::read(file) {
            Ok(read) => {
                tracing::info!(path = %file.display(), keys = read.keys.len(), "read the keys file");
                write(&self.shared.keys).filed = by_id(&read.keys);
            }
            Err(error) => tracing::error!(%error, "the keys file cannot be used: the keys stay as they were"),
        }
    }
}

fn by_id(keys: &[KeyGrant]) -> HashMap<String, Arc<KeyGrant>> {
    keys.iter().map(|key| (key.access_key_id.clone(), Arc::new(key.clone()))).collect()
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = read(&self.shared.keys);
        f.debug_struct("KeyRing")
            .field("file", &self.shared.file)
            .field("keys", &(keys.fixed.len() + keys.filed.len()))
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::grants::{Action, Grant};
    use super::*;

    fn key(id: &str) -> KeyGrant {
        KeyGrant {
            access_key_id: id.into(),
            secret_access_key: "12345678".into(),
            grants: vec![Grant::new("run", [Action::Read])],
        }
    }

    #[test]
    fn the_file_may_appear_change_break_and_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let ring = KeyRing::new(&[key("FIXED")], Some(path.clone())).unwrap();
        assert!(ring.find("FIXED").is_some() && ring.find("MINER").is_none());

        KeysFile { keys: vec![key("MINER")] }.write(&path).unwrap();
        assert!(ring.find("MINER").is_some());

        // A broken file leaves the keys as they were.
        std::fs::write(&path, "keys = 3").unwrap();
        assert!(ring.find("OTHER").is_none() && ring.find("MINER").is_some());

        KeysFile { keys: vec![key("OTHER")] }.write(&path).unwrap();
        assert!(ring.find("OTHER").is_some() && ring.find("MINER").is_none());

        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(RECHECK);
        assert!(ring.find("OTHER").is_none() && ring.find("FIXED").is_some());
    }

    #[test]
    fn a_broken_file_at_start_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "colour = 'red'").unwrap();
        assert!(KeyRing::new(&[], Some(path)).is_err());
    }

    #[test]
    fn keys_can_be_replaced() {
        let ring = KeyRing::new(&[key("A")], None).unwrap();
        ring.replace(&[key("B")]).unwrap();
        assert!(ring.find("A").is_none() && ring.find("B").is_some());
        assert!(ring.replace(&[key("B"), key("B")]).is_err());
        assert!(ring.find("B").is_some());
    }
}
