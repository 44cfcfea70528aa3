//! A folder that appears whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A folder that is written beside its place, and removed again unless it is finished.
#[derive(Debug)]
pub(crate) struct Aside {
    unfinished: PathBuf,
    finished: PathBuf,
    is_finished: bool,
}

impl Aside {
    /// Makes the folder in which to write what is to become `place`.
    ///
    /// # Errors
    /// When something is at `place`, or somebody else is writing it.
    pub(crate) fn begin(place: &Path) -> anyhow::Result<Self> {
        let name = place.file_name().with_context(|| format!("{} cannot be made anew", place.display()))?;
        match fs::read_dir(place).map(|mut entries| entries.next()) {
            Ok(Some(_)) => anyhow::bail!("{} is not empty; name a new folder", place.display()),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| place.display().to_string()),
        }
        let mut unfinished = name.to_owned();
        unfinished.push(".unfinished");
        let unfinished = place.with_file_name(unfinished);
        let cannot = || format!("cannot make {}", unfinished.display());
        fs::create_dir_all(parent(place)).with_context(cannot)?;
        match fs::create_dir(&unfinished) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
                "{} is there: another process is writing it, or one was killed; in that case remove it",
                unfinished.display()
            ),
            made => made.with_context(cannot)?,
        }
        Ok(Self { unfinished, finished: place.to_owned(), is_finished: false })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// When the disk is full or not writable.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.unfinished.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// When there is something by now.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let rename = || {
            File::open(&self.unfinished)?.sync_all()?;
            fs::rename(&self.unfinished, &self.finished)?;
            File::open(parent(&self.finished))?.sync_all()
        };
        rename().with_context(|| format!("cannot make {}", self.finished.display()))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_finished {
            // Whatever ended this is what a person is told.
            let _ = fs::remove_dir_all(&self.unfinished);
        }
    }
}

/// The folder that `path` is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/model");
        let entries = || fs::read_dir(dir.path().join("a")).unwrap().count();
        let aside = Aside::begin(&place).unwrap();
        aside.write("x", b"1").unwrap();
        assert!(Aside::begin(&place).unwrap_err().to_string().contains("model.unfinished is there"));
        drop(aside);
        assert_eq!(entries(), 0);

        fs::create_dir(&place).unwrap();
        let aside = Aside::begin(&place).unwrap();
        aside.write("x", b"1").unwrap();
        aside.finish().unwrap();
        assert_eq!(fs::read(place.join("x")).unwrap(), b"1");
        assert_eq!(entries(), 1);
        assert!(Aside::begin(&place).unwrap_err().to_string().contains("is not empty"));
        assert!(Aside::begin(Path::new("..")).is_err());
        // Something came in between.
        let other = dir.path().join("a/other");
        let aside = Aside::begin(&other).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("y"), b"2").unwrap();
        assert!(aside.finish().is_err());
        assert_eq!((entries(), fs::read_dir(&other).unwrap().count()), (2, 1));
    }
}
