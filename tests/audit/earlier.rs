//! Windows before the last, and checkpoints.

use std::collections::BTreeSet;

use brigade_bucket::keys::{CheckpointFile, RunKey};
use brigade_protocol::{Checkpoint, Close, Digest};

use crate::trial::{Told, Trial, differences, run_audit};

pub async fn lies(trial: &Trial<'_>) {
    let (world, forger) = (trial.world, trial.forger);
    let all = |arguments: &[&str]| {
        let (code, said) = run_audit(world, arguments);
        assert_eq!(code, 1, "{said:#}");
        differences(&said)
    };
    // On the way from the checkpoint to the window that is asked for.
    let root = Digest([7; 32]);
    forger.forge(RunKey::Close(2), |close: &mut Close| close.error_feedback_root = root).await;
    let told = all(&["--window", "3"]);
    assert_eq!(told.get(&2), Some(&BTreeSet::from(["close".to_owned()])), "{told:?}");
    forger.restore().await;

    // The checkpoint that θ comes from is not what the window before it led to.
    let record = RunKey::Checkpoint { window: 2, file: CheckpointFile::Record };
    forger.forge(record, |checkpoint: &mut Checkpoint| checkpoint.error_feedback_root = root).await;
    let told = all(&["--window", "2"]);
    assert_eq!(told, Told::from([(2, BTreeSet::from(["checkpoint".to_owned()]))]));
    let told = all(&["--all"]);
    assert_eq!(told, Told::from([(1, BTreeSet::from(["checkpoint".to_owned()]))]));
    forger.restore().await;

    // θ is found again at the next checkpoint, so that one lie does not make all later windows look false.
    forger.forge(RunKey::Close(0), |close: &mut Close| close.error_feedback_root = root).await;
    let told = all(&["--all"]);
    assert_eq!(told.keys().collect::<Vec<_>>(), [&0, &1], "{told:?}");
    assert!(told[&0].contains("close") && !told[&1].contains("close"), "{told:?}");
    forger.restore().await;

    // A window that vanished among later ones is missed.
    forger.delete(RunKey::Close(1)).await;
    assert!(all(&["--all"])[&1].contains("close"));
    forger.restore().await;
}
