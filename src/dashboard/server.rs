//! What is answered to whom.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use brigade_protocol::PeerId;
use serde::Serialize;

use super::{Shared, csv};
use crate::metrics;
use crate::observe::{Moment, Row, Window};

/// The page, file by file: path, type, content.
const PAGE: [(&str, &str, &str); 10] = [
    ("/", "text/html", include_str!("page/index.html")),
    ("/style.css", "text/css", include_str!("page/style.css")),
    ("/known.js", "text/javascript", include_str!("page/known.js")),
    ("/parts.js", "text/javascript", include_str!("page/parts.js")),
    ("/chart.js", "text/javascript", include_str!("page/chart.js")),
    ("/table.js", "text/javascript", include_str!("page/table.js")),
    ("/run.js", "text/javascript", include_str!("page/run.js")),
    ("/window.js", "text/javascript", include_str!("page/window.js")),
    ("/peer.js", "text/javascript", include_str!("page/peer.js")),
    ("/frame.js", "text/javascript", include_str!("page/frame.js")),
];

/// What the page may do: nothing but ask this server, and run what this server has in its files.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (path, kind, content) in PAGE {
        let answer = ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], content);
        router = router.route(path, get(|| async { answer }));
    }
    router
        .route("/api/overview", get(overview))
        .route("/api/windows/{window}", get(window))
        .route("/api/peers/{peer}", get(peer))
        .route("/api/history.csv", get(history_csv))
        .route("/api/peers.csv", get(peers_csv))
        .route("/metrics", get(figures))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Headers that keep the page to itself, and no answer for other sites' pages: those could spend the operator's requests, and by a name that leads here
/// (DNS rebinding) read the run.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_foreign = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_api = request.uri().path() != "/";
    if is_api && is_foreign || !shared.answers_to(host) {
        let said = "this name is not known here; `--host NAME` makes it known";
        return (StatusCode::FORBIDDEN, said).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A value as JSON.
fn as_json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => json(text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn overview(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let seen = shared.seen();
    let is_known =
        headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == seen.etag.as_bytes());
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { json(seen.json.clone()) };
    if let Ok(etag) = HeaderValue::from_str(&seen.etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// One window. Those long ago are read when somebody asks for them, one at a time.
async fn window(State(shared): State<Arc<Shared>>, Path(number): Path<u64>) -> Response {
    let overview = &shared.seen().overview;
    let known = overview.newest.iter().chain(&overview.last_closed).find(|window| window.window == number);
    if let Some(window) = known {
        return as_json(window);
    }
    // Each costs requests that somebody pays for: few wait, one at a time.
    let Ok(_turn) = shared.turns.try_acquire() else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many ask for windows of the past; try again")
            .into_response();
    };
    match shared.observer.lock().await.window(number).await {
        Ok(Some(window)) => as_json(&window),
        Ok(None) => (StatusCode::NOT_FOUND, "no such window yet").into_response(),
        Err(error) => {
            tracing::warn!("{error:#}");
            (StatusCode::BAD_GATEWAY, "the run's bucket cannot be read now").into_response()
        }
    }
}

/// A participant: how it stands, and how it went.
#[derive(Serialize)]
struct Peer<'a> {
    peer: PeerId,
    newest: Option<&'a Row>,
    last_closed: Option<&'a Row>,
    moments: Vec<Moment>,
}

async fn peer(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let Ok(peer) = name.parse::<PeerId>() else {
        return (StatusCode::BAD_REQUEST, "a peer is 64 hexadecimal digits").into_response();
    };
    let overview = &shared.seen().overview;
    let moments = overview.moments(&peer);
    let row = |window: &'_ Option<Window>| -> Option<Row> {
        window.as_ref()?.peers.iter().find(|row| row.peer == peer).cloned()
    };
    let (newest, last_closed) = (row(&overview.newest), row(&overview.last_closed));
    if newest.is_none() && moments.is_empty() {
        return (StatusCode::NOT_FOUND, "nobody has seen that peer").into_response();
    }
    as_json(&Peer { peer, newest: newest.as_ref(), last_closed: last_closed.as_ref(), moments })
}

async fn history_csv(State(shared): State<Arc<Shared>>) -> Response {
    table("history.csv", csv::history(&shared.seen().overview.history))
}

async fn peers_csv(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.seen();
    let window = seen.overview.last_closed.as_ref().or(seen.overview.newest.as_ref());
    table("peers.csv", csv::peers(window))
}

fn table(name: &str, text: String) -> Response {
    let place = format!("attachment; filename=\"{name}\"");
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, &place)];
    (headers, text).into_response()
}

async fn figures(State(shared): State<Arc<Shared>>) -> Response {
    metrics::answer(metrics::of_overview(&shared.seen().overview)).into_response()
}
