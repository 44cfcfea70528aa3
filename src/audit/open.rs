//! The opening of a window, and the roster that it names.

use brigade_protocol::{Applicant, Member, Open, Role, Roster, Signed};

use super::Before;
use super::report::{Findings, is_ordered};
use crate::run::Run;

/// Compares an opening with the window before. Returns its roster if that is one.
///
/// # Errors
/// When the bucket cannot be read.
pub(super) async fn check(
    run: &Run,
    open: &Signed<Open>,
    before: Option<&Before>,
    findings: &mut Findings,
) -> anyhow::Result<Option<Roster>> {
    let said = &open.record;
    let deadline = said.opened_at.plus(run.manifest().windows.train());
    findings.compare("deadline", &deadline, &said.deadline);
    let close = before.and_then(|before| before.close.as_ref());
    match (before, close) {
        (None, _) => {
            if let Some(digest) = said.previous_close {
                findings.differ("previous_close", "null in window 0", digest);
            }
            findings.compare("state_root", &run.manifest().initial_state_root, &said.state_root);
        }
        (Some(_), None) => {}
        (Some(_), Some(close)) => {
            let found = said.previous_close.map_or("null".to_owned(), |digest| digest.to_string());
            findings.compare("previous_close", &close.digest.to_string(), &found);
            findings.compare("state_root", &close.record.state_root, &said.state_root);
        }
    }
    let roster = match run.roster(&said.roster).await {
        Ok(roster) => roster,
        Err(error) => {
            findings.blame("roster", error)?;
            return Ok(None);
        }
    };
    // Members are looked up by halving.
    if !is_ordered(&roster.members, |member| member.peer) {
        findings.differ("roster", "ordered by peer, each peer once", "not so");
        return Ok(None);
    }
    follow(run, before, &roster, findings).await?;
    Ok(Some(roster))
}

/// Makes the roster again: from that of the window before, its close, and the wishes that changed something, which the
/// roster holds itself. Who was ignored in the lobby cannot be seen; who was admitted, put out or kept can.
async fn follow(
    run: &Run,
    before: Option<&Before>,
    roster: &Roster,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (base, last) = match before {
        None => (Roster::default(), None),
        Some(Before { open: Some(open), close: Some(close), .. }) => {
            match run.roster(&open.record.roster).await {
                Ok(base) if is_ordered(&base.members, |member| member.peer) => (base, Some(&close.record)),
                // It is that window's fault, or was deleted with it.
                Ok(_) => return Ok(()),
                Err(error) => {
                    findings.blame("roster of the window before", error)?;
                    return Ok(());
                }
            }
        }
        Some(_) => {
            findings.unverifiable("that the roster follows from the one before, which is gone");
            return Ok(());
        }
    };
    let mut wishes = Vec::new();
    for member in &roster.members {
        let known = base.member(&member.peer);
        if known.is_some_and(|known| known.join_digest == member.join_digest && known.join == member.join) {
            continue;
        }
        let what = format!("wish of {} on the roster", member.peer.short());
        match Applicant::check(&member.join.to_bytes(), run.signed_manifest()) {
            Ok(applicant) if applicant.peer() == member.peer => wishes.push(applicant),
            Ok(applicant) => findings.differ(what, member.peer, applicant.peer()),
            Err(error) => findings.differ(what, "a signed wish for this run", error),
        }
    }
    let expected = base.next(run.manifest(), last, wishes);
    let lists = [&expected.members[..], &roster.members[..]];
    findings.compare_lists(
        "roster: member",
        lists,
        |member| member.peer,
        |findings, expected, found| {
            if expected != found {
                let what = format!("roster: member {}", found.peer.short());
                findings.differ(what, describe(expected), describe(found));
            }
        },
    );
    let windows = &run.manifest().windows;
    let needed =
        if before.is_none() { windows.start_peers.max(windows.min_peers) } else { windows.min_peers };
    let miners = roster.active_miners().count();
    if miners < needed as usize {
        findings.differ("active miners", format_args!("{needed} at least"), miners);
    }
    Ok(())
}

fn describe(member: &Member) -> String {
    let role = match member.role {
        Role::Miner => "miner",
        Role::Validator => "validator",
    };
    let (missed, active) = (member.missed, if member.active { "active" } else { "inactive" });
    format!("{active} {role}, {missed} missed, wish {}", member.join_digest)
}
