//! `GET /metrics`.

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

/// Why figures are not served.
#[derive(Debug, thiserror::Error)]
#[error(
    "metrics: cannot listen at {address}: {source}; set `metrics` to an address of this machine with a free port"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Keeps figures of role `role`, and serves them at `address` until the process ends.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn serve(address: SocketAddr, role: &'static str, state: &Path) -> Result<(), MetricsError> {
    let listener = TcpListener::bind(address).await.map_err(|source| MetricsError { address, source })?;
    super::keep(role, state);
    let router = Router::new().route("/metrics", get(|| async { answer(super::render()) }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}

/// A page of figures.
pub(crate) fn answer(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
