//! What the server asks of a client's connection: that the client reads what it asked for, and that it gets to
//! read a refusal even while it is still sending.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::EXPECT;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::engine::lock;

/// A client that takes no byte for so long is cut off, so that it cannot hold a connection and a file for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read of a refused request's body, in time and in bytes.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_BYTES: u64 = 256 << 20;

/// A connection whose writes time out when the client stops reading.
pub(super) struct Patient {
    stream: TcpStream,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, stalled: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The server's hold on a request's body while the S3 layer has it.
pub(super) struct Remainder {
    body: Arc<Mutex<Incoming>>,
    touched: Arc<AtomicBool>,
    /// The client waits for a go-ahead before it sends the body.
    waits: bool,
}

/// A request's body, lent to the S3 layer.
struct Lent {
    body: Arc<Mutex<Incoming>>,
    touched: Arc<AtomicBool>,
}

/// Lends the body of a request to whoever answers it.
pub(super) fn lend(request: Request<Incoming>) -> (Request<s3s::Body>, Remainder) {
    let waits = request.headers().contains_key(EXPECT);
    let (head, body) = request.into_parts();
    let (body, touched) = (Arc::new(Mutex::new(body)), Arc::new(AtomicBool::new(false)));
    let lent = Lent { body: Arc::clone(&body), touched: Arc::clone(&touched) };
    (Request::from_parts(head, s3s::Body::http_body(lent)), Remainder { body, touched, waits })
}

impl Remainder {
    /// Reads and drops what the client still sends. Without this the connection would be closed with bytes
    /// unread, and the client's system would throw away the refusal together with the connection.
    pub(super) async fn drain(self) {
        let hopeless = lock(&self.body).size_hint().lower() > DRAIN_BYTES;
        if hopeless || (self.waits && !self.touched.load(Ordering::Relaxed)) {
            return;
        }
        let mut dropped = 0;
        let read_all = std::future::poll_fn(|cx| {
            loop {
                let frame = std::task::ready!(Pin::new(&mut *lock(&self.body)).poll_frame(cx));
                let Some(Ok(frame)) = frame else { return Poll::Ready(()) };
                dropped += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                if dropped > DRAIN_BYTES {
                    return Poll::Ready(());
                }
            }
        });
        if tokio::time::timeout(DRAIN_TIME, read_all).await.is_err() {
            tracing::debug!("a refused request's body did not end in time");
        }
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.touched.store(true, Ordering::Relaxed);
        Pin::new(&mut *lock(&self.body)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.body).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.body).size_hint()
    }
}
