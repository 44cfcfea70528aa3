//! A peer that lies in every window costs nobody anything but its own place in the merge.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use brigade::config::Participant;
use brigade::identity::Identity;
use brigade::run::{Run, lobby};
use brigade_bucket::Bucket;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_codec::{Frame, compress};
use brigade_protocol::{Digest, Envelope, FilePin, Open, Reason, Receipt, Role, Signed};
use bytes::Bytes;
use support::stores::Store;
use support::{Terms, World};

/// The liar: miner-1's identity and bucket in the hands of a program that does not train.
struct Liar {
    run: Run,
    identity: Identity,
    own: Bucket,
}

impl Liar {
    async fn join(world: &World) -> Self {
        let settings = Participant::read(&world.config("miner-1")).unwrap();
        let identity = Identity::load(&settings.identity).unwrap();
        let own = settings.open_own().unwrap();
        let run = world.run("miner-1").await;
        let address = settings.own().unwrap().address("bucket").unwrap();
        lobby::ask(&run, &identity, Role::Miner, &address, &settings.reader().unwrap()).await.unwrap();
        Self { run, identity, own }
    }

    async fn open(&self, window: u64) -> Signed<Open> {
        loop {
            if let Some(open) = self.run.open(window).await.unwrap() {
                return open;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn key(&self, window: u64, file: PeerFile) -> String {
        PeerKey::new(self.run.id(), window, file).to_string()
    }

    /// The update of somebody who has learned nothing.
    fn zeros(&self, open: &Open) -> Vec<u8> {
        let (layout, binding) = (self.run.layout(), self.run.binding(open, &self.identity.id()));
        let delta = layout.zeros();
        let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
        compress(layout, &binding, &self.run.codec(), &delta, &mut layout.zeros()).unwrap()
    }

    /// A receipt that is honest about `update`.
    fn receipt(&self, open: &Signed<Open>, update: &[u8]) -> Receipt {
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

    async fn put(&self, window: u64, file: PeerFile, bytes: impl Into<Bytes>) {
        self.own.put(&self.key(window, file), bytes.into()).await.unwrap();
    }

    async fn put_signed(&self, window: u64, receipt: Receipt, signer: &Identity) {
        let bytes = Envelope::sign(receipt, signer.signing()).unwrap().0.to_bytes();
        self.put(window, PeerFile::Receipt, bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_is_refused_by_its_name_and_the_run_goes_on() {
    let lies = [
        Reason::Malformed,
        Reason::TooLarge,
        Reason::Unavailable,
        Reason::Unavailable,
        Reason::Unavailable,
        Reason::WrongStart,
        Reason::WrongWindow,
        Reason::BadReceipt,
        Reason::BadReceipt,
    ];
    let terms = Terms { windows: lies.len() as u64, evict_after: 99, ..Terms::default() };
    let mut world = World::new(Store::embedded(), 2, &terms);
    let liar = Liar::join(&world).await;
    let stranger = Identity::generate().unwrap();
    // Nonsense in the lobby stops nobody. (Written with the operator's key: a peer's own can only write its own wish.)
    let operator = world.run("aggregator").await;
    let wish = RunKey::Lobby(stranger.id()).to_string();
    operator.bucket().put(&wish, Bytes::from_static(b"{\"payload\":")).await.unwrap();
    world.start_all(&["aggregator", "validator", "miner-0"]);
    for (window, lie) in (0_u64..).zip(0..lies.len()) {
        let open = liar.open(window).await;
        let update = if lie == 2 { liar.zeros(&open.record) } else { vec![0xA5; 1000] };
        let honest = liar.receipt(&open, &update);
        liar.put(window, PeerFile::Update, update).await;
        match lie {
            0 => liar.put_signed(window, honest, &liar.identity).await,
            1 => {
                let update = FilePin { size: 1 << 40, ..honest.update.clone() };
                liar.put_signed(window, Receipt { update, ..honest }, &liar.identity).await;
            }
            // The update itself is in order.
            2 => {
                let update = FilePin { frame: Digest([7; 32]), ..honest.update.clone() };
                liar.put_signed(window, Receipt { update, ..honest }, &liar.identity).await;
            }
            3 => {
                let update = FilePin { sha256: Digest([7; 32]), ..honest.update.clone() };
                liar.put_signed(window, Receipt { update, ..honest }, &liar.identity).await;
            }
            4 => {
                liar.own.delete(&liar.key(window, PeerFile::Update)).await.unwrap();
                liar.put_signed(window, honest, &liar.identity).await;
            }
            5 => {
                let start_state_root = Digest([7; 32]);
                liar.put_signed(window, Receipt { start_state_root, ..honest }, &liar.identity).await;
            }
            6 => liar.put_signed(window, Receipt { window: window + 1, ..honest }, &liar.identity).await,
            7 => liar.put(window, PeerFile::Receipt, vec![b'['; 4000]).await,
            _ => liar.put_signed(window, honest, &stranger).await,
        }
    }
    world.expect_success(&["aggregator", "validator", "miner-0"]);
    let honest = world.id("miner-0");
    for ((_, close), expected) in world.chain(lies.len() as u64).await.iter().zip(lies) {
        let accepted: Vec<_> = close.record.accepted.iter().map(|share| share.peer).collect();
        assert_eq!(accepted, [honest], "window {}: {:?}", close.record.window, close.record.excluded);
        let excluded: Vec<_> = close.record.excluded.iter().map(|e| (e.peer, e.reason)).collect();
        assert_eq!(excluded, [(liar.identity.id(), expected)], "{:?}", close.record.excluded);
    }
}

/// What is pinned stays what it was: the run reads its own copy, whatever the peer does to its bucket afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_rewrites_its_update_changes_nothing() {
    let mut world = World::new(Store::embedded(), 2, &Terms { windows: 3, ..Terms::default() });
    world.start_all(&["aggregator", "validator", "miner-0", "miner-1"]);
    world.wait_for_key(RunKey::Cutoff(0)).await;
    let settings = Participant::read(&world.config("miner-1")).unwrap();
    let key = PeerKey::new(world.run_id, 0, PeerFile::Update).to_string();
    settings.open_own().unwrap().put(&key, Bytes::from_static(b"something else")).await.unwrap();
    world.expect_success(&["aggregator", "validator", "miner-0", "miner-1"]);
    let run = world.run("miner-0").await;
    for (_, close) in world.chain(3).await {
        assert_eq!(close.record.accepted.len(), 2);
        let cutoff = run.cutoff(close.record.window).await.unwrap().unwrap();
        for pinned in cutoff.record.pinned {
            let copy = RunKey::Update { window: close.record.window, peer: pinned.peer }.to_string();
            let bytes = run.bucket().get(&copy, 1 << 20).await.unwrap().bytes;
            assert_eq!(Digest::of(&bytes), pinned.update.sha256);
        }
    }
}
