//! Response bodies that are counted and cannot take for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::Sleep;

use super::Counters;

/// A response body with a byte limit and a deadline.
#[derive(Debug)]
pub(super) struct Metered {
    inner: HttpResponseBody,
    counters: Arc<Counters>,
    left: u64,
    deadline: Pin<Box<Sleep>>,
    allowed: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the response body did not arrive within {0:?}")]
    Late(Duration),
    #[error("the response body is longer than a response of this kind can be")]
    Long,
}

impl Metered {
    pub(super) fn new(
        inner: HttpResponseBody,
        counters: Arc<Counters>,
        limit: u64,
        allowed: Duration,
    ) -> Self {
        Self { inner, counters, left: limit, deadline: Box::pin(tokio::time::sleep(allowed)), allowed }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.counters.received(size);
                match this.left.checked_sub(size) {
                    Some(left) => this.left = left,
                    None => return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, Cut::Long)))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, Cut::Late(this.allowed)))))
                }
                Poll::Pending => Poll::Pending,
            },
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
