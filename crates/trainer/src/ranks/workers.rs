//! The other ranks' processes, as rank 0 has started them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
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
}

impl Workers {
    /// Starts ranks 1 to `ranks − 1`, by the command that `start` gives for the folder where they meet and a rank, and
    /// meets them.
    ///
    /// # Errors
    /// [`Error::Rank`] if one cannot be started, ends at once or does not come.
    pub(crate) fn start(ranks: usize, start: impl Fn(&Path, usize) -> Command) -> Result<(Self, Arc<Group>)> {
        let failed = |rank: usize| move |e: std::io::Error| Error::Rank { rank, reason: e.to_string() };
        let folder = private_folder().map_err(failed(0))?;
        let mut workers = Self { children: Vec::new() };
        for rank in 1..ranks {
            let mut command = start(folder.path(), rank);
            // In a group of its own: Ctrl-C is for rank 0, which finishes what it does and then lets the others go.
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
            workers.children.push(child.map_err(failed(rank))?);
        }
        let group = meet(folder.path(), 0, ranks, None, || workers.check())?;
        // The folder goes with this call: once its ranks have met, nobody needs it, and nothing is left if they are killed.
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

/// A folder that only its owner may enter, whatever the umask.
pub(super) fn private_folder() -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("brigade-ranks-").permissions(Permissions::from_mode(0o700)).tempdir()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_else_may_enter_where_ranks_meet() {
        let folder = private_folder().unwrap();
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_rank_that_cannot_start_is_named() {
        // One alone: of two that end, either may be seen first.
        let error = Workers::start(2, |_, _| Command::new("false")).unwrap_err().to_string();
        assert!(
            error.contains("rank 1 of this peer is lost: its process ended with exit status: 1"),
            "{error}"
        );
        let error = Workers::start(2, |_, _| Command::new("/nowhere/brigade")).unwrap_err().to_string();
        assert!(error.contains("rank 1"), "{error}");
    }
}
