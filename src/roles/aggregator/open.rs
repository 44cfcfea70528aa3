//! Lobby, roster, and the opening of a window.

use std::collections::HashMap;

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_protocol::{Applicant, Close, Digest, Join, Open, Record as _, Roster, Signed};
use bytes::Bytes;

use super::Aggregator;
use crate::events::Event;
use crate::run::outer::Outer;
use crate::run::{is_transient, lobby};

/// Wishes that are looked at in one window. Beyond this somebody floods the lobby.
const MAX_APPLICANTS: usize = 4096;

impl Aggregator {
    /// Opens the window that comes next, or adopts its opening.
    pub(super) async fn open(&self, state: &Outer) -> anyhow::Result<(Signed<Open>, Roster)> {
        let window = state.replica.window;
        let open = match self.run.open(window).await? {
            Some(open) => open,
            None => self.make_open(state).await?,
        };
        anyhow::ensure!(
            open.record.state_root == state.replica.state_root,
            "window {window} was opened on another θ than the windows before it lead to"
        );
        let roster = self.run.roster(&open.record.roster).await?;
        self.pace.reporter.tell(Event::Opened { window, miners: roster.active_miners().count() });
        Ok((open, roster))
    }

    async fn make_open(&self, state: &Outer) -> anyhow::Result<Signed<Open>> {
        let window = state.replica.window;
        let (base, last) = self.before(window).await?;
        let last_close = last.as_ref().map(|close| &close.record);
        let roster = self.wait_for_miners(window, &base, last_close).await?;
        let bytes = serde_json::to_vec(&roster)?;
        let digest = Digest::of(&bytes);
        anyhow::ensure!(
            bytes.len() as u64 <= Roster::MAX_BYTES,
            "the roster would have {} bytes",
            bytes.len()
        );
        // Named by its content: whoever wrote it first wrote the same.
        let key = RunKey::Roster(digest).to_string();
        self.run.bucket().create(&key, Bytes::from(bytes)).await?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        self.fence.check().await?;
        let opened_at = self.now().await?;
        let open = Open {
            run: self.run.id(),
            window,
            epoch: self.fence.epoch(),
            previous_close: last.as_ref().map(|close| close.digest),
            seed: Digest(seed),
            opened_at,
            deadline: opened_at.plus(self.run.manifest().windows.train()),
            roster: digest,
            state_root: state.replica.state_root,
        };
        self.run.create(&RunKey::Open(window), open, self.identity.signing()).await
    }

    /// Roster and close of the window before.
    async fn before(&self, window: u64) -> anyhow::Result<(Roster, Option<Signed<Close>>)> {
        let Some(before) = window.checked_sub(1) else { return Ok((Roster::default(), None)) };
        let open = self.run.open(before).await?.context("the window before has no open record")?;
        let close = self.run.close(before).await?.context("the window before has no close record")?;
        Ok((self.run.roster(&open.record.roster).await?, Some(close)))
    }

    async fn wait_for_miners(
        &self,
        window: u64,
        base: &Roster,
        last: Option<&Close>,
    ) -> anyhow::Result<Roster> {
        let windows = &self.run.manifest().windows;
        let needed = if window == 0 { windows.start_peers.max(windows.min_peers) } else { windows.min_peers };
        let mut told = None;
        let mut seen = HashMap::new();
        loop {
            // Always from the same base: an absence counts once, however long this waits.
            let applicants = self.applicants(&mut seen).await?;
            let roster = base.next(self.run.manifest(), last, applicants);
            let miners = roster.active_miners().count();
            if miners >= needed as usize {
                return Ok(roster);
            }
            if told != Some(miners) {
                self.pace.reporter.tell(Event::Waiting { miners, needed: needed as usize });
                told = Some(miners);
            }
            self.pace.shutdown.or(tokio::time::sleep(self.pace.poll)).await?;
        }
    }

    /// The wishes in the lobby that hold; `seen` keeps those that did not change, by ETag.
    async fn applicants(
        &self,
        seen: &mut HashMap<String, (String, Option<Applicant>)>,
    ) -> anyhow::Result<Vec<Applicant>> {
        let listed = self.run.bucket().list_after(RunKey::LOBBY, None, MAX_APPLICANTS).await?;
        let mut applicants = Vec::new();
        for object in listed {
            let known = seen.get(&object.key).filter(|(etag, _)| *etag == object.etag);
            let applicant = match known {
                Some((_, applicant)) => applicant.clone(),
                None => match self.applicant(&object.key).await {
                    Ok(applicant) => Some(applicant),
                    // Not remembered: the next look may see it.
                    Err(error) if is_transient(&error) => continue,
                    Err(error) => {
                        tracing::warn!(key = object.key, "wish refused: {error:#}");
                        None
                    }
                },
            };
            seen.insert(object.key, (object.etag, applicant.clone()));
            applicants.extend(applicant);
        }
        Ok(applicants)
    }

    /// A wish that can be followed.
    ///
    /// # Errors
    /// Why not; a stranger's nonsense stops nobody else.
    async fn applicant(&self, key: &str) -> anyhow::Result<Applicant> {
        let RunKey::Lobby(peer) = key.parse::<RunKey>()? else { anyhow::bail!("not a key of the lobby") };
        let bytes = self.run.bucket().get(key, Join::MAX_BYTES).await?.bytes;
        let applicant = Applicant::check(&bytes, self.run.signed_manifest())?;
        anyhow::ensure!(applicant.peer() == peer, "signed by {}", applicant.peer().short());
        lobby::open_bucket(&self.identity, applicant.join(), self.peer_options.clone())?;
        Ok(applicant)
    }
}
