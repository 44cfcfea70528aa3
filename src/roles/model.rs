//! The model on a thread of its own: libtorch never runs on the asynchronous runtime.

use std::sync::mpsc;

use anyhow::Context as _;
use brigade_protocol::{Manifest, ModelConfig};
use brigade_trainer::{AdamWConfig, ComputeDtype, DeviceChoice, Trainer, TrainerConfig};
use tokio::sync::oneshot;

use crate::config::{Compute, ConfigError};

type Job = Box<dyn FnOnce(&mut Trainer) + Send>;

/// A trainer that lives on one thread for as long as this handle.
///
/// One thread, because libtorch keeps its OpenMP team and its gradient mode by thread.
pub(crate) struct Model {
    jobs: mpsc::Sender<Job>,
}

impl Model {
    /// Makes a trainer for the run's model.
    ///
    /// # Errors
    /// When the device is not there, or its memory is too small.
    pub(crate) async fn start(manifest: &Manifest, compute: &Compute) -> anyhow::Result<Self> {
        let config = trainer_config(manifest, compute)?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, is_ready) = oneshot::channel();
        std::thread::Builder::new().name("trainer".into()).spawn(move || {
            let mut trainer = match Trainer::new(config) {
                Ok(trainer) => trainer,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            while let Ok(job) = inbox.recv() {
                job(&mut trainer);
            }
        })?;
        is_ready.await.context("the trainer's thread ended")??;
        Ok(Self { jobs })
    }

    /// Runs `work` on the trainer's thread.
    ///
    /// # Errors
    /// When that thread has ended.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Trainer) -> R + Send + 'static,
    ) -> anyhow::Result<R> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |trainer| drop(answer.send(work(trainer))));
        self.jobs.send(job).ok().context("the trainer's thread has ended")?;
        answered.await.context("the trainer's thread ended at work")
    }
}

/// What the manifest and the machine's owner say, as the trainer wants to be told.
pub(crate) fn trainer_config(manifest: &Manifest, compute: &Compute) -> Result<TrainerConfig, ConfigError> {
    let training = &manifest.training;
    let adamw = AdamWConfig {
        betas: (training.betas[0], training.betas[1]),
        eps: training.eps,
        weight_decay: training.weight_decay,
        max_grad_norm: Some(training.max_grad_norm),
    };
    Ok(TrainerConfig { adamw, ..device_config(&manifest.model, compute)? })
}

/// The same for a model that belongs to no run.
pub(crate) fn device_config(model: &ModelConfig, compute: &Compute) -> Result<TrainerConfig, ConfigError> {
    let invalid = |field: &str, value: &str, must: &str| ConfigError::Invalid {
        field: format!("compute.{field}"),
        reason: format!("`{value}` must be {must}"),
    };
    let device = match compute.device.as_deref() {
        None | Some("auto") => DeviceChoice::Auto,
        Some("cpu") => DeviceChoice::Cpu,
        Some(text) => match text.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(number) => DeviceChoice::Cuda(number),
            None => return Err(invalid("device", text, "auto, cpu, or cuda:N")),
        },
    };
    let compute_dtype = match compute.dtype.as_deref() {
        None | Some("auto") => ComputeDtype::Auto,
        Some("float32") => ComputeDtype::Float32,
        Some("bfloat16") => ComputeDtype::BFloat16,
        Some(text) => return Err(invalid("dtype", text, "auto, float32, or bfloat16")),
    };
    Ok(TrainerConfig {
        device,
        compute_dtype,
        threads: compute.threads,
        micro_batch: compute.micro_batch,
        ..TrainerConfig::new(model.clone())
    })
}
