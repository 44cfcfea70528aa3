//! The cutoff: everything that is pinned goes through the checks and the decoder again.

use std::collections::BTreeMap;

use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_codec::Update;
use brigade_protocol::{
    Cutoff, Digest, Exclusion, FilePin, Open, PeerId, Pinned, Reason, Receipt, Record as _, Roster, Signed,
};
use futures::stream::{StreamExt as _, TryStreamExt as _};

use super::report::{Findings, Step, is_evidence, is_ordered};
use crate::run::Run;

/// Updates that are read at a time.
const CONCURRENT_READS: usize = 8;

/// Compares a cutoff with what was mirrored. Returns the pinned updates if all of them are what they should be.
///
/// # Errors
/// When the bucket cannot be read.
pub(super) async fn check(
    run: &Run,
    open: &Signed<Open>,
    cutoff: &Signed<Cutoff>,
    roster: &Roster,
    findings: &mut Findings,
) -> anyhow::Result<Option<BTreeMap<PeerId, Update>>> {
    let said = &cutoff.record;
    findings.compare("open", &open.digest, &said.open);
    check_time(run, open, said, findings);
    let is_complete = check_peers(said, roster, findings);
    if !is_complete {
        return Ok(None);
    }
    for exclusion in said.excluded.iter().filter(|exclusion| roster.admits(&exclusion.peer)) {
        check_exclusion(run, open, exclusion, findings).await?;
    }
    // In the order of the cutoff, so that two audits say the same.
    let checked: Vec<(Option<Update>, Findings)> = futures::stream::iter(&said.pinned)
        .map(|pinned| check_pinned(run, open, pinned))
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let mut updates = BTreeMap::new();
    for (pinned, (update, found)) in said.pinned.iter().zip(checked) {
        findings.append(found);
        updates.extend(update.map(|update| (pinned.peer, update)));
    }
    Ok((updates.len() == said.pinned.len()).then_some(updates))
}

/// Before the deadline a window is cut off only when everybody has delivered.
fn check_time(run: &Run, open: &Signed<Open>, cutoff: &Cutoff, findings: &mut Findings) {
    let may_be_early = run.manifest().windows.close_when_complete
        && cutoff.excluded.iter().all(|exclusion| exclusion.reason != Reason::Missing);
    let deadline = open.record.deadline;
    if !may_be_early && cutoff.cut_at <= deadline {
        findings.differ("cut_at", format_args!("after the deadline {deadline}"), cutoff.cut_at);
    }
}

/// Whether what is pinned and excluded is the roster's active miners, each once.
fn check_peers(cutoff: &Cutoff, roster: &Roster, findings: &mut Findings) -> bool {
    let mut all_ordered = true;
    let ordered = [
        ("pinned", is_ordered(&cutoff.pinned, |pinned| pinned.peer)),
        ("excluded", is_ordered(&cutoff.excluded, |exclusion| exclusion.peer)),
    ];
    for (what, is_ordered) in ordered {
        if !is_ordered {
            findings.differ(what, "ordered by peer, each peer once", "not so");
            all_ordered = false;
        }
    }
    let pinned = cutoff.pinned.iter().map(|pinned| pinned.peer);
    let mut found: Vec<PeerId> =
        pinned.chain(cutoff.excluded.iter().map(|exclusion| exclusion.peer)).collect();
    found.sort_unstable();
    let expected: Vec<PeerId> = roster.active_miners().map(|member| member.peer).collect();
    findings.compare_lists("active miner", [&expected[..], &found[..]], |peer| *peer, |_, _, _| {});
    // No more is read than the run has miners.
    all_ordered && cutoff.pinned.iter().all(|pinned| roster.admits(&pinned.peer))
}

