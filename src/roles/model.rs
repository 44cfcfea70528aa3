//! The model on a thread of its own: libtorch never runs on the asynchronous runtime.

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

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
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Model {
    /// Waits for a trainer of several ranks to go, and with it the other ranks' processes.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Model {
    /// Makes a trainer for the run's model, in this process alone.
    ///
    /// # Errors
    /// When the device is not there, or its memory is too small.
    pub(crate) async fn start(manifest: &Manifest, compute: &Compute) -> anyhow::Result<Self> {
        if compute.ranks.is_some_and(|ranks| ranks > 1) {
            return Err(ranks_invalid(compute, "1: only a miner spreads its model over processes").into());
        }
        let config = trainer_config(manifest, compute)?;
        Self::make(move || Trainer::new(config), false).await
    }

    /// The same for who trains: over as many processes as [`Compute::ranks`] says.
    ///
    /// # Errors
    /// Also when that many cannot share the run's batch, or a process cannot be started.
    pub(crate) async fn start_training(manifest: &Manifest, compute: &Compute) -> anyhow::Result<Self> {
        let ranks = compute.ranks.unwrap_or(1);
        let batch = manifest.training.batch_size as usize;
        if ranks == 0 || !batch.is_multiple_of(ranks) {
            return Err(ranks_invalid(compute, &format!("a divisor of the run's batch of {batch}")).into());
        }
        let config = trainer_config(manifest, compute)?;
        let program = std::env::current_exe().context("cannot find this program, to start ranks")?;
        let start = move |folder: &Path, rank: usize| {
            let mut command = std::process::Command::new(&program);
            command.args(["rank", "--rank", &rank.to_string(), "--ranks", &ranks.to_string(), "--folder"]);
            command.arg(folder);
            command
        };
        Self::make(move || Trainer::launch(config, ranks, start), ranks > 1).await
    }

    async fn make(
        trainer: impl FnOnce() -> brigade_trainer::Result<Trainer> + Send + 'static,
        has_processes: bool,
    ) -> anyhow::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new().name("trainer".into()).spawn(move || {
            let mut trainer = match trainer() {
                Ok(trainer) => trainer,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            while let Ok(job) = inbox.recv() {
                job(&mut trainer);
            }
        })?;
        is_ready.await.context("the trainer's thread ended")??;
        Ok(Self { jobs: Some(jobs), thread: has_processes.then_some(thread) })
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
        let sent = self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok());
        sent.context("the trainer's thread has ended")?;
        answered.await.context("the trainer's thread ended at work")
    }
}

fn ranks_invalid(compute: &Compute, must: &str) -> ConfigError {
    let reason = format!("`{}` must be {must}", compute.ranks.unwrap_or(1));
    ConfigError::Invalid { field: "compute.ranks".into(), reason }
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
