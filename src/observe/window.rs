//! One window, as its records tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use brigade_protocol::{
    Close, Cutoff, Exclusion, Member, Open, PeerId, Reason, Role, Roster, Scores, Verdict,
};
use serde::Serialize;

use super::loss;

/// How far a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Open; miners train.
    Train,
    /// Cut off; validators score.
    Score,
    /// Judged; the aggregator merges.
    Merge,
    /// Closed.
    Closed,
}

/// The records of a window that are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) open: Option<Arc<Open>>,
    pub(super) roster: Option<Arc<Roster>>,
    pub(super) cutoff: Option<Arc<Cutoff>>,
    pub(super) verdict: Option<Arc<Verdict>>,
    pub(super) close: Option<Arc<Close>>,
    /// Who has delivered, as long as nothing is cut off.
    pub(super) delivered: Vec<PeerId>,
}

/// A window for whoever looks: one row for everybody on its roster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Window {
    /// Its number.
    pub window: u64,
    /// How far it is.
    pub phase: Phase,
    /// When it opened, milliseconds since the Unix epoch by the store's clock, as all times here.
    pub opened_at: u64,
    /// When receipts stop to count.
    pub deadline: u64,
    /// When it was cut off.
    pub cut_at: Option<u64>,
    /// When it was closed.
    pub closed_at: Option<u64>,
    /// State root of θ before.
    pub start_state_root: String,
    /// State root of θ after.
    pub state_root: Option<String>,
    /// Bytes of the delta.
    pub delta_bytes: Option<u64>,
    /// Validators that were heard, with the seconds that their scoring took.
    pub validators: Vec<Heard>,
    /// Everybody on the roster, miners before validators, by weight.
    pub peers: Vec<Row>,
}

/// A validator whose scores were heard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heard {
    /// Who.
    pub peer: PeerId,
    /// Seconds that scoring took, by its own word.
    pub seconds: f64,
    /// Updates that it scored.
    pub updates: usize,
}

/// A participant in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Who.
    pub peer: PeerId,
    /// What it does.
    pub role: Role,
    /// Whether windows wait for it.
    pub active: bool,
    /// Windows in a row in which nothing of it was accepted.
    pub missed: u32,
    /// What became of its update.
    pub state: State,
    /// Why its update does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Seconds from the opening to its receipt.
    pub seconds: Option<f64>,
    /// Bytes of its update.
    pub bytes: Option<u64>,
    /// Loss of θ on the first of its sequences, nats a token.
    pub loss: Option<f64>,
    /// Its share of the merge.
    pub share: Option<f64>,
    /// Norm of its update.
    pub norm: Option<f64>,
    /// Its share of the reward, as the verdict says.
    pub weight: Option<f64>,
    /// How good its updates are: μ − 3σ.
    pub rating: Option<f64>,
    /// How sure it is that it trains on what it is assigned, nats.
    pub credit: Option<f64>,
    /// Windows in which an update of it was pinned.
    pub windows: Option<u32>,
}

/// What became of a participant's update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is in the merge.
    Merged,
    /// It is pinned, and not merged yet.
    Pinned,
    /// It is there, before the cutoff.
    Delivered,
    /// It is waited for.
    Training,
    /// It does not count.
    Excluded,
    /// A validator's scores were heard.
    Heard,
    /// Nobody waits for one.
    Absent,
}

impl Window {
    /// Takes over the standings of the window before, until this one has a verdict.
    pub(super) fn inherit(&mut self, before: &Self) {
        for row in self.peers.iter_mut().filter(|row| row.weight.is_none()) {
            if let Some(known) = before.peers.iter().find(|known| known.peer == row.peer) {
                (row.weight, row.rating, row.credit, row.windows) =
                    (known.weight, known.rating, known.credit, known.windows);
            }
        }
        self.order();
    }

    /// Miners before validators, those that are waited for first, by weight.
    fn order(&mut self) {
        self.peers.sort_by(|a, b| {
            let key = |row: &Row| (row.role, !row.active);
            let weight = |row: &Row| row.weight.unwrap_or(0.0);
            key(a).cmp(&key(b)).then(weight(b).total_cmp(&weight(a))).then(a.peer.cmp(&b.peer))
        });
    }
}

