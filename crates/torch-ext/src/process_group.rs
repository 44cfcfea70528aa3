//! What the ranks of a model do together, over libtorch's own c10d backends: NCCL for tensors on GPUs.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tch::Tensor;

use crate::ffi::{self, Backend};
use crate::{Error, Result};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// NCCL, between CUDA tensors; only in a program that was built with the `cuda` feature.
    Nccl,
    /// The file where the ranks meet, between CPU tensors: for tests of what lies above a backend. Sums are added in the order of
    /// the ranks.
    File,
}

/// One rank's end of a group. All ranks start the same operations in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<Backend>,
    /// Operations are started one at a time. Aborting does not wait for its turn: whoever has it may hang.
    turn: Mutex<()>,
    world: usize,
}

// SAFETY: a c10d backend is tied to no thread. Operations, which change it, are started under `turn`; `abort` and `getError` are
// made to be called beside them (by libtorch's own watchdog thread, too) and take locks of their own.
unsafe impl Send for ProcessGroup {}
// SAFETY: as above.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Rank `rank` of `world`. The ranks exchange what they need to begin with through the file `meeting`, empty at first, that only
    /// they may open: who can write it can join them. It must be there for as long as any of them has a group.
    ///
    /// An operation that has not ended `timeout` after it was started is given up, and [`check`](Self::check) says so. NCCL
    /// connects with the first operation, which therefore may wait on the host for all ranks.
    ///
    /// # Errors
    /// NCCL in a program without it or on a machine without a GPU; a rank that is not below `world`; a path with a zero byte.
    pub fn new(
        transport: Transport,
        meeting: &Path,
        rank: usize,
        world: usize,
        timeout: Duration,
    ) -> Result<Self> {
        let refuse = |message: &str| Error::Torch { operation: "process_group", message: message.to_owned() };
        let path =
            CString::new(meeting.as_os_str().as_bytes()).map_err(|_| refuse("a path with a zero byte"))?;
        let number = |number: usize| i32::try_from(number).map_err(|_| refuse("too many ranks"));
        let (number_of, ranks) = (number(rank)?, number(world)?);
        let timeout = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let transport = u8::from(transport == Transport::File);
        let mut out = std::ptr::null_mut();
        // SAFETY: the path ends with a zero byte and outlives the call; `out` is written on success only.
        unsafe {
            let failure =
                ffi::btx_group_new(transport, path.as_ptr(), number_of, ranks, timeout, &raw mut out);
            ffi::check("process_group", failure)?;
        }
        let raw = NonNull::new(out).ok_or_else(|| refuse("no group"))?;
        Ok(Self { raw, turn: Mutex::new(()), world })
    }

    /// Begins to put the ranks' `shard`s `[n]`, of one length, dtype and device, one after the other: `[world · n]` on every rank.
    ///
    /// # Errors
    /// A shard that is not 1-D or not contiguous; a backend that does not take its device, or that has failed.
    pub fn all_gather(self: &Arc<Self>, shard: &Tensor) -> Result<Operation> {
        let shard = shard.f_detach().map_err(|e| torch("all_gather", &e))?;
        let full = self.empty("all_gather", &shard, shard.numel() * self.world)?;
        self.start("all_gather", shard, full, |group, shard, full, out| {
            // SAFETY: the group and both tensors are alive; `Operation` keeps them until the work is over.
            unsafe { ffi::btx_group_all_gather(group, full, shard, out) }
        })
    }

    /// Begins to add up `full` `[world · n]` over the ranks; each gets its own n elements of the sum, in the order of summands that
    /// the backend chooses.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); a length that `world` does not divide.
    pub fn reduce_scatter(self: &Arc<Self>, full: &Tensor) -> Result<Operation> {
        let full = full.f_detach().map_err(|e| torch("reduce_scatter", &e))?;
        let shard = self.empty("reduce_scatter", &full, full.numel() / self.world)?;
        self.start("reduce_scatter", full, shard, |group, full, shard, out| {
            // SAFETY: the group and both tensors are alive; `Operation` keeps them until the work is over.
            unsafe { ffi::btx_group_reduce_scatter(group, shard, full, out) }
        })
    }

    /// Gives up all operations, on every stream that waits for one: what they would have written is undefined from here on, and
    /// no other can be started. From any thread; other ranks are not told.
    ///
    /// # Errors
    /// What the backend says.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: the group is alive, and may be aborted beside any other call.
        unsafe { ffi::check("abort", ffi::btx_group_abort(self.raw.as_ptr())) }
    }

    /// Whether the backend has noticed, so far, that an operation failed. Waiting on a stream does not tell.
    ///
    /// # Errors
    /// If it has: what was gathered or summed may then be anything.
    pub fn check(&self) -> Result<()> {
        // SAFETY: the group is alive; the error is read under a lock of the backend's.
        unsafe { ffi::check("process_group", ffi::btx_group_check(self.raw.as_ptr())) }
    }

    fn empty(&self, operation: &'static str, like: &Tensor, numel: usize) -> Result<Tensor> {
        let kind = like.f_kind().map_err(|e| torch(operation, &e))?;
        Tensor::f_empty([numel as i64], (kind, like.device())).map_err(|e| torch(operation, &e))
    }

    fn start(
        self: &Arc<Self>,
        operation: &'static str,
        input: Tensor,
        output: Tensor,
        call: impl FnOnce(*mut Backend, ffi::Handle, ffi::Handle, *mut *mut ffi::Work) -> ffi::Failure,
    ) -> Result<Operation> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::ptr::null_mut();
        let failure = call(self.raw.as_ptr(), input.as_ptr(), output.as_ptr(), &raw mut out);
        // SAFETY: `call` returns what a shim function has returned just now.
        unsafe { ffi::check(operation, failure)? };
        let none = || Error::Torch { operation, message: "nothing was started".into() };
        let work = NonNull::new(out).ok_or_else(none)?;
        Ok(Operation { work, output, _input: input, _group: Arc::clone(self) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by `btx_group_new`, deleted once; every `Operation` has held the group and is gone.
        unsafe { ffi::btx_group_free(self.raw.as_ptr()) };
    }
}

