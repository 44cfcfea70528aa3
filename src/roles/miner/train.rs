//! H inner steps from θ. What they make of it stays in the trainer, until it is compressed.

use std::sync::Arc;
use std::time::Instant;

use brigade_protocol::{Parameters, Training};
use brigade_trainer::{TokenBatch, Trainer};

use crate::events::Event;

/// What a window's training came to.
pub(crate) struct Trained {
    /// Mean loss over the inner steps, nats a token.
    pub(crate) loss: f64,
    /// Tokens trained.
    pub(crate) tokens: u64,
    /// Seconds of inner steps.
    pub(crate) seconds: f64,
}

/// Trains one window: a step a batch, from `theta`, at the learning rates of `window`.
///
/// `proceed` is asked before every step and told of the step before; when it says no, the window is given up and
/// nothing comes back.
///
/// # Errors
/// Those of [`Trainer::inner_step`]; a loss that is no number among them.
pub(crate) fn train_window(
    trainer: &mut Trainer,
    theta: &Arc<Parameters>,
    training: &Training,
    window: u64,
    batches: &[TokenBatch],
    mut proceed: impl FnMut(Option<Event>) -> bool,
) -> brigade_trainer::Result<Option<Trained>> {
    let started = Instant::now();
    trainer.load_parameters(theta.tensors())?;
    let (mut loss, mut tokens) = (0.0, 0);
    let mut last = None;
    for (done, batch) in (0_u32..).zip(batches) {
        if !proceed(last.take()) {
            return Ok(None);
        }
        let step = window * u64::from(training.inner_steps) + u64::from(done);
        let stats = trainer.inner_step(batch, training.learning_rate_at(step))?;
        loss += f64::from(stats.loss);
        tokens += stats.tokens as u64;
        last = Some(Event::Step {
            window,
            step: done + 1,
            of: batches.len() as u32,
            loss: stats.loss,
            grad_norm: stats.grad_norm,
            tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64(),
        });
    }
    proceed(last);
    let seconds = started.elapsed().as_secs_f64();
    Ok(Some(Trained { loss: loss / batches.len().max(1) as f64, tokens, seconds }))
}
