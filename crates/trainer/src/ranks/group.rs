//! What all ranks do together.
//!
//! Every rank calls the same operations in the same order; an operation's number is its place in that order, so one may
//! be started long before the one before it is waited for.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Kind, Tensor};

use super::link::Link;
use crate::{Error, Result};

/// The ranks that hold a model together, seen from one of them.
#[derive(Debug)]
pub(crate) struct Group {
    rank: usize,
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
    lost: Option<String>,
}

impl Group {
    /// A single rank.
    pub(crate) fn alone() -> Arc<Self> {
        Arc::new(Self { rank: 0, others: vec![None], operations: AtomicU64::new(0) })
    }

    /// The ranks behind `sockets`, of which there is none for `rank` itself.
    ///
    /// # Errors
    /// [`Error::Rank`] if a socket cannot be used.
    pub(crate) fn new(rank: usize, sockets: Vec<Option<UnixStream>>) -> Result<Arc<Self>> {
        let other = |(rank, socket): (usize, Option<UnixStream>)| -> Result<Option<Other>> {
            let Some(socket) = socket else { return Ok(None) };
            let link = Link::new(socket).map_err(|e| Error::Rank { rank, reason: e.to_string() })?;
            Ok(Some(Other { inbox: Mutex::new(Inbox { link, early: HashMap::new(), lost: None }) }))
        };
        let others = sockets.into_iter().enumerate().map(other).collect::<Result<_>>()?;
        Ok(Arc::new(Self { rank, others, operations: AtomicU64::new(0) }))
    }

