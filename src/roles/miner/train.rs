//! H inner steps from θ. What they make of it stays in the trainer, until it is compressed.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use brigade_protocol::{Parameters, Training};
use brigade_trainer::{Error, TokenBatch, Trainer};

use crate::events::Event;
use crate::roles::samples::Ticket;
use crate::throughput::median;

/// What a window asks of a miner.
pub(crate) struct Task {
    /// Where training starts.
    pub(crate) theta: Arc<Parameters>,
    /// Which sequences.
    pub(crate) ticket: Ticket,
    /// How many steps, and at which learning rates.
    pub(crate) training: Training,
}

/// What a window's training came to.
pub(crate) struct Trained {
    /// Mean loss over the inner steps, nats a token.
    pub(crate) loss: f64,
    /// Losses of θ, before the first step, on the first sequences.
    pub(crate) start_losses: Vec<f32>,
    /// Mean gradient norm over the inner steps, before clipping.
    pub(crate) grad_norm: f64,
    /// Inner steps.
    pub(crate) steps: u32,
    /// Tokens trained.
    pub(crate) tokens: u64,
    /// Seconds of inner steps.
    pub(crate) seconds: f64,
    /// Median seconds of a step, waiting for data included.
    pub(crate) step_seconds: f64,
    /// Share of `seconds` in which the trainer waited for a batch.
    pub(crate) data_wait_share: f64,
}

/// An inner step that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("window {window}, step {step} on {device}{}", remedy(source))]
pub(crate) struct StepFailed {
    /// The window.
    pub(crate) window: u64,
    /// The step in it, from 1.
    pub(crate) step: u32,
    /// The device, for a person.
    pub(crate) device: String,
    /// Why.
    pub(crate) source: Error,
}

fn remedy(error: &Error) -> &'static str {
    match error {
        Error::NotFinite { .. } => " (training diverges: check the device; the learning rate is the run's)",
        error => remedy_of_torch(&error.to_string().to_lowercase()),
    }
}

/// libtorch tells kinds of failures apart by their text only.
fn remedy_of_torch(text: &str) -> &'static str {
    let has = |pieces: &[&str]| pieces.iter().any(|piece| text.contains(piece));
    if has(&["out of memory", "can't allocate memory", "not enough memory"]) {
        " (too little memory: set a smaller compute.micro_batch)"
    } else if has(&["cuda error", "cudnn", "cublas", "nvml", "nccl"]) {
        " (the device failed or is gone: look at `nvidia-smi` and the kernel's log, then start again)"
    } else {
        ""
    }
}

/// Trains one window: a step a batch, from `theta`, at the learning rates of `window`.
///
/// `proceed` is asked before every step and told of the step before; when it says no, the window is given up and
/// nothing comes back. The losses of θ are measured on the first `start` sequences, before they are trained on.
///
/// # Errors
/// [`StepFailed`], with a loss that is no number among its causes; those of `batches`, and when they end early.
pub(crate) fn train_window<B: Borrow<TokenBatch>>(
    trainer: &mut Trainer,
    theta: &Arc<Parameters>,
    training: &Training,
    window: u64,
    start: usize,
    batches: impl IntoIterator<Item = anyhow::Result<B>>,
    mut proceed: impl FnMut(Option<Event>) -> bool,
) -> anyhow::Result<Option<Trained>> {
    let failed = |trainer: &Trainer, done, source| {
        let device = trainer.device_name();
        StepFailed { window, step: done + 1, device, source }
    };
    trainer.load_parameters(theta.tensors()).map_err(|error| failed(trainer, 0, error))?;
    let mut batches = batches.into_iter();
    let mut sums = Sums::default();
    let mut last = None;
    for done in 0..training.inner_steps {
        if !proceed(last.take()) {
            return Ok(None);
        }
        let started = Instant::now();
        let Some(batch) = batches.next().transpose()? else {
            anyhow::bail!("the window's batches end after {done} of {} steps", training.inner_steps);
        };
        let waited = started.elapsed().as_secs_f64();
        if done == 0 && start > 0 {
            let losses = batch.borrow().first(start).and_then(|first| trainer.losses(&first));
            sums.start_losses = losses.map_err(|error| failed(trainer, done, error))?;
        }
        let step = window * u64::from(training.inner_steps) + u64::from(done);
        let stats = trainer
            .inner_step(batch.borrow(), training.learning_rate_at(step))
            .map_err(|error| failed(trainer, done, error))?;
        let step_seconds = started.elapsed().as_secs_f64();
        sums.add(f64::from(stats.loss), f64::from(stats.grad_norm), stats.tokens, step_seconds, waited);
        last = Some(Event::Step {
            window,
            step: done + 1,
            of: training.inner_steps,
            loss: stats.loss,
            grad_norm: stats.grad_norm,
            tokens_per_second: sums.tokens as f64 / sums.seconds(),
            step_seconds,
            data_wait_share: waited / step_seconds,
        });
    }
    proceed(last);
    Ok(Some(sums.trained()))
}

