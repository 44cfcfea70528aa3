//! What happens at start: every record is read, and what a crash left behind is swept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bucket::{Bucket, BucketFile};
use super::disk::{Disk, remove_quietly};
use super::index::{Entry, Index};
use super::layout::{Place, Version, parse_part_name, part_name};
use super::multipart::{Part, PartsFolder, Upload};
use super::record::{self, ObjectRecord, PartRecord, UploadRecord};
use crate::server::error::ServerError;

type Uploads = BTreeMap<(String, String), Arc<Upload>>;

/// For `map_err`: an unreadable root is a reason not to start, since going on would hide objects.
fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Disk { action: "read", path, source }
}

/// Reads all buckets.
pub(super) fn buckets(disk: &Arc<Disk>) -> Result<BTreeMap<String, Arc<Bucket>>, ServerError> {
    let mut found = BTreeMap::new();
    for (name, path) in entries(&disk.root.join("buckets"))? {
        let Ok(bytes) = fs::read(path.join("bucket.json")) else {
            tracing::warn!(path = %path.display(), "not a bucket of this server; left alone");
            continue;
        };
        let file: BucketFile =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(&path)(error.into()))?;
        let (index, referenced) = objects(disk, &path)?;
        let uploads = uploads(disk, &path, &referenced)?;
        let lifecycle = match fs::read(path.join("lifecycle.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable(&path)(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&path)(error)),
        };
        let bucket = Bucket::assemble(disk, &name, file.created_ms, index, uploads, lifecycle);
        found.insert(name, Arc::new(bucket));
    }
    Ok(found)
}

/// Reads a bucket's objects; also returns which parts the assembled ones use, by upload.
fn objects(disk: &Disk, bucket: &Path) -> Result<(Index, HashMap<String, HashSet<String>>), ServerError> {
    let mut index = Index::default();
    let mut referenced = HashMap::new();
    for (_, stripe) in entries(&bucket.join("objects"))? {
        if !stripe.is_dir() {
            set_aside(disk, &stripe, "only folders belong here");
            continue;
        }
        let mut versions: HashMap<Place, Vec<(Version, PathBuf)>> = HashMap::new();
        for (name, path) in entries(&stripe)? {
            match Place::parse(&name) {
                Some((place, version)) => versions.entry(place).or_default().push((version, path)),
                None => set_aside(disk, &path, "its name is not one that this server gives"),
            }
        }
        for (place, mut versions) in versions {
            versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
            let mut current = None;
            for (version, path) in versions {
                disk.saw(version);
                if current.is_some() {
                    // Replaced before the crash, its removal not yet on the disk.
                    remove_quietly(&path);
                    continue;
                }
                match read_object(bucket, place, &path) {
                    Ok(record) => current = Some((version, record)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        set_aside(disk, &path, &error.to_string());
                    }
                    Err(error) => return Err(unreadable(&path)(error)),
                }
            }
            if let Some((version, record)) = current {
                admit(bucket, version, record, &mut index, &mut referenced);
            }
        }
    }
    Ok((index, referenced))
}

fn admit(
    bucket: &Path,
    version: Version,
    record: ObjectRecord,
    index: &mut Index,
    referenced: &mut HashMap<String, HashSet<String>>,
) {
    let parts = record.assembled.map(|assembled| {
        let names = assembled.parts.iter().map(|part| part_name(part.number, part.version())).collect();
        let folder = PartsFolder::new(bucket.join("uploads").join(&assembled.upload_id));
        referenced.insert(assembled.upload_id, names);
        folder
    });
    index.insert(record.key, Entry { version, size: record.size, etag: record.etag.into(), parts });
}

