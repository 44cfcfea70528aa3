//! `brigade aggregator`, `brigade miner`, `brigade validator`: the same arguments, another role.

use std::path::PathBuf;

use crate::config::{Participant, Role};
use crate::events::Reporter;
use crate::metrics;
use crate::shutdown::{Shutdown, Stopped};

/// Arguments of a role.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The participant's settings (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the settings as they take effect, with those of the environment and without secrets, and end.
    #[arg(long)]
    print_config: bool,
    /// Tell what happens as JSON, one object a line, on standard output.
    #[arg(long)]
    json: bool,
    /// Stop when standard input ends, as a parent process may wish.
    #[arg(long)]
    stop_with_stdin: bool,
}

/// Arguments of a miner.
#[cfg(feature = "torch")]
#[derive(Debug, clap::Args)]
pub(super) struct MinerArgs {
    #[command(flatten)]
    role: Args,
    /// Cheat, as `brigade demo --attack` wants some miners to.
    #[arg(long, value_name = "NAME", hide = true)]
    cheat: Option<crate::lab::attacks::Attack>,
}

/// As [`run`], for a miner.
///
/// # Errors
/// Those of [`run`].
#[cfg(feature = "torch")]
pub(super) fn run_miner(args: MinerArgs) -> anyhow::Result<()> {
    let cheat = args.cheat;
    run(Role::Miner, args.role, |settings, reporter, shutdown| {
        crate::roles::miner::run(settings, cheat, reporter, shutdown)
    })
}

/// Reads the settings of `who` and runs `role` until it ends or is asked to stop.
///
/// # Errors
/// What stops the role; being asked to is none.
pub(super) fn run<F: Future<Output = anyhow::Result<()>>>(
    who: Role,
    args: Args,
    role: impl FnOnce(Participant, Reporter, Shutdown) -> F,
) -> anyhow::Result<()> {
    let settings = Participant::read(&args.config)?;
    settings.expect_role(who)?;
    if args.print_config {
        return super::answer(settings.print()?.trim_end());
    }
    let reporter = if args.json { Reporter::Json } else { Reporter::Log };
    super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(args.stop_with_stdin)?;
        if let Some(address) = settings.metrics {
            metrics::serve(address, who.name(), &settings.state).await?;
        }
        match role(settings, reporter, shutdown).await {
            Err(error) if error.is::<Stopped>() => {
                tracing::info!("stopped");
                Ok(())
            }
            outcome => outcome,
        }
    })
}
