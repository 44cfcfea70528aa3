//! Text for a machine that has none: the Rust sources that Cargo has unpacked to build this very program.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::{Path, PathBuf};

use brigade_protocol::Digest;
use walkdir::WalkDir;

use super::DataError;

/// Text enough for a demo: some twelve million tokens.
pub const DEFAULT_CORPUS_BYTES: u64 = 48 << 20;
/// Longer files were written by a program, for a program.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// The folders into which Cargo unpacks sources, under `cargo_home` (`$CARGO_HOME`, else `~/.cargo`): one a
/// registry, in order of name.
///
/// # Errors
/// [`DataError::NoRustSource`].
pub fn folders(cargo_home: &Path) -> Result<Vec<PathBuf>, DataError> {
    let place = cargo_home.join("registry").join("src");
    let folders = subfolders(&place);
    if folders.is_empty() { Err(DataError::NoRustSource { place }) } else { Ok(folders) }
}

/// Picks `.rs` files from the packages in `folders`, about `budget` bytes of them.
///
/// Of each package the newest version only, since versions mostly repeat each other. Packages take turns, the one
/// that has given least first, so that a few huge ones of generated bindings do not crowd out the rest. Within a package
/// the order is by a hash of the name, to take from all over it. The result is in the order of picking, and depends
/// on nothing but what the folders hold.
///
/// # Errors
/// [`DataError::NoRustSource`] when there is no such file.
pub fn pick(folders: &[PathBuf], budget: u64) -> Result<Vec<PathBuf>, DataError> {
    let mut packages: Vec<Vec<(PathBuf, u64)>> =
        folders.iter().flat_map(|folder| newest(folder)).map(|package| rust_files(&package)).collect();
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        (0..packages.len()).map(|package| Reverse((0, package))).collect();
    let (mut picked, mut total) = (Vec::new(), 0);
    while let Some(Reverse((given, package))) = turns.pop() {
        if total >= budget {
            break;
        }
        if let Some((path, bytes)) = packages[package].pop() {
            picked.push(path);
            total += bytes;
            turns.push(Reverse((given + bytes, package)));
        }
    }
    if picked.is_empty() {
        let place = folders.first().cloned().unwrap_or_default();
        return Err(DataError::NoRustSource { place });
    }
    Ok(picked)
}

/// The folders in `place`, by name. What cannot be read is not there: this corpus is what happens to lie around.
fn subfolders(place: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// The newest version of each package: folders are called `name-1.2.3`.
fn newest(folder: &Path) -> Vec<PathBuf> {
    let mut newest = BTreeMap::<String, (Vec<u64>, PathBuf)>::new();
    for path in subfolders(folder) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let (name, version) = split_version(name);
        let (name, version) = (name.to_owned(), version);
        if newest.get(&name).is_none_or(|(other, _)| *other <= version) {
            newest.insert(name, (version, path));
        }
    }
    newest.into_values().map(|(_, path)| path).collect()
}

/// `windows-sys-0.61.2` is `windows-sys` and 0.61.2; what follows the third number does not count.
fn split_version(name: &str) -> (&str, Vec<u64>) {
    let cut =
        name.match_indices('-').find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let Some((cut, _)) = cut else { return (name, Vec::new()) };
    let numbers = name[cut + 1..].split(|c: char| !c.is_ascii_digit()).take(3);
    (&name[..cut], numbers.map(|number| number.parse().unwrap_or(0)).collect())
}

/// The `.rs` files of a package with their lengths, last to be picked first.
fn rust_files(package: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in WalkDir::new(package).into_iter().flatten() {
        let wanted = entry.file_type().is_file() && entry.path().extension().is_some_and(|e| e == "rs");
        let Some(metadata) = wanted.then(|| entry.metadata().ok()).flatten() else { continue };
        let name = entry.path().strip_prefix(package).unwrap_or(entry.path());
        if (1..=MAX_FILE_BYTES).contains(&metadata.len()) {
            let lot = Digest::of(name.as_os_str().as_encoded_bytes());
            files.push((lot, entry.into_path(), metadata.len()));
        }
    }
    files.sort();
    files.into_iter().map(|(_, path, bytes)| (path, bytes)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Writes packages of (name, number of files, bytes each).
    fn registry(packages: &[(&str, usize, usize)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (name, files, bytes) in packages {
            let folder = home.path().join("registry/src/index-1").join(name).join("src");
            std::fs::create_dir_all(&folder).unwrap();
            for file in 0..*files {
                std::fs::write(folder.join(format!("f{file}.rs")), vec![b'x'; *bytes]).unwrap();
            }
            std::fs::write(folder.join("README.md"), "no").unwrap();
        }
        home
    }

    fn picked_from(home: &Path, budget: u64) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for path in pick(&folders(home).unwrap(), budget).unwrap() {
            let package = path.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            *counts.entry(package).or_default() += 1;
        }
        counts
    }

    #[test]
    fn packages_share_the_budget_evenly() {
        let home = registry(&[("huge-sys-1.0.0", 500, 1000), ("a-0.1.0", 3, 1000), ("b-2.0.0", 40, 1000)]);
        let counts = picked_from(home.path(), 43_000);
        assert_eq!(
            counts,
            [("huge-sys-1.0.0", 20), ("a-0.1.0", 3), ("b-2.0.0", 20)].map(|(n, c)| (n.into(), c)).into()
        );
        let again = || pick(&folders(home.path()).unwrap(), 9000).unwrap();
        assert_eq!(again(), again());
    }

    #[test]
    fn only_the_newest_version_counts_and_no_huge_file() {
        let home = registry(&[
            ("a-b-0.9.0", 1, 10),
            ("a-b-0.10.0", 1, 10),
            ("c2-1.0.0+z.1.5", 1, 10),
            ("d-1.0.0", 1, 300_000),
        ]);
        let counts = picked_from(home.path(), 1_000_000);
        assert_eq!(counts, [("a-b-0.10.0", 1), ("c2-1.0.0+z.1.5", 1)].map(|(n, c)| (n.into(), c)).into());
    }

    #[test]
    fn an_empty_machine_gets_a_remedy() {
        let home = tempfile::tempdir().unwrap();
        let error = folders(home.path()).unwrap_err().to_string();
        assert!(error.ends_with("give text of your own with --data PATH"), "{error}");
        let home = registry(&[("a-1.0.0", 0, 0)]);
        assert!(matches!(pick(&folders(home.path()).unwrap(), 10), Err(DataError::NoRustSource { .. })));
    }
}
