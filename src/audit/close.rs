//! The close: the merge done again, and the checkpoint that comes of it.

use std::collections::BTreeMap;

use brigade_bucket::keys::RunKey;
use brigade_codec::Update;
use brigade_protocol::{Close, Cutoff, FilePin, Open, PeerId, Signed, Verdict};

use super::cutoff::say_pin;
use super::report::{Findings, is_ordered};
use super::verdict::{compare_exclusions, compare_shares};
use crate::run::outer::{Outer, delta_pin};
use crate::run::{Run, checkpoint};

/// A close, and those of the records before it that could be read.
pub(super) struct Records<'a> {
    pub(super) open: Option<&'a Signed<Open>>,
    pub(super) cutoff: Option<&'a Signed<Cutoff>>,
    pub(super) verdict: Option<&'a Signed<Verdict>>,
    pub(super) close: &'a Signed<Close>,
}

impl Records<'_> {
    /// Compares the close with the records that it names and repeats.
    pub(super) fn check(&self, findings: &mut Findings) {
        let close = &self.close.record;
        if let Some(open) = self.open {
            findings.compare("open", &open.digest, &close.open);
            findings.compare("start_state_root", &open.record.state_root, &close.start_state_root);
        }
        if let Some(cutoff) = self.cutoff {
            findings.compare("cutoff", &cutoff.digest, &close.cutoff);
        }
        if let Some(verdict) = self.verdict {
            findings.compare("verdict", &verdict.digest, &close.verdict);
            compare_shares(findings, [&verdict.record.shares, &close.accepted]);
        }
        if let (Some(cutoff), Some(verdict)) = (self.cutoff, self.verdict) {
            let mut excluded = [&cutoff.record.excluded[..], &verdict.record.excluded[..]].concat();
            excluded.sort_by_key(|exclusion| exclusion.peer);
            compare_exclusions(findings, [&excluded, &close.excluded]);
        }
    }
}

/// Merges what `close` accepted, and compares the delta, θ and the error feedback. Returns whether `outer` is at the start
/// of the next window; if not, it is worth nothing.
///
/// # Errors
/// When the bucket cannot be read.
pub(super) async fn redo(
    run: &Run,
    outer: &mut Outer,
    open: &Signed<Open>,
    close: &Signed<Close>,
    updates: &BTreeMap<PeerId, Update>,
    findings: &mut Findings,
) -> anyhow::Result<bool> {
    let said = &close.record;
    if let Err(error) = ensure_mergeable(said) {
        findings.blame("accepted", error)?;
        return Ok(false);
    }
    findings.compare("state_root of the opening", &outer.replica.state_root, &open.record.state_root);
    let merged = tokio::task::block_in_place(|| outer.merge(run, open, &said.accepted, updates));
    let bytes = match merged {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.blame("the merge of what was accepted", error)?;
            return Ok(false);
        }
    };
    let expected = bytes.map(|bytes| delta_pin(run, said.window, &bytes));
    check_delta(run, expected.as_ref(), open, said, findings).await?;
    let moved = tokio::task::block_in_place(|| (outer.replica.theta.root(), outer.error_feedback.root()));
    let is_same = [
        findings.compare("state_root", &moved.0, &said.state_root),
        findings.compare("error_feedback_root", &moved.1, &said.error_feedback_root),
    ];
    // A close that names another opening was compared with it already.
    outer.replica.window = outer.replica.window.saturating_add(1);
    outer.replica.state_root = moved.0;
    outer.replica.previous_seed = open.record.seed;
    Ok(is_same == [true, true])
}

/// Compares the delta's pin with what the merge leads to, and the object with its pin.
async fn check_delta(
    run: &Run,
    expected: Option<&FilePin>,
    open: &Signed<Open>,
    close: &Close,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let said = |pin: Option<&FilePin>| pin.map_or("null".to_owned(), say_pin);
    let found = close.delta.as_ref();
    findings.compare("delta", &said(expected), &said(found));
    let key = RunKey::Delta(close.window).to_string();
    // What it says must not aim the audit at another object.
    if found.is_some_and(|pin| pin.key == key)
        && let Err(error) = run.delta(&open.record, close).await
    {
        findings.blame("delta.bin", error)?;
    }
    Ok(())
}

/// Whether shares can be merged at all: each peer once, so that no more is read and added up than the run has peers.
///
/// # Errors
/// When a peer comes twice or out of order.
pub(super) fn ensure_mergeable(close: &Close) -> anyhow::Result<()> {
    let is_ordered = is_ordered(&close.accepted, |share| share.peer);
    anyhow::ensure!(is_ordered, "what was accepted is not ordered by peer, each peer once");
    Ok(())
}

/// Compares the checkpoint behind a close with it.
///
/// # Errors
/// When the bucket cannot be read.
pub(super) async fn check_checkpoint(
    run: &Run,
    close: &Signed<Close>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let close = &close.record;
    let record = checkpoint::at(run, close.window.saturating_add(1)).await;
    if let Some(checkpoint) = findings.read("checkpoint.json", record)? {
        let said = &checkpoint.record;
        findings.compare("state_root", &close.state_root, &said.state_root);
        findings.compare("error_feedback_root", &close.error_feedback_root, &said.error_feedback_root);
    }
    Ok(())
}