impl Records {
    /// Refuses lists that are longer than any roster: what is kept of them would be as large as the aggregator likes.
    pub(super) fn check_lengths(&self) -> anyhow::Result<()> {
        let cutoff = self.cutoff.iter().flat_map(|cutoff| [cutoff.pinned.len(), cutoff.excluded.len()]);
        let verdict = self
            .verdict
            .iter()
            .flat_map(|verdict| [verdict.shares.len(), verdict.excluded.len(), verdict.scores.len()]);
        let close = self.close.iter().flat_map(|close| [close.accepted.len(), close.excluded.len()]);
        let longest = cutoff.chain(verdict).chain(close).max().unwrap_or(0);
        anyhow::ensure!(
            longest <= Roster::MAX_MEMBERS,
            "a record of window {} lists {longest} participants, more than a run can have",
            self.open.as_ref().map_or(0, |open| open.window)
        );
        Ok(())
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self { close: Some(_), .. } => Phase::Closed,
            Self { verdict: Some(_), .. } => Phase::Merge,
            Self { cutoff: Some(_), .. } => Phase::Score,
            _ => Phase::Train,
        }
    }

    /// Everything in one place; nothing before the window is open.
    pub(super) fn window(&self) -> Option<Window> {
        let open = self.open.as_ref()?;
        let validators = self.heard();
        let peers: Vec<Row> = match &self.roster {
            Some(roster) => roster.members.iter().map(|member| self.row(open, member, &validators)).collect(),
            None => Vec::new(),
        };
        let mut window = Window {
            window: open.window,
            phase: self.phase(),
            opened_at: open.opened_at.0,
            deadline: open.deadline.0,
            cut_at: self.cutoff.as_ref().map(|cutoff| cutoff.cut_at.0),
            closed_at: self.close.as_ref().map(|close| close.closed_at.0),
            start_state_root: open.state_root.to_string(),
            state_root: self.close.as_ref().map(|close| close.state_root.to_string()),
            delta_bytes: self.close.as_ref().and_then(|close| Some(close.delta.as_ref()?.size)),
            validators,
            peers,
        };
        window.order();
        Some(window)
    }

    fn heard(&self) -> Vec<Heard> {
        let envelopes = self.verdict.iter().flat_map(|verdict| &verdict.scores);
        let opened = envelopes.filter_map(|envelope| envelope.open::<Scores>().ok());
        let heard = opened.map(|scores| Heard {
            peer: scores.signer,
            seconds: scores.record.seconds,
            updates: scores.record.scores.len(),
        });
        heard.collect()
    }

    fn row(&self, open: &Open, member: &Member, heard: &[Heard]) -> Row {
        let peer = member.peer;
        let pinned = self.cutoff.as_ref().and_then(|cutoff| {
            let pinned = &cutoff.pinned;
            pinned.binary_search_by_key(&peer, |pinned| pinned.peer).ok().map(|at| &pinned[at])
        });
        let share = self.shares().iter().find(|share| share.peer == peer);
        let exclusion = self.exclusions().find(|exclusion| exclusion.peer == peer);
        let standing = self.verdict.as_ref().and_then(|verdict| {
            let standings = &verdict.standings;
            standings.binary_search_by_key(&peer, |standing| standing.peer).ok().map(|at| &standings[at])
        });
        let is_miner = member.role == Role::Miner;
        let state = match (share, exclusion, pinned) {
            (Some(_), ..) => State::Merged,
            (_, Some(_), _) => State::Excluded,
            (_, _, Some(_)) => State::Pinned,
            _ if heard.iter().any(|heard| heard.peer == peer) => State::Heard,
            _ if !is_miner || !member.active => State::Absent,
            _ if self.delivered.contains(&peer) => State::Delivered,
            _ => State::Training,
        };
        Row {
            peer,
            role: member.role,
            active: member.active,
            missed: member.missed,
            state,
            reason: exclusion.map(|exclusion| exclusion.reason),
            detail: exclusion.map(|exclusion| exclusion.detail.clone()),
            seconds: pinned.map(|pinned| seconds(open.opened_at.0, pinned.received_at.0)),
            bytes: pinned.map(|pinned| pinned.update.size),
            loss: pinned.and_then(|pinned| loss::mean(&pinned.start_losses)),
            share: share.map(|share| share.weight),
            norm: share.map(|share| share.norm),
            weight: standing.map(|standing| standing.weight),
            rating: standing.map(|standing| standing.rating.ordinal()),
            credit: standing.map(|standing| standing.credit),
            windows: standing.map(|standing| standing.windows),
        }
    }

    fn shares(&self) -> &[brigade_protocol::Share] {
        match (&self.close, &self.verdict) {
            (Some(close), _) => &close.accepted,
            (None, Some(verdict)) => &verdict.shares,
            _ => &[],
        }
    }

    fn exclusions(&self) -> impl Iterator<Item = &Exclusion> {
        let close = self.close.iter().flat_map(|close| &close.excluded);
        let judged = self.verdict.iter().flat_map(|verdict| &verdict.excluded);
        let cut = self.cutoff.iter().flat_map(|cutoff| &cutoff.excluded);
        close.chain(judged).chain(cut)
    }

    /// A line of the run's history; nothing before the window is closed.
    pub(super) fn summary(&self, tokens: u64) -> Option<Summary> {
        let (cutoff, close) = (self.cutoff.as_ref()?, self.close.as_ref()?);
        let is_merged = |peer| close.accepted.iter().any(|share| share.peer == peer);
        let merged = cutoff.pinned.iter().filter(|pinned| is_merged(pinned.peer));
        let stated = merged.filter_map(|pinned| loss::mean(&pinned.start_losses));
        let mut reasons = BTreeMap::new();
        for exclusion in &close.excluded {
            *reasons.entry(exclusion.reason).or_insert(0) += 1;
        }
        let opened_at = self.open.as_ref().map(|open| open.opened_at.0);
        let seconds = opened_at.map(|opened_at| seconds(opened_at, close.closed_at.0));
        let tokens = tokens * close.accepted.len() as u64;
        Some(Summary {
            window: close.window,
            closed_at: close.closed_at.0,
            seconds,
            loss: loss::median(stated),
            merged: close.accepted.len(),
            excluded: close.excluded.len(),
            reasons,
            update_bytes: cutoff.pinned.iter().map(|pinned| pinned.update.size).sum(),
            delta_bytes: close.delta.as_ref().map_or(0, |delta| delta.size),
            tokens,
            tokens_per_second: seconds
                .filter(|seconds| *seconds > 0.0)
                .map(|seconds| tokens as f64 / seconds),
            points: points(opened_at, cutoff, close),
        })
    }
}

