//! `brigade run`: create a run, fetch its model.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::PeerId;
use brigade_protocol::gauntlet::{Standing, set_weights};

use super::answer;
use crate::config::{Participant, RunSettings};
use crate::data::Progress;
use crate::folder::Aside;
use crate::identity::Identity;
use crate::roles::start;
use crate::run::url::RunUrl;
use crate::run::{Run, checkpoint, create};

/// What to do with a run.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Write the first weights and the signed manifest into the run's bucket; prints the run's id and URL.
    Create {
        /// The terms of the run (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Let nobody score: every update that can be read is merged, and nobody is judged.
        #[arg(long)]
        without_validators: bool,
    },
    /// Download the newest checkpoint as a Hugging Face folder.
    Download {
        /// Settings of any participant (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The folder to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Everybody's standing and share of the reward after a closed window, the newest one if none is given.
    Weights {
        /// Settings of any participant (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The window.
        #[arg(long, value_name = "W")]
        window: Option<u64>,
        /// The number of every peer on a chain, as JSON: {"PEER": UID, …}. The answer is then what Bittensor's `set_weights` takes.
        #[arg(long, value_name = "FILE")]
        uids: Option<PathBuf>,
        /// Answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `brigade run`.
///
/// # Errors
/// When settings are wrong or the store fails.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        match action {
            Action::Create { config, without_validators } => {
                let settings = RunSettings::read(&config)?;
                anyhow::ensure!(
                    without_validators || !settings.validators.is_empty(),
                    "{} names no validator, and later none can be added: add [[validators]] with what `brigade identity show` \
                     says of each, or say --without-validators to let every update count unseen",
                    config.display()
                );
                let folder = config.parent().unwrap_or(Path::new(""));
                let identity = Identity::load(&folder.join(&settings.identity))?;
                let bucket = start::writable(&settings.bucket, "bucket", folder).await?;
                let manifest =
                    create::create(&bucket, &settings, folder, &identity, Progress::terminal()).await?;
                let (bucket, id) = (settings.bucket.address("bucket")?, manifest.run());
                let url = RunUrl { bucket, id };
                // A person copies it to a command line, where its `&` must be quoted.
                match std::io::stdout().is_terminal() {
                    true => answer(format!("run id   {id}\nrun URL  '{url}'")),
                    false => answer(serde_json::json!({ "run_id": id, "run_url": url })),
                }
            }
            Action::Download { config, out } => {
                let settings = Participant::read(&config)?;
                let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
                let newest = checkpoint::latest(&run).await?.record;
                let aside = Aside::begin(&out)?;
                checkpoint::download(&run, &newest, aside.path()).await?;
                aside.finish()?;
                answer(serde_json::json!({ "window": newest.window, "folder": out }))
            }
            Action::Weights { config, window, uids, json } => {
                let settings = Participant::read(&config)?;
                let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
                let window = match window {
                    Some(window) => window,
                    None => newest_closed(&run).await?,
                };
                if run.close(window).await?.is_none() {
                    let newest = newest_closed(&run).await?;
                    anyhow::bail!("window {window} is not closed; the newest that is closed is {newest}");
                }
                let standings = run.standings(window + 1).await?;
                match uids {
                    Some(path) => answer(on_chain(&standings, &path)?),
                    None if json => answer(serde_json::json!({ "window": window, "standings": standings })),
                    None => answer(table(window, &standings)),
                }
            }
        }
    })
}

/// The last window that is closed.
async fn newest_closed(run: &Run) -> anyhow::Result<u64> {
    let checkpoint = checkpoint::latest(run).await?.record.window;
    let mut next = checkpoint;
    while run.close(next).await?.is_some() {
        next += 1;
    }
    next.checked_sub(1).context("no window is closed yet")
}

/// What `set_weights` takes: numbers and weights, of which the largest is 65535.
fn on_chain(standings: &[Standing], path: &Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let uids: BTreeMap<String, u16> = serde_json::from_slice(&text)
        .with_context(|| format!("{} must be {{\"PEER\": UID, …}}", path.display()))?;
    let uids = uids
        .into_iter()
        .map(|(peer, uid)| Ok((peer.parse().with_context(|| format!("`{peer}` is no peer"))?, uid)))
        .collect::<anyhow::Result<Vec<(PeerId, u16)>>>()?;
    let twice =
        uids.iter().enumerate().find(|(n, (_, uid))| uids[..*n].iter().any(|(_, other)| other == uid));
    if let Some((_, (peer, uid))) = twice {
        anyhow::bail!("{}: UID {uid} is of two peers, one of them {peer}", path.display());
    }
    let has_uid = |standing: &&Standing| uids.iter().any(|(peer, _)| *peer == standing.peer);
    let lost: Vec<&Standing> = standings.iter().filter(|s| s.weight > 0.0 && !has_uid(s)).collect();
    if !lost.is_empty() {
        let (share, names) = (
            lost.iter().map(|standing| standing.weight).sum::<f64>() * 100.0,
            lost.iter().map(|standing| standing.peer.short()).collect::<Vec<_>>().join(", "),
        );
        eprintln!("warning: {} has no UID for {names}, who have {share:.1} % of the weight", path.display());
    }
    let (uids, weights): (Vec<u16>, Vec<u16>) = set_weights(standings, &uids).into_iter().unzip();
    Ok(serde_json::json!({ "uids": uids, "weights": weights }))
}

fn table(window: u64, standings: &[Standing]) -> String {
    let mut lines = vec![format!("after window {window}\n{:<64}  weight  rating  credit  windows", "peer")];
    lines.extend(standings.iter().map(|standing| {
        format!(
            "{}  {:>5.1}%  {:>6.2}  {:>6.2}  {:>7}",
            standing.peer,
            100.0 * standing.weight,
            standing.rating.ordinal(),
            standing.credit,
            standing.windows
        )
    }));
    lines.join("\n")
}
