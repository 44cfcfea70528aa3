//! Bodies between the network and the disk: in with bounds and a deadline, out with a known length.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, Stream, StreamExt as _};
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::task::JoinHandle;

use super::checksum::Algorithm;
use super::engine::{BodyReader, Disk, Intake, Received};
use super::error::StoreError;

/// Bytes gathered before they are handed to the disk.
const WRITE_BYTES: usize = 1 << 20;
/// A client that sends nothing for so long is cut off, so that it cannot hold a connection for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a worker thread panicked");
        Err(StoreError::Worker)
    })
}

/// A body that has come in whole but may still be partly in memory.
pub(super) struct Arrived {
    intake: Option<Intake>,
    rest: BytesMut,
    algorithms: Vec<Algorithm>,
}

impl Arrived {
    /// Puts the rest on the disk. Blocks.
    pub(super) fn finish(self, disk: &Disk) -> Result<Received, StoreError> {
        let mut intake = match self.intake {
            Some(intake) => intake,
            None => Intake::begin(disk, &self.algorithms)?,
        };
        intake.append(&self.rest)?;
        Ok(intake.finish())
    }
}

/// Takes in a body. What exceeds [`WRITE_BYTES`] goes to a temporary file as it comes, digested on the way; the
/// next bytes are received while the last ones are written.
///
/// # Errors
/// [`StoreError::TooLarge`] beyond `limit` bytes, [`StoreError::Incomplete`] if the client goes away or sends
/// another number of bytes than it `declared`, [`StoreError::Stalled`] if it stops sending.
pub(super) async fn receive(
    disk: &Arc<Disk>,
    body: Option<StreamingBlob>,
    declared: Option<i64>,
    algorithms: Vec<Algorithm>,
    limit: u64,
) -> Result<Arrived, StoreError> {
    let declared = declared.map(|length| u64::try_from(length).unwrap_or(u64::MAX));
    if declared.is_some_and(|length| length > limit) {
        return Err(StoreError::TooLarge { limit });
    }
    let mut writing: Option<JoinHandle<Result<Intake, StoreError>>> = None;
    let (mut rest, mut got) = (BytesMut::new(), 0u64);
    let mut body = body.map(|body| body.fuse());
    while let Some(bytes) = next(body.as_mut(), got).await? {
        got += bytes.len() as u64;
        if got > limit {
            return Err(StoreError::TooLarge { limit });
        }
        // Copied, not kept: a client that sends single bytes would have each of them hold a whole network buffer.
        rest.extend_from_slice(&bytes);
        if rest.len() >= WRITE_BYTES {
            let intake = join(writing.take()).await?;
            let (disk, wanted, full) = (Arc::clone(disk), algorithms.clone(), rest.split());
            writing = Some(tokio::task::spawn_blocking(move || {
                let mut intake = intake.map_or_else(|| Intake::begin(&disk, &wanted), Ok)?;
                intake.append(&full)?;
                Ok(intake)
            }));
        }
    }
    let intake = join(writing).await?;
    if declared.is_some_and(|length| length != got) {
        return Err(StoreError::Incomplete { got });
    }
    Ok(Arrived { intake, rest, algorithms })
}

async fn join(writing: Option<JoinHandle<Result<Intake, StoreError>>>) -> Result<Option<Intake>, StoreError> {
    match writing {
        Some(writing) => writing.await.unwrap_or(Err(StoreError::Worker)).map(Some),
        None => Ok(None),
    }
}

async fn next(
    body: Option<&mut futures::stream::Fuse<StreamingBlob>>,
    got: u64,
) -> Result<Option<Bytes>, StoreError> {
    let Some(body) = body else { return Ok(None) };
    match tokio::time::timeout(PATIENCE, body.next()).await {
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(None) => Ok(None),
        Ok(Some(Err(error))) => Err(refused(&error, got)),
        Err(_) => Err(StoreError::Stalled { seconds: PATIENCE.as_secs() }),
    }
}

/// What broke the body. The errors of the layers below have no public type, only their texts.
fn refused(error: &StdError, got: u64) -> StoreError {
    let text = error.to_string();
    let says = |what: &str| text.contains(what);
    if says("Sha256Mismatch") {
        StoreError::PayloadHash
    } else if says("SignatureMismatch") {
        StoreError::ChunkSignature
    } else if says("FormatError") || says("TooLarge") || says("TooMany") {
        StoreError::Invalid("the body is not framed as aws-chunked".into())
    } else {
        StoreError::Incomplete { got }
    }
}

/// A stored body on its way out. The next chunk is read from the disk while the last one is sent.
pub(super) struct Outgoing {
    left: u64,
    state: State,
}

enum State {
    Idle(BodyReader),
    Reading(JoinHandle<(BodyReader, Result<Bytes, StoreError>)>),
    Done,
}

impl Outgoing {
    pub(super) fn new(reader: BodyReader) -> Self {
        Self { left: reader.remaining(), state: State::Idle(reader) }
    }

    fn start(mut reader: BodyReader) -> State {
        if reader.remaining() == 0 {
            return State::Done;
        }
        State::Reading(tokio::task::spawn_blocking(move || {
            let chunk = reader.next_chunk();
            (reader, chunk)
        }))
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Idle(reader) => self.state = Self::start(reader),
                State::Reading(mut reading) => {
                    let Poll::Ready(read) = reading.poll_unpin(cx) else {
                        self.state = State::Reading(reading);
                        return Poll::Pending;
                    };
                    let Ok((reader, chunk)) = read else {
                        return Poll::Ready(Some(Err(StoreError::Worker.into())));
                    };
                    return Poll::Ready(Some(match chunk {
                        Ok(bytes) => {
                            self.left = self.left.saturating_sub(bytes.len() as u64);
                            self.state = Self::start(reader);
                            Ok(bytes)
                        }
                        // The headers are gone: all that is left is to break the connection, so that the client
                        // does not take the torn body for a whole one.
                        Err(error) => {
                            tracing::error!(%error, "an object cannot be read to its end");
                            Err(error.into())
                        }
                    }));
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

/// The blob that answers a GET: a small body whole, a large one as a stream. `first` is its first chunk.
pub(super) fn answer(first: Bytes, rest: BodyReader) -> StreamingBlob {
    if rest.remaining() == 0 {
        return StreamingBlob::from(s3s::Body::from(first));
    }
    StreamingBlob::new(Begun { first: Some(first), rest: Outgoing::new(rest) })
}

/// A body whose first chunk was read when its file was opened.
struct Begun {
    first: Option<Bytes>,
    rest: Outgoing,
}

impl Stream for Begun {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        Poll::Ready(ready!(self.rest.poll_next_unpin(cx)))
    }
}

impl ByteStream for Begun {
    fn remaining_length(&self) -> RemainingLength {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        RemainingLength::new_exact(usize::try_from(first + self.rest.left).unwrap_or(usize::MAX))
    }
}
