//! `brigade watch`: a run in the terminal, or as JSON.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::config::SecretRef;
use crate::observe::{Keys, Look, Observer, Overview, Target};
use crate::run::url::RunUrl;
use crate::shutdown::Shutdown;
use crate::watch;

/// Which run, and with which keys.
#[derive(Debug, clap::Args)]
#[group(id = "which", required = true)]
pub(super) struct Which {
    /// The run's URL. Its keys: those given, else RUN_KEY_ID and RUN_SECRET, else the AWS environment's.
    run: Option<RunUrl>,
    /// Take the run and its keys from a participant's settings.
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    config: Option<PathBuf>,
}

/// Arguments of whoever looks at a run.
#[derive(Debug, clap::Args)]
pub(super) struct Looker {
    #[command(flatten)]
    which: Which,
    /// A key that reads the run's bucket, as env:NAME or file:PATH.
    #[arg(long, value_name = "REFERENCE", requires = "secret", conflicts_with = "config")]
    key_id: Option<SecretRef>,
    /// Its secret, likewise.
    #[arg(long, value_name = "REFERENCE", requires = "key_id")]
    secret: Option<SecretRef>,
    /// Ask without keys: the bucket is public.
    #[arg(long, conflicts_with_all = ["key_id", "config"])]
    anonymous: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

impl Looker {
    /// The run that is meant.
    ///
    /// # Errors
    /// When the settings are wrong, or a secret cannot be found.
    pub(super) fn target(&self) -> anyhow::Result<Target> {
        let keys = match (&self.key_id, &self.secret) {
            (Some(id), Some(secret)) => Keys::Pair(id.clone(), secret.clone()),
            _ if self.anonymous => Keys::None,
            _ => Keys::Environment,
        };
        match (&self.which.run, &self.which.config) {
            (Some(url), _) => Target::of_url(url, &keys),
            (None, Some(path)) => Target::of_participant(path),
            (None, None) => anyhow::bail!("say which run: its URL, or --config FILE"),
        }
    }

    /// The pause between two looks.
    pub(super) fn every(&self) -> Duration {
        Duration::from_secs(self.every)
    }
}

/// Arguments of `brigade watch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    looker: Looker,
    /// Print what each look sees as JSON, one object a line, instead of drawing it.
    #[arg(long)]
    json: bool,
    /// With --json: end after one look that has read the whole history that is shown.
    #[arg(long, requires = "json")]
    once: bool,
}

/// A look as JSON.
#[derive(Debug, Serialize)]
struct Seen<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    look: Look,
}

/// Runs `brigade watch`.
///
/// # Errors
/// When the run cannot be read, or there is no terminal and no `--json`.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    anyhow::ensure!(args.json || is_terminal, "there is no terminal to draw on; --json prints what is seen");
    super::runtime()?.block_on(async {
        let target = args.looker.target()?;
        let shutdown = Shutdown::listen(false)?;
        let observer = Observer::new(shutdown.or(target.load()).await??);
        if args.json {
            return print(args, observer, &shutdown).await;
        }
        watch::run(observer, args.looker.every(), shutdown).await
    })
}

async fn print(args: &Args, mut observer: Observer, shutdown: &Shutdown) -> anyhow::Result<()> {
    loop {
        let budget = if args.once { usize::MAX } else { watch::BUDGET };
        let Ok(look) = shutdown.or(observer.look(budget)).await else { return Ok(()) };
        match look {
            Ok(look) => {
                let overview = observer.overview();
                super::answer(serde_json::to_string(&Seen { overview: &overview, look })?)?;
            }
            Err(error) if args.once => return Err(error),
            // The next look may succeed; whoever reads this sees that a line is missing, and here why.
            Err(error) => tracing::warn!("{error:#}"),
        }
        if args.once || shutdown.or(tokio::time::sleep(args.looker.every())).await.is_err() {
            return Ok(());
        }
    }
}
