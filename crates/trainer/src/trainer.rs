//! One model in training, on one device, or spread over several.

use std::{path::Path, sync::Arc};

use brigade_codec::{Binding, CodecConfig, Layout};
use brigade_protocol::{ModelConfig, TensorSpec};
use brigade_torch_ext::foreach;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    ComputeDtype, DeviceChoice, Error, GenerateOptions, OptimizerConfig, Recompute, Result, TokenBatch,
    batch::{check_ids, check_length, id_tensor},
    compress::{check, compress},
    generate::Sampler,
    model::{Decoding, Gradients, Llama, to_vec},
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
        }
    }
}

/// What an inner step measured, before it changed the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Mean cross-entropy per token, in nats.
    pub loss: f32,
    /// L2 norm of the gradient of all parameters, before it was clipped.
    pub grad_norm: f32,
    /// Number of tokens predicted.
    pub tokens: usize,
}

/// What a backward pass is worth, over all ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Mean cross-entropy per token, in nats.
    pub(crate) loss: f64,
    /// L2 norm of all gradients.
    pub(crate) norm: f64,
}

impl Measured {
    /// Reads the loss, summed over `batch` in `sum`, and the norm of `gradients` at once: the only time in a step that the
    /// host waits for its device, and for the other ranks' numbers.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if one of them is not finite; [`Error::Rank`].
    pub(crate) fn wait(
        group: &Group,
        sum: &Tensor,
        gradients: &[Tensor],
        batch: &TokenBatch,
    ) -> Result<Self> {
        let own = Tensor::f_stack(&[sum, &foreach::global_norm(gradients)?], 0)?;
        let &[sum, norm] = to_vec(&own)?.as_slice() else {
            return Err(Error::NotFinite { what: "loss", value: f64::NAN });
        };
        let (sum, norm) = (f64::from(sum), f64::from(norm));
        let (sum, norm) = match group.sum(&[sum, norm * norm])?.as_slice() {
            &[sum, squares] if group.world() > 1 => (sum, squares.sqrt()),
            _ => (sum, norm),
        };
        let loss = sum * (1.0 / batch.targets() as f64);
        for (what, value) in [("loss", loss), ("gradient norm", norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite { what, value });
            }
        }
        Ok(Self { loss, norm })
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
    micro_batch: Option<usize>,
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
    /// As [`new`](Self::new); [`Error::Rank`] if a process cannot be started or made ready.
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

