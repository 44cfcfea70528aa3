//! Tensors that go from GPU to GPU, past the sockets: over NCCL.
//!
//! On a GPU the host does not wait for what it starts: the stream does. So a lost rank cannot show where a gather is waited for;
//! the host finds out where it waits for its device next (`to_vec`, `to_bytes`), and might wait there for ever, for a kernel that
//! waits for a rank that is gone. The sockets are there all the same, and the thread that reads a lost rank's end
//! raises the [`Alarm`]: that aborts the communicator, which ends its kernels and lets the stream go on, with whatever is in memory.
//! The host then comes back with numbers that mean nothing, so [`Group::check`] comes after each time that numbers leave the device
//! and before they go anywhere else, to another rank, say, who may not know yet. It cannot miss the loss: that is written down before the communicator is aborted.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use brigade_torch_ext::{Operation, ProcessGroup, Transport};
use tch::{Device, Kind, Tensor};

use super::Group;
use super::link::Loss;
use crate::model::to_vec;
use crate::{Error, Result};

/// How long ranks may take to connect: NCCL tries the ways between all GPUs first.
const PATIENCE: Duration = Duration::from_secs(120);
/// After so long an operation is given up. It counts from when the host starts it, which may be a whole step before it runs.
const STALL: Duration = Duration::from_secs(1800);
/// How long a loss may take to come in on its socket after NCCL has noticed it.
const NOTICE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// The first rank to be lost, and whom to tell.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Debug, Default)]
struct State {
    loss: Option<(usize, String)>,
    /// Not held by the alarm, which lives as long as the threads of the sockets.
    group: Weak<ProcessGroup>,
}

impl Alarm {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `rank` is lost: says so to who asks, then lets go who waits for its tensors.
    pub(super) fn raise(&self, rank: usize, loss: &Loss) {
        let mut state = self.state();
        state.loss.get_or_insert_with(|| (loss.origin.unwrap_or(rank), loss.reason.clone()));
        let group = state.group.upgrade();
        // Aborting takes a moment; nobody who asks should wait for it.
        drop(state);
        self.raised.notify_all();
        group.as_deref().map(abort);
    }

    /// Aborts `group` when a rank is lost, or now if one is.
    fn watch(&self, group: &Arc<ProcessGroup>) {
        let mut state = self.state();
        state.group = Arc::downgrade(group);
        let is_late = state.loss.is_some();
        drop(state);
        if is_late {
            abort(group);
        }
    }

    fn lost(&self) -> Option<Error> {
        let loss = self.state().loss.clone();
        loss.map(|(rank, reason)| Error::Rank { rank, reason })
    }

    /// The same, but waits for it.
    fn lost_within(&self, limit: Duration) -> Option<Error> {
        let waited = self.raised.wait_timeout_while(self.state(), limit, |state| state.loss.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.lost()
    }
}

fn abort(group: &ProcessGroup) {
    if let Err(error) = group.abort() {
        tracing::warn!(%error, "could not abort the exchange of tensors");
    }
}

/// The ranks' connection between their devices.
#[derive(Debug)]
pub(super) struct Direct {
    group: Arc<ProcessGroup>,
    alarm: Arc<Alarm>,
    device: Device,
    /// Where the ranks have met; the backend opens it again by its number.
    _meeting: File,
}

impl Direct {
    /// Whether tensors there go this way.
    pub(super) fn takes(&self, tensor: &Tensor) -> bool {
        tensor.device() == self.device
    }

    pub(super) fn all_gather(&self, shard: &Tensor) -> Result<Operation> {
        self.group.all_gather(shard).map_err(|error| self.explain(error))
    }

    pub(super) fn reduce_scatter(&self, full: &Tensor) -> Result<Operation> {
        self.group.reduce_scatter(full).map_err(|error| self.explain(error))
    }

    /// # Errors
    /// [`Error::Rank`] for a lost rank, [`Error::Exchange`] if an operation has failed without one.
    pub(super) fn check(&self) -> Result<()> {
        self.alarm.lost().map_or(Ok(()), Err)?;
        self.group.check().map_err(|error| self.explain(error))
    }

