//! The other ranks' processes, as rank 0 has started them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Group, meet::meet};
use crate::{Error, Result};

/// How long a rank may take to end when it is no longer needed.
const PARTING: Duration = Duration::from_secs(5);

/// Processes that end with this.
#[derive(Debug)]
pub(crate) struct Workers {
    children: Vec<Child>,
    _folder: TempDir,
}

impl Workers {
    /// Starts ranks 1 to `ranks − 1`, by the command that `start` gives for the folder where they meet and a rank, and
    /// meets them.
    ///
    /// # Errors
    /// [`Error::Rank`] if one cannot be started, ends at once or does not come.
    pub(crate) fn start(ranks: usize, start: impl Fn(&Path, usize) -> Command) -> Result<(Self, Arc<Group>)> {
        let failed = |rank: usize| move |e: std::io::Error| Error::Rank { rank, reason: e.to_string() };
        // `tempfile` lets nobody else in.
        let folder = TempDir::with_prefix("brigade-ranks-").map_err(failed(0))?;
        let mut workers = Self { children: Vec::new(), _folder: folder };
        for rank in 1..ranks {
            let mut command = start(workers._folder.path(), rank);
            // In a group of its own: Ctrl-C is for rank 0, which finishes what it does and then lets the others go.
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
            workers.children.push(child.map_err(failed(rank))?);
        }
        let folder = workers._folder.path().to_owned();
        let group = meet(&folder, 0, ranks, || workers.check())?;
        Ok((workers, group))
    }

    /// # Errors
    /// [`Error::Rank`] for a process that has ended.
    fn check(&mut self) -> Result<()> {
        for (rank, child) in (1..).zip(&mut self.children) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::Rank { rank, reason: format!("its process ended with {status}") });
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    /// They end by themselves when their connection does; who does not is killed.
    fn drop(&mut self) {
        let started = Instant::now();
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && started.elapsed() < PARTING {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
