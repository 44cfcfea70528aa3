//! One model in training, on one device, or spread over several.

use std::{path::Path, sync::Arc};

use brigade_codec::{Binding, CodecConfig, Layout};
use brigade_protocol::{ModelConfig, TensorSpec};
use brigade_torch_ext::Transport;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    ComputeDtype, DeviceChoice, Error, Exchange, OptimizerConfig, Recompute, Result, TokenBatch,
    batch::{check_ids, check_length, id_tensor},
    compress::{check, compress},
    model::{Llama, to_vec},
    optimizer::Optimizer,
    ranks::{Command, CompressJob, Group, Host, Workers},
};

/// How to make a [`Trainer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerConfig {
    /// The model's shape.
    pub model: ModelConfig,
    /// Where it runs.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Precision of activations and of the weights in matrix products.
    #[serde(default)]
    pub compute_dtype: ComputeDtype,
    /// Threads of libtorch on the CPU, for the whole process; libtorch's own choice (one per core) if absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// The inner optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Sequences that go through the model at once; a larger batch is cut up and its gradients are summed.
    /// The whole batch if absent. Bounds the memory of activations, and changes nothing but rounding.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Which blocks keep only their input and are run again in their backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// Whether the optimiser's moments lie in the host's memory, and are on the device only while a part of the parameters
    /// has its turn: two thirds of a GPU's share of masters and moments become free, each step copies them there and back.
    #[serde(default)]
    pub offload: bool,
    /// How several ranks exchange tensors on GPUs.
    #[serde(default)]
    pub exchange: Exchange,
}

impl TrainerConfig {
    /// What rank `rank` of `ranks` is told: a GPU of its own, or its part of the threads.
    pub(crate) fn for_rank(mut self, rank: usize, ranks: usize) -> Self {
        self.device = match self.device {
            DeviceChoice::Cuda(first) => DeviceChoice::Cuda(first + rank),
            DeviceChoice::Auto if tch::Cuda::is_available() => DeviceChoice::Cuda(rank),
            device => device,
        };
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
        self.threads = threads.map(|threads| (threads / ranks).max(1));
        self
    }

    /// Everything but the model at its default.
    pub fn new(model: ModelConfig) -> Self {
        Self {
            model,
            device: DeviceChoice::default(),
            compute_dtype: ComputeDtype::default(),
            threads: None,
            optimizer: OptimizerConfig::default(),
            micro_batch: None,
            recompute: Recompute::default(),
            offload: false,
            exchange: Exchange::default(),
        }
    }
}

/// A model, its fp32 master weights and its optimiser state.
///
/// May be moved to another thread, as training runs on a thread of its own, but not shared between threads.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) model: Llama,
    settings: OptimizerConfig,
    offload: bool,
    /// From the first step on: who only measures needs no room for moments, which take twice that of the weights.
    pub(crate) optimizer: Option<Optimizer>,
    pub(crate) micro_batch: Option<usize>,
    /// The other ranks' processes, if this one has started them.
    workers: Option<Workers>,
}

impl Drop for Trainer {
    fn drop(&mut self) {
        if self.workers.is_some() {
            let _ = self.lead(|| Command::End);
        }
    }
}

impl Trainer {
    /// A model whose parameters are all zero until they are loaded.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Setting`] if a number is out of range, [`Error::Device`] if the device is not
    /// there, [`Error::TooLarge`] or [`Error::Torch`] if no memory, or not the device's, can hold the model.
    pub fn new(config: TrainerConfig) -> Result<Self> {
        Self::with_group(config, Group::alone())
    }

    /// The same over `ranks` processes, each with its share of parameters, gradients and moments, on a GPU of its own if
    /// there are GPUs (from that of `config` on). This process is rank 0 and says what is done; `start` gives the command that starts another one,
    /// which calls [`serve_rank`](crate::serve_rank) with the folder and rank given here.
    ///
    /// Only what training takes is possible with several ranks: steps, parameters, the optimiser's state, compression.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Rank`] if a process cannot be started or made ready; [`Error::Exchange`] if their GPUs cannot be
    /// connected.
    pub fn launch(
        config: TrainerConfig,
        ranks: usize,
        start: impl Fn(&Path, usize) -> std::process::Command,
    ) -> Result<Self> {
        if ranks <= 1 {
            return Self::new(config);
        }
        let (workers, group) = Workers::start(ranks, start)?;
        let told = serde_json::to_vec(&config).map_err(|e| Error::Rank { rank: 0, reason: e.to_string() })?;
        group.broadcast(Some(told))?;
        let mut trainer = Self::with_group(config.for_rank(0, ranks), group)?;
        trainer.workers = Some(workers);
        Ok(trainer)
    }

