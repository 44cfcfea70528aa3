//! What all ranks do together.
//!
//! Every rank calls the same operations in the same order; an operation's number is its place in that order, so one may
//! be started long before the one before it is waited for.

use std::collections::{HashMap, HashSet};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tch::{Kind, Tensor};

use super::direct::{Alarm, Direct};
use super::link::{Link, Loss, OnEnd};
use super::under_way::{Gathering, Reducing, Started};
use crate::{Error, Result};

/// A rank that rank 0 waits for, and that is alive but has sent nothing for so long, hangs: in a GPU that does not answer,
/// say. Longer than any single operation takes.
const STALL: Duration = Duration::from_secs(600);

/// The ranks that hold a model together, seen from one of them.
#[derive(Debug)]
pub(crate) struct Group {
    rank: usize,
    /// The way between the ranks' devices, once they are connected; goes before the sockets, whose end is a loss to others.
    pub(super) direct: OnceLock<Direct>,
    pub(super) alarm: Arc<Alarm>,
    /// The other ranks; nothing at this one's own place.
    others: Vec<Option<Other>>,
    operations: AtomicU64,
}

#[derive(Debug)]
struct Other {
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    link: Link,
    /// What has come for operations that nobody waits for yet.
    early: HashMap<u64, Vec<u8>>,
    /// Operations that nobody will wait for: what comes for them is dropped.
    abandoned: HashSet<u64>,
    lost: Option<Loss>,
}

impl Inbox {
    fn abandon(&mut self, operation: u64) {
        if self.early.remove(&operation).is_none() {
            self.abandoned.insert(operation);
        }
    }

    fn keep(&mut self, (operation, bytes): (u64, Vec<u8>)) {
        if !self.abandoned.remove(&operation) {
            self.early.insert(operation, bytes);
        }
    }
}

impl Group {
    /// A single rank.
    pub(crate) fn alone() -> Arc<Self> {
        Arc::new(Self::of(0, vec![None], Arc::default()))
    }

    fn of(rank: usize, others: Vec<Option<Other>>, alarm: Arc<Alarm>) -> Self {
        Self { rank, direct: OnceLock::new(), alarm, others, operations: AtomicU64::new(0) }
    }

    /// The ranks behind `sockets`, of which there is none for `rank` itself. `on_end` is called when rank 0 is lost or ends.
    ///
    /// # Errors
    /// [`Error::Rank`] if a socket cannot be used.
    pub(crate) fn new(
        rank: usize,
        sockets: Vec<Option<UnixStream>>,
        mut on_end: Option<OnEnd>,
    ) -> Result<Arc<Self>> {
        let alarm = Arc::<Alarm>::default();
        let other = |(rank, socket): (usize, Option<UnixStream>)| -> Result<Option<Other>> {
            let Some(socket) = socket else { return Ok(None) };
            let on_end = on_end.take_if(|_| rank == 0);
            let alarm = Arc::clone(&alarm);
            let on_loss = Box::new(move |loss: &Loss| alarm.raise(rank, loss));
            let link = Link::new(socket, on_loss, on_end)
                .map_err(|e| Error::Rank { rank, reason: e.to_string() })?;
            let (early, abandoned) = (HashMap::new(), HashSet::new());
            Ok(Some(Other { inbox: Mutex::new(Inbox { link, early, abandoned, lost: None }) }))
        };
        let others = sockets.into_iter().enumerate().map(other).collect::<Result<_>>()?;
        Ok(Arc::new(Self::of(rank, others, alarm)))
    }

