//! `brigade init`: a folder that a participant, or the operator of a run, starts from.
//!
//! | module | role |
//! | --- | --- |
//! | `address` | where a bucket is |
//! | `ask` | questions at a terminal, and what stands for them where there is none |
//! | `dialect` | which S3 a store speaks |
//! | `keys` | secrets by reference: none is ever written into a settings file |
//! | `participant` | settings of a miner, a validator, an aggregator |
//! | `run` | the terms of a run |

mod address;
mod ask;
mod dialect;
mod keys;
mod participant;
mod run;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub use crate::config::Role;
pub use ask::{Ask, Silent, Terminal, whoever};
pub use dialect::{Recognise, by_asking};
pub use keys::Keys;
pub use participant::{Own, Participant};
pub use run::Terms;

use crate::identity::Identity;

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The settings file.
    pub settings: PathBuf,
    /// Whose it is; kept if it was there already.
    pub identity: Identity,
    /// Variables that must be set before it can be used.
    pub variables: Vec<String>,
    /// Of a run: the tokens that its model has room for.
    pub vocabulary: Option<usize>,
}

/// The identity in `path`, made if there is none.
fn identity(path: &Path) -> anyhow::Result<Identity> {
    if path.exists() {
        return Ok(Identity::load(path)?);
    }
    let identity = Identity::generate()?;
    identity.save_new(path)?;
    Ok(identity)
}

/// Before anything is asked: what is there is not overwritten.
fn expect_none(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!path.exists(), "{} is there already; remove it or name another --dir", path.display());
    Ok(())
}

/// Writes a file that is not there yet.
fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A string as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
