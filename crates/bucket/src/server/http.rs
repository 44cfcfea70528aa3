//! Connections: accepted within bounds, served, and let go.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse, S3Error, s3_error};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::access::Gate;
use super::config::ServerConfig;
use super::engine::Engine;
use super::error::{ServerError, StoreError};
use super::handlers::Store;
use super::keys::KeyRing;
use super::socket::{Patient, lend};

/// The largest XML document accepted: 10,000 parts with their checksums need less.
const MOST_XML_BYTES: usize = 4 << 20;
/// A client has so long to send a request's headers; an idle connection is closed after it. Longer than clients
/// keep idle connections (90 s, usually), so that they do not send on one that is just being closed.
const HEADER_PATIENCE: Duration = Duration::from_secs(120);
/// Requests under way when the server is told to stop have so long to finish.
const GRACE: Duration = Duration::from_secs(20);
/// What the server calls itself.
const NAME: HeaderValue = HeaderValue::from_static(concat!("brigade/", env!("CARGO_PKG_VERSION")));

/// An embedded S3 server, bound to its address and ready to run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: S3Service,
    keys: KeyRing,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Opens the folder, reads the keys, makes the configured buckets and binds the address.
    ///
    /// # Errors
    /// [`ServerError::AddressInUse`] and [`ServerError::RootInUse`] if another server is running;
    /// [`ServerError::Disk`], [`ServerError::Config`] and [`ServerError::Invalid`] for what has to be mended first.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let keys = KeyRing::new(&config.keys, config.keys_file.clone())?;
        let listener = listen(config.listen).await?;
        let address =
            listener.local_addr().map_err(|source| ServerError::Bind { address: config.listen, source })?;
        if config.keys.is_empty() && config.keys_file.is_none() {
            tracing::warn!("no access key is configured: every request will be refused");
        }
        let connections = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let limit = config.max_object_bytes;
        let opened = tokio::task::spawn_blocking(move || open(&config)).await;
        let engine =
            opened.map_err(|error| ServerError::Invalid(format!("cannot open the folder: {error}")))??;
        let store = Store { engine: Arc::new(engine), keys: keys.clone(), limit };
        let gate = Gate::new(keys.clone());
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(gate.clone());
        builder.set_access(gate);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(limits()))));
        Ok(Self { listener, address, service: builder.build(), keys, connections })
    }

    /// The address that the server listens on; tells the port where the configuration left it open.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL to give to S3 clients. They must use path-style addressing.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys in force; through them they can be replaced while the server runs.
    pub fn keys(&self) -> KeyRing {
        self.keys.clone()
    }

    /// Serves until `shutdown` completes, then lets requests under way finish for up to 20 s.
    ///
    /// Nothing is lost if the process is killed instead: what was acknowledged is on the disk.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let mut shutdown = pin!(shutdown);
        tracing::info!(address = %self.address, "serving");
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
                () = &mut shutdown => break,
            };
            let Ok(permit) = permit else { break };
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            match stream {
                Ok((stream, _)) => {
                    let connection = serve(stream, self.service.clone());
                    let watched = graceful.watch(connection);
                    tokio::spawn(async move {
                        if let Err(error) = watched.await {
                            tracing::debug!(%error, "a connection ended early");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: without a pause this loop would spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not finish in time and were cut off");
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::AddressInUse { address, source },
        _ => ServerError::Bind { address, source },
    })
}

fn open(config: &ServerConfig) -> Result<Engine, ServerError> {
    let engine = Engine::open(&config.root, config.fsync)?;
    for bucket in &config.buckets {
        match engine.create(bucket) {
            Ok(()) => tracing::info!(bucket, "made the bucket"),
            Err(StoreError::BucketExists) => {}
            Err(error) => {
                return Err(ServerError::Invalid(format!("cannot make bucket {bucket:?}: {error}")));
            }
        }
    }
    Ok(engine)
}

fn limits() -> S3Config {
    let mut limits = S3Config::default();
    limits.xml_max_body_size = MOST_XML_BYTES;
    // Form uploads are refused before they get this far; these bound them all the same.
    limits.post_object_max_file_size = 1;
    limits.form_max_fields_size = 1 << 16;
    limits.form_max_parts = 16;
    limits
}

/// One connection, to be driven to its end.
fn serve(
    stream: TcpStream,
    service: S3Service,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let answer = service_fn(move |request| answer(service.clone(), request));
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .serve_connection(TokioIo::new(Patient::new(stream)), answer)
}

/// Answers one request. A panic in a handler becomes a 500 and ends there.
async fn answer(service: S3Service, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
    let refusal = refuse(&request);
    let (request, remainder) = lend(request);
    let mut answer = match refusal {
        Some(refusal) => error_answer(refusal),
        None => AssertUnwindSafe(service.call(request)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a request made the server panic; the server goes on");
            error_answer(s3_error!(InternalError))
        }),
    }?;
    // By this clients recognise whom they speak to.
    answer.headers_mut().insert(SERVER, NAME);
    if answer.status().is_client_error() || answer.status().is_server_error() {
        remainder.drain().await;
    }
    Ok(answer)
}

fn error_answer(error: S3Error) -> Result<HttpResponse, HttpError> {
    error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))
}

/// What never reaches the S3 layer. Form uploads are read into memory there before anybody has been asked for a
/// key; version 2 signatures do not cover the body and nobody needs them.
fn refuse(request: &Request<Incoming>) -> Option<S3Error> {
    let header = |name| request.headers().get(name).map(|value| value.as_bytes());
    let form = header(CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"multipart/"));
    if form && request.method() == Method::POST {
        return Some(s3_error!(NotImplemented, "uploads from HTML forms are not supported"));
    }
    // The S3 layer bounds documents too, but calls one that is too long its own fault.
    let length =
        header(CONTENT_LENGTH).and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
    let document =
        request.method() == Method::POST || !request.uri().path().trim_start_matches('/').contains('/');
    if document && length.is_some_and(|length| length > MOST_XML_BYTES) {
        return Some(s3_error!(
            MaxMessageLengthExceeded,
            "a document may have at most {MOST_XML_BYTES} bytes"
        ));
    }
    let signed_so = header(AUTHORIZATION).is_some_and(|value| value.starts_with(b"AWS "));
    let mut query = request.uri().query().unwrap_or_default().split('&');
    if signed_so || query.any(|pair| pair.split('=').next() == Some("Signature")) {
        return Some(s3_error!(InvalidRequest, "sign requests with AWS Signature Version 4"));
    }
    None
}
