//! Folders of files that are there whole or not at all, and are what was written or are not used.
//!
//! A version is written under another name, brought to the disk, and renamed. Its index holds the size and SHA-256 of every
//! file, its name the SHA-256 of the index. The two newest stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Versions that stay: should the newest turn out to be damaged, there is one before it.
const KEPT: usize = 2;

/// The file that vouches for the others.
const INDEX: &str = "state.json";

/// Hexadecimal digits of the index's SHA-256 in the name of a version.
const NAME_DIGITS: usize = 16;

/// Writes the content of one file.
pub(super) type Content<'a> = &'a (dyn Fn(&mut dyn Write) -> anyhow::Result<()> + Sync);

/// The versions in one folder.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    folder: PathBuf,
}

/// One version that was found, its index checked.
#[derive(Debug)]
pub(super) struct Version {
    folder: PathBuf,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Index<N> {
    note: N,
    files: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: Digest,
}

impl Versions {
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn open(folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Writes a new version beside the older ones, makes it the newest by a rename, then removes all but the two newest.
    ///
    /// # Errors
    /// When the disk is full or not writable; the older versions stay.
    pub(super) fn save<N: Serialize>(&self, note: N, files: &[(&str, Content<'_>)]) -> anyhow::Result<()> {
        let mut older = self.list()?;
        let number = older.keys().next_back().map_or(0, |number| number + 1);
        let unfinished = self.folder.join("unfinished");
        let _ = std::fs::remove_dir_all(&unfinished);
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir(&unfinished)?;
            let mut entries = BTreeMap::new();
            for (name, content) in files {
                entries.insert((*name).to_owned(), write_file(&unfinished.join(name), *content)?);
            }
            let index = serde_json::to_vec_pretty(&Index { note, files: entries })?;
            let entry = write_file(&unfinished.join(INDEX), &|out| Ok(out.write_all(&index)?))?;
            File::open(&unfinished)?.sync_all()?;
            std::fs::rename(&unfinished, self.folder.join(name(number, entry.sha256)))?;
            File::open(&self.folder)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("cannot save the peer's state in {}", self.folder.display()))?;
        while older.len() >= KEPT {
            older.pop_first().into_iter().for_each(|(_, folder)| drop(std::fs::remove_dir_all(folder)));
        }
        Ok(())
    }

    /// Versions that `read` accepts, newest first, at most `count`. What cannot be used is named to `warn` and set aside.
    ///
    /// # Errors
    /// When the folder itself cannot be read.
    pub(super) fn newest<N: DeserializeOwned, T>(
        &self,
        count: usize,
        read: impl Fn(N, &Version) -> anyhow::Result<T>,
        mut warn: impl FnMut(String),
    ) -> anyhow::Result<Vec<T>> {
        let mut found = Vec::new();
        for (_, folder) in self.list()?.into_iter().rev() {
            if found.len() == count {
                break;
            }
            match Version::open(&folder).and_then(|(note, version)| read(note, &version)) {
                Ok(value) => found.push(value),
                Err(error) => {
                    let aside = self.folder.join("damaged");
                    warn(format!(
                        "{error:#}: this saved state is not used; it is moved to {}",
                        aside.display()
                    ));
                    let _ = std::fs::remove_dir_all(&aside);
                    // Left where it is, it would be refused again; it must not push a good one out either.
                    let _ = std::fs::rename(&folder, &aside);
                }
            }
        }
        Ok(found)
    }

    /// Finished versions by number, oldest first.
    fn list(&self) -> anyhow::Result<BTreeMap<u64, PathBuf>> {
        let cannot = || format!("cannot read {}", self.folder.display());
        let mut versions = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.split('-').next()?.parse().ok());
            number.and_then(|number| versions.insert(number, entry.path()));
        }
        Ok(versions)
    }
}

impl Version {
    fn open<N: DeserializeOwned>(folder: &Path) -> anyhow::Result<(N, Self)> {
        let path = folder.join(INDEX);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let digits = folder.file_name().and_then(|name| name.to_str()?.split('-').nth(1));
        anyhow::ensure!(
            digits == Some(&Digest::of(&bytes).to_string()[..NAME_DIGITS]),
            "{}: it is not what was saved, or the state of another program",
            path.display()
        );
        let Index { note, files } =
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        Ok((note, Self { folder: folder.to_owned(), files }))
    }

