//! Operations on tensors that were started and are waited for later.

use std::sync::Arc;

use brigade_torch_ext::Operation;
use tch::Tensor;

use super::Group;
use crate::Result;

/// An operation over the sockets that was started. Who drops it without waiting gives up what the others send for it.
#[derive(Debug)]
pub(super) struct Started {
    group: Arc<Group>,
    operation: u64,
    own: Tensor,
    is_over: bool,
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.is_over {
            self.group.abandon(self.operation);
        }
    }
}

impl Started {
    pub(super) fn new(group: &Arc<Group>, operation: u64, own: Tensor) -> Self {
        Self { group: Arc::clone(group), operation, own, is_over: false }
    }

    /// Calls `take` with what every rank has sent, in their order.
    fn wait(mut self, mut take: impl FnMut(usize, Tensor) -> Result<()>) -> Result<()> {
        self.is_over = true;
        for rank in 0..self.group.world() {
            let term = match rank == self.group.rank() {
                true => self.own.shallow_clone(),
                false => self.group.receive_like(rank, self.operation, &self.own)?,
            };
            take(rank, term)?;
        }
        Ok(())
    }
}

/// How it goes.
#[derive(Debug)]
enum Way {
    Sockets(Started),
    Direct(Arc<Group>, Operation),
}

impl Way {
    /// The outcome of `operation`, for which the device waits and the host does not.
    fn wait_for(group: &Group, operation: Operation) -> Result<Tensor> {
        operation.wait().map_err(|error| match group.direct.get() {
            Some(direct) => direct.explain(error),
            None => error.into(),
        })
    }
}

/// A gather under way.
#[derive(Debug)]
pub(crate) struct Gathering(Way);

impl Gathering {
    pub(super) fn sockets(started: Started) -> Self {
        Self(Way::Sockets(started))
    }

    pub(super) fn direct(group: &Arc<Group>, operation: Operation) -> Self {
        Self(Way::Direct(Arc::clone(group), operation))
    }

    /// All shards, `[world · n]`.
    pub(crate) fn wait(self) -> Result<Tensor> {
        let started = match self.0 {
            Way::Direct(group, operation) => return Way::wait_for(&group, operation),
            Way::Sockets(started) => started,
        };
        let (own, world) = (&started.own, started.group.world() as i64);
        let n = own.size()[0];
        let full = Tensor::f_empty([n * world], (own.f_kind()?, own.device()))?;
        started.wait(|rank, shard| Ok(full.f_narrow(0, n * rank as i64, n)?.f_copy_(&shard)?))?;
        Ok(full)
    }
}

/// A sum under way.
#[derive(Debug)]
pub(crate) struct Reducing(Way);

impl Reducing {
    pub(super) fn sockets(started: Started) -> Self {
        Self(Way::Sockets(started))
    }

    pub(super) fn direct(group: &Arc<Group>, operation: Operation) -> Self {
        Self(Way::Direct(Arc::clone(group), operation))
    }

    /// This rank's part of the sum, over the sockets added in the order of the ranks.
    pub(crate) fn wait(self) -> Result<Tensor> {
        let started = match self.0 {
            Way::Direct(group, operation) => return Way::wait_for(&group, operation),
            Way::Sockets(started) => started,
        };
        let mut sum = started.own.f_zeros_like()?;
        started.wait(|_, term| {
            sum = sum.f_add_(&term)?;
            Ok(())
        })?;
        Ok(sum)
    }
}
