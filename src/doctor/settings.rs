//! The settings file, the identity, the state folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Examination, Stopped};
use crate::config::Participant;
use crate::identity::Identity;

/// Reads the file with what the environment has to say.
pub(super) fn file(found: &mut Examination<'_>, path: &Path) -> Result<Participant, Stopped> {
    match Participant::read(path) {
        Ok(settings) => {
            let said = match settings.from_environment().len() {
                0 => path.display().to_string(),
                number => format!("{}, {number} of them from BRIGADE_… variables", path.display()),
            };
            found.good("settings", said);
            let is_open = |path: &std::path::PathBuf| {
                std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
            };
            if let Some(path) = settings.secret_files().into_iter().find(is_open) {
                let path = path.display();
                found.warn("secrets", format!("everybody on this machine can read {path}"), format!("chmod 600 {path}"));
            }
            Ok(settings)
        }
        Err(error) => Err(found.bad(
            "settings",
            error.to_string(),
            "every key is in docs/configuration.md; `brigade init` and `brigade join` write a file to start from",
        )),
    }
}

pub(super) fn identity(found: &mut Examination<'_>, settings: &Participant) -> Result<Identity, Stopped> {
    match Identity::load(&settings.identity) {
        Ok(identity) => {
            found.good("identity", format!("{}, for its owner's eyes only", identity.id()));
            Ok(identity)
        }
        Err(error) => {
            Err(found.bad("identity", error.to_string(), "`identity` in the settings names the file"))
        }
    }
}

/// Writes, syncs and renames a file as a role does with what must survive a restart.
pub(super) fn state(found: &mut Examination<'_>, settings: &Participant) {
    let folder = &settings.state;
    let is_new = !folder.exists();
    let tried = std::fs::create_dir_all(folder).and_then(|()| {
        let folder = tempfile::Builder::new().prefix(".doctor-").tempdir_in(folder)?;
        let (part, whole) = (folder.path().join("part"), folder.path().join("whole"));
        let file = std::fs::File::create(&part)?;
        std::io::Write::write_all(&mut &file, &[0x5a; 64 << 10])?;
        file.sync_all()?;
        std::fs::rename(&part, &whole)?;
        folder.close()
    });
    match tried {
        Ok(()) => found.good("state", format!("{} can be written", folder.display())),
        Err(error) => {
            let said = format!("{} cannot be written: {error}", folder.display());
            let remedy = match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    "the disk is full: make room, or set `state` to a folder on another disk"
                }
                _ => "set `state` to a folder that this user may write",
            };
            found.bad("state", said, remedy);
        }
    }
    if is_new {
        // Only if it is still empty: then nobody needs it yet.
        let _ = std::fs::remove_dir(folder);
    }
}
