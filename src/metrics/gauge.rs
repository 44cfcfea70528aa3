//! The figures as they are now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use brigade_bucket::Counters;
use brigade_protocol::{PeerId, Reason};

use crate::events::Event;
use crate::throughput::Metrics;

/// What a role knows of itself and its run.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) role: &'static str,
    pub(super) state: PathBuf,
    pub(super) buckets: Vec<(&'static str, Arc<Counters>)>,
    pub(super) identity: Option<(PeerId, String)>,
    /// Seconds that a window may take by the run's terms.
    pub(super) window_limit: Option<u64>,
    pub(super) started_at: f64,
    /// The window that is going on.
    pub(super) window: Option<u64>,
    pub(super) closed: u64,
    pub(super) last_close: Option<f64>,
    pub(super) miners: Option<usize>,
    pub(super) merged: Option<usize>,
    pub(super) delta_bytes: Option<u64>,
    /// Who was excluded from the newest closed window, and why.
    pub(super) excluded: Vec<(PeerId, Reason)>,
    pub(super) exclusions: BTreeMap<Reason, u64>,
    /// Whether the miner's own update was merged, in the newest window that it went through.
    pub(super) accepted: Option<bool>,
    pub(super) passed: BTreeMap<bool, u64>,
    pub(super) update_bytes: Option<u64>,
    pub(super) exchange_seconds: Option<f64>,
    pub(super) trained: Option<Metrics>,
    pub(super) tokens: u64,
    pub(super) score_seconds: Option<f64>,
    pub(super) heldout_loss: Option<f64>,
    pub(super) checkpoint: Option<u64>,
    pub(super) desynchronised: u64,
    pub(super) warnings: u64,
}

impl Figures {
    pub(super) fn new(role: &'static str, state: &Path) -> Self {
        Self {
            role,
            state: state.to_owned(),
            buckets: Vec::new(),
            identity: None,
            window_limit: None,
            started_at: seconds(SystemTime::now()),
            window: None,
            closed: 0,
            last_close: None,
            miners: None,
            merged: None,
            delta_bytes: None,
            excluded: Vec::new(),
            exclusions: BTreeMap::new(),
            accepted: None,
            passed: BTreeMap::new(),
            update_bytes: None,
            exchange_seconds: None,
            trained: None,
            tokens: 0,
            score_seconds: None,
            heldout_loss: None,
            checkpoint: None,
            desynchronised: 0,
            warnings: 0,
        }
    }

    pub(super) fn count(&mut self, name: &'static str, counters: Arc<Counters>) {
        self.buckets.push((name, counters));
    }

    pub(super) fn limit(&mut self, seconds: u64) {
        self.window_limit = Some(seconds);
    }

    /// Takes in an event that happened at `now`.
    pub(super) fn observe(&mut self, event: &Event, now: SystemTime) {
        match event {
            Event::Ready { peer, run } => self.identity = Some((*peer, run.to_string())),
            Event::Synced { window, .. } => self.window = Some(*window),
            Event::Opened { window, miners } => (self.window, self.miners) = (Some(*window), Some(*miners)),
            Event::Waiting { miners, .. } => self.miners = Some(*miners),
            Event::Trained(metrics) => {
                self.tokens += metrics.tokens;
                self.trained = Some(metrics.clone());
            }
            Event::Delivered { bytes, .. } => self.update_bytes = Some(*bytes),
            Event::Scored { seconds, .. } => self.score_seconds = Some(*seconds),
            Event::Closed { accepted, excluded, delta_bytes, .. } => {
                self.close(now);
                (self.merged, self.delta_bytes) = (Some(accepted.len()), Some(*delta_bytes));
                self.excluded = excluded.iter().map(|exclusion| (exclusion.peer, exclusion.reason)).collect();
                for (_, reason) in &self.excluded {
                    *self.exclusions.entry(*reason).or_default() += 1;
                }
            }
            Event::Evaluated { heldout_loss, .. } => {
                self.heldout_loss = Some(*heldout_loss);
                // A validator says so of every window that was closed.
                if self.role == "validator" {
                    self.close(now);
                }
            }
            Event::Passed { accepted, exchange_seconds, .. } => {
                self.accepted = Some(*accepted);
                *self.passed.entry(*accepted).or_default() += 1;
                self.exchange_seconds = Some(*exchange_seconds);
            }
            Event::Checkpointed { window, .. } => self.checkpoint = Some(*window),
            Event::Desynchronised { .. } => self.desynchronised += 1,
            Event::Warning { .. } => self.warnings += 1,
            _ => {}
        }
    }

    fn close(&mut self, now: SystemTime) {
        self.closed += 1;
        self.last_close = Some(seconds(now));
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
