//! What a miner must not lose: error feedback, the inner optimiser, and the updates that it has sent.
//!
//! Where it is in the data and in the schedule follows from the window: sequences are drawn from the window's seed and the
//! peer's key, learning rates from the number of the step, and an inner step itself draws nothing at random.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use brigade_protocol::{Digest, ModelConfig, Parameters};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::versions::{Version, Versions};
use crate::folder;

const ERROR_FEEDBACK: &str = "error_feedback.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const UPDATE: &str = "update.bin";
const RECEIPT: &str = "receipt.json";

/// The miner's memory after it compressed the update of a window.
#[derive(Clone, Debug)]
pub(super) struct PeerState {
    pub(super) place: Place,
    /// e after the update was taken out of it; after [settling](super::Miner::settle), with what became of it.
    pub(super) error_feedback: Arc<Parameters>,
    /// Whether e already reflects what became of the update. On disk it never does: who reads it settles it again.
    pub(super) settled: bool,
}

/// Which window something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) run: Digest,
    pub(super) window: u64,
    /// Digest of the open record that was answered.
    pub(super) open: Digest,
    /// Digest of the sequences that were trained.
    pub(super) samples: Digest,
    /// Inner steps of the run's schedule up to the end of the window.
    pub(super) inner_step: u64,
}

/// An update and its receipt, as they go into the bucket.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) place: Place,
    pub(super) update: Bytes,
    pub(super) receipt: Bytes,
}

/// What the miner carries from window to window, besides what is in the trainer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Nothing before the first window.
    pub(super) state: Option<PeerState>,
    /// The last two updates, oldest first.
    pub(super) sent: Vec<Sent>,
}

impl Memory {
    /// The update that answered an open record.
    pub(super) fn sent_for(&self, open: Digest) -> Option<&Sent> {
        self.sent.iter().find(|sent| sent.place.open == open)
    }

    /// The window of the newest state.
    pub(super) fn window(&self) -> Option<u64> {
        self.state.as_ref().map(|state| state.place.window)
    }

    /// The window whose update is out and whose state was not on the disk when the miner ended.
    pub(super) fn lost(&self) -> Option<u64> {
        let window = self.sent.last()?.place.window;
        (Some(window) > self.window()).then_some(window)
    }

    /// The lost window, if training it again makes its state anew: no other was lost before it.
    pub(super) fn to_train_again(&self) -> Option<u64> {
        let is_known = |before: &Sent| Some(before.place.window) <= self.window();
        self.lost().filter(|_| self.sent.iter().rev().nth(1).is_none_or(is_known))
    }

    /// Remembers an update that is about to be sent.
    pub(super) fn push(&mut self, sent: Sent) {
        self.sent.push(sent);
        let surplus = self.sent.len().saturating_sub(2);
        self.sent.drain(..surplus);
    }
}

/// The folders of one run.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    run: Digest,
    /// Large, and written while the miner goes on.
    states: Versions,
    /// Small, and on the disk before a receipt is out.
    sent: Versions,
}

impl Store {
    /// # Errors
    /// When the folders cannot be made.
    pub(super) fn open(state: &Path, run: Digest) -> anyhow::Result<Self> {
        let folder = state.join("peer").join(run.to_string());
        let versions = |name| Versions::open(folder.join(name));
        Ok(Self { run, states: versions("state")?, sent: versions("sent")?, folder })
    }