    /// This rank's share of a trainer.
    pub(crate) fn with_group(config: TrainerConfig, group: Arc<Group>) -> Result<Self> {
        let TrainerConfig {
            model,
            device,
            compute_dtype,
            threads,
            optimizer: settings,
            micro_batch,
            recompute,
            offload,
            exchange,
        } = config;
        if let Some(threads) = threads {
            let fits = i32::try_from(threads).ok().filter(|&threads| (1..=4096).contains(&threads));
            let must = "between 1 and 4096";
            tch::set_num_threads(fits.ok_or(Error::Setting {
                field: "threads",
                value: threads as f64,
                must,
            })?);
        }
        if micro_batch == Some(0) {
            return Err(Error::Setting { field: "micro_batch", value: 0.0, must: "positive" });
        }
        settings.validate()?;
        let device = device.resolve()?;
        if device == Device::Cpu {
            brigade_torch_ext::memory::keep_freed();
        }
        if group.world() > 1 && device.is_cuda() && exchange == Exchange::Nccl {
            group.connect(Transport::Nccl, device)?;
        }
        let precision = compute_dtype.resolve(device);
        let model = Llama::zeros(model, precision, device, recompute, Arc::clone(&group))?;
        // Not before all ranks have got so far.
        group.sum(&[])?;
        tracing::debug!(parameters = model.config.num_parameters(), ?device, ?precision, "made a trainer");
        Ok(Self { model, settings, offload, optimizer: None, micro_batch, workers: None })
    }

    /// The model's shape.
    pub fn model_config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Where the model runs.
    pub fn device(&self) -> Device {
        self.model.device
    }

    /// The precision that it computes in.
    pub fn compute_kind(&self) -> Kind {
        self.model.kind()
    }

    pub(crate) fn product_kind(&self) -> Kind {
        self.model.product_kind()
    }

