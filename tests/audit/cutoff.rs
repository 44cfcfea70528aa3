//! The cutoff: who is pinned, and who is not.

use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_codec::{Update, compress};
use brigade_protocol::{Cutoff, Digest, Exclusion, FilePin, Open, Reason, Timestamp};

use crate::forger::LAST;
use crate::trial::{Told, Trial, differences, run_audit};

pub async fn lies(trial: &Trial<'_>) {
    let forger = trial.forger;
    let open = forger.record::<Open>(RunKey::Open(LAST)).await;
    let honest = forger.record::<Cutoff>(RunKey::Cutoff(LAST)).await.record;
    let peer = honest.pinned[0].peer;
    let update = RunKey::Update { window: LAST, peer };

    forger.put(update, forger.honest(RunKey::Update { window: LAST, peer: honest.pinned[1].peer })).await;
    trial.only("another's update in the place of the pinned one", "cutoff").await;

    forger.delete(RunKey::Receipt { window: LAST, peer }).await;
    trial.only("a receipt deleted", "cutoff").await;

    // A lie about the cutoff makes the scores worthless, which validators have signed: none is heard.
    forger.forge(RunKey::Cutoff(LAST), |cutoff: &mut Cutoff| drop(cutoff.pinned.remove(0))).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("a pin dropped", "cutoff").await;

    let after = Timestamp(open.record.deadline.0 + 1);
    forger.forge(RunKey::Cutoff(LAST), |cutoff: &mut Cutoff| cutoff.pinned[0].received_at = after).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("a late receipt pinned", "cutoff").await;

    let missing = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Missing, "no receipt at the deadline"));
    };
    forger.forge(RunKey::Cutoff(LAST), missing).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("missing, before the deadline", "cutoff").await;

    // An update that is in order, which the peer never made.
    let (layout, binding) = (forger.run.layout(), forger.run.binding(&open.record, &peer));
    let mut delta = layout.zeros();
    delta.iter_mut().flatten().enumerate().for_each(|(n, value)| *value = (n % 7) as f32 * 1e-3);
    let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
    let made = compress(layout, &binding, &forger.run.codec(), &delta, &mut layout.zeros()).unwrap();
    let parsed = Update::parse(made.clone(), layout, &forger.run.codec(), &binding).unwrap();
    forger.put(update, made.clone()).await;
    let forged = |cutoff: &mut Cutoff| {
        let pinned = &mut cutoff.pinned[0];
        let key = PeerKey::new(forger.run.id(), LAST, PeerFile::Update).to_string();
        let frame = Digest(parsed.frame().digest());
        pinned.update = FilePin { key, size: made.len() as u64, sha256: Digest::of(&made), frame };
        pinned.content = Digest(parsed.frame().content());
    };
    forger.forge(RunKey::Cutoff(LAST), forged).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("an update made up", "cutoff").await;

    // What is mirrored was in time.
    let late = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Late, "1s past the deadline"));
    };
    forger.forge(RunKey::Cutoff(LAST), late).await;
    forger.go_on(Vec::new(), |_| {}).await;
    trial.only("late, before the deadline", "cutoff").await;

    // Whether its bucket could be read nobody else can know; that everything is there is told.
    let unavailable = |cutoff: &mut Cutoff| {
        let pinned = cutoff.pinned.remove(0);
        cutoff.excluded.push(Exclusion::new(pinned.peer, Reason::Unavailable, "its bucket is too slow"));
    };
    forger.forge(RunKey::Cutoff(LAST), unavailable).await;
    forger.go_on(Vec::new(), |_| {}).await;
    let (code, said) = run_audit(trial.world, &[]);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let note = said["windows"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains(&peer.short()) && note.contains("too slow"), "{note}");
    forger.delete(RunKey::Receipt { window: LAST, peer }).await;
    let (code, said) = run_audit(trial.world, &[]);
    assert_eq!((code, differences(&said)), (0, Told::new()), "{said:#}");
    let unverifiable = said["windows"][0]["unverifiable"][0].as_str().unwrap();
    assert!(unverifiable.contains(&peer.short()), "{unverifiable}");
    forger.restore().await;
}
