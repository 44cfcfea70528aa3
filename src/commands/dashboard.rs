//! `brigade dashboard`: a run as a web page.

use std::net::SocketAddr;

use super::watch::Looker;
use crate::dashboard;
use crate::observe::Observer;
use crate::shutdown::{Shutdown, Stopped};

/// Arguments of `brigade dashboard`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    looker: Looker,
    /// Where to serve the page. Whoever reaches it sees the run, and can change nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// A name by which the page is asked for, beside `localhost` and addresses, as behind a proxy; may be given several times.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

/// Runs `brigade dashboard`.
///
/// # Errors
/// When the run cannot be read, or the address not be listened at.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        let target = args.looker.target()?;
        let shutdown = Shutdown::listen(false)?;
        let observer = Observer::new(shutdown.or(target.load()).await??);
        let ready = |address| {
            // Whoever started this as a script wants to know where; a person too.
            let _ = super::answer(format_args!("http://{address}/"));
        };
        let place = dashboard::Place { listen: args.listen, hosts: args.hosts.clone() };
        let served =
            dashboard::run(observer, target.url(), place, args.looker.every(), shutdown, ready).await;
        match served {
            Err(error) if error.is::<Stopped>() => Ok(()),
            served => served,
        }
    })
}
