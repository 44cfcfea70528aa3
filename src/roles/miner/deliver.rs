//! Error feedback, the update, its receipt, and what becomes of them.

use std::sync::Arc;

use anyhow::Context as _;
use brigade_bucket::keys::{PeerFile, PeerKey};
use brigade_codec::Update;
use brigade_protocol::{Digest, Envelope, FilePin, Open, Parameters, Receipt, Record as _, Signed};
use bytes::Bytes;

use super::state::PeerState;
use super::train::Trained;
use super::{Miner, is_merged};
use crate::run::frame_digest;

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
    ) -> anyhow::Result<PeerState> {
        let mut error_feedback = match before {
            Some(state) => state.error_feedback,
            None => Parameters::zeros(&self.run.manifest().model),
        };
        let binding = self.run.binding(&open.record, &self.identity.id());
        let (theta, layout, codec) = (Arc::clone(theta), Arc::clone(self.run.layout()), self.run.codec());
        let compressing = self.model.call(move |trainer| -> anyhow::Result<_> {
            let e = error_feedback.tensors_mut();
            let update = trainer.compress(&layout, &binding, &codec, theta.tensors(), e)?;
            Ok((update, error_feedback, trainer.save_optimizer()?))
        });
        let (update, error_feedback, optimizer) = compressing.await??;
        let window = open.record.window;
        let receipt = Receipt {
            run: self.run.id(),
            window,
            open: open.digest,
            start_state_root: open.record.state_root,
            update: FilePin {
                key: PeerKey::new(self.run.id(), window, PeerFile::Update).to_string(),
                size: update.len() as u64,
                sha256: Digest::of(&update),
                frame: frame_digest(&update, self.run.layout()),
            },
            inner_steps: self.run.manifest().training.inner_steps,
            tokens: trained.tokens,
            train_loss: trained.loss,
            samples,
            compute_seconds: trained.seconds,
        };
        let (envelope, _) = Envelope::sign(receipt, self.identity.signing())?;
        Ok(PeerState {
            window,
            open: open.digest,
            error_feedback,
            optimizer,
            update: update.into(),
            receipt: envelope.to_bytes().into(),
            settled: false,
        })
    }

    /// Saves what was sent, and delivers it.
    ///
    /// The update alone says nothing, so it may go up while the state goes to disk. The receipt waits for both: none is
    /// ever out whose update this miner would forget in a crash, and then make anew and different.
    pub(super) async fn deliver(&self, sent: &PeerState) -> anyhow::Result<()> {
        let (own, key, body) = (self.own.clone(), self.key(sent, PeerFile::Update), sent.update.clone());
        let uploading = tokio::spawn(async move { own.put(&key, body).await });
        tokio::task::block_in_place(|| self.store.save(sent))?;
        self.pace.shutdown.or(uploading).await???;
        self.put(sent, PeerFile::Receipt, &sent.receipt).await
    }

    /// Delivers what was saved before a restart, unless its receipt is there: writing it again would make it later.
    pub(super) async fn deliver_again(&self, sent: &PeerState) -> anyhow::Result<()> {
        let there = self.own.try_get(&self.key(sent, PeerFile::Receipt), Receipt::MAX_BYTES).await?;
        if there.is_some_and(|object| object.bytes == sent.receipt) {
            return Ok(());
        }
        self.put(sent, PeerFile::Update, &sent.update).await?;
        // Last, because its time is what counts.
        self.put(sent, PeerFile::Receipt, &sent.receipt).await
    }

    fn key(&self, sent: &PeerState, file: PeerFile) -> String {
        PeerKey::new(self.run.id(), sent.window, file).to_string()
    }

    async fn put(&self, sent: &PeerState, file: PeerFile, body: &Bytes) -> anyhow::Result<()> {
        let key = self.key(sent, file);
        let putting = self.own.put(&key, body.clone());
        self.pace.shutdown.or(putting).await?.with_context(|| format!("cannot upload {key}"))?;
        Ok(())
    }

    /// Once the window of the sent update is closed: puts an update that was not merged back into error feedback, so
    /// that nothing that was learnt is lost.
    pub(super) async fn settle(&self, next: u64, state: &mut Option<PeerState>) -> anyhow::Result<()> {
        let Some(sent) = state.as_mut().filter(|sent| !sent.settled && sent.window < next) else {
            return Ok(());
        };
        let close = self.run.close(sent.window).await?.context("a window before this one is not closed")?;
        if is_merged(&close, self) {
            // e is as it was saved; after a restart this comes to the same again.
            sent.settled = true;
            return Ok(());
        }
        let open = self.run.open(sent.window).await?.context("closed but not open")?;
        let binding = self.run.binding(&open.record, &self.identity.id());
        // An update for an opening that never came about is bound to another start; then it is dropped.
        if let Ok(update) = Update::parse(sent.update.clone(), self.run.layout(), &self.run.codec(), &binding)
        {
            update.add_scaled_into(1.0, sent.error_feedback.tensors_mut())?;
        }
        sent.settled = true;
        self.store.save(sent)
    }
}
