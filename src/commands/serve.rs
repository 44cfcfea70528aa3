//! `brigade serve`: the embedded S3 server.

use std::io::Write as _;
use std::path::PathBuf;

use brigade_bucket::server::{Server, ServerConfig};

use crate::shutdown::Shutdown;

/// Arguments of `brigade serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder, address and keys (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when standard input ends, as a parent process may wish.
    #[arg(long)]
    stop_with_stdin: bool,
}

/// Serves until asked to stop. Prints the address as JSON once it listens.
///
/// # Errors
/// When the settings are wrong, the folder is unusable or the port is taken.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = ServerConfig::from_file(&args.config)?;
    super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(args.stop_with_stdin)?;
        let server = Server::bind(config).await?;
        let endpoint = format!("http://{}", server.local_addr());
        // For whoever started us with port 0; nobody has to listen.
        let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({ "endpoint": endpoint }));
        tracing::info!("serving buckets at {endpoint}");
        server.run(async move { shutdown.requested().await }).await;
        Ok(())
    })
}
