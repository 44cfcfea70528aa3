//! What is no record at all.

use brigade::identity::Identity;
use brigade_bucket::keys::RunKey;
use brigade_protocol::{Envelope, Open, Verdict};
use bytes::Bytes;

use crate::forger::LAST;
use crate::trial::Trial;

pub async fn lies(trial: &Trial<'_>) {
    let forger = trial.forger;
    let stranger = Identity::generate().unwrap();
    let open = forger.record::<Open>(RunKey::Open(LAST)).await.record;
    let signed = Envelope::sign(open, stranger.signing()).unwrap().0.to_bytes();
    forger.put(RunKey::Open(LAST), signed).await;
    trial.among("an opening that a stranger signed", "open").await;

    forger.put(RunKey::Open(LAST), vec![b'['; 70 << 10]).await;
    trial.among("an opening that is too long", "open").await;

    forger.put(RunKey::Cutoff(LAST), vec![b'['; 4000]).await;
    trial.among("no cutoff", "cutoff").await;

    forger.put(RunKey::Verdict(LAST), forger.honest(RunKey::Verdict(LAST - 1))).await;
    trial.among("the verdict of another window", "verdict").await;

    forger.delete(RunKey::Verdict(LAST)).await;
    trial.among("a verdict deleted", "verdict").await;

    forger.put(RunKey::Close(LAST), Bytes::from_static(b"{}")).await;
    trial.among("no close", "close").await;

    let unordered = |verdict: &mut Verdict| verdict.standings.reverse();
    forger.forge(RunKey::Verdict(LAST - 1), unordered).await;
    trial.among("standings of the window before in disorder", "verdict").await;
}
