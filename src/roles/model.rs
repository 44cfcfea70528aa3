//! The model on a thread of its own: libtorch never runs on the asynchronous runtime.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use brigade_protocol::{Manifest, ModelConfig, Optimizer, Training};
use brigade_trainer::{
    AdamWConfig, ComputeDtype, DeviceChoice, Exchange, MuonConfig, OptimizerConfig, Trainer, TrainerConfig,
};
use tokio::sync::oneshot;

use crate::config::{Compute, ConfigError, Recompute};

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
    let optimizer = optimizer_config(&manifest.training);
    Ok(TrainerConfig { optimizer, ..device_config(&manifest.model, compute)? })
}

/// The inner optimiser of a run.
pub(crate) fn optimizer_config(training: &Training) -> OptimizerConfig {
    let adamw = AdamWConfig {
        betas: (training.betas[0], training.betas[1]),
        eps: training.eps,
        weight_decay: training.weight_decay,
        max_grad_norm: Some(training.max_grad_norm),
    };
    match training.optimizer {
        Optimizer::AdamW => OptimizerConfig::AdamW(adamw),
        Optimizer::Muon => OptimizerConfig::Muon(MuonConfig { adamw, ..MuonConfig::default() }),
    }
}

/// The same for a model that belongs to no run.
pub(crate) fn device_config(model: &ModelConfig, compute: &Compute) -> Result<TrainerConfig, ConfigError> {
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
    let exchange = match compute.exchange.as_deref() {
        None | Some("host") => Exchange::Host,
        Some("nccl") => Exchange::Nccl,
        Some(text) => return Err(invalid("exchange", text, "nccl or host")),
    };
    Ok(TrainerConfig {
        device,
        compute_dtype,
        threads: compute.threads,
        micro_batch: compute.micro_batch,
        recompute: recompute(compute)?,
        offload: compute.offload.unwrap_or(false),
        exchange,
        ..TrainerConfig::new(model.clone())
    })
}

fn recompute(compute: &Compute) -> Result<brigade_trainer::Recompute, ConfigError> {
    let refuse = |value: &str| invalid("recompute", value, "\"none\", \"all\", or a number of at least 1");
    match &compute.recompute {
        None => Ok(brigade_trainer::Recompute::None),
        Some(Recompute::Every(n)) => {
            NonZeroUsize::new(*n).map(brigade_trainer::Recompute::Every).ok_or_else(|| refuse("0"))
        }
        Some(Recompute::Word(word)) => match word.as_str() {
            "none" => Ok(brigade_trainer::Recompute::None),
            "all" => Ok(brigade_trainer::Recompute::All),
            _ => Err(refuse(word)),
        },
    }
}

fn invalid(field: &str, value: &str, must: &str) -> ConfigError {
    let reason = format!("`{value}` must be {must}");
    ConfigError::Invalid { field: format!("compute.{field}"), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_of_the_machine_wrote_reaches_the_trainer() {
        let model = ModelConfig::preset("demo").unwrap();
        let of =
            |text: &str| device_config(&model, &toml::from_str(text).unwrap()).map(|found| found.recompute);
        let every = |n| brigade_trainer::Recompute::Every(NonZeroUsize::new(n).unwrap());
        assert_eq!(of("").unwrap(), brigade_trainer::Recompute::None);
        assert_eq!(of("recompute = \"none\"").unwrap(), brigade_trainer::Recompute::None);
        assert_eq!(of("recompute = \"all\"").unwrap(), brigade_trainer::Recompute::All);
        assert_eq!(of("recompute = 3").unwrap(), every(3));
        for text in ["recompute = 0", "recompute = \"some\""] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains("compute.recompute") && error.contains("at least 1"), "{error}");
        }
        let error = toml::from_str::<Compute>("recompute = -1").unwrap_err().to_string();
        assert!(error.contains("recompute must be"), "{error}");
        let offload = |text: &str| device_config(&model, &toml::from_str(text).unwrap()).unwrap().offload;
        assert!(!offload("") && offload("offload = true"));
        let exchange =
            |text: &str| device_config(&model, &toml::from_str(text).unwrap()).map(|found| found.exchange);
        assert_eq!(exchange("").unwrap(), Exchange::Host);
        assert_eq!(exchange("exchange = \"nccl\"").unwrap(), Exchange::Nccl);
        let error = exchange("exchange = \"gloo\"").unwrap_err().to_string();
        assert!(error.contains("compute.exchange") && error.contains("nccl or host"), "{error}");
    }

    #[test]
    fn the_optimiser_is_that_of_the_manifest() {
        let training = |text: &str| toml::from_str::<Training>(text).unwrap();
        let found = optimizer_config(&training("optimizer = \"muon\"\nweight_decay = 0.25"));
        let OptimizerConfig::Muon(muon) = found else { panic!("{found:?}") };
        assert_eq!((muon.momentum, muon.adamw.weight_decay), (0.95, 0.25));
        assert!(matches!(optimizer_config(&training("")), OptimizerConfig::AdamW(_)));
        let error = toml::from_str::<Training>("optimizer = \"lion\"").unwrap_err().to_string();
        assert!(error.contains("lion") && error.contains("muon"), "{error}");
        let wsd = training(
            "schedule = \"wsd\"\nstable_steps = 2300\nwarmup_steps = 100\ndecay_steps = 3000\n\
             decay_type = \"1-sqrt\"\nanneal = { start = 2900, steps = 50 }",
        );
        assert!((wsd.learning_rate_at(2400) / wsd.learning_rate - 1.0).abs() < 1e-12);
        assert_eq!(wsd.learning_rate_at(2950), wsd.min_learning_rate);
    }
}