    /// This rank's number.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub(crate) fn world(&self) -> usize {
        self.others.len()
    }

    /// Tells the others why this rank stops; if another one is lost, that it was that one.
    pub(crate) fn fail(&self, error: &Error) {
        let (origin, reason) = match error {
            Error::Rank { rank, reason } => (*rank, reason.clone()),
            error => (self.rank, error.to_string()),
        };
        (0..self.world())
            .filter_map(|rank| self.inbox(rank))
            .for_each(|inbox| inbox.link.fail(origin, &reason));
    }

    /// Puts the ranks' shards, 1-D and equally long, one after the other, on every rank.
    pub(crate) fn all_gather(self: &Arc<Self>, shard: &Tensor) -> Result<Gathering> {
        if let Some(direct) = self.direct_for(shard) {
            return Ok(Gathering::direct(self, direct.all_gather(shard)?));
        }
        let (operation, bytes) = (self.next(), to_bytes(shard)?);
        self.send_to_all(operation, |_| Ok(bytes.clone()))?;
        Ok(Gathering::sockets(Started::new(self, operation, shard.shallow_clone())))
    }

    /// Adds up `full` `[world · n]` over the ranks; each gets its own n elements of the sum. Between GPUs the order of the summands
    /// is NCCL's.
    pub(crate) fn reduce_scatter(self: &Arc<Self>, full: &Tensor) -> Result<Reducing> {
        if let Some(direct) = self.direct_for(full) {
            return Ok(Reducing::direct(self, direct.reduce_scatter(full)?));
        }
        let operation = self.next();
        let shards = full.f_chunk(self.world() as i64, 0)?;
        self.send_to_all(operation, |rank| to_bytes(&shards[rank]))?;
        Ok(Reducing::sockets(Started::new(self, operation, shards[self.rank].shallow_clone())))
    }

    /// The sum of each of `values` over the ranks, added in their order; the same bits on all.
    pub(crate) fn sum(&self, values: &[f64]) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = self.exchange(&bytes)?;
        let mut sums = vec![0.0; values.len()];
        for (rank, bytes) in all.iter().enumerate() {
            let (numbers, rest) = bytes.as_chunks::<8>();
            if numbers.len() != sums.len() || !rest.is_empty() {
                return Err(self.out_of_step(rank, 8 * sums.len(), bytes.len()));
            }
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += f64::from_le_bytes(*number));
        }
        Ok(sums)
    }

    /// Everybody's `bytes`, in the order of the ranks.
    fn exchange(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        // What is summed was read from devices. Before it is sent: another may not know yet that a rank is lost.
        self.check()?;
        let operation = self.next();
        self.send_to_all(operation, |_| Ok(bytes.to_vec()))?;
        let one = |rank| if rank == self.rank { Ok(bytes.to_vec()) } else { self.receive(rank, operation) };
        (0..self.world()).map(one).collect()
    }

    /// Gives every rank what rank 0 has for it; only rank 0 knows `shares`.
    pub(crate) fn scatter(&self, shares: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>> {
        let operation = self.next();
        let Some(mut shares) = shares else { return self.receive(0, operation) };
        self.send_to_all(operation, |rank| Ok(std::mem::take(&mut shares[rank])))?;
        Ok(std::mem::take(&mut shares[0]))
    }

    /// Gives every rank what rank 0 has.
    pub(crate) fn broadcast(&self, bytes: Option<Vec<u8>>) -> Result<Vec<u8>> {
        self.scatter(bytes.map(|bytes| vec![bytes; self.world()]))
    }

    /// Gives rank 0 what every rank has, in their order; the others get nothing back.
    pub(crate) fn collect(&self, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
        let operation = self.next();
        if self.rank > 0 {
            self.send(0, operation, bytes);
            return Ok(None);
        }
        let mut all = vec![bytes];
        for rank in 1..self.world() {
            all.push(self.receive(rank, operation)?);
        }
        Ok(Some(all))
    }

    /// Gives rank `to` the `bytes` that rank `from` alone has; the others get nothing, and need not wait.
    pub(crate) fn hand(
        &self,
        from: usize,
        to: usize,
        bytes: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let operation = self.next();
        if self.rank == from {
            self.send(to, operation, bytes()?);
        } else if self.rank == to {
            return self.receive(from, operation);
        }
        Ok(Vec::new())
    }

    fn direct_for(&self, tensor: &Tensor) -> Option<&Direct> {
        self.direct.get().filter(|direct| direct.takes(tensor))
    }

    fn next(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// Nobody will wait for `operation`.
    pub(super) fn abandon(&self, operation: u64) {
        let others = (0..self.world()).filter_map(|rank| self.inbox(rank));
        others.for_each(|mut inbox| inbox.abandon(operation));
    }

    fn inbox(&self, rank: usize) -> Option<std::sync::MutexGuard<'_, Inbox>> {
        let other = self.others.get(rank)?.as_ref()?;
        Some(other.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, rank: usize, operation: u64, bytes: Vec<u8>) {
        if let Some(inbox) = self.inbox(rank) {
            inbox.link.send(operation, bytes);
        }
    }

    fn send_to_all(&self, operation: u64, mut bytes: impl FnMut(usize) -> Result<Vec<u8>>) -> Result<()> {
        for rank in (0..self.world()).filter(|&rank| rank != self.rank) {
            self.send(rank, operation, bytes(rank)?);
        }
        Ok(())
    }

    /// Waits for what `rank` sends for `operation`.
    fn receive(&self, rank: usize, operation: u64) -> Result<Vec<u8>> {
        let lost = |rank, reason: &str| Error::Rank { rank, reason: reason.to_owned() };
        let mut inbox = self.inbox(rank).ok_or_else(|| lost(rank, "there is no such rank"))?;
        // The others wait for rank 0 for as long as it has nothing to do.
        let limit = if self.rank == 0 { STALL } else { Duration::MAX };
        loop {
            if let Some(bytes) = inbox.early.remove(&operation) {
                return Ok(bytes);
            }
            if let Some(Loss { origin, reason }) = &inbox.lost {
                return Err(lost(origin.unwrap_or(rank), reason));
            }
            match inbox.link.incoming.recv_timeout(limit) {
                Ok(Ok(payload)) => inbox.keep(payload),
                Ok(Err(loss)) => inbox.lost = Some(loss),
                Err(RecvTimeoutError::Timeout) => {
                    let reason = format!("it is alive, but has sent nothing for {} s", STALL.as_secs());
                    inbox.lost = Some(Loss { origin: None, reason });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    inbox.lost = Some(Loss { origin: None, reason: "its connection has ended".to_owned() });
                }
            }
        }
    }

    /// What `rank` sent as a 1-D tensor like `own`.
    pub(super) fn receive_like(&self, rank: usize, operation: u64, own: &Tensor) -> Result<Tensor> {
        let (bytes, kind) = (self.receive(rank, operation)?, own.f_kind()?);
        let expected = own.numel() * kind.elt_size_in_bytes();
        if bytes.len() != expected {
            return Err(self.out_of_step(rank, expected, bytes.len()));
        }
        Ok(Tensor::f_from_data_size(&bytes, &own.size(), kind)?.f_to_device(own.device())?)
    }

    fn out_of_step(&self, rank: usize, expected: usize, found: usize) -> Error {
        Error::Rank { rank, reason: format!("it sent {found} bytes where {expected} were expected") }
    }
}

/// The elements of `tensor` as bytes, on the host.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let (numel, kind) = (tensor.numel(), tensor.f_kind()?);
    let mut bytes = vec![0; numel * kind.elt_size_in_bytes()];
    tensor.f_detach()?.f_contiguous()?.f_copy_data_u8(&mut bytes, numel)?;
    Ok(bytes)
}

/// A 1-D tensor of `kind` on the CPU, from [`to_bytes`]. Bytes that are left over are not looked at.
pub(crate) fn from_bytes(bytes: &[u8], kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_from_data_size(bytes, &[(bytes.len() / kind.elt_size_in_bytes()) as i64], kind)?)
}

#[cfg(test)]
impl Group {
    /// Payloads that have come and that nobody has taken.
    pub(crate) fn untaken(&self) -> usize {
        (0..self.world()).filter_map(|rank| self.inbox(rank)).map(|inbox| inbox.early.len()).sum()
    }
}
