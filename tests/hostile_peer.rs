//! A peer that lies in every window costs nobody anything but its own place in the merge.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use brigade::config::Participant;
use brigade::identity::Identity;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_protocol::{Digest, FilePin, Reason, Receipt};
use bytes::Bytes;
use support::liar::Liar;
use support::stores::Store;
use support::{Terms, World};

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
