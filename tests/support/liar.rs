//! A peer that means no good.

use brigade::config::Participant;
use brigade::identity::Identity;
use brigade::run::{Run, lobby};
use brigade_bucket::Bucket;
use brigade_bucket::keys::{PeerFile, PeerKey};
use brigade_codec::{Frame, compress};
use brigade_protocol::{Digest, Envelope, FilePin, Open, Receipt, Role, Signed};
use bytes::Bytes;

use super::World;

/// The liar: miner-1's identity and bucket in the hands of a program that does not train.
pub struct Liar {
    pub run: Run,
    pub identity: Identity,
    pub own: Bucket,
}

impl Liar {
    pub async fn join(world: &World) -> Self {
        let settings = Participant::read(&world.config("miner-1")).unwrap();
        let identity = Identity::load(&settings.identity).unwrap();
        let own = settings.open_own().unwrap();
        let run = world.run("miner-1").await;
        let address = settings.own().unwrap().address("bucket").unwrap();
        lobby::ask(&run, &identity, Role::Miner, &address, &settings.reader().unwrap()).await.unwrap();
        Self { run, identity, own }
    }

    pub async fn open(&self, window: u64) -> Signed<Open> {
        loop {
            if let Some(open) = self.run.open(window).await.unwrap() {
                return open;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub fn key(&self, window: u64, file: PeerFile) -> String {
        PeerKey::new(self.run.id(), window, file).to_string()
    }

    /// The update of somebody who has learned nothing.
    pub fn zeros(&self, open: &Open) -> Vec<u8> {
        let (layout, binding) = (self.run.layout(), self.run.binding(open, &self.identity.id()));
        let delta = layout.zeros();
        let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
        compress(layout, &binding, &self.run.codec(), &delta, &mut layout.zeros()).unwrap()
    }

    /// A receipt that is honest about `update`.
    pub fn receipt(&self, open: &Signed<Open>, update: &[u8]) -> Receipt {
        Receipt {
            run: self.run.id(),
            window: open.record.window,
            open: open.digest,
            start_state_root: open.record.state_root,
            update: FilePin {
                key: self.key(open.record.window, PeerFile::Update),
                size: update.len() as u64,
                sha256: Digest::of(update),
                frame: Digest(Frame::digest_in(update, self.run.layout()).unwrap_or_default()),
            },
            inner_steps: 2,
            tokens: 128,
            train_loss: 1.0,
            start_losses: vec![1.0; self.run.manifest().start_sequences()],
            samples: Digest::default(),
            compute_seconds: 1.0,
        }
    }

    pub async fn put(&self, window: u64, file: PeerFile, bytes: impl Into<Bytes>) {
        self.own.put(&self.key(window, file), bytes.into()).await.unwrap();
    }

    pub async fn put_signed(&self, window: u64, receipt: Receipt, signer: &Identity) {
        let bytes = Envelope::sign(receipt, signer.signing()).unwrap().0.to_bytes();
        self.put(window, PeerFile::Receipt, bytes).await;
    }
}