    /// One step of the optimiser with learning rate `lr` on the mean cross-entropy of `batch`.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the batch does not fit the model, [`Error::NotFinite`] if the loss or
    /// the gradient is not finite. In all of these the parameters and the optimiser are as before.
    pub fn inner_step(&mut self, batch: &TokenBatch, lr: f64) -> Result<StepStats> {
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(Error::Setting { field: "lr", value: lr, must: "at least 0 and finite" });
        }
        self.check(batch)?;
        batch.share(0, self.model.units.group.world())?;
        self.lead(|| Command::Step {
            tokens: batch.tokens().to_vec(),
            sequences: batch.sequences(),
            sequence_length: batch.sequence_length(),
            lr,
        })?;
        let stepped = self.step_own(batch, lr);
        self.conclude(stepped)
    }

    /// # Errors
    /// [`Error::Setting`] if the model is spread over ranks.
    fn whole(&self) -> Result<()> {
        match self.model.units.group.world() {
            1 => Ok(()),
            ranks => Err(Error::Setting {
                field: "ranks",
                value: ranks as f64,
                must: "1 for anything but training",
            }),
        }
    }

    /// The mean loss of `batch` and its gradients, in the order of [`ModelConfig::tensors`]; changes nothing.
    ///
    /// # Errors
    /// As [`inner_step`](Self::inner_step).
    pub fn gradients(&self, batch: &TokenBatch) -> Result<(f32, Vec<Vec<f32>>)> {
        self.whole()?;
        let (sum, gradients) = self.backward(batch)?;
        let gradients = gradients.into_inner()?;
        let Measured { loss, .. } = Measured::wait(&self.model.units.group, &sum, &gradients, batch)?;
        let mut values = Vec::with_capacity(self.model.units.specs.len());
        for (unit, flat) in self.model.units.all.iter().zip(gradients) {
            for view in flat.f_split_with_sizes(&unit.lengths[..], 0)? {
                values.push(to_vec(&view)?);
            }
        }
        Ok((loss as f32, values))
    }

    /// This rank's part of the mean loss, an fp32 scalar on its device that nothing has waited for, and the gradients.
    pub(crate) fn backward(&self, batch: &TokenBatch) -> Result<(Tensor, Gradients)> {
        self.check(batch)?;
        let scale = 1.0 / batch.targets() as f64;
        let group = &self.model.units.group;
        let batch = &*batch.share(group.rank(), group.world())?;
        let mut gradients = Gradients::none(&self.model.units);
        let mut sum: Option<Tensor> = None;
        for ids in batch.micro_batches(self.micro_batch.unwrap_or(batch.sequences())) {
            let (inputs, targets) = ids.to_tensors(self.model.device)?;
            let part = self.model.backward(&inputs, &targets, scale, &mut gradients)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&part)?,
                None => part,
            });
        }
        let nothing = || Tensor::f_zeros([], (Kind::Float, self.model.device));
        Ok((sum.map_or_else(nothing, Ok)?, gradients))
    }

    /// Mean cross-entropy of every sequence of `batch`, in nats per token; changes nothing. May be NaN if the
    /// parameters are.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the batch does not fit the model.
    pub fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>> {
        self.whole()?;
        self.check(batch)?;
        let mut losses = Vec::with_capacity(batch.sequences());
        for ids in batch.micro_batches(self.micro_batch.unwrap_or(batch.sequences())) {
            let (inputs, targets) = ids.to_tensors(self.model.device)?;
            let tokens = self.model.token_losses(&inputs, &targets)?;
            losses.extend(to_vec(&tokens.f_mean_dim(Some([1_i64].as_slice()), false, Kind::Float)?)?);
        }
        Ok(losses)
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

    /// The tokens that follow `prompt`, without it. Only as much of the end as the model's context holds is seen.
    ///
    /// # Errors
    /// As [`generate_with`](Self::generate_with).
    pub fn generate(&self, prompt: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.generate_with(prompt, options, |token| {
            tokens.push(token);
            true
        })?;
        Ok(tokens)
    }

    /// The same, each token as soon as it is chosen, until `take` says no.
    ///
    /// Keys and values of what has passed are kept, so a token costs one position; once the context is full, it slides,
    /// and a token costs all of it.
    ///
    /// # Errors
    /// [`Error::Setting`] if an option is out of range, [`Error::Batch`] if the prompt is empty, [`Error::Token`] if
    /// it holds an id that the model does not have, [`Error::NotFinite`] if the model's weights are no numbers.
    pub fn generate_with(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut take: impl FnMut(u32) -> bool,
    ) -> Result<()> {
        self.whole()?;
        options.validate()?;
        if prompt.is_empty() {
            return Err(Error::Batch {
                sequences: 1,
                sequence_length: 0,
                reason: "the prompt is empty".into(),
            });
        }
        check_ids(prompt, self.model.config.vocab_size)?;
        let context = self.model.config.max_position_embeddings;
        let mut sampler = Sampler::new(options);
        let mut tokens = prompt.to_vec();
        tokens.drain(..tokens.len().saturating_sub(context));
        let longest = context.min(tokens.len().saturating_add(options.max_new_tokens));
        let mut decoding = Decoding::new(&self.model, longest as i64)?;
        let mut passed = 0;
        for _ in 0..options.max_new_tokens {
            if tokens.len() > context {
                // Every position has moved by one, so nothing that was kept is right any more.
                tokens.remove(0);
                decoding.clear();
                passed = 0;
            }
            let ids = id_tensor(&tokens[passed..], tokens.len() - passed, self.model.device)?;
            let logits = to_vec(&decoding.extend(&self.model, &ids)?)?;
            if logits.iter().all(|logit| logit.is_nan()) {
                return Err(Error::NotFinite { what: "logits", value: f64::NAN });
            }
            let token = sampler.choose(&logits) as u32;
            passed = tokens.len();
            tokens.push(token);
            if !take(token) || options.stop_tokens.contains(&token) {
                break;
            }
        }
        Ok(())
    }

    fn check(&self, batch: &TokenBatch) -> Result<()> {
        batch.check(self.model.config.vocab_size, self.model.config.max_position_embeddings)
    }
}
