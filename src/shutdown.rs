//! The wish to stop: Ctrl-C, SIGTERM, or the end of standard input when a parent asked for that.

use std::future::Future;

use tokio::sync::{oneshot, watch};

/// Told to everybody at once, and remembered for those who ask later.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Stopped before the end.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

impl Shutdown {
    /// Listens for signals from now on; with `stdin`, also for the end of standard input, so that a child ends
    /// with its parent even when that was killed.
    pub fn listen(stdin: bool) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (sender, receiver) = watch::channel(false);
        let (ended, input_ended) = oneshot::channel();
        if stdin {
            // A thread, because a blocked read of standard input cannot be given up: a task would keep the process.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                let _ = ended.send(());
            });
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Ok(()) = input_ended => {}
            }
            let _ = sender.send(true);
            // A second Ctrl-C does not wait for anything.
            interrupt.recv().await;
            std::process::exit(130);
        });
        Ok(Self(receiver))
    }

    /// Whether somebody wants this to stop.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once somebody wants this to stop.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // The sender lives as long as the process; should it be gone, nobody can ask any more.
        if receiver.wait_for(|wish| *wish).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `work`, unless somebody wants this to stop first.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.requested() => Err(Stopped),
            done = work => Ok(done),
        }
    }
}