    /// This rank's number.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub(crate) fn world(&self) -> usize {
        self.others.len()
    }

    /// Tells the others why this rank stops.
    pub(crate) fn fail(&self, reason: &str) {
        (0..self.world()).filter_map(|rank| self.inbox(rank)).for_each(|inbox| inbox.link.fail(reason));
    }

    /// Puts the ranks' shards, 1-D and equally long, one after the other, on every rank.
    pub(crate) fn all_gather(self: &Arc<Self>, shard: &Tensor) -> Result<Gathering> {
        let (operation, bytes) = (self.next(), to_bytes(shard)?);
        self.send_to_all(operation, |_| Ok(bytes.clone()))?;
        Ok(Gathering { group: Arc::clone(self), operation, own: shard.shallow_clone() })
    }

    /// Adds up `full` `[world · n]` over the ranks; each gets its own n elements of the sum.
    pub(crate) fn reduce_scatter(self: &Arc<Self>, full: &Tensor) -> Result<Reducing> {
        let operation = self.next();
        let shards = full.f_chunk(self.world() as i64, 0)?;
        self.send_to_all(operation, |rank| to_bytes(&shards[rank]))?;
        Ok(Reducing { group: Arc::clone(self), operation, own: shards[self.rank].shallow_clone() })
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

    fn next(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
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
        let lost = |reason: &str| Error::Rank { rank, reason: reason.to_owned() };
        let mut inbox = self.inbox(rank).ok_or_else(|| lost("there is no such rank"))?;
        loop {
            if let Some(bytes) = inbox.early.remove(&operation) {
                return Ok(bytes);
            }
            if let Some(reason) = &inbox.lost {
                return Err(lost(reason));
            }
            match inbox.link.incoming.recv() {
                Ok(Ok((number, bytes))) => drop(inbox.early.insert(number, bytes)),
                Ok(Err(reason)) => inbox.lost = Some(reason),
                Err(_) => inbox.lost = Some("its connection has ended".to_owned()),
            }
        }
    }

    /// What `rank` sent as a 1-D tensor like `own`.
    fn receive_like(&self, rank: usize, operation: u64, own: &Tensor) -> Result<Tensor> {
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

/// A gather under way.
#[derive(Debug)]
pub(crate) struct Gathering {
    group: Arc<Group>,
    operation: u64,
    own: Tensor,
}

impl Gathering {
    /// All shards, `[world · n]`.
    pub(crate) fn wait(self) -> Result<Tensor> {
        let Self { group, operation, own } = self;
        let n = own.size()[0];
        let full = Tensor::f_empty([n * group.world() as i64], (own.f_kind()?, own.device()))?;
        for rank in 0..group.world() {
            let mut place = full.f_narrow(0, n * rank as i64, n)?;
            if rank == group.rank {
                place.f_copy_(&own)?;
            } else {
                place.f_copy_(&group.receive_like(rank, operation, &own)?)?;
            }
        }
        Ok(full)
    }
}

/// A sum under way.
#[derive(Debug)]
pub(crate) struct Reducing {
    group: Arc<Group>,
    operation: u64,
    own: Tensor,
}

impl Reducing {
    /// This rank's part of the sum, added in the order of the ranks.
    pub(crate) fn wait(self) -> Result<Tensor> {
        let Self { group, operation, own } = self;
        let mut sum: Option<Tensor> = None;
        for rank in 0..group.world() {
            let term = if rank == group.rank {
                own.shallow_clone()
            } else {
                group.receive_like(rank, operation, &own)?
            };
            sum = Some(match sum {
                Some(sum) => sum.f_add(&term)?,
                None => term,
            });
        }
        Ok(sum.unwrap_or(own))
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
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `world` ranks, each to be given to a thread of its own.
    pub(crate) fn groups(world: usize) -> Vec<Arc<Group>> {
        let pairs: Vec<_> = (0..world).flat_map(|b| (0..b).map(move |a| (a, b))).collect();
        let mut sockets: Vec<Vec<Option<UnixStream>>> =
            (0..world).map(|_| (0..world).map(|_| None).collect()).collect();
        for (a, b) in pairs {
            let (one, other) = UnixStream::pair().unwrap();
            (sockets[a][b], sockets[b][a]) = (Some(one), Some(other));
        }
        sockets.into_iter().enumerate().map(|(rank, sockets)| Group::new(rank, sockets).unwrap()).collect()
    }

    /// Runs `work` on all ranks at once.
    pub(crate) fn on_all<R: Send>(world: usize, work: impl Fn(Arc<Group>) -> R + Sync) -> Vec<R> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = groups(world).into_iter().map(|group| scope.spawn(|| work(group))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn shards_are_gathered_and_sums_are_scattered() {
        for kind in [Kind::Float, Kind::BFloat16] {
            on_all(3, |group| {
                let rank = group.rank() as f64;
                let of = |values: &[f64]| Tensor::from_slice(values).to_kind(kind);
                // Started first, waited for last.
                let gathering = group.all_gather(&of(&[rank, rank + 0.5])).unwrap();
                let full: Vec<f64> = (0..6).map(|i| f64::from(i) + 10.0 * rank).collect();
                let sum = group.reduce_scatter(&of(&full)).unwrap().wait().unwrap();
                assert_eq!(sum, of(&[6.0 * rank + 30.0, 6.0 * rank + 33.0]));
                assert_eq!(gathering.wait().unwrap(), of(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]));
                assert_eq!(group.sum(&[rank, 1.0]).unwrap(), [3.0, 3.0]);
                let shares = (rank == 0.0).then(|| vec![vec![0], vec![1], vec![2, 2]]);
                assert_eq!(group.scatter(shares).unwrap()[0], rank as u8);
                let bytes = (rank == 0.0).then(|| vec![7; 3]);
                assert_eq!(group.broadcast(bytes).unwrap(), [7; 3]);
                let all = group.collect(vec![rank as u8]).unwrap();
                assert_eq!(all, (rank == 0.0).then(|| vec![vec![0], vec![1], vec![2]]));
            });
        }
    }

    #[test]
    fn a_rank_that_ends_or_fails_is_named_with_its_reason() {
        let ends = on_all(3, |group| match group.rank() {
            0 => group.sum(&[1.0]).unwrap_err().to_string(),
            1 => {
                group.fail("no memory");
                String::new()
            }
            _ => group.sum(&[1.0]).unwrap_err().to_string(),
        });
        assert!(ends[0].contains("rank 1") && ends[0].contains("no memory"), "{ends:?}");
        assert!(ends[2].contains("rank"), "{ends:?}");
    }
}
