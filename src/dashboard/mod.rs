//! A run as a web page.
//!
//! | module | role |
//! | --- | --- |
//! | `server` | what is answered to whom |
//! | `csv` | tables to download |
//! | `page/` | the page; it asks nobody but this server |

mod csv;
mod server;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use brigade_protocol::Digest;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::observe::{Observer, Overview};
use crate::run::url::RunUrl;
use crate::shutdown::Shutdown;
use crate::watch::BUDGET;

/// What the server answers from: the last look, and the observer for what it has not read yet.
struct Shared {
    seen: RwLock<Arc<Seen>>,
    observer: Mutex<Observer>,
}

/// One look, ready to be sent.
struct Seen {
    overview: Overview,
    json: String,
    etag: String,
}

/// The overview, how old it may be, and what passes the run on to others.
#[derive(Serialize)]
struct Page<'a> {
    url: &'a RunUrl,
    /// Seconds between two looks.
    every: u64,
    /// Why the last look failed, if it did: what follows is from the one before.
    failure: Option<String>,
    #[serde(flatten)]
    overview: &'a Overview,
}

/// What is served, and how often it is looked at.
#[derive(Clone)]
struct Served {
    url: RunUrl,
    every: Duration,
}

impl Seen {
    fn of(overview: Overview, failure: Option<String>, run: &Served) -> anyhow::Result<Self> {
        let Served { url, every } = run;
        let json =
            serde_json::to_string(&Page { url, every: every.as_secs(), failure, overview: &overview })?;
        let etag = format!("\"{}\"", Digest::of(json.as_bytes()).short());
        Ok(Self { overview, json, etag })
    }
}

impl Shared {
    fn seen(&self) -> Arc<Seen> {
        // The guarded value is replaced whole: a panic elsewhere cannot leave it half done.
        Arc::clone(&self.seen.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }
}

/// Serves the page at `address`, looking at the run every `every`, until somebody wants it to stop. `ready` is told where it is.
///
/// # Errors
/// When the address cannot be listened at, or the first look fails.
pub async fn run(
    mut observer: Observer,
    url: &RunUrl,
    address: SocketAddr,
    every: Duration,
    shutdown: Shutdown,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}; --listen names another address or port"))?;
    shutdown.or(observer.look(BUDGET)).await??;
    let run = Served { url: url.clone(), every };
    let seen = Seen::of(observer.overview(), None, &run)?;
    let shared = Arc::new(Shared { seen: RwLock::new(Arc::new(seen)), observer: Mutex::new(observer) });
    ready(listener.local_addr()?);
    let looking = tokio::spawn(look(Arc::clone(&shared), run));
    let stop = shutdown.clone();
    let served = axum::serve(listener, server::router(shared));
    served.with_graceful_shutdown(async move { stop.requested().await }).await?;
    looking.abort();
    Ok(())
}

/// Looks again and again. What was seen last stays while a look fails; the page says how old it is.
async fn look(shared: Arc<Shared>, run: Served) {
    loop {
        tokio::time::sleep(run.every).await;
        let mut observer = shared.observer.lock().await;
        let failure = observer.look(BUDGET).await.err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            tracing::warn!("{failure}");
        }
        let seen = Seen::of(observer.overview(), failure, &run);
        drop(observer);
        match seen {
            Ok(seen) => shared.show(seen),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}