    /// Where all of this is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was saved last, and the optimiser's state as `Trainer::save_optimizer` wrote it; of what is damaged, what was
    /// saved before. `warn` is told of each file that cannot be used.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub(super) fn load(
        &self,
        model: &ModelConfig,
        mut warn: impl FnMut(String),
    ) -> anyhow::Result<(Memory, Option<Vec<u8>>)> {
        let state = |place: Place, version: &Version| {
            self.expect_own(&place)?;
            let error_feedback = Arc::new(folder::from_bytes(&version.read(ERROR_FEEDBACK)?, model)?);
            Ok((PeerState { place, error_feedback, settled: false }, version.read(OPTIMIZER)?))
        };
        let sent = |place: Place, version: &Version| {
            self.expect_own(&place)?;
            let (update, receipt) = (version.read(UPDATE)?.into(), version.read(RECEIPT)?.into());
            Ok(Sent { place, update, receipt })
        };
        let (state, optimizer) = self.states.newest(1, state, &mut warn)?.pop().unzip();
        let mut sent = self.sent.newest(2, sent, &mut warn)?;
        sent.reverse();
        Ok((Memory { state, sent }, optimizer))
    }

    /// # Errors
    /// When the disk is full or not writable; what was saved before stays.
    pub(super) fn save_state(&self, state: &PeerState, optimizer: &[u8]) -> anyhow::Result<()> {
        let error_feedback =
            |out: &mut dyn std::io::Write| Ok(out.write_all(&folder::to_bytes(&state.error_feedback)?)?);
        let optimizer = |out: &mut dyn std::io::Write| Ok(out.write_all(optimizer)?);
        self.states.save(state.place, &[(ERROR_FEEDBACK, &error_feedback), (OPTIMIZER, &optimizer)])
    }

    /// # Errors
    /// As [`Store::save_state`].
    pub(super) fn save_sent(&self, sent: &Sent) -> anyhow::Result<()> {
        let update = |out: &mut dyn std::io::Write| Ok(out.write_all(&sent.update)?);
        let receipt = |out: &mut dyn std::io::Write| Ok(out.write_all(&sent.receipt)?);
        self.sent.save(sent.place, &[(UPDATE, &update), (RECEIPT, &receipt)])
    }

    fn expect_own(&self, place: &Place) -> anyhow::Result<()> {
        let folder = self.folder.display();
        anyhow::ensure!(place.run == self.run, "{folder}: it holds a state of run {}", place.run.short());
        Ok(())
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

    fn place(window: u64) -> Place {
        let (run, open, samples) = (Digest([7; 32]), Digest([1; 32]), Digest([2; 32]));
        Place { run, window, open, samples, inner_step: 2 * window }
    }

    fn state(window: u64) -> PeerState {
        let error_feedback = Arc::new(Parameters::initialise(&model(), &[window as u8; 32]));
        PeerState { place: place(window), error_feedback, settled: true }
    }

    fn sent(window: u64) -> Sent {
        Sent {
            place: place(window),
            update: vec![window as u8].into(),
            receipt: Bytes::from_static(b"receipt"),
        }
    }

    #[test]
    fn the_newest_state_comes_back_unsettled_with_the_last_two_updates() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Digest([7; 32])).unwrap();
        for window in 3..6 {
            store.save_state(&state(window), &[1, 2, window as u8]).unwrap();
            store.save_sent(&sent(window)).unwrap();
        }
        let (memory, optimizer) = store.load(&model(), |warning| panic!("{warning}")).unwrap();
        assert_eq!((memory.lost(), optimizer.unwrap()), (None, vec![1, 2, 5]));
        let found = memory.state.unwrap();
        assert_eq!((found.place, found.settled), (place(5), false));
        assert_eq!(found.error_feedback, state(5).error_feedback);
        let updates: Vec<_> = memory.sent.iter().map(|sent| (sent.place, sent.update[0])).collect();
        assert_eq!(updates, [(place(4), 4), (place(5), 5)]);
    }

    #[test]
    fn one_lost_window_can_be_trained_again_two_cannot() {
        let memory = |state_of: Option<u64>, sent_in: &[u64]| Memory {
            state: state_of.map(state),
            sent: sent_in.iter().map(|window| sent(*window)).collect(),
        };
        for (memory, lost, again) in [
            (memory(None, &[]), None, None),
            (memory(None, &[0]), Some(0), Some(0)),
            (memory(None, &[0, 1]), Some(1), None),
            (memory(Some(3), &[2, 3]), None, None),
            (memory(Some(3), &[3, 5]), Some(5), Some(5)),
            (memory(Some(3), &[4, 5]), Some(5), None),
            (memory(Some(3), &[]), None, None),
        ] {
            assert_eq!((memory.lost(), memory.to_train_again()), (lost, again), "{memory:?}");
        }
    }

    #[test]
    fn the_state_of_another_run_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (Digest([7; 32]), Digest([8; 32]));
        Store::open(folder.path(), own).unwrap().save_state(&state(3), &[1]).unwrap();
        let store = Store::open(folder.path(), other).unwrap();
        assert!(store.load(&model(), |warning| panic!("{warning}")).unwrap().0.state.is_none());
        // Somebody moved it there.
        std::fs::remove_dir_all(store.folder()).unwrap();
        std::fs::rename(folder.path().join("peer").join(own.to_string()), store.folder()).unwrap();
        let mut warnings = Vec::new();
        assert!(store.load(&model(), |warning| warnings.push(warning)).unwrap().0.state.is_none());
        assert!(warnings[0].contains(&own.short().to_string()), "{warnings:?}");
    }
}
