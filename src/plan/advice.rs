//! What to change when it does not fit.

use super::{Recompute, Setup, memory};

/// The most devices that are thought of.
const MOST_GPUS: u64 = 1024;

/// Changes that make a setup fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The setup with all of them.
    pub setup: Setup,
    /// What each is, as options of the command.
    pub changes: Vec<String>,
}

/// The first that fits into `device_bytes` of: the setup as it is, a smaller micro-batch, all blocks recomputed, moments in host memory,
/// more GPUs; each with those before it. `None` if 1024 GPUs would not do.
pub fn advise(setup: &Setup, device_bytes: u64) -> Option<Advice> {
    let fits = |setup: &Setup| memory(setup).total() <= device_bytes;
    let mut advice = Advice { setup: setup.clone(), changes: Vec::new() };
    if fits(setup) {
        return Some(advice);
    }
    while advice.setup.micro_batch > 1 {
        advice.setup.micro_batch /= 2;
        advice.changes = vec![format!("--micro-batch {}", advice.setup.micro_batch)];
        if fits(&advice.setup) {
            return Some(advice);
        }
    }
    if advice.setup.recompute != Recompute::All {
        advice.setup.recompute = Recompute::All;
        advice.changes.push("--recompute all".into());
        if fits(&advice.setup) {
            return Some(advice);
        }
    }
    if !advice.setup.offload {
        advice.setup.offload = true;
        advice.changes.push("--offload".into());
        if fits(&advice.setup) {
            return Some(advice);
        }
    }
    let batch = setup.batch * setup.gpus;
    while advice.setup.gpus < MOST_GPUS {
        advice.setup.gpus *= 2;
        advice.setup.batch = batch.div_ceil(advice.setup.gpus);
        if fits(&advice.setup) {
            advice.changes.push(format!("--gpus {}", advice.setup.gpus));
            return Some(advice);
        }
    }
    None
}
