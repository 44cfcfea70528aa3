//! Saves the peer's state while the miner goes on.

use brigade_protocol::ModelConfig;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::state::{Memory, PeerState, Sent, Store};
use crate::events::{Event, Reporter};

/// A save under way, and the window it is of.
type Saving = (u64, JoinHandle<anyhow::Result<()>>);

/// Writes states one after the other, on a thread of their own.
pub(super) struct Saver {
    store: Store,
    reporter: Reporter,
    saving: Mutex<Option<Saving>>,
}

impl Saver {
    pub(super) fn new(store: Store, reporter: Reporter) -> Self {
        Self { store, reporter, saving: Mutex::default() }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What was saved last, with a warning for each file that cannot be used.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub(super) fn load(&self, model: &ModelConfig) -> anyhow::Result<(Memory, Option<Vec<u8>>)> {
        self.store.load(model, |message| self.reporter.tell(Event::Warning { message }))
    }

    /// Begins to save `state` once the save before it is done. Returns as soon as it has begun.
    pub(super) async fn begin(&self, state: PeerState, optimizer: Vec<u8>) {
        let mut saving = self.saving.lock().await;
        self.end(&mut saving).await;
        let (store, window) = (self.store.clone(), state.place.window);
        let task = tokio::task::spawn_blocking(move || store.save_state(&state, &optimizer));
        *saving = Some((window, task));
    }

    /// Waits until nothing is being saved. A save that failed is told, and no reason to stop: the next window's may work.
    pub(super) async fn finish(&self) {
        self.end(&mut *self.saving.lock().await).await;
    }

    /// Saves what is about to be sent, at once: it is small.
    pub(super) fn save_sent(&self, sent: &Sent) {
        if let Err(error) = self.store.save_sent(sent) {
            self.tell(sent.place.window, &error);
        }
    }

    async fn end(&self, saving: &mut Option<Saving>) {
        let Some((window, task)) = saving.take() else { return };
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.tell(window, &error),
            Err(error) => self.tell(window, &error.into()),
        }
    }

    fn tell(&self, window: u64, error: &anyhow::Error) {
        let message = format!(
            "window {window}: {error:#}; training goes on, and the next window's state is tried again. A restart before \
             that would go on from an older one"
        );
        self.reporter.tell(Event::Warning { message });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brigade_protocol::{Digest, Parameters};

    use super::super::state::Place;
    use super::*;

    #[tokio::test]
    async fn a_failed_save_does_not_stop_the_next_one() {
        let model: ModelConfig = serde_json::from_value(serde_json::json!({
            "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8,
        }))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (run, open, samples) = (Digest([7; 32]), Digest([1; 32]), Digest([2; 32]));
        let state = |window| PeerState {
            place: Place { run, window, open, samples, inner_step: 0 },
            error_feedback: Arc::new(Parameters::zeros(&model)),
            settled: false,
        };
        let saver = Saver::new(Store::open(folder.path(), run).unwrap(), Reporter::Log);
        saver.begin(state(1), vec![1]).await;
        saver.finish().await;
        // A file where the folder should be: nothing can be written there.
        let (states, aside) = (saver.store().folder().join("state"), folder.path().join("aside"));
        std::fs::rename(&states, &aside).unwrap();
        std::fs::write(&states, "").unwrap();
        saver.begin(state(2), vec![2]).await;
        saver.finish().await;
        std::fs::remove_file(&states).unwrap();
        std::fs::rename(&aside, &states).unwrap();
        assert_eq!(saver.load(&model).unwrap().0.window(), Some(1));
        saver.begin(state(3), vec![3]).await;
        saver.finish().await;
        let (memory, optimizer) = saver.load(&model).unwrap();
        assert_eq!((memory.window(), optimizer), (Some(3), Some(vec![3])));
    }
}