/// Reads an object's record and checks what can be checked without reading its body.
fn read_object(bucket: &Path, place: Place, path: &Path) -> io::Result<ObjectRecord> {
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    let (record, body) = record::decode::<ObjectRecord>(&File::open(path)?)?;
    if Place::of(&record.key) != place {
        return wrong("its record is of another key");
    }
    let Some(assembled) = &record.assembled else {
        return if body == record.size {
            Ok(record)
        } else {
            wrong("its body is not as long as its record says")
        };
    };
    let hexadecimal = assembled.upload_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hexadecimal || body != 0 {
        return wrong("its record makes no sense");
    }
    let folder = bucket.join("uploads").join(&assembled.upload_id);
    for part in &assembled.parts {
        if !folder.join(part_name(part.number, part.version())).is_file() {
            return wrong("a part of it is missing");
        }
    }
    Ok(record)
}

/// Reads the uploads that are still open, and sweeps what completed and aborted ones left.
fn uploads(
    disk: &Disk,
    bucket: &Path,
    referenced: &HashMap<String, HashSet<String>>,
) -> Result<Uploads, ServerError> {
    let mut open = BTreeMap::new();
    for (id, folder) in entries(&bucket.join("uploads"))? {
        if let Some(used) = referenced.get(&id) {
            for (name, path) in entries(&folder)? {
                if !used.contains(&name) {
                    remove_quietly(&path);
                }
                if let Some((_, version)) = parse_part_name(&name) {
                    disk.saw(version);
                }
            }
            disk.sync_folder(&folder).map_err(|error| unreadable(&folder)(io::Error::other(error)))?;
            continue;
        }
        match File::open(folder.join("upload")).and_then(|file| record::decode::<UploadRecord>(&file)) {
            Ok((record, _)) => {
                let parts = parts(disk, &folder)?;
                open.insert((record.key.clone(), id.clone()), Upload::new(id, record, folder, parts));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::remove_dir_all(&folder).map_err(unreadable(&folder))?;
            }
            Err(error) => set_aside(disk, &folder, &error.to_string()),
        }
    }
    Ok(open)
}

fn parts(disk: &Disk, folder: &Path) -> Result<BTreeMap<u32, Part>, ServerError> {
    let mut named: Vec<_> = entries(folder)?
        .into_iter()
        .filter_map(|(name, path)| parse_part_name(&name).map(|(number, version)| (version, number, path)))
        .collect();
    named.sort_by_key(|(version, ..)| std::cmp::Reverse(*version));
    let mut parts = BTreeMap::new();
    for (version, number, path) in named {
        disk.saw(version);
        if parts.contains_key(&number) {
            remove_quietly(&path);
            continue;
        }
        match File::open(&path).and_then(|file| record::decode::<PartRecord>(&file)) {
            Ok((PartRecord { size, etag, checksum }, body)) if size == body => {
                parts.insert(number, Part { number, version, size, etag, checksum });
            }
            Ok(_) => set_aside(disk, &path, "its body is not as long as its record says"),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                set_aside(disk, &path, &error.to_string())
            }
            Err(error) => return Err(unreadable(&path)(error)),
        }
    }
    Ok(parts)
}

/// Moves what cannot be understood out of the way, where a person can look at it.
fn set_aside(disk: &Disk, path: &Path, why: &str) {
    let damaged = disk.root.join("damaged");
    let name = path.file_name().unwrap_or_default();
    let to = damaged.join(name);
    let moved = fs::create_dir_all(&damaged).and_then(|()| fs::rename(path, &to));
    match moved {
        Ok(()) => {
            tracing::error!(from = %path.display(), to = %to.display(), why, "set a damaged file aside")
        }
        Err(error) => {
            tracing::error!(path = %path.display(), why, %error, "a damaged file cannot be set aside")
        }
    }
}

/// Removes everything in a folder.
pub(super) fn empty_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A folder's entries by name; names that are not UTF-8 are none of ours.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, ServerError> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| (entry.file_name().into_string().ok(), entry.path())))
            .collect::<io::Result<Vec<_>>>()
    });
    let listed = listed.map_err(unreadable(folder))?;
    Ok(listed.into_iter().filter_map(|(name, path)| name.map(|name| (name, path))).collect())
}
