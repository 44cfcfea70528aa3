//! A server on a free port, clients for it, and a signer for requests that no well-behaved client would send.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use brigade_bucket::server::{Action, Grant, KeyGrant, Server, ServerConfig};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

pub(crate) const ADMIN: &str = "ADMIN";

pub(crate) fn secret(id: &str) -> String {
    format!("secret-of-{id}")
}

pub(crate) fn key(id: &str, grants: Vec<Grant>) -> KeyGrant {
    KeyGrant { access_key_id: id.into(), secret_access_key: secret(id).into(), grants }
}

pub(crate) fn admin() -> KeyGrant {
    key(ADMIN, vec![Grant::new("*", [Action::All])])
}

/// A running server. Dropped, it is cut off as a crash would cut it off.
pub(crate) struct Running {
    pub(crate) endpoint: String,
    pub(crate) keys: brigade_bucket::server::KeyRing,
    runtime: Option<tokio::runtime::Runtime>,
    stop: Option<oneshot::Sender<()>>,
    done: Option<tokio::task::JoinHandle<()>>,
    pub(crate) root: Arc<Root>,
}

/// The server's folder, which outlives the server.
pub(crate) enum Root {
    Temporary(TempDir),
}

impl Root {
    pub(crate) fn path(&self) -> &Path {
        let Self::Temporary(folder) = self;
        folder.path()
    }
}

impl Running {
    /// A server over a fresh folder, with an all-powerful key and the buckets `run` and `peer`.
    pub(crate) async fn start() -> Self {
        Self::with(vec![admin()]).await
    }

    pub(crate) async fn with(keys: Vec<KeyGrant>) -> Self {
        let root = Arc::new(Root::Temporary(tempfile::tempdir().unwrap()));
        let config = ServerConfig { keys, ..config(root.path()) };
        Self::over(root, config).await
    }

    /// A server of its own threads, so that all of it can be cut off at once.
    pub(crate) async fn over(root: Arc<Root>, config: ServerConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime.spawn(Server::bind(config)).await.unwrap().unwrap();
        let (endpoint, keys) = (server.endpoint(), server.keys());
        let (stop, stopped) = oneshot::channel::<()>();
        let done = runtime.spawn(server.run(async move { drop(stopped.await) }));
        Self { endpoint, keys, runtime: Some(runtime), stop: Some(stop), done: Some(done), root }
    }

    /// Cuts the server off in the middle of whatever it does and opens the same folder again.
    pub(crate) async fn crash_and_restart(mut self) -> Self {
        let root = Arc::clone(&self.root);
        self.cut();
        drop(self);
        let config = ServerConfig { keys: vec![admin()], ..config(root.path()) };
        Self::over(root, config).await
    }

    /// Asks the server to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.done.take().unwrap().await.unwrap();
        self.cut();
    }

    fn cut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own: a runtime must not be dropped on a thread of another.
            std::thread::spawn(move || drop(runtime)).join().unwrap();
        }
    }

    pub(crate) fn sdk(&self) -> Client {
        self.sdk_as(ADMIN)
    }

    pub(crate) fn sdk_as(&self, id: &str) -> Client {
        sdk(&self.endpoint, id, &secret(id))
    }

    pub(crate) fn store(&self, bucket: &str) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(bucket)
            .with_access_key_id(ADMIN)
            .with_secret_access_key(secret(ADMIN))
            .build()
            .unwrap()
    }

    pub(crate) fn address(&self) -> &str {
        self.endpoint.strip_prefix("http://").unwrap()
    }

    /// Every file under the root whose path holds `part`.
    pub(crate) fn files(&self, part: &str) -> Vec<PathBuf> {
        files(self.root.path(), part)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut();
    }
}

pub(crate) fn files(root: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found
}

pub(crate) fn config(root: &Path) -> ServerConfig {
    ServerConfig {
        keys: vec![admin()],
        buckets: vec!["run".into(), "peer".into()],
        ..ServerConfig::new(root)
    }
}

pub(crate) fn sdk(endpoint: &str, id: &str, secret: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .force_path_style(true)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// The status and code of an error answer.
pub(crate) fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    result: Result<T, SdkError<E>>,
) -> (u16, String) {
    match result {
        Err(SdkError::ServiceError(error)) => {
            (error.raw().status().as_u16(), error.err().code().unwrap_or_default().to_owned())
        }
        other => panic!("expected the server to refuse, got {other:?}"),
    }
}

/// Bytes that no compression or pattern makes easier: a different run for every seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) async fn put(client: &Client, bucket: &str, key: &str, body: impl Into<Vec<u8>>) -> String {
    let body = body.into();
    let put = client.put_object().bucket(bucket).key(key).body(body.into()).send().await.unwrap();
    put.e_tag().unwrap().to_owned()
}

pub(crate) async fn get(client: &Client, bucket: &str, key: &str) -> Vec<u8> {
    let got = client.get_object().bucket(bucket).key(key).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// The head of a request, signed with version 4 as the admin. `path` must need no escaping. `payload` is the value
/// of `x-amz-content-sha256`. The headers are signed as given.
pub(crate) fn signed_head(
    address: &str,
    method: &str,
    path: &str,
    query: &str,
    headers: &[(&str, &str)],
    payload: &str,
) -> String {
    let now = chrono::Utc::now();
    let (stamp, day) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
    let mut all: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect();
    all.push(("host".into(), address.into()));
    all.push(("x-amz-date".into(), stamp.clone()));
    all.push(("x-amz-content-sha256".into(), payload.into()));
    all.sort();
    let names = all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let listed: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{listed}\n{names}\n{payload}");
    let scope = format!("{day}/us-east-1/s3/aws4_request");
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(canonical.as_bytes())));
    let mut signing = hmac(format!("AWS4{}", secret(ADMIN)).as_bytes(), day.as_bytes());
    for step in ["us-east-1", "s3", "aws4_request"] {
        signing = hmac(&signing, step.as_bytes());
    }
    let signature = hex::encode(hmac(&signing, to_sign.as_bytes()));
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {target} HTTP/1.1\r\n{lines}authorization: AWS4-HMAC-SHA256 \
         Credential={ADMIN}/{scope},SignedHeaders={names},Signature={signature}\r\n"
    )
}

/// Sends bytes on a connection of their own and returns the answer's status and text.
pub(crate) async fn exchange(address: &str, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has seen enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_answer(&mut stream).await
}

pub(crate) async fn read_answer(stream: &mut TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    let read = async {
        let mut chunk = [0; 4096];
        while !complete(&answer) {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), read).await.expect("no answer within 30 s");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

/// True once the head and as much body as `Content-Length` announces are there.
fn complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    head.contains("http/1.1 304") || length.is_some_and(|length| answer.len() >= end + 4 + length)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
