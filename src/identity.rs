//! A participant's identity on disk: the key that signs, and the key that opens what is sealed to it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use age::x25519;
use brigade_protocol::{PeerId, SigningKey};
use serde::{Deserialize, Serialize};

/// Ciphertexts longer than this are not opened, in bytes.
const MAX_SEALED_BYTES: usize = 64 << 10;

/// What can go wrong with identities and sealed texts.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("identity file {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no identity.
    #[error("{0} is no identity file; make one with `brigade identity new --out {0}`", path.display())]
    NotAnIdentity {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the file.
    #[error("identity file {0} can be read by others; run `chmod 600 {0}`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A recipient is none.
    #[error("`{0}` is no age recipient (age1…)")]
    Recipient(String),
    /// The operating system gives no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(getrandom::Error),
    /// A sealed text cannot be made.
    #[error("cannot seal: {0}")]
    Seal(String),
    /// A sealed text cannot be opened.
    #[error("cannot open what was sealed: {0}")]
    Open(String),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; make one with `brigade identity new`",
        std::io::ErrorKind::AlreadyExists => "; it is never overwritten, choose another path",
        _ => "",
    }
}

/// The two secret keys of a participant.
#[derive(Clone)]
pub struct Identity {
    signing: SigningKey,
    sealing: x25519::Identity,
    seed: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    id: PeerId,
    seal_to: String,
    signing_key: String,
    age_secret_key: String,
}

impl Identity {
    /// A new identity from the operating system's randomness.
    ///
    /// # Errors
    /// [`IdentityError::Randomness`].
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(IdentityError::Randomness)?;
        Ok(Self { signing: SigningKey::from_seed(&seed), sealing: x25519::Identity::generate(), seed })
    }

    /// The public half: who this is.
    pub fn id(&self) -> PeerId {
        self.signing.peer_id()
    }

    /// The key that signs.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The age recipient to which others seal.
    pub fn seal_to(&self) -> String {
        self.sealing.to_public().to_string()
    }

    /// Reads an identity file, which only its owner may read.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and the remedy.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.into(), source };
        let not_one = || IdentityError::NotAnIdentity { path: path.into() };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(IdentityError::Exposed { path: path.into() });
            }
        }
        let text = std::fs::read(path).map_err(io)?;
        let disk: OnDisk = serde_json::from_slice(&text).map_err(|_| not_one())?;
        let mut seed = [0; 32];
        hex::decode_to_slice(&disk.signing_key, &mut seed).map_err(|_| not_one())?;
        let sealing = disk.age_secret_key.parse().map_err(|_| not_one())?;
        let identity = Self { signing: SigningKey::from_seed(&seed), sealing, seed };
        if identity.id() != disk.id { Err(not_one()) } else { Ok(identity) }
    }

    /// Writes a new identity file that only its owner may read. Never overwrites one.
    ///
    /// # Errors
    /// [`IdentityError::Io`], also when the file exists.
    pub fn save_new(&self, path: &Path) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io { path: path.into(), source };
        let disk = OnDisk {
            id: self.id(),
            seal_to: self.seal_to(),
            signing_key: hex::encode(self.seed),
            age_secret_key: self.sealing.to_string().expose_secret().to_owned(),
        };
        let text = serde_json::to_string_pretty(&disk).expect("four strings are always JSON");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)
    }

    /// Opens what [`seal`] made for this identity, among others.
    ///
    /// # Errors
    /// [`IdentityError::Open`] when the text is too long, damaged, or meant for others.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, IdentityError> {
        if sealed.len() > MAX_SEALED_BYTES {
            return Err(IdentityError::Open(format!("{} bytes are too many", sealed.len())));
        }
        let failed = |error: &dyn std::fmt::Display| IdentityError::Open(error.to_string());
        let decryptor = age::Decryptor::new(sealed).map_err(|error| failed(&error))?;
        let reader = decryptor
            .decrypt(std::iter::once(&self.sealing as &dyn age::Identity))
            .map_err(|error| failed(&error))?;
        let mut plain = Vec::new();
        reader.take(MAX_SEALED_BYTES as u64).read_to_end(&mut plain).map_err(|error| failed(&error))?;
        Ok(plain)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, secret)", self.id().short())
    }
}

/// Seals `plain` so that each of `recipients` (`age1…`), and nobody else, can open it.
///
/// # Errors
/// [`IdentityError::Recipient`] or [`IdentityError::Seal`].
pub fn seal<'a>(
    plain: &[u8],
    recipients: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<u8>, IdentityError> {
    let recipients = recipients
        .into_iter()
        .map(|text| text.parse::<x25519::Recipient>().map_err(|_| IdentityError::Recipient(text.to_owned())))
        .collect::<Result<Vec<_>, _>>()?;
    let failed = |error: &dyn std::fmt::Display| IdentityError::Seal(error.to_string());
    let encryptor = age::Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
        .map_err(|error| failed(&error))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
    writer.write_all(plain).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_disk_and_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.json");
        let identity = Identity::generate().unwrap();
        identity.save_new(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().id(), identity.id());
        assert!(identity.save_new(&path).unwrap_err().to_string().contains("never overwritten"));

        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load(&path), Err(IdentityError::Exposed { .. })));
    }

    #[test]
    fn only_recipients_open_what_is_sealed() {
        let [a, b, c] = [(); 3].map(|()| Identity::generate().unwrap());
        let (to_a, to_b) = (a.seal_to(), b.seal_to());
        let sealed = seal(b"read key", [to_a.as_str(), to_b.as_str()]).unwrap();
        assert_eq!(a.open(&sealed).unwrap(), b"read key");
        assert_eq!(b.open(&sealed).unwrap(), b"read key");
        assert!(c.open(&sealed).is_err());
        assert!(a.open(&sealed[..sealed.len() - 1]).is_err());
        assert!(a.open(&vec![0; MAX_SEALED_BYTES + 1]).is_err());
    }
}
