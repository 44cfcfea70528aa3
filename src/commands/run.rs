//! `brigade run`: create a run, fetch its model.

use std::path::{Path, PathBuf};

use super::answer;
use crate::config::{self, Participant, RunSettings};
use crate::data::Progress;
use crate::identity::Identity;
use crate::run::{Run, checkpoint, create};

/// What to do with a run.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Write the first weights and the signed manifest into the run's bucket; prints the run's id.
    Create {
        /// The terms of the run (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
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
}

/// Runs `brigade run`.
///
/// # Errors
/// When settings are wrong or the store fails.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        match action {
            Action::Create { config } => {
                let settings: RunSettings = config::read(&config)?;
                let folder = config.parent().unwrap_or(Path::new(""));
                let identity = Identity::load(&folder.join(&settings.identity))?;
                let bucket = settings.bucket.open("bucket", folder)?;
                bucket.probe().await?;
                let manifest =
                    create::create(&bucket, &settings, folder, &identity, Progress::terminal()).await?;
                answer(serde_json::json!({ "run_id": manifest.run() }))
            }
            Action::Download { config, out } => {
                let settings = Participant::read(&config)?;
                let run = Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await?;
                let newest = checkpoint::latest(&run).await?.record;
                checkpoint::download(&run, &newest, &out).await?;
                answer(serde_json::json!({ "window": newest.window, "folder": out }))
            }
        }
    })
}
