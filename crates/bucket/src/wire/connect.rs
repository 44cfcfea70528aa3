//! The connector that puts the meters under the storage client.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use chrono::DateTime;
use hyper::StatusCode;
use hyper::header::{AGE, AUTHORIZATION, CONTENT_LENGTH, DATE, HeaderMap};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

use super::body::Metered;
use super::resolve::PublicResolver;
use super::{Counters, Failure, Recognised, RequestKind, ServerClock};
use crate::BucketOptions;
use crate::cause::deepest;

/// The longest error body that is read, in bytes.
const ERROR_LIMIT: u64 = 64 << 10;
/// The longest list page or other XML answer: 1000 keys of 1 KiB, each escaped and with its metadata.
const XML_LIMIT: u64 = 16 << 20;

/// Counts, times and bounds every request to one host; passes others (credential endpoints) through untouched.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) recognised: Arc<Recognised>,
    origin: String,
    options: BucketOptions,
}

impl Wire {
    pub(crate) fn new(origin: String, options: BucketOptions) -> Self {
        Self {
            clock: Arc::new(ServerClock::unheard()),
            counters: options.counters.clone().unwrap_or_default(),
            recognised: Arc::default(),
            origin,
            options,
        }
    }

    fn client(&self) -> Result<reqwest::Client, NoTls> {
        match self.builder().build() {
            Ok(client) => Ok(client),
            // A machine without CA certificates can still speak plain HTTP, with the embedded server for example.
            Err(_) if self.origin.starts_with("http://") => {
                self.builder().tls_certs_only([]).build().map_err(|error| NoTls(deepest(&error)))
            }
            Err(error) => Err(NoTls(deepest(&error))),
        }
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("brigade/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.options.connect_timeout)
            .http1_only()
            // A redirect could lead a signed request, or one that strangers aimed, anywhere.
            .redirect(reqwest::redirect::Policy::none());
        if !self.options.public_only {
            return builder;
        }
        // No proxy either: it would resolve names beyond our sight.
        builder.no_proxy().dns_resolver(Arc::new(PublicResolver))
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set up TLS ({0}); install the system's CA certificates, on Debian the package ca-certificates"
)]
struct NoTls(String);

impl HttpConnector for Wire {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self
            .client()
            .map_err(|source| object_store::Error::Generic { store: "S3", source: Box::new(source) })?;
        Ok(HttpClient::new(Service { wire: self.clone(), inner: HttpClient::new(client) }))
    }
}

#[derive(Debug)]
struct Service {
    wire: Wire,
    inner: HttpClient,
}

#[derive(Debug, thiserror::Error)]
#[error("no response within {0:?}")]
struct NoResponse(std::time::Duration);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Wire { clock, counters, options, .. } = &self.wire;
        if !self.is_ours(&request) {
            let late = |_| HttpError::new(HttpErrorKind::Timeout, NoResponse(options.connect_timeout));
            let small = tokio::time::timeout(options.connect_timeout, self.inner.execute(request));
            return small.await.unwrap_or_else(|elapsed| Err(late(elapsed)));
        }
        let kind = RequestKind::of(request.method(), request.uri().query());
        let bytes_up = request.body().content_length() as u64;
        let secrets = secrets(request.headers());
        counters.request(kind, bytes_up);
        let (sent, allowed) = (Instant::now(), options.allowance(bytes_up));
        let response = match tokio::time::timeout(allowed, self.inner.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                counters.failed();
                return Err(error);
            }
            Err(_) => {
                counters.failed();
                return Err(HttpError::new(HttpErrorKind::Timeout, NoResponse(allowed)));
            }
        };
        self.wire.recognised.observe(&self.wire.origin, response.headers());
        if let Some(date) = date(response.headers()) {
            clock.observe(date, sent, Instant::now());
        }
        if !response.status().is_success() && response.status() != StatusCode::NOT_MODIFIED {
            return Ok(self.refused(response, &secrets).await);
        }
        Ok(self.metered(kind, response))
    }
}

impl Service {
    fn is_ours(&self, request: &HttpRequest) -> bool {
        let (uri, origin) = (request.uri(), self.wire.origin.split_once("://"));
        origin.is_some_and(|(scheme, host)| {
            uri.scheme_str() == Some(scheme) && uri.authority().is_some_and(|a| a.as_str() == host)
        })
    }

    /// Puts limits on a body that will be read by others.
    fn metered(&self, kind: RequestKind, response: HttpResponse) -> HttpResponse {
        let (parts, body) = response.into_parts();
        // An object's size is bounded by its reader, who sees the Content-Length first.
        let length = content_length(&parts.headers);
        let limit = if kind == RequestKind::Get { length.unwrap_or(0) } else { XML_LIMIT };
        let allowed = self.wire.options.allowance(length.unwrap_or(limit).min(limit));
        let body = Metered::new(body, Arc::clone(&self.wire.counters), limit, allowed);
        HttpResponse::from_parts(parts, HttpResponseBody::new(body))
    }

    /// Replaces an error body by one safe line.
    async fn refused(&self, response: HttpResponse, secrets: &[String]) -> HttpResponse {
        let (mut parts, body) = response.into_parts();
        if parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS {
            self.wire.counters.failed();
        }
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let allowed = self.wire.options.allowance(ERROR_LIMIT);
        let body = Metered::new(body, Arc::clone(&self.wire.counters), ERROR_LIMIT, allowed);
        let text = HttpResponseBody::new(body).bytes().await.unwrap_or_default();
        let mut failure = Failure::parse(parts.status.as_u16(), &text, &secrets);
        if parts.status.is_redirection() {
            failure.code = Some("PermanentRedirect".into());
            parts.status = StatusCode::BAD_REQUEST;
        }
        parts.headers.remove(CONTENT_LENGTH);
        HttpResponse::from_parts(parts, HttpResponseBody::from(failure.line()))
    }
}

/// Header values that a server must not get us to print.
fn secrets(headers: &HeaderMap) -> Vec<String> {
    let values = [headers.get(AUTHORIZATION), headers.get("x-amz-security-token")];
    let texts = values.into_iter().flatten().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| [text.to_owned(), text.rsplit('=').next().unwrap_or_default().to_owned()]).collect()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The `Date` of a response in milliseconds, unless a cache answered.
fn date(headers: &HeaderMap) -> Option<i64> {
    if headers.contains_key(AGE) {
        return None;
    }
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis())
}
