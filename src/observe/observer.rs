//! Following a run with a bounded number of requests at each look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use brigade_bucket::keys::RunKey;
use brigade_bucket::{RequestKind, Traffic};
use brigade_protocol::{Digest, PeerId, Reason, Roster};
use futures::stream::{self, StreamExt as _};
use serde::Serialize;

use super::newest_window;
use super::plan::{next_to_fill, thin};
use super::window::{Phase, Point, Records, State, Summary, Window};
use crate::run::{Run, is_transient};

/// Windows that are kept with all their records, to be looked at again.
const KEPT_WINDOWS: usize = 16;
/// Rosters that are kept: they change when somebody comes or goes.
const KEPT_ROSTERS: usize = 4;
/// Requests in flight at once.
const CONCURRENCY: usize = 16;
/// Records behind a line of history: when it opened, what was cut off, how it closed.
const RECORDS_OF_A_LINE: usize = 3;
/// Windows that may pass between two looks before they are jumped over.
const STEPS: u64 = 8;

/// A run that is looked at again and again.
#[derive(Debug)]
pub struct Observer {
    run: Run,
    newest: Option<u64>,
    kept: VecDeque<(u64, Held)>,
    rosters: VecDeque<(Digest, Arc<Roster>)>,
    history: BTreeMap<u64, Summary>,
    /// Windows of the past that cannot be read: an operator has deleted them, or they are not what the aggregator signs.
    gone: BTreeSet<u64>,
}

/// A window that is kept: what it was once it is closed, else the records that are there.
#[derive(Debug)]
enum Held {
    Going(Records),
    Closed(Window),
}

/// What a run is, for whoever looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// What people call it.
    pub name: String,
    /// Its id.
    pub run: Digest,
    /// Parameters of the model.
    pub parameters: u64,
    /// Windows that it will have; none where it goes on until its operator ends it.
    pub total_windows: Option<u64>,
    /// Tokens that one peer trains in a window.
    pub tokens_per_window: u64,
    /// Seconds that a window may take by the run's terms.
    pub window_limit_seconds: u64,
    /// Whether the last window that it will have is closed.
    pub is_over: bool,
    /// The time by the store's clock, milliseconds since the Unix epoch.
    pub now: Option<u64>,
    /// The newest window.
    pub newest: Option<Window>,
    /// The newest that is closed, where that is another.
    pub last_closed: Option<Window>,
    /// The lines of history that were read so far, oldest first.
    pub history: Vec<Summary>,
    /// What all looks so far have cost.
    pub cost: Cost,
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Requests for objects, whole or in part.
    pub gets: u64,
    /// Requests for metadata.
    pub heads: u64,
    /// Requests for lists.
    pub lists: u64,
    /// Bytes that came.
    pub bytes: u64,
}

impl Cost {
    fn of(traffic: &Traffic) -> Self {
        Self {
            gets: traffic.count(RequestKind::Get),
            heads: traffic.count(RequestKind::Head),
            lists: traffic.count(RequestKind::List),
            bytes: traffic.bytes_down,
        }
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.gets + self.heads + self.lists
    }
}

/// What one look cost, and what it left for the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Look {
    /// Requests sent.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Lines of history that are still to be read.
    pub missing: usize,
}