/// A closed window in one line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its number.
    pub window: u64,
    /// When it was closed.
    pub closed_at: u64,
    /// Seconds from its opening to its close.
    pub seconds: Option<f64>,
    /// Loss of θ at its start, nats a token, each miner's on the first of its own sequences: the median of those that were merged.
    pub loss: Option<f64>,
    /// Updates merged.
    pub merged: usize,
    /// Miners of the roster whose update was not.
    pub excluded: usize,
    /// Why, and how many for each.
    pub reasons: BTreeMap<Reason, usize>,
    /// Bytes of the pinned updates.
    pub update_bytes: u64,
    /// Bytes of the delta.
    pub delta_bytes: u64,
    /// Tokens behind what was merged.
    pub tokens: u64,
    /// The same over the window's seconds.
    pub tokens_per_second: Option<f64>,
    /// What became of everybody.
    #[serde(skip)]
    pub(super) points: Vec<Point>,
}

/// What became of one peer in a window of the history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) peer: PeerId,
    /// Why its update was not merged, if it was not.
    pub(super) reason: Option<Reason>,
    /// Bytes of its update, if that was pinned.
    pub(super) bytes: Option<u64>,
    pub(super) seconds: Option<f32>,
}

/// A point for everybody of whom the close speaks, ordered by peer.
fn points(opened_at: Option<u64>, cutoff: &Cutoff, close: &Close) -> Vec<Point> {
    let merged = close.accepted.iter().map(|share| (share.peer, None));
    let excluded = close.excluded.iter().map(|exclusion| (exclusion.peer, Some(exclusion.reason)));
    let mut points: Vec<Point> = merged
        .chain(excluded)
        .map(|(peer, reason)| {
            let at = cutoff.pinned.binary_search_by_key(&peer, |pinned| pinned.peer).ok();
            let pinned = at.map(|at| &cutoff.pinned[at]);
            let received = pinned.map(|pinned| pinned.received_at.0);
            let seconds = opened_at.zip(received).map(|(from, to)| seconds(from, to) as f32);
            Point { peer, reason, bytes: pinned.map(|pinned| pinned.update.size), seconds }
        })
        .collect();
    points.sort_unstable_by_key(|point| point.peer);
    points
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}
