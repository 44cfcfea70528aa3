//! `brigade identity`: the keys by which a participant is known.

use std::path::PathBuf;

use crate::identity::Identity;

/// What to do with an identity.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Make a new identity file. It is never overwritten.
    New {
        /// Where to write it; only its owner may read it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show the public half of an identity file.
    Show {
        /// The identity file.
        file: PathBuf,
    },
}

/// Runs `brigade identity`.
///
/// # Errors
/// When the file cannot be written or read.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    let identity = match action {
        Action::New { out } => {
            let identity = Identity::generate()?;
            identity.save_new(&out)?;
            identity
        }
        Action::Show { file } => Identity::load(&file)?,
    };
    super::answer(serde_json::json!({ "id": identity.id(), "seal_to": identity.seal_to() }))
}