/// An operation under way. It holds its tensors: the allocator must not give their memory to another stream before then.
#[derive(Debug)]
pub struct Operation {
    work: NonNull<ffi::Work>,
    output: Tensor,
    _input: Tensor,
    _group: Arc<ProcessGroup>,
}

// SAFETY: a c10d work is tied to no thread, and `Tensor` is `Send` itself. On another thread it is that thread's stream which waits.
unsafe impl Send for Operation {}

impl Operation {
    /// What was gathered, or this rank's part of the sum, on the operation's device.
    ///
    /// On a GPU the current stream waits and the host does not: what is queued from here on sees the result. Whether there is one
    /// shows when the host waits; ask [`ProcessGroup::check`] then.
    ///
    /// # Errors
    /// What the backend knows already.
    pub fn wait(self) -> Result<Tensor> {
        self.join()?;
        Ok(self.output.shallow_clone())
    }

    fn join(&self) -> Result<()> {
        // SAFETY: the work is alive. Waiting twice is waiting once.
        unsafe { ffi::check("wait", ffi::btx_work_wait(self.work.as_ptr())) }
    }
}

/// For who gives a result up: the tensors' memory goes back to the allocator of the current stream, which may reuse it at once,
/// so that stream must first wait. On a GPU that costs the host nothing. A file backend's result is dropped instead: it is
/// written by whoever waits, and by nobody else.
impl Drop for Operation {
    fn drop(&mut self) {
        if self.output.device().is_cuda() {
            // Failed or not, nothing more can be done about it here.
            let _ = self.join();
        }
        // SAFETY: handed out by the shim, deleted once.
        unsafe { ffi::btx_work_free(self.work.as_ptr()) };
    }
}

fn torch(operation: &'static str, error: &tch::TchError) -> Error {
    let text = error.to_string();
    Error::Torch { operation, message: text.lines().next().unwrap_or_default().to_owned() }
}

#[cfg(test)]
#[path = "process_group_tests.rs"]
mod tests;