/// Everything that was measured so far.
#[derive(Default)]
struct Sums {
    loss: f64,
    grad_norm: f64,
    tokens: u64,
    waited: f64,
    steps: Vec<f64>,
    start_losses: Vec<f32>,
}

impl Sums {
    fn add(&mut self, loss: f64, grad_norm: f64, tokens: usize, step_seconds: f64, waited: f64) {
        self.loss += loss;
        self.grad_norm += grad_norm;
        self.tokens += tokens as u64;
        self.waited += waited;
        self.steps.push(step_seconds);
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().sum()
    }

    fn trained(self) -> Trained {
        let (steps, seconds) = (self.steps.len(), self.seconds());
        Trained {
            loss: self.loss / steps.max(1) as f64,
            grad_norm: self.grad_norm / steps.max(1) as f64,
            steps: steps as u32,
            tokens: self.tokens,
            seconds,
            step_seconds: median(&self.steps),
            start_losses: self.start_losses,
            data_wait_share: if seconds > 0.0 { self.waited / seconds } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use brigade_protocol::ModelConfig;
    use brigade_trainer::{DeviceChoice, TrainerConfig};

    use super::*;

    fn trainer() -> (Trainer, ModelConfig) {
        let model: ModelConfig = serde_json::from_value(serde_json::json!({
            "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8,
        }))
        .unwrap();
        let config = TrainerConfig {
            device: DeviceChoice::Cpu,
            threads: Some(1),
            ..TrainerConfig::new(model.clone())
        };
        (Trainer::new(config).unwrap(), model)
    }

    fn training(inner_steps: u32) -> Training {
        Training { inner_steps, learning_rate: 1e-3, warmup_steps: 0, ..Training::default() }
    }

    fn batch() -> TokenBatch {
        TokenBatch::new((0..18).map(|id| id % 16).collect(), 2, 8).unwrap()
    }

    #[test]
    fn a_loss_that_is_no_number_names_step_and_device() {
        let (mut trainer, model) = trainer();
        let mut theta = Parameters::initialise(&model, &[1; 32]);
        theta.tensors_mut()[0][0] = f32::NAN;
        let batches = [batch(), batch()];
        let outcome =
            train_window(&mut trainer, &Arc::new(theta), &training(2), 7, 0, batches.iter().map(Ok), |_| {
                true
            });
        let error = format!("{:#}", outcome.err().unwrap());
        assert!(error.starts_with("window 7, step 1 on the CPU (training diverges"), "{error}");
        assert!(error.ends_with("loss is NaN; the step was not taken"), "{error}");
    }

    #[test]
    fn batches_that_end_early_are_no_trained_window() {
        let (mut trainer, model) = trainer();
        let theta = Arc::new(Parameters::initialise(&model, &[1; 32]));
        let batches = [batch()];
        let outcome =
            train_window(&mut trainer, &theta, &training(2), 0, 0, batches.iter().map(Ok), |_| true);
        assert!(outcome.err().unwrap().to_string().contains("after 1 of 2 steps"));
    }

    #[test]
    fn memory_and_devices_that_are_gone_have_remedies() {
        assert!(remedy_of_torch("cuda out of memory. tried to allocate 2 gib").contains("micro_batch"));
        assert!(remedy_of_torch("defaultcpuallocator: can't allocate memory").contains("micro_batch"));
        assert!(remedy_of_torch("cuda error: unspecified launch failure").contains("nvidia-smi"));
        assert_eq!(remedy_of_torch("shape mismatch"), "");
    }
}
