//! What a role tells Prometheus: figures that it knows anyway, from the events that it tells and the requests that it sends.
//!
//! | module | role |
//! | --- | --- |
//! | `gauge` | the figures as they are now |
//! | `text` | the figures in Prometheus' words |
//! | `server` | `GET /metrics` |
//!
//! One process has one role, so there is one set of figures; nothing is kept where nobody listens.

mod gauge;
mod server;
mod text;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use brigade_bucket::Counters;

pub(crate) use server::answer;
pub use server::{MetricsError, serve};
pub use text::{line, of_overview};

use crate::events::Event;
use crate::run::Run;
use gauge::Figures;

static FIGURES: OnceLock<Arc<Mutex<Figures>>> = OnceLock::new();

/// Keeps figures from now on, of role `role` whose state lies in `state`.
fn keep(role: &'static str, state: &Path) {
    let _ = FIGURES.set(Arc::new(Mutex::new(Figures::new(role, state))));
}

fn figures() -> Option<MutexGuard<'static, Figures>> {
    // What is guarded is numbers: a panic elsewhere cannot leave them half done.
    FIGURES.get().map(|figures| figures.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Takes in an event.
pub fn observe(event: &Event) {
    if let Some(mut figures) = figures() {
        figures.observe(event, std::time::SystemTime::now());
    }
}

/// Tells the requests that `counters` count under the name `name`.
pub fn count(name: &'static str, counters: Arc<Counters>) {
    if let Some(mut figures) = figures() {
        figures.count(name, counters);
    }
}

/// Takes in the run's terms.
pub fn follow(run: &Run) {
    count("run", run.bucket().counters());
    if let Some(mut figures) = figures() {
        let windows = &run.manifest().windows;
        figures.limit(windows.train_seconds + windows.score_seconds);
    }
}

/// All figures as Prometheus reads them.
fn render() -> String {
    figures().map(|figures| text::of_role(&figures)).unwrap_or_default()
}