/// One pinned update, from its receipt to what it says.
async fn check_pinned(
    run: &Run,
    open: &Signed<Open>,
    pinned: &Pinned,
) -> anyhow::Result<(Option<Update>, Findings)> {
    let mut findings = Findings::of(Step::Cutoff);
    let (peer, name) = (pinned.peer, pinned.peer.short());
    let window = open.record.window;
    let key = RunKey::Receipt { window, peer }.to_string();
    let object = run.bucket().try_get(&key, Receipt::MAX_BYTES).await.map_err(anyhow::Error::from);
    let object = findings.read(&format!("receipt of {name}"), object)?;
    if let Some(object) = object {
        if object.meta.last_modified != pinned.mirrored_at {
            // A run that was copied to another bucket has other times.
            let (found, said) = (object.meta.last_modified, pinned.mirrored_at);
            findings.note(format_args!(
                "the receipt of {name} is of {found}, and was mirrored at {said}, says the cutoff"
            ));
        }
        let update_key = PeerKey::new(run.id(), window, PeerFile::Update).to_string();
        let checked = run.expected(open, &update_key).check(peer, &object.bytes, pinned.received_at);
        match checked {
            Err(exclusion) => {
                findings.differ(
                    format_args!("receipt of {name}"),
                    "one that passes the checks",
                    say(&exclusion),
                );
            }
            Ok(receipt) => {
                findings.compare(format_args!("receipt of {name}"), &receipt.digest, &pinned.receipt);
                if receipt.record.start_losses != pinned.start_losses {
                    let (promised, found) = (&receipt.record.start_losses, &pinned.start_losses);
                    let what = format!("start losses of {name}");
                    findings.differ(what, format_args!("{promised:?}"), format_args!("{found:?}"));
                }
                let promised = &receipt.record.update;
                if *promised != pinned.update {
                    let what = format!("pin of the update of {name}");
                    findings.differ(what, say_pin(promised), say_pin(&pinned.update));
                }
            }
        }
    }
    let update = match run.update(&open.record, &peer, &pinned.update).await {
        Ok(Ok(update)) => update,
        Ok(Err(error)) => {
            findings.differ(format_args!("update of {name}"), "one that the decoder takes", error);
            return Ok((None, findings));
        }
        Err(error) => {
            findings.blame(format_args!("update of {name}"), error)?;
            return Ok((None, findings));
        }
    };
    let (frame, content) = (Digest(update.frame().digest()), Digest(update.frame().content()));
    findings.compare(format_args!("frame of the update of {name}"), &frame, &pinned.update.frame);
    findings.compare(format_args!("content of the update of {name}"), &content, &pinned.content);
    Ok((Some(update), findings))
}

/// What the bucket shows of an exclusion. Of a receipt that was never mirrored it shows nothing.
async fn check_exclusion(
    run: &Run,
    open: &Signed<Open>,
    exclusion: &Exclusion,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (peer, name, window) = (exclusion.peer, exclusion.peer.short(), open.record.window);
    let unproven =
        |what: &str| format!("the exclusion of {name} ({}): its {what} was not mirrored", say(exclusion));
    let key = RunKey::Receipt { window, peer }.to_string();
    let Some(object) = run.bucket().try_get(&key, Receipt::MAX_BYTES).await? else {
        findings.unverifiable(unproven("receipt"));
        return Ok(());
    };
    let update_key = PeerKey::new(run.id(), window, PeerFile::Update).to_string();
    // When it came is what only the peer's own store knows.
    let checked = run.expected(open, &update_key).check(peer, &object.bytes, open.record.deadline);
    let Ok(receipt) = checked else {
        findings.unverifiable(unproven("receipt"));
        return Ok(());
    };
    // What is mirrored was seen, passed the checks, and was in time.
    let is_of_receipt = [Reason::Missing, Reason::BadReceipt, Reason::WrongWindow, Reason::Late];
    if is_of_receipt.contains(&exclusion.reason) {
        let what = format_args!("exclusion of {name}");
        findings.differ(
            what,
            "a reason beside the mirrored receipt, which passes the checks",
            say(exclusion),
        );
        return Ok(());
    }
    match run.update(&open.record, &peer, &receipt.record.update).await {
        Ok(Ok(_)) => findings.note(format_args!(
            "{name} is excluded ({}), and yet its mirrored receipt and update pass every check",
            say(exclusion)
        )),
        Ok(Err(_)) => findings.unverifiable(unproven("update")),
        Err(error) if is_evidence(&error) => findings.unverifiable(unproven("update")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// An exclusion as one reads it.
pub(super) fn say(exclusion: &Exclusion) -> String {
    let reason = serde_json::to_value(exclusion.reason).ok();
    let reason = reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or_default();
    format!("{reason}: {}", exclusion.detail)
}

/// A pin as one reads it.
pub(super) fn say_pin(pin: &FilePin) -> String {
    let FilePin { key, size, sha256, frame } = pin;
    format!("{key}, {size} bytes, SHA-256 {sha256}, frame {frame}")
}
