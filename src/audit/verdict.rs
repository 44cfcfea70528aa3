//! The verdict: the scores that were heard, combined again.

use std::collections::{BTreeMap, BTreeSet};

use brigade_codec::Update;
use brigade_protocol::gauntlet::{Case, Gram, Standing, judge};
use brigade_protocol::{Cutoff, Exclusion, PeerId, Role, Roster, Scores, Share, Signed, Verdict};

use super::cutoff::say;
use super::report::{Findings, is_ordered};
use crate::run::Run;

/// Relative difference that two platforms' logarithms and powers may make in ratings, credits and weights.
const PLATFORM: f64 = 1e-9;

/// What a verdict follows from.
pub(super) struct Bench<'a> {
    pub(super) run: &'a Run,
    pub(super) cutoff: &'a Signed<Cutoff>,
    pub(super) roster: &'a Roster,
    /// All that is pinned, if all of it can be relied on.
    pub(super) updates: Option<&'a BTreeMap<PeerId, Update>>,
}

impl Bench<'_> {
    /// Judges again and compares; `previous` is everybody's standing before the window, if that is known.
    ///
    /// # Errors
    /// When updates that have been read cannot be read again.
    pub(super) fn check(
        &self,
        verdict: &Signed<Verdict>,
        previous: Option<&[Standing]>,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        findings.compare("cutoff", &self.cutoff.digest, &verdict.record.cutoff);
        let heard = self.heard(&verdict.record, findings);
        let Some(updates) = self.updates else {
            findings.unverifiable("the judgement: not all updates that it is of can be relied on");
            return Ok(());
        };
        let Some(previous) = previous else {
            findings.unverifiable("the judgement: the standings of the window before cannot be read");
            return Ok(());
        };
        // Standings are looked up by halving.
        if !is_ordered(previous, |standing| standing.peer) {
            findings.differ("standings of the window before", "ordered by peer, each peer once", "not so");
            return Ok(());
        }
        let pinned = self.cutoff.record.pinned.iter();
        let updates: Vec<&Update> = pinned.filter_map(|pinned| updates.get(&pinned.peer)).collect();
        let products = tokio::task::block_in_place(|| brigade_codec::gram(&updates))?;
        let Some(gram) = Gram::new(products) else {
            findings.differ("inner products of the updates", "finite numbers", "others");
            return Ok(());
        };
        let case = Case {
            manifest: self.run.manifest(),
            cutoff: &self.cutoff.record,
            heard: &heard,
            gram: &gram,
            previous,
        };
        let judgement = tokio::task::block_in_place(|| judge(&case));
        let found = &verdict.record;
        compare_shares(findings, [&judgement.shares, &found.shares]);
        compare_exclusions(findings, [&judgement.excluded, &found.excluded]);
        compare_standings(findings, [&judgement.standings, &found.standings]);
        Ok(())
    }

    /// The scores that count: of validators of the run, each heard once, about this cutoff.
    fn heard(&self, verdict: &Verdict, findings: &mut Findings) -> Vec<Signed<Scores>> {
        let mut signers = BTreeSet::new();
        let mut heard = Vec::new();
        for envelope in &verdict.scores {
            let signer = envelope.claimed_signer();
            let what = format!("scores of {}", signer.short());
            let is_named = self.run.manifest().validator(&signer).is_some();
            let member = self.roster.member(&signer).filter(|member| member.role == Role::Validator);
            if !is_named || member.is_none() {
                findings.differ(what, "a validator's of the manifest and the roster", "somebody else's");
                continue;
            }
            if !signers.insert(signer) {
                findings.differ(what, "one envelope", "more than one");
                continue;
            }
            match envelope.open_from::<Scores>(&signer) {
                Ok(scores) => {
                    let what = format!("cutoff in the {what}");
                    if findings.compare(what, &self.cutoff.digest, &scores.record.cutoff) {
                        heard.push(scores);
                    }
                }
                Err(error) => findings.differ(what, "a record that its signature fits", error),
            }
        }
        heard
    }
}

/// Shares in their order, to the last bit: θ depends on them.
pub(super) fn compare_shares(findings: &mut Findings, lists: [&Vec<Share>; 2]) {
    findings.compare_lists(
        "share",
        lists.map(Vec::as_slice),
        |share| share.peer,
        |findings, expected, found| {
            let name = found.peer.short();
            findings.compare(format_args!("weight in the share of {name}"), &expected.weight, &found.weight);
            findings.compare(format_args!("norm in the share of {name}"), &expected.norm, &found.norm);
            let what = format!("coefficient in the share of {name}");
            findings.compare(what, &expected.coefficient, &found.coefficient);
        },
    );
}

/// Exclusions with their reasons and details.
pub(super) fn compare_exclusions(findings: &mut Findings, lists: [&Vec<Exclusion>; 2]) {
    let lists = lists.map(Vec::as_slice);
    findings.compare_lists(
        "exclusion",
        lists,
        |exclusion| exclusion.peer,
        |findings, expected, found| {
            let what = format!("exclusion of {}", found.peer.short());
            findings.compare(what, &say(expected), &say(found));
        },
    );
}

fn compare_standings(findings: &mut Findings, lists: [&Vec<Standing>; 2]) {
    let lists = lists.map(Vec::as_slice);
    findings.compare_lists(
        "standing",
        lists,
        |standing| standing.peer,
        |findings, expected, found| {
            let name = found.peer.short();
            let figures = [
                ("mu", expected.rating.mu, found.rating.mu),
                ("sigma", expected.rating.sigma, found.rating.sigma),
                ("credit", expected.credit, found.credit),
                ("weight", expected.weight, found.weight),
            ];
            for (what, expected, found) in figures {
                if !is_close(expected, found) {
                    findings.differ(format_args!("{what} in the standing of {name}"), expected, found);
                }
            }
            findings.compare(
                format_args!("windows in the standing of {name}"),
                &expected.windows,
                &found.windows,
            );
            let what = format!("is_scored in the standing of {name}");
            findings.compare(what, &expected.is_scored, &found.is_scored);
            if expected.contents != found.contents {
                let said = |standing: &Standing| {
                    let contents: Vec<String> =
                        standing.contents.iter().map(|digest| digest.short()).collect();
                    contents.join(" ")
                };
                findings.differ(
                    format_args!("contents in the standing of {name}"),
                    said(expected),
                    said(found),
                );
            }
        },
    );
}

fn is_close(expected: f64, found: f64) -> bool {
    let scale = expected.abs().max(found.abs()).max(1.0);
    expected == found || (expected - found).abs() <= PLATFORM * scale
}
