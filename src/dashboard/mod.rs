//! A run as a web page.
//!
//! | module | role |
//! | --- | --- |
//! | `server` | what is answered to whom |
//! | `csv` | tables to download |
//! | `page/` | the page; it asks nobody but this server |

mod csv;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use brigade_protocol::Digest;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};

use crate::observe::{Observer, Overview};
use crate::run::url::RunUrl;
use crate::shutdown::Shutdown;
use crate::watch::BUDGET;

/// What the server answers from: the last look, and the observer for what it has not read yet.
struct Shared {
    seen: RwLock<Arc<Seen>>,
    observer: Mutex<Observer>,
    /// Visitors who may wait for a window of the past.
    turns: Semaphore,
    /// Names that the page is asked for by, beside addresses.
    hosts: Vec<String>,
}

/// Visitors that wait for windows of the past at once.
const TURNS: usize = 4;

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

    /// Whether the page is served under the name in a `Host` header.
    fn answers_to(&self, host: &str) -> bool {
        let name = host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        is_address
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn show(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }
}

/// Where the page is served.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address to listen at.
    pub listen: SocketAddr,
    /// Names that it is asked for by, beside `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Serves the page at `place`, looking at the run every `every`, until somebody wants it to stop. `ready` is told where it is.
///
/// # Errors
/// When the address cannot be listened at, or the first look fails.
pub async fn run(
    mut observer: Observer,
    url: &RunUrl,
    place: Place,
    every: Duration,
    shutdown: Shutdown,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let Place { listen, hosts } = place;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen at {listen}; --listen names another address or port"))?;
    shutdown.or(observer.look(BUDGET)).await??;
    let run = Served { url: url.clone(), every };
    let seen = Seen::of(observer.overview(), None, &run)?;
    let shared = Arc::new(Shared {
        seen: RwLock::new(Arc::new(seen)),
        observer: Mutex::new(observer),
        turns: Semaphore::new(TURNS),
        hosts,
    });
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
        let failure = observer.look(BUDGET).await.err().map(|error| {
            // Where the bucket is and what its server said is for the log.
            tracing::warn!("{error:#}");
            "the run's bucket does not answer as it should".to_owned()
        });
        let seen = Seen::of(observer.overview(), failure, &run);
        drop(observer);
        match seen {
            Ok(seen) => shared.show(seen),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}