    /// A rank that is gone breaks its connections to all others' devices, and that may be noticed before its socket is.
    pub(super) fn explain(&self, error: brigade_torch_ext::Error) -> Error {
        self.alarm.lost_within(NOTICE).unwrap_or_else(|| failure(&error))
    }
}

impl Group {
    /// Connects the ranks' devices: from here on tensors on `device` go over `transport`, and others over the sockets. All ranks
    /// must come here, each with its own device, before they gather anything.
    ///
    /// # Errors
    /// [`Error::Rank`] if one is lost meanwhile; [`Error::Exchange`] if the devices cannot be connected. Something may then hang on a
    /// thread of its own, so that the process should end.
    pub(crate) fn connect(&self, transport: Transport, device: Device) -> Result<()> {
        let refuse = |reason: String| Error::Exchange { reason };
        let meeting = self.meeting()?;
        let (rank, world, alarm) = (self.rank(), self.world(), Arc::clone(&self.alarm));
        let (done, is_done) = mpsc::channel();
        let connect = move || {
            let group = first(transport, &by_number(&meeting), rank, world, device);
            let _ = done.send(group.map(|group| Direct { group, alarm, device, _meeting: meeting }));
        };
        // NCCL connects on the host, and waits there for ranks that may be gone: until then there is nothing to abort.
        let thread = thread::Builder::new().name("rank-connect".into()).spawn(connect);
        thread.map_err(|e| refuse(e.to_string()))?;
        let started = Instant::now();
        let direct = loop {
            match is_done.recv_timeout(POLL) {
                Ok(direct) => break direct,
                Err(RecvTimeoutError::Disconnected) => return Err(refuse("connecting has ended".into())),
                Err(RecvTimeoutError::Timeout) => self.alarm.lost().map_or(Ok(()), Err)?,
            }
            if started.elapsed() > PATIENCE {
                return Err(refuse(format!("not connected after {} s", PATIENCE.as_secs())));
            }
        };
        let direct = direct.map_err(|error| self.alarm.lost_within(NOTICE).unwrap_or(error))?;
        self.alarm.watch(&direct.group);
        self.direct.set(direct).map_err(|_| refuse("the ranks are connected already".into()))
    }

    /// What numbers from a device are worth: to be called after the host has read what was gathered or summed, and before it is
    /// relied on or sent.
    ///
    /// # Errors
    /// [`Error::Rank`] or [`Error::Exchange`] if they may be anything.
    pub(crate) fn check(&self) -> Result<()> {
        self.direct.get().map_or(Ok(()), Direct::check)
    }

    /// Tells the others why this rank stops: that another is lost rather than `error`, which may be what libtorch made of it. Returns
    /// what it has told.
    pub(crate) fn fail_of(&self, error: Error) -> Error {
        let error = self.check().err().unwrap_or(error);
        self.fail(&error);
        error
    }

    /// A file that all ranks have open and that is in no folder any more: nothing is left of it, however they end.
    fn meeting(&self) -> Result<File> {
        let failed = |e: std::io::Error| Error::Exchange { reason: format!("the file to meet in: {e}") };
        let folder = (self.rank() == 0).then(super::workers::private_folder).transpose().map_err(failed)?;
        let path = folder.as_ref().map(|folder| folder.path().join("nccl"));
        let made = path.as_deref().map(File::create_new).transpose().map_err(failed)?;
        drop(made);
        let path = self.broadcast(path.map(|path| path.into_os_string().into_encoded_bytes()))?;
        let path = String::from_utf8(path).map_err(|e| failed(std::io::Error::other(e)))?;
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        // Not removed before all have it.
        self.sum(&[])?;
        Ok(file)
    }
}

/// NCCL's own messages are several lines long.
fn failure(error: &brigade_torch_ext::Error) -> Error {
    let text = error.to_string();
    Error::Exchange { reason: text.split_whitespace().collect::<Vec<_>>().join(" ") }
}

fn by_number(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Connects by a first gather, of the ranks' numbers, and waits on the host for what comes.
fn first(
    transport: Transport,
    meeting: &Path,
    rank: usize,
    world: usize,
    device: Device,
) -> Result<Arc<ProcessGroup>> {
    let failed = |e| failure(&e);
    let group = ProcessGroup::new(transport, meeting, rank, world, STALL).map_err(failed)?;
    let group = Arc::new(group);
    let own = Tensor::f_full([1], rank as f64, (Kind::Float, device))?;
    let all = to_vec(&group.all_gather(&own).and_then(Operation::wait).map_err(failed)?)?;
    group.check().map_err(failed)?;
    if !all.iter().copied().eq((0..world).map(|rank| rank as f32)) {
        return Err(Error::Exchange { reason: format!("the first gather gave {all:?}") });
    }
    Ok(group)
}
