//! The opening: seed, roster, θ, times.

use brigade_bucket::keys::RunKey;
use brigade_protocol::{Digest, Open, Roster};

use crate::forger::LAST;
use crate::trial::Trial;

pub async fn lies(trial: &Trial<'_>) {
    let forger = trial.forger;
    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.previous_close = Some(Digest([7; 32]))).await;
    trial.among("previous_close", "open").await;

    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.deadline.0 += 60_000).await;
    trial.among("a later deadline", "open").await;

    forger.forge(RunKey::Open(LAST), |open: &mut Open| open.state_root = Digest([7; 32])).await;
    trial.among("another θ", "open").await;

    let roster = forger.record::<Open>(RunKey::Open(LAST)).await.record.roster;
    let roster: Roster = serde_json::from_slice(&forger.honest(RunKey::Roster(roster))).unwrap();
    let miner = roster.active_miners().next().unwrap().peer;
    let mut without = roster.clone();
    without.members.retain(|member| member.peer != miner);
    let mut inactive = roster.clone();
    inactive.members.iter_mut().find(|member| member.peer == miner).unwrap().active = false;
    let mut unordered = roster;
    unordered.members.reverse();
    for (lie, roster) in [("a member removed", without), ("put out", inactive), ("unordered", unordered)] {
        let bytes = serde_json::to_vec(&roster).unwrap();
        let digest = Digest::of(&bytes);
        forger.put(RunKey::Roster(digest), bytes).await;
        forger.forge(RunKey::Open(LAST), |open: &mut Open| open.roster = digest).await;
        trial.among(lie, "open").await;
    }
}
