//! Frames between two ranks.
//!
//! A frame is a kind (1 byte), the number of the operation it belongs to (of a failure: of the rank where it began) and the
//! length of its payload (8 bytes each, little-endian), and the payload. Both directions have a thread of their own, so that sending never waits for the
//! other rank to compute, and a rank is known to be alive while it does.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a rank says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// A rank that has said nothing for so long is lost: it hangs, or its machine does.
const SILENCE: Duration = Duration::from_secs(20);

const ALIVE: u8 = 0;
const DATA: u8 = 1;
const FAILURE: u8 = 2;

/// What is to be done when a rank is lost or ends.
pub(super) type OnEnd = Box<dyn FnOnce() + Send>;

/// What is to be done at once when a rank is lost, besides telling who waits for it.
pub(super) type OnLoss = Box<dyn FnOnce(&Loss) + Send>;

/// A payload, and the number of the operation that it belongs to.
pub(super) type Payload = (u64, Vec<u8>);

/// Why a rank is lost, and which one was lost first, if that was another.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) origin: Option<usize>,
    pub(super) reason: String,
}

/// One other rank. Why it is lost comes last out of `incoming`.
#[derive(Debug)]
pub(super) struct Link {
    outgoing: Option<Sender<(u8, Payload)>>,
    pub(super) incoming: Receiver<Result<Payload, Loss>>,
    sending: Option<JoinHandle<()>>,
}

impl Drop for Link {
    /// What was to be sent is sent: the reason of a failure comes last.
    fn drop(&mut self) {
        self.outgoing = None;
        if let Some(sending) = self.sending.take() {
            let _ = sending.join();
        }
    }
}

impl Link {
    /// `on_loss` is called, on a thread of the link's, when the other rank is lost or ends; then `on_end`, when nothing more will come.
    ///
    /// # Errors
    /// When the socket cannot be shared between threads, or no thread can be started.
    pub(super) fn new(socket: UnixStream, on_loss: OnLoss, on_end: Option<OnEnd>) -> io::Result<Self> {
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let (outgoing, to_send) = mpsc::channel();
        let (received, incoming) = mpsc::channel();
        let reader = socket.try_clone()?;
        let sending = thread::Builder::new().name("rank-send".into());
        let sending = sending.spawn(move || send_all(socket, &to_send))?;
        thread::Builder::new().name("rank-receive".into()).spawn(move || {
            receive_all(reader, &received, on_loss);
            drop(received);
            if let Some(on_end) = on_end {
                on_end();
            }
        })?;
        Ok(Self { outgoing: Some(outgoing), incoming, sending: Some(sending) })
    }

    /// Sends without waiting. A rank that is lost shows when something is expected from it.
    pub(super) fn send(&self, operation: u64, payload: Vec<u8>) {
        self.put(DATA, (operation, payload));
    }

    /// Tells the other rank why this one stops, and where it began.
    pub(super) fn fail(&self, origin: usize, reason: &str) {
        self.put(FAILURE, (origin as u64, reason.as_bytes().to_vec()));
    }

    fn put(&self, kind: u8, payload: Payload) {
        if let Some(outgoing) = &self.outgoing {
            let _ = outgoing.send((kind, payload));
        }
    }
}

fn send_all(mut socket: UnixStream, to_send: &Receiver<(u8, Payload)>) {
    loop {
        let (kind, (operation, payload)) = match to_send.recv_timeout(HEARTBEAT) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => (ALIVE, (0, Vec::new())),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut head = [0; 17];
        head[0] = kind;
        head[1..9].copy_from_slice(&operation.to_le_bytes());
        head[9..].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        if socket.write_all(&head).and_then(|()| socket.write_all(&payload)).is_err() {
            break;
        }
    }
    // What was sent arrives; the other side then reads the end.
    let _ = socket.shutdown(Shutdown::Write);
}

fn receive_all(mut socket: UnixStream, received: &Sender<Result<Payload, Loss>>, on_loss: OnLoss) {
    let loss = |reason| Loss { origin: None, reason };
    loop {
        let next = match receive(&mut socket) {
            Ok((ALIVE, _)) => continue,
            Ok((DATA, payload)) => Ok(payload),
            Ok((_, (origin, reason))) => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                Err(Loss { origin: Some(origin as usize), reason })
            }
            Err(error) => Err(loss(match error.kind() {
                // Which of them depends on whether it had read all that was sent.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    "its process has ended".to_owned()
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("it has not answered for {} s", SILENCE.as_secs())
                }
                _ => error.to_string(),
            })),
        };
        let lost = next.as_ref().err().cloned();
        let is_over = received.send(next).is_err();
        if let Some(loss) = lost {
            return on_loss(&loss);
        }
        if is_over {
            return;
        }
    }
}

fn receive(socket: &mut UnixStream) -> io::Result<(u8, Payload)> {
    let mut head = [0; 17];
    socket.read_exact(&mut head)?;
    let number =
        |at: usize| head[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    // The other end is a process of ours behind a folder that only its owner may enter; and memory is taken as it fills.
    let mut payload = Vec::new();
    socket.take(number(9)).read_to_end(&mut payload)?;
    if payload.len() as u64 != number(9) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((head[0], (number(1), payload)))
}