    /// Overwrites the fp32 master weights; `tensors[i]` is the i-th of [`ModelConfig::tensors`], row-major. The
    /// optimiser's state stays.
    ///
    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`]; then nothing has changed. [`Error::Rank`], as everywhere below, if the
    /// model is spread over ranks and one is lost: this trainer is then of no more use.
    pub fn load_parameters(&mut self, tensors: &[impl AsRef<[f32]>]) -> Result<()> {
        self.model.units.expect_lengths(tensors)?;
        self.lead(|| Command::Load)?;
        let loaded = self.load_shares(Some(tensors));
        self.conclude(loaded)
    }

    /// The fp32 master weights, in the order of [`ModelConfig::tensors`], row-major.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>> {
        self.lead(|| Command::Read)?;
        self.conclude(self.read_shares())
    }

    /// Δ = `theta` − the fp32 master weights: what training has made of `theta`, in the order of [`ModelConfig::tensors`].
    ///
    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`]; [`Error::Torch`].
    pub fn pseudo_gradient(&self, theta: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        self.model.units.expect_lengths(theta)?;
        let mut delta = self.parameters()?;
        for (after, before) in delta.iter_mut().zip(theta) {
            after.iter_mut().zip(before).for_each(|(after, before)| *after = before - *after);
        }
        Ok(delta)
    }

    /// Folds the pseudo-gradient since `theta` into the error feedback `e` and takes the update file out of it: where the
    /// parameters are, on a GPU, or by the codec on the CPU. The same bytes either way.
    ///
    /// # Errors
    /// As [`compress`](crate::compress()); `e` must then be thrown away.
    pub fn compress(
        &self,
        layout: &Layout,
        binding: &Binding,
        config: &CodecConfig,
        theta: &[Vec<f32>],
        e: &mut [Vec<f32>],
    ) -> Result<Vec<u8>> {
        let units = &self.model.units;
        if units.is_sharded() {
            check(layout, "parameters", units.specs.iter().map(TensorSpec::numel))?;
            check(layout, "parameters before training", theta.iter().map(Vec::len))?;
            check(layout, "error feedback", e.iter().map(Vec::len))?;
            config.check()?;
            let job = CompressJob::new(layout, config);
            self.lead(|| Command::Compress(CompressJob::new(layout, config)))?;
            let file = self.conclude(self.compress_shares(&job, Some(Host { binding, theta, e })))?;
            return file.ok_or(Error::Rank { rank: 0, reason: "made no file".into() });
        }
        if self.model.device != Device::Cpu {
            let masters =
                (0..units.all.len()).map(|unit| units.masters_of(unit)).collect::<Result<Vec<_>>>()?;
            let masters: Vec<Tensor> = masters.into_iter().flatten().collect();
            return compress(layout, binding, config, theta, &masters, e);
        }
        let delta = self.pseudo_gradient(theta)?;
        let delta: Vec<&[f32]> = delta.iter().map(Vec::as_slice).collect();
        Ok(brigade_codec::compress(layout, binding, config, &delta, e)?)
    }

    /// # Errors
    /// [`Error::Setting`] if the model is spread over ranks.
    pub(crate) fn whole(&self) -> Result<()> {
        match self.model.units.group.world() {
            1 => Ok(()),
            ranks => Err(Error::Setting {
                field: "ranks",
                value: ranks as f64,
                must: "1 for anything but training",
            }),
        }
    }

    /// Logits after every token, fp32 `[sequences, length, vocab]` row-major, for `tokens`
    /// `[sequences, length]` row-major.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the tokens do not fit the model.
    pub fn logits(&self, tokens: &[u32], sequences: usize) -> Result<Vec<f32>> {
        self.whole()?;
        let length = tokens.len() / sequences.max(1);
        if tokens.is_empty() || length * sequences != tokens.len() {
            let reason = format!("{} tokens cannot be cut into these", tokens.len());
            return Err(Error::Batch { sequences, sequence_length: length, reason });
        }
        check_length(sequences, length, self.model.config.max_position_embeddings)?;
        check_ids(tokens, self.model.config.vocab_size)?;
        let ids = id_tensor(tokens, length, self.model.device)?;
        to_vec(&self.model.logits(&self.model.hidden(&ids)?)?)
    }

    /// The optimiser's moments and step count as a safetensors file, bit for bit.
    ///
    /// For a parameter `p` of AdamW there are `exp_avg.p` and `exp_avg_sq.p`, for one of Muon there is `momentum_buffer.p`,
    /// fp32 in its shape; `step` is int64 `[1]`.
    ///
    /// # Errors
    /// [`Error::Torch`] or [`Error::OptimizerState`].
    pub fn save_optimizer(&mut self) -> Result<Vec<u8>> {
        self.lead(|| Command::SaveOptimizer)?;
        let saved = self.save_shares();
        self.conclude(saved)
    }

    /// Takes over what [`save_optimizer`](Self::save_optimizer) wrote.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if the bytes are not the state of this model; then nothing has changed.
    pub fn load_optimizer(&mut self, bytes: &[u8]) -> Result<()> {
        let optimizer = self.take_optimizer()?;
        let checked = optimizer.check(&self.model.units, bytes);
        self.optimizer = Some(optimizer);
        checked?;
        self.lead(|| Command::LoadOptimizer)?;
        let loaded = self.load_optimizer_shares(Some(bytes));
        self.conclude(loaded)
    }

    /// Makes room for the optimiser's moments, which else come with the first step: too little memory shows now.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn prepare_training(&mut self) -> Result<()> {
        self.lead(|| Command::Prepare)?;
        let prepared = self.prepare_own();
        self.conclude(prepared)
    }

    /// The optimiser as it is, or a new one; to be put back.
    pub(crate) fn take_optimizer(&mut self) -> Result<Optimizer> {
        self.optimizer
            .take()
            .map_or_else(|| Optimizer::new(self.settings, &self.model.units, self.offload), Ok)
    }

    pub(crate) fn check(&self, batch: &TokenBatch) -> Result<()> {
        batch.check(self.model.config.vocab_size, self.model.config.max_position_embeddings)
    }
}
