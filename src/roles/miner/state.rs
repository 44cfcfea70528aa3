//! What a miner must not lose: error feedback, optimiser, and the update that it has sent or is about to send.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::{Digest, ModelConfig, Parameters};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::folder;

/// The miner's memory after it compressed the update of a window.
#[derive(Debug)]
pub(super) struct PeerState {
    /// The window whose update is in here.
    pub(super) window: u64,
    /// Digest of the open record that was answered.
    pub(super) open: Digest,
    /// e after the update was taken out of it.
    pub(super) error_feedback: Parameters,
    /// Moments of the inner optimiser.
    pub(super) optimizer: Vec<u8>,
    /// The update, as it goes into the bucket.
    pub(super) update: Bytes,
    /// The receipt, as it goes into the bucket.
    pub(super) receipt: Bytes,
    /// Whether e already reflects what became of the update.
    pub(super) settled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summary {
    run: Digest,
    window: u64,
    open: Digest,
    settled: bool,
}

/// The folder with the newest state of one run.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    run: Digest,
}

impl Store {
    pub(super) fn open(state: &Path, run: Digest) -> anyhow::Result<Self> {
        let folder = state.join("peer").join(run.to_string());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, run })
    }

    /// The newest state, if there is one of this run.
    ///
    /// # Errors
    /// When it is there and cannot be read. A state that is half written is never seen: its folder has another
    /// name until it is whole.
    pub(super) fn load(&self, model: &ModelConfig) -> anyhow::Result<Option<PeerState>> {
        let Some(folder) = self.versions()?.into_values().next_back() else { return Ok(None) };
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let summary: Summary = serde_json::from_slice(&read("state.json")?)?;
        if summary.run != self.run {
            return Ok(None);
        }
        Ok(Some(PeerState {
            window: summary.window,
            open: summary.open,
            error_feedback: folder::from_bytes(&read("error_feedback.safetensors")?, model)?,
            optimizer: read("optimizer.safetensors")?,
            update: read("update.bin")?.into(),
            receipt: read("receipt.json")?.into(),
            settled: summary.settled,
        }))
    }

    /// Writes a new state beside the old one, makes it the newest by a rename, then removes what is older.
    ///
    /// # Errors
    /// When the disk is full or not writable; the old state stays.
    pub(super) fn save(&self, state: &PeerState) -> anyhow::Result<()> {
        let older = self.versions()?;
        let version = older.keys().next_back().map_or(0, |version| version + 1);
        let (unfinished, finished) =
            (self.folder.join("unfinished"), self.folder.join(format!("{version:010}")));
        let _ = std::fs::remove_dir_all(&unfinished);
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir(&unfinished)?;
            let summary =
                Summary { run: self.run, window: state.window, open: state.open, settled: state.settled };
            for (file, bytes) in [
                ("error_feedback.safetensors", &folder::to_bytes(&state.error_feedback)?[..]),
                ("optimizer.safetensors", &state.optimizer),
                ("update.bin", &state.update),
                ("receipt.json", &state.receipt),
                ("state.json", &serde_json::to_vec(&summary)?),
            ] {
                let mut file = std::fs::File::create(unfinished.join(file))?;
                std::io::Write::write_all(&mut file, bytes)?;
                file.sync_all()?;
            }
            std::fs::File::open(&unfinished)?.sync_all()?;
            std::fs::rename(&unfinished, &finished)?;
            std::fs::File::open(&self.folder)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("cannot save the peer's state in {}", self.folder.display()))?;
        for folder in older.into_values() {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(())
    }

    /// Finished states by number, oldest first.
    fn versions(&self) -> anyhow::Result<BTreeMap<u64, PathBuf>> {
        let entries = std::fs::read_dir(&self.folder)
            .with_context(|| format!("cannot read {}", self.folder.display()))?;
        let mut versions = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            if let Some(version) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                versions.insert(version, entry.path());
            }
        }
        Ok(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelConfig {
        serde_json::from_value(serde_json::json!({
            "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8,
        }))
        .unwrap()
    }

    fn state(window: u64) -> PeerState {
        PeerState {
            window,
            open: Digest([1; 32]),
            error_feedback: Parameters::initialise(&model(), &[window as u8; 32]),
            optimizer: vec![1, 2, 3],
            update: Bytes::from_static(b"update"),
            receipt: Bytes::from_static(b"receipt"),
            settled: false,
        }
    }

    #[test]
    fn the_newest_whole_state_wins() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Digest([7; 32])).unwrap();
        assert!(store.load(&model()).unwrap().is_none());
        for window in [3, 4] {
            store.save(&state(window)).unwrap();
        }
        // What a crash in the middle of a save leaves.
        let peer = folder.path().join("peer").join(Digest([7; 32]).to_string());
        std::fs::create_dir(peer.join("unfinished")).unwrap();
        std::fs::write(peer.join("unfinished/state.json"), "{").unwrap();
        let loaded = store.load(&model()).unwrap().unwrap();
        assert_eq!(loaded.window, 4);
        assert_eq!(loaded.error_feedback, state(4).error_feedback);
        assert_eq!(&loaded.update[..], b"update");
        store.save(&state(5)).unwrap();
        assert_eq!(std::fs::read_dir(peer).unwrap().count(), 1);
    }

    #[test]
    fn the_state_of_another_run_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path(), Digest([7; 32])).unwrap().save(&state(3)).unwrap();
        assert!(Store::open(folder.path(), Digest([8; 32])).unwrap().load(&model()).unwrap().is_none());
    }
}
