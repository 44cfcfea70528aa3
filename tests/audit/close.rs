//! The close: the delta, and what follows from it.

use brigade_bucket::keys::RunKey;
use brigade_protocol::{Close, Digest};

use crate::forger::LAST;
use crate::support::brigade_fails;
use crate::trial::Trial;

pub async fn lies(trial: &Trial<'_>) {
    let forger = trial.forger;
    let mut delta = forger.honest(RunKey::Delta(LAST)).to_vec();
    *delta.last_mut().unwrap() ^= 1;
    forger.put(RunKey::Delta(LAST), delta.clone()).await;
    trial.only("a bit of the delta", "close").await;

    forger.put(RunKey::Delta(LAST), delta.clone()).await;
    let repinned = |close: &mut Close| close.delta.as_mut().unwrap().sha256 = Digest::of(&delta);
    forger.forge(RunKey::Close(LAST), repinned).await;
    trial.only("a bit of the delta, pinned", "close").await;

    // Another window's delta is well formed and points the same way.
    let elsewhere =
        |close: &mut Close| close.delta.as_mut().unwrap().key = "windows/0000000000/delta.bin".into();
    forger.forge(RunKey::Close(LAST), elsewhere).await;
    trial.only("another key", "close").await;

    let root = Digest([7; 32]);
    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.state_root = root).await;
    forger.checkpoint(|checkpoint| checkpoint.state_root = root).await;
    trial.only("the state root, in the checkpoint too", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.error_feedback_root = root).await;
    forger.checkpoint(|checkpoint| checkpoint.error_feedback_root = root).await;
    trial.only("the error feedback, in the checkpoint too", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.accepted[0].weight = 0.25).await;
    trial.only("a share that is not the verdict's", "close").await;

    let twice = |close: &mut Close| close.accepted = vec![close.accepted[0].clone(); 2];
    forger.forge(RunKey::Close(LAST), twice).await;
    trial.only("a share that is merged twice", "close").await;

    forger.forge(RunKey::Close(LAST), |close: &mut Close| close.verdict = root).await;
    trial.only("another verdict", "close").await;

    forger.checkpoint(|checkpoint| checkpoint.state_root = root).await;
    let config = trial.world.config("miner-0");
    brigade_fails(&["audit", "--config"], &[&config], &["1 difference", "window 3", "ask its operator"]);
    trial.only("the checkpoint's state root", "checkpoint").await;
}