impl Observer {
    /// Looks at `run` from now on. Asks nothing yet.
    pub fn new(run: Run) -> Self {
        Self {
            run,
            newest: None,
            kept: VecDeque::new(),
            rosters: VecDeque::new(),
            history: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Looks for what is new, and reads some of what is old: at most about `budget` requests, and never fewer than the news
    /// need. The first look also searches for the newest window, which takes two requests for each doubling of their number.
    ///
    /// # Errors
    /// When the store fails, or a record is not the aggregator's. The next look begins where this one ended.
    pub async fn look(&mut self, budget: usize) -> anyhow::Result<Look> {
        let (before, begun) = (self.cost(), Instant::now());
        self.advance().await?;
        if let Some(newest) = self.newest {
            // The one before too: it was perhaps not closed when it was looked at last.
            for window in newest.saturating_sub(1)..=newest {
                self.load(window).await?;
            }
            let spent = usize::try_from(self.cost().requests() - before.requests()).unwrap_or(budget);
            self.fill(newest, budget.saturating_sub(spent) / RECORDS_OF_A_LINE).await?;
            thin(newest, &mut self.history);
        }
        let after = self.cost();
        let missing =
            self.newest.map_or(0, |newest| next_to_fill(newest, &self.history, &self.gone, usize::MAX).len());
        Ok(Look {
            requests: after.requests() - before.requests(),
            bytes: after.bytes - before.bytes,
            seconds: begun.elapsed().as_secs_f64(),
            missing,
        })
    }

    fn cost(&self) -> Cost {
        Cost::of(&self.run.bucket().counters().snapshot())
    }

    /// Finds the newest window: step by step, and in leaps when many have passed.
    async fn advance(&mut self) -> anyhow::Result<()> {
        let Some(known) = self.newest else {
            self.newest = newest_window(&self.run, 0).await?;
            return Ok(());
        };
        for window in known..known + STEPS {
            if self.run.open(window + 1).await?.is_none() {
                self.newest = Some(window);
                return Ok(());
            }
        }
        self.newest = newest_window(&self.run, known + STEPS).await?;
        Ok(())
    }

    /// Reads what is missing of a window, and keeps it.
    async fn load(&mut self, window: u64) -> anyhow::Result<()> {
        let at = self.kept.iter().position(|(number, _)| *number == window);
        let mut records = match at.and_then(|at| self.kept.remove(at)) {
            Some(closed @ (_, Held::Closed(_))) => {
                self.kept.push_back(closed);
                return Ok(());
            }
            Some((_, Held::Going(records))) => records,
            None => Records::default(),
        };
        let read = self.read(window, &mut records).await;
        if let Some(summary) = records.summary(self.run.manifest().training.tokens_per_window()) {
            self.history.insert(window, summary);
        }
        let held = match records.window() {
            // Its records are large: every validator's scores of every peer.
            Some(closed) if closed.phase == Phase::Closed => Held::Closed(closed),
            _ => Held::Going(records),
        };
        self.kept.push_back((window, held));
        // Never those that are looked at first, however many others somebody leafs through.
        let newest = self.newest.unwrap_or(window);
        let is_old = |(number, _): &(u64, Held)| *number + 1 < newest && *number != window;
        if self.kept.len() > KEPT_WINDOWS
            && let Some(oldest) = self.kept.iter().position(is_old)
        {
            self.kept.remove(oldest);
        }
        read
    }

    async fn read(&mut self, window: u64, records: &mut Records) -> anyhow::Result<()> {
        if records.open.is_none() {
            let Some(open) = self.run.open(window).await? else { return Ok(()) };
            records.open = Some(Arc::new(open.record));
        }
        if let (None, Some(open)) = (&records.roster, &records.open) {
            records.roster = Some(self.roster(&open.roster.clone()).await?);
        }
        if records.cutoff.is_none() {
            records.cutoff = self.run.cutoff(window).await?.map(|cutoff| Arc::new(cutoff.record));
        }
        if records.cutoff.is_none() {
            records.delivered = self.delivered(window).await?;
            return Ok(());
        }
        if records.verdict.is_none() {
            records.verdict = self.run.verdict(window).await?.map(|verdict| Arc::new(verdict.record));
        }
        records.check_lengths()?;
        if records.verdict.is_some() && records.close.is_none() {
            records.close = self.run.close(window).await?.map(|close| Arc::new(close.record));
        }
        records.check_lengths()
    }

    async fn roster(&mut self, digest: &Digest) -> anyhow::Result<Arc<Roster>> {
        if let Some((_, roster)) = self.rosters.iter().find(|(known, _)| known == digest) {
            return Ok(Arc::clone(roster));
        }
        let roster = Arc::new(self.run.roster(digest).await?);
        self.rosters.push_back((*digest, Arc::clone(&roster)));
        if self.rosters.len() > KEPT_ROSTERS {
            self.rosters.pop_front();
        }
        Ok(roster)
    }

    /// Whose receipts the aggregator has copied: one list.
    async fn delivered(&self, window: u64) -> anyhow::Result<Vec<PeerId>> {
        let any = RunKey::Receipt { window, peer: PeerId([0; 32]) }.to_string();
        let Some((folder, _)) = any.rsplit_once('/') else { return Ok(Vec::new()) };
        let listed = self.run.bucket().list_after(folder, None, Roster::MAX_MEMBERS).await?;
        let peers = listed.iter().filter_map(|meta| match meta.key.parse() {
            Ok(RunKey::Receipt { peer, .. }) => Some(peer),
            _ => None,
        });
        Ok(peers.collect())
    }

    /// Reads lines of history, the most telling ones first.
    async fn fill(&mut self, newest: u64, most: usize) -> anyhow::Result<()> {
        let wanted = next_to_fill(newest, &self.history, &self.gone, most);
        let (run, tokens) = (&self.run, self.run.manifest().training.tokens_per_window());
        let lines = stream::iter(wanted).map(|window| async move {
            let read = async {
                let (open, cutoff, close) =
                    tokio::try_join!(run.open(window), run.cutoff(window), run.close(window))?;
                let records = Records {
                    open: open.map(|open| Arc::new(open.record)),
                    cutoff: cutoff.map(|cutoff| Arc::new(cutoff.record)),
                    close: close.map(|close| Arc::new(close.record)),
                    ..Records::default()
                };
                records.check_lengths()?;
                anyhow::Ok(records.summary(tokens))
            };
            (window, read.await)
        });
        let lines: Vec<_> = lines.buffer_unordered(CONCURRENCY / RECORDS_OF_A_LINE).collect().await;
        let mut failure = None;
        for (window, line) in lines {
            match line {
                Ok(Some(summary)) => drop(self.history.insert(window, summary)),
                Ok(None) => drop(self.gone.insert(window)),
                // What passes is read at a later look.
                Err(error) if is_transient(&error) => failure = failure.or(Some(error)),
                Err(error) => {
                    tracing::warn!("{error:#}");
                    self.gone.insert(window);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// One window with all its records, also one from long ago.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn window(&mut self, window: u64) -> anyhow::Result<Option<Window>> {
        if self.newest.is_none_or(|newest| window > newest) {
            return Ok(None);
        }
        self.load(window).await?;
        Ok(self.held(window))
    }

    fn held(&self, window: u64) -> Option<Window> {
        match &self.kept.iter().find(|(number, _)| *number == window)?.1 {
            Held::Going(records) => records.window(),
            Held::Closed(window) => Some(window.clone()),
        }
    }

    /// Everything that is known now.
    pub fn overview(&self) -> Overview {
        let manifest = self.run.manifest();
        let mut newest = self.newest.and_then(|newest| self.held(newest));
        let last_closed = match &newest {
            Some(window) if window.phase != Phase::Closed => {
                window.window.checked_sub(1).and_then(|before| self.held(before))
            }
            _ => None,
        };
        if let (Some(newest), Some(before)) = (&mut newest, &last_closed) {
            newest.inherit(before);
        }
        Overview {
            name: manifest.name.clone(),
            run: self.run.id(),
            parameters: manifest.model.num_parameters() as u64,
            total_windows: manifest.windows.total,
            tokens_per_window: manifest.training.tokens_per_window(),
            window_limit_seconds: manifest.windows.train_seconds + manifest.windows.score_seconds,
            is_over: newest.as_ref().is_some_and(|newest| {
                newest.phase == Phase::Closed && manifest.windows.is_over(newest.window + 1)
            }),
            now: self.run.bucket().clock().now().map(|now| now.0),
            newest,
            last_closed,
            history: self.history.values().cloned().collect(),
            cost: self.cost(),
        }
    }
}

impl Overview {
    /// The history of one peer, as far as it was read, oldest first.
    pub fn moments(&self, peer: &PeerId) -> Vec<Moment> {
        let moments = self.history.iter().filter_map(|summary| {
            let at = summary.points.binary_search_by_key(peer, |point| point.peer).ok()?;
            let Point { reason, bytes, seconds, .. } = summary.points[at];
            let state = if reason.is_none() { State::Merged } else { State::Excluded };
            Some(Moment { window: summary.window, state, reason, bytes, seconds })
        });
        moments.collect()
    }
}

/// A peer's update in a window of the history.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// The window.
    pub window: u64,
    /// What became of it.
    pub state: State,
    /// Why it was not merged, if it was not.
    pub reason: Option<Reason>,
    /// Its bytes, if it was pinned.
    pub bytes: Option<u64>,
    /// Seconds from the opening to its receipt.
    pub seconds: Option<f32>,
}
