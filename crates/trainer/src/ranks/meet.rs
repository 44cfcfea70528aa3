//! How the ranks of a peer find each other: sockets in a folder that only its owner may enter.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Group;
use super::link::OnEnd;
use crate::{Error, Result};

/// How long ranks wait for each other at the start: long enough for a slow disk to load CUDA's libraries from.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

fn address(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("{rank}.sock"))
}

/// Meets the other ranks in `folder`: each listens for those above it and calls those below. `check` is asked while
/// waiting, and ends it with an error; `on_end` is called when rank 0 is lost or ends.
///
/// # Errors
/// [`Error::Rank`] if one does not come; what `check` says.
pub(super) fn meet(
    folder: &Path,
    rank: usize,
    ranks: usize,
    on_end: Option<OnEnd>,
    mut check: impl FnMut() -> Result<()>,
) -> Result<Arc<Group>> {
    let failed = |rank: usize| move |e: io::Error| Error::Rank { rank, reason: e.to_string() };
    let listener = UnixListener::bind(address(folder, rank)).map_err(failed(rank))?;
    listener.set_nonblocking(true).map_err(failed(rank))?;
    let started = Instant::now();
    let mut wait = move |rank: usize| -> Result<()> {
        check()?;
        if started.elapsed() > PATIENCE {
            return Err(Error::Rank { rank, reason: format!("not there after {} s", PATIENCE.as_secs()) });
        }
        thread::sleep(POLL);
        Ok(())
    };
    let mut sockets: Vec<Option<UnixStream>> = (0..ranks).map(|_| None).collect();
    for (lower, place) in sockets.iter_mut().enumerate().take(rank) {
        let mut socket = loop {
            match UnixStream::connect(address(folder, lower)) {
                Ok(socket) => break socket,
                Err(_) => wait(lower)?,
            }
        };
        socket.write_all(&(rank as u64).to_le_bytes()).map_err(failed(lower))?;
        *place = Some(socket);
    }
    while let Some(missing) = (rank + 1..ranks).find(|&rank| sockets[rank].is_none()) {
        match listener.accept() {
            Ok((mut socket, _)) => {
                socket.set_nonblocking(false).map_err(failed(missing))?;
                let mut number = [0; 8];
                socket.read_exact(&mut number).map_err(failed(missing))?;
                let number = u64::from_le_bytes(number) as usize;
                // A place that is taken is not given to another.
                if number > rank && number < ranks && sockets[number].is_none() {
                    sockets[number] = Some(socket);
                }
            }
            Err(_) => wait(missing)?,
        }
    }
    Group::new(rank, sockets, on_end)
}
