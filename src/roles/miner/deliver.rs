//! Error feedback, the update, its receipt, and what becomes of them.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::keys::{PeerFile, PeerKey};
use brigade_codec::Update;
use brigade_protocol::{Digest, Envelope, FilePin, Open, Parameters, Receipt, Record as _, Signed};
use bytes::Bytes;

use super::state::{Memory, PeerState, Place, Sent};
use super::train::Trained;
use super::{Miner, is_merged};
use crate::events::Event;
use crate::lab::attacks::Stage;
use crate::run::frame_digest;

/// What a window's training left behind.
pub(super) struct Compressed {
    pub(super) state: PeerState,
    /// Moments of the inner optimiser.
    pub(super) optimizer: Vec<u8>,
    pub(super) sent: Sent,
}

impl Miner {
    /// Folds what the trainer has made of θ into error feedback and takes the update out of it (SparseLoCo,
    /// arXiv 2508.15706).
    pub(super) async fn compress(
        &self,
        open: &Signed<Open>,
        theta: &Arc<Parameters>,
        trained: &Trained,
        samples: Digest,
        before: Option<PeerState>,
    ) -> anyhow::Result<Compressed> {
        // The next save waits for the one before: until then two states would be in memory.
        self.saver.finish().await;
        let mut error_feedback = match before {
            Some(state) => Arc::unwrap_or_clone(state.error_feedback),
            None => Parameters::zeros(&self.run.manifest().model),
        };
        let binding = self.run.binding(&open.record, &self.identity.id());
        let (theta, layout, codec) = (Arc::clone(theta), Arc::clone(self.run.layout()), self.run.codec());
        let window = open.record.window;
        let compressing = self.model.call(move |trainer| -> anyhow::Result<_> {
            let e = error_feedback.tensors_mut();
            let update = trainer
                .compress(&layout, &binding, &codec, theta.tensors(), e)
                .with_context(|| format!("window {window}, compressing on {}", trainer.device_name()))?;
            Ok((update, error_feedback, trainer.save_optimizer()?))
        });
        let (update, error_feedback, optimizer) = compressing.await??;
        let receipt = self.receipt(open, trained, samples, &update);
        let (envelope, _) = Envelope::sign(receipt, self.identity.signing())?;
        let inner_step = (window + 1) * u64::from(self.run.manifest().training.inner_steps);
        let place = Place { run: self.run.id(), window, open: open.digest, samples, inner_step };
        Ok(Compressed {
            state: PeerState { place, error_feedback: Arc::new(error_feedback), settled: false },
            optimizer,
            sent: Sent { place, update: update.into(), receipt: envelope.to_bytes().into() },
        })
    }

    fn receipt(&self, open: &Signed<Open>, trained: &Trained, samples: Digest, update: &[u8]) -> Receipt {
        let window = open.record.window;
        Receipt {
            run: self.run.id(),
            window,
            open: open.digest,
            start_state_root: open.record.state_root,
            update: FilePin {
                key: PeerKey::new(self.run.id(), window, PeerFile::Update).to_string(),
                size: update.len() as u64,
                sha256: Digest::of(update),
                frame: frame_digest(update, self.run.layout()),
            },
            inner_steps: self.run.manifest().training.inner_steps,
            tokens: trained.tokens,
            train_loss: trained.loss,
            start_losses: trained.start_losses.clone(),
            samples,
            compute_seconds: trained.seconds,
        }
    }

    /// Puts what a cheat sends in the place of what its miner has made. The honest send what they have made.
    pub(super) async fn forge(
        &self,
        open: &Signed<Open>,
        trained: &Trained,
        sent: &mut Sent,
    ) -> anyhow::Result<()> {
        let Some(cheat) = &self.cheat else { return Ok(()) };
        let stage = Stage { run: &self.run, identity: &self.identity, pace: &self.pace, open };
        let receipt = self.receipt(open, trained, sent.place.samples, &sent.update);
        (sent.update, sent.receipt) = cheat.instead(&stage, &sent.update, receipt).await?;
        Ok(())
    }

