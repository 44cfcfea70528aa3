//! The verdict: scores, shares, exclusions, standings.

use brigade_protocol::{Envelope, Exclusion, Reason, Scores, Verdict};

use crate::trial::Trial;

pub async fn lies(trial: &Trial<'_>) {
    let forger = trial.forger;
    let scores = forger.scores().await;
    assert_eq!(scores.len(), 1, "the validator was heard");

    forger.go_on(scores.clone(), |verdict| verdict.shares[0].coefficient *= 1.5).await;
    trial.only("a coefficient", "verdict").await;

    let last_digit = |verdict: &mut Verdict| {
        let share = &mut verdict.shares[0];
        share.coefficient = f32::from_bits(share.coefficient.to_bits() + 1);
    };
    forger.go_on(scores.clone(), last_digit).await;
    trial.only("the last bit of a coefficient", "verdict").await;

    let invented = |verdict: &mut Verdict| {
        let share = verdict.shares.remove(0);
        verdict.excluded.push(Exclusion::new(share.peer, Reason::Harmful, "raises the loss"));
    };
    forger.go_on(scores.clone(), invented).await;
    trial.only("an exclusion invented", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.standings[0].weight += 1e-6).await;
    trial.only("a weight raised", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.standings[0].credit += 1.0).await;
    trial.only("a credit raised", "verdict").await;

    // What the validator said is changed, and everything is computed from that.
    let mut altered: serde_json::Value = serde_json::to_value(&scores[0]).unwrap();
    let mut said = scores[0].open::<Scores>().unwrap().record;
    said.scores[0].unassigned.as_mut().unwrap().mean += 1.0;
    let own = Envelope::sign(said.clone(), forger.identity.signing()).unwrap().0;
    altered["payload"] = serde_json::to_value(&own).unwrap()["payload"].clone();
    let altered: Envelope = serde_json::from_value(altered).unwrap();
    assert_ne!(altered, scores[0]);
    forger.go_on(scores.clone(), |verdict| verdict.scores = vec![altered]).await;
    trial.only("scores altered under their signature", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.scores.push(own)).await;
    trial.only("scores of who is no validator", "verdict").await;

    forger.go_on(scores.clone(), |verdict| verdict.scores.push(scores[0].clone())).await;
    trial.only("scores heard twice", "verdict").await;
}