    /// The content of a file, checked.
    ///
    /// # Errors
    /// Names the file that is missing, cut off, or another one than was written.
    pub(super) fn read(&self, file: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.folder.join(file);
        let entry = self.files.get(file).with_context(|| format!("{}: it was not saved", path.display()))?;
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let found = bytes.len() as u64;
        anyhow::ensure!(
            found == entry.bytes,
            "{}: {found} bytes, but {} were saved",
            path.display(),
            entry.bytes
        );
        anyhow::ensure!(
            Digest::of(&bytes) == entry.sha256,
            "{}: its bytes are not those that were saved",
            path.display()
        );
        Ok(bytes)
    }
}

fn name(number: u64, index: Digest) -> String {
    format!("{number:010}-{}", &index.to_string()[..NAME_DIGITS])
}

/// Writes a file and brings it to the disk.
fn write_file(path: &Path, content: Content<'_>) -> anyhow::Result<Entry> {
    let mut out = Hashing { file: BufWriter::new(File::create(path)?), hash: Sha256::new(), bytes: 0 };
    content(&mut out)?;
    out.flush()?;
    out.file.get_ref().sync_all()?;
    Ok(Entry { bytes: out.bytes, sha256: Digest(out.hash.finalize().into()) })
}

/// Hashes what passes.
struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(versions: &Versions, text: &str) {
        versions.save(text, &[("a", &|out| Ok(out.write_all(text.as_bytes())?))]).unwrap();
    }

    fn load(versions: &Versions) -> (Vec<String>, Vec<String>) {
        let mut warnings = Vec::new();
        let read = |note: String, version: &Version| {
            assert_eq!(version.read("a")?, note.as_bytes());
            Ok(note)
        };
        let found = versions.newest(2, read, |warning| warnings.push(warning)).unwrap();
        (found, warnings)
    }

    /// The folder of the newest version.
    fn newest(versions: &Versions) -> PathBuf {
        versions.list().unwrap().pop_last().unwrap().1
    }

    #[test]
    fn the_two_newest_stay_and_what_a_crash_left_is_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().join("state")).unwrap();
        assert_eq!(load(&versions), (vec![], vec![]));
        ["one", "two", "three"].iter().for_each(|text| save(&versions, text));
        std::fs::create_dir(folder.path().join("state/unfinished")).unwrap();
        std::fs::write(folder.path().join("state/unfinished/state.json"), "{").unwrap();
        assert_eq!(load(&versions), (vec!["three".into(), "two".into()], vec![]));
        save(&versions, "four");
        assert_eq!(std::fs::read_dir(folder.path().join("state")).unwrap().count(), 2);
    }

    #[test]
    fn whatever_is_damaged_is_named_and_the_one_before_is_used() {
        let flip = |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[1] ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        let cut = |path: &Path| std::fs::write(path, "t").unwrap();
        let remove = |path: &Path| std::fs::remove_file(path).unwrap();
        let damages: [&dyn Fn(&Path); 3] = [&flip, &cut, &remove];
        for damage in damages {
            for file in ["a", INDEX] {
                let folder = tempfile::tempdir().unwrap();
                let versions = Versions::open(folder.path().to_owned()).unwrap();
                ["one", "two"].iter().for_each(|text| save(&versions, text));
                let path = newest(&versions).join(file);
                damage(&path);
                let (found, warnings) = load(&versions);
                assert_eq!(found, ["one"]);
                assert_eq!(warnings.len(), 1);
                assert!(warnings[0].starts_with(path.to_str().unwrap()), "{warnings:?}");
                // The good one is not pushed out by what cannot be used.
                save(&versions, "three");
                assert_eq!(load(&versions), (vec!["three".into(), "one".into()], vec![]));
            }
        }
    }

    #[test]
    fn a_failed_save_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::open(folder.path().to_owned()).unwrap();
        save(&versions, "one");
        let error = versions.save("two", &[("a", &|_| anyhow::bail!("disk full"))]).unwrap_err();
        assert!(format!("{error:#}").contains("disk full"), "{error:#}");
        assert_eq!(load(&versions), (vec!["one".into()], vec![]));
        save(&versions, "three");
        assert_eq!(load(&versions).0, ["three", "one"]);
    }
}
