//! A rank other than 0: does what rank 0 says.

use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bincode::{Decode, Encode};

use super::{Group, meet::meet};
use crate::{Error, Result, TokenBatch, Trainer, TrainerConfig};

/// What all ranks do next.
#[derive(Debug, Encode, Decode)]
pub(crate) enum Command {
    /// Take over the parameters that rank 0 has.
    Load,
    /// Put the parameters together on rank 0.
    Read,
    /// Make room for moments.
    Prepare,
    /// One step; each rank takes its share of the sequences.
    Step { tokens: Vec<u32>, sequences: usize, sequence_length: usize, lr: f64 },
    /// Losses, which nobody shares out: so few sequences are measured here that gathering the parameters costs more.
    Losses { tokens: Vec<u32>, sequences: usize, sequence_length: usize },
    /// Put the optimiser's state together on rank 0.
    SaveOptimizer,
    /// Take over the optimiser's state that rank 0 has.
    LoadOptimizer,
    /// Compress, section by section.
    Compress(super::CompressJob),
    /// No more.
    End,
}

impl Command {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).expect("a vector takes everything")
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let decoded = bincode::decode_from_slice(bytes, bincode::config::standard());
        Ok(decoded.map_err(|e| Error::Rank { rank: 0, reason: e.to_string() })?.0)
    }
}

/// How long a rank may take to end by itself once rank 0 is gone.
const PARTING: Duration = Duration::from_secs(3);

/// Is rank `rank` of `ranks` that meet in `folder`, until rank 0 needs it no more.
///
/// If rank 0 ends and this one does not soon after, the process is ended: it may hang in a call to its GPU.
///
/// # Errors
/// [`Error::Rank`] if another rank is lost; whatever else ends this one, after the others have been told.
pub fn serve_rank(folder: &Path, rank: usize, ranks: usize) -> Result<()> {
    let on_end = || {
        thread::sleep(PARTING);
        std::process::exit(1)
    };
    let parent = parent_id();
    let is_orphan = || match parent_id() == parent {
        true => Ok(()),
        false => Err(Error::Rank { rank: 0, reason: "its process has ended".into() }),
    };
    serve(&meet(folder, rank, ranks, Some(Box::new(on_end)), is_orphan)?)
}

/// The same, once the ranks have met.
pub(super) fn serve(group: &Arc<Group>) -> Result<()> {
    let outcome = (|| -> Result<()> {
        let config = group.broadcast(None)?;
        let config: TrainerConfig =
            serde_json::from_slice(&config).map_err(|e| Error::Rank { rank: 0, reason: e.to_string() })?;
        let mut trainer =
            Trainer::with_group(config.for_rank(group.rank(), group.world()), Arc::clone(group))?;
        loop {
            let command = Command::from_bytes(&group.broadcast(None)?)?;
            let done = match command {
                Command::End => return Ok(()),
                command => follow(&mut trainer, command),
            };
            match done {
                // All ranks have seen the same, and nothing has changed: rank 0 decides what comes next.
                Ok(()) | Err(Error::NotFinite { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    })();
    outcome.map_err(|error| group.fail_of(error))
}

fn follow(trainer: &mut Trainer, command: Command) -> Result<()> {
    match command {
        Command::Load => trainer.load_shares(None::<&[Vec<f32>]>),
        Command::Read => trainer.read_shares().map(drop),
        Command::Prepare => trainer.prepare_own(),
        Command::Step { tokens, sequences, sequence_length, lr } => {
            trainer.step_own(&TokenBatch::new(tokens, sequences, sequence_length)?, lr).map(drop)
        }
        Command::Losses { tokens, sequences, sequence_length } => {
            trainer.losses_own(&TokenBatch::new(tokens, sequences, sequence_length)?).map(drop)
        }
        Command::SaveOptimizer => trainer.save_shares().map(drop),
        Command::LoadOptimizer => trainer.load_optimizer_shares(None),
        Command::Compress(job) => trainer.compress_shares(&job, None).map(drop),
        Command::End => Ok(()),
    }
}
