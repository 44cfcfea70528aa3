//! The audit: closed windows done again from the objects of the run's bucket, by anybody who can read it.
//!
//! Nothing that the aggregator says is taken on trust except what nobody could check; that is listed. What a hostile
//! aggregator writes is a difference, never an error: an error says that the bucket cannot be read.
//!
//! | module | role |
//! | --- | --- |
//! | [`report`] | differences, and what counts as one |
//! | `plan` | which windows, and from which checkpoint θ comes |
//! | `open` | the opening and its roster |
//! | `cutoff` | receipts and updates through the checks and the decoder again |
//! | `verdict` | the scores combined again |
//! | `close` | the merge done again; the checkpoint behind it |

mod close;
mod cutoff;
mod open;
mod plan;
pub mod report;
mod verdict;

use std::collections::BTreeSet;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_protocol::{Close, Open, Signed, Verdict};

use crate::run::Run;
use crate::run::outer::Outer;
use report::{Findings, Step, WindowReport};

/// Which windows are done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The newest one that is closed.
    Newest,
    /// These.
    Windows(BTreeSet<u64>),
    /// Every one that is still in the bucket.
    All,
}

/// Does the chosen windows again, in their order, and hands out each report as it comes. A window that was not chosen is
/// reported too when θ comes by way of it and it differs.
///
/// Holds θ, error feedback, and one window's updates in memory. Must be called on a runtime of several threads.
///
/// # Errors
/// When a chosen window is not there, or the bucket cannot be read.
pub async fn audit(
    run: &Run,
    choice: &Choice,
    mut tell: impl FnMut(WindowReport, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let plan = plan::Plan::make(run, choice).await?;
    let total = plan.windows.len();
    let mut auditor = Auditor { run, checkpoints: plan.checkpoints, outer: None, lost: None, before: None };
    let mut gone = plan.gone;
    for window in plan.windows {
        let mut start = Findings::of(Step::Open);
        start.unverifiable.extend(gone.take());
        for detour in auditor.reach(window, &mut start).await? {
            tell(detour, total)?;
        }
        let mut report = WindowReport::new(window);
        report.add(start);
        auditor.window(&mut report).await?;
        tell(report, total)?;
    }
    Ok(())
}

/// What is left behind by a window and read again in the next.
struct Before {
    window: u64,
    open: Option<Signed<Open>>,
    close: Option<Signed<Close>>,
    verdict: Option<Signed<Verdict>>,
}

/// An audit under way.
struct Auditor<'a> {
    run: &'a Run,
    /// Windows before which a checkpoint lies.
    checkpoints: BTreeSet<u64>,
    /// θ and error feedback as the windows so far lead to them; nothing after a window whose merge differs.
    outer: Option<Outer>,
    /// The last window behind which θ could not be followed: only a later checkpoint helps.
    lost: Option<u64>,
    before: Option<Before>,
}