    /// Delivers an update for the first time.
    ///
    /// The update alone says nothing, so it may go up while it goes to disk. The receipt waits for both: none is ever out
    /// whose update this miner would forget in a crash, and then make anew and different.
    pub(super) async fn deliver(&self, sent: &Sent) -> anyhow::Result<()> {
        let (own, key, body) = (self.own.clone(), self.key(sent, PeerFile::Update), sent.update.clone());
        let uploading = tokio::spawn(async move { own.put(&key, body).await });
        tokio::task::block_in_place(|| self.saver.save_sent(sent));
        self.pace.shutdown.or(uploading).await???;
        self.put(sent, PeerFile::Receipt, &sent.receipt).await
    }

    /// Delivers what was saved before a restart, unless its receipt is there: writing it again would make it later.
    pub(super) async fn deliver_again(&self, sent: &Sent) -> anyhow::Result<()> {
        let there = self.own.try_get(&self.key(sent, PeerFile::Receipt), Receipt::MAX_BYTES).await?;
        if there.is_some_and(|object| object.bytes == sent.receipt) {
            return Ok(());
        }
        self.put(sent, PeerFile::Update, &sent.update).await?;
        // Last, because its time is what counts.
        self.put(sent, PeerFile::Receipt, &sent.receipt).await
    }

    fn key(&self, sent: &Sent, file: PeerFile) -> String {
        PeerKey::new(self.run.id(), sent.place.window, file).to_string()
    }

    async fn put(&self, sent: &Sent, file: PeerFile, body: &Bytes) -> anyhow::Result<()> {
        let key = self.key(sent, file);
        let putting = self.own.put(&key, body.clone());
        self.pace.shutdown.or(putting).await?.with_context(|| format!("cannot upload {key}"))?;
        Ok(())
    }

    /// What was sent stays sent, also when a device made something else of the same window the second time: the
    /// difference goes into error feedback.
    pub(super) fn keep_to(&self, sent: &Sent, open: &Open, made: &mut Compressed) -> anyhow::Result<()> {
        if made.sent.update == sent.update || self.cheat.is_some() {
            return Ok(());
        }
        let e = Arc::make_mut(&mut made.state.error_feedback).tensors_mut();
        self.parse(&made.sent, open)?.add_scaled_into(1.0, e)?;
        self.parse(sent, open)?.add_scaled_into(-1.0, e)?;
        Ok(())
    }

    fn parse(&self, sent: &Sent, open: &Open) -> Result<Update, brigade_codec::Error> {
        let binding = self.run.binding(open, &self.identity.id());
        Update::parse(sent.update.clone(), self.run.layout(), &self.run.codec(), &binding)
    }

    /// Once the window of the newest state is closed: puts an update that was not merged back into error feedback, so
    /// that nothing that was learnt is lost.
    ///
    /// The disk keeps the state as it was before: after a restart this comes to the same again.
    pub(super) async fn settle(&self, next: u64, memory: &mut Memory) -> anyhow::Result<()> {
        if self.cheat.is_some() {
            // What a cheat has sent was not taken out of its error feedback.
            return Ok(());
        }
        let Memory { state, sent } = memory;
        let Some(state) = state.as_mut().filter(|state| !state.settled && state.place.window < next) else {
            return Ok(());
        };
        let window = state.place.window;
        let close = self.run.close(window).await?.context("a window before this one is not closed")?;
        if !is_merged(&close, self) {
            let open = self.run.open(window).await?.context("closed but not open")?;
            match sent
                .iter()
                .find(|sent| sent.place == state.place)
                .map(|sent| self.parse(sent, &open.record))
            {
                Some(Ok(update)) => {
                    update.add_scaled_into(1.0, Arc::make_mut(&mut state.error_feedback).tensors_mut())?;
                }
                // An update for an opening that never came about is bound to another start; then it is dropped.
                Some(Err(_)) => {}
                None => {
                    let message = format!(
                        "window {window} not merged, and its update is not on the disk any more: what it held is lost"
                    );
                    self.pace.reporter.tell(Event::Warning { message });
                }
            }
        }
        state.settled = true;
        Ok(())
    }
}