impl Auditor<'_> {
    /// Brings θ to the start of `window`, from a checkpoint and the merges since if need be. Returns the windows on the
    /// way that differ.
    async fn reach(&mut self, window: u64, start: &mut Findings) -> anyhow::Result<Vec<WindowReport>> {
        let mut detours = Vec::new();
        loop {
            let at = self.outer.as_ref().map(|outer| outer.replica.window);
            if at == Some(window) {
                return Ok(detours);
            }
            let last = at.max(self.lost);
            let nearest = self.checkpoints.range(..=window).next_back().copied();
            // Far ahead it is quicker to begin anew than to merge all that lies between.
            if let Some(nearest) = nearest.filter(|nearest| Some(*nearest) > last) {
                if let Err(error) = self.begin(nearest).await {
                    self.lose(nearest);
                    start.blame_as(
                        Step::Checkpoint,
                        format!("checkpoint {nearest}, where θ comes from"),
                        error,
                    )?;
                    continue;
                }
            } else if at.is_none() {
                return Ok(detours);
            }
            while let Some(outer) = self.outer.as_mut().filter(|outer| outer.replica.window < window) {
                let on_the_way = outer.replica.window;
                if let Err(error) = replay(self.run, outer).await {
                    self.lose(on_the_way);
                    let mut findings = Findings::of(Step::Close);
                    findings.blame(format!("the merge, redone on the way to window {window}"), error)?;
                    let mut report = WindowReport::new(on_the_way);
                    report.add(findings);
                    detours.push(report);
                }
            }
        }
    }

    async fn begin(&mut self, window: u64) -> anyhow::Result<()> {
        self.outer = None;
        let checkpoint = crate::run::checkpoint::at(self.run, window).await?;
        let checkpoint = checkpoint.with_context(|| format!("checkpoint {window} has vanished"))?;
        self.outer = Some(Outer::from_checkpoint(self.run, &checkpoint.record).await?);
        Ok(())
    }

    /// θ cannot be followed beyond `window`.
    fn lose(&mut self, window: u64) {
        self.outer = None;
        self.lost = self.lost.max(Some(window));
    }

    /// Every step of one window.
    async fn window(&mut self, report: &mut WindowReport) -> anyhow::Result<()> {
        let (run, window) = (self.run, report.window);
        let mut findings = Findings::of(Step::Open);
        let before = self.before(window, &mut findings).await?;
        let open = findings.read(&RunKey::Open(window).to_string(), run.open(window).await)?;
        let roster = match &open {
            Some(open) => open::check(run, open, before.as_ref(), &mut findings).await?,
            None => None,
        };
        report.add(findings);

        let mut findings = Findings::of(Step::Cutoff);
        let cutoff = findings.read(&RunKey::Cutoff(window).to_string(), run.cutoff(window).await)?;
        let updates = match (&open, &cutoff, &roster) {
            (Some(open), Some(cutoff), Some(roster)) => {
                cutoff::check(run, open, cutoff, roster, &mut findings).await?
            }
            _ => None,
        };
        report.add(findings);

        let mut findings = Findings::of(Step::Verdict);
        let verdict = findings.read(&RunKey::Verdict(window).to_string(), run.verdict(window).await)?;
        if let (Some(cutoff), Some(roster), Some(verdict)) = (&cutoff, &roster, &verdict) {
            let case = verdict::Bench { run, cutoff, roster, updates: updates.as_ref() };
            // Before window 0 nobody has any.
            let standings = before.as_ref().map_or(Some(&[][..]), |before| {
                before.verdict.as_ref().map(|verdict| &verdict.record.standings[..])
            });
            case.check(verdict, standings, &mut findings)?;
        }
        if verdict.is_some() && (cutoff.is_none() || roster.is_none()) {
            findings.unverifiable("the verdict: what it is about cannot be read");
        }
        report.add(findings);

        let mut findings = Findings::of(Step::Close);
        let close = findings.read(&RunKey::Close(window).to_string(), run.close(window).await)?;
        if let Some(close) = &close {
            let records = close::Records {
                open: open.as_ref(),
                cutoff: cutoff.as_ref(),
                verdict: verdict.as_ref(),
                close,
            };
            records.check(&mut findings);
            if verdict.is_none() {
                findings.unverifiable("that it repeats the verdict, which cannot be read");
            }
            match (self.outer.as_mut(), &open, updates.as_ref()) {
                (Some(outer), Some(open), Some(updates)) => {
                    if !close::redo(run, outer, open, close, updates, &mut findings).await? {
                        self.lose(window);
                    }
                }
                (None, ..) => findings.unverifiable("the merge: no θ to start from can be relied on"),
                _ => findings.unverifiable("the merge: not all updates that it is of can be relied on"),
            }
        }
        report.add(findings);
        // A θ that was not moved on is that of another window.
        if self.outer.as_ref().is_some_and(|outer| outer.replica.window == window) {
            self.lose(window);
        }

        if let Some(close) = &close
            && self.checkpoints.contains(&window.saturating_add(1))
        {
            let mut findings = Findings::of(Step::Checkpoint);
            close::check_checkpoint(run, close, &mut findings).await?;
            report.add(findings);
        }
        self.before = Some(Before { window, open, close, verdict });
        Ok(())
    }

    /// What the window before `window` has left; nothing before window 0.
    async fn before(&mut self, window: u64, findings: &mut Findings) -> anyhow::Result<Option<Before>> {
        let Some(before) = window.checked_sub(1) else { return Ok(None) };
        if let Some(known) = self.before.take().filter(|known| known.window == before) {
            return Ok(Some(known));
        }
        let run = self.run;
        Ok(Some(Before {
            window: before,
            open: findings.read_before("open record", run.open(before).await)?,
            close: findings.read_before("close record", run.close(before).await)?,
            verdict: findings.read_before("verdict", run.verdict(before).await)?,
        }))
    }
}

/// The merge of the next window, done again from its records alone.
async fn replay(run: &Run, outer: &mut Outer) -> anyhow::Result<()> {
    let window = outer.replica.window;
    let close = run.close(window).await?;
    let close = close.with_context(|| format!("window {window} has no close record"))?;
    let open = run.open(window).await?;
    let open = open.with_context(|| format!("window {window} has no open record"))?;
    close::ensure_mergeable(&close.record)?;
    outer.replay(run, &open, &close).await
}
