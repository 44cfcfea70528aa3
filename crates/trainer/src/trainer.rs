//! One model in training, on one device.

use brigade_codec::{Binding, CodecConfig, Layout};
use brigade_protocol::ModelConfig;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    ComputeDtype, DeviceChoice, Error, GenerateOptions, OptimizerConfig, Recompute, Result, TokenBatch,
    batch::{check_ids, check_length, id_tensor},
    compress::compress,
    generate::Sampler,
    model::{Decoding, Gradients, Llama, to_vec},
    optimizer::Optimizer,
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
}

impl TrainerConfig {
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

/// A model, its fp32 master weights and its optimiser state.
///
/// May be moved to another thread, as training runs on a thread of its own, but not shared between threads.
#[derive(Debug)]
pub struct Trainer {
    model: Llama,
    settings: OptimizerConfig,
    /// From the first step on: who only measures needs no room for moments, which take twice that of the weights.
    optimizer: Option<Optimizer>,
    micro_batch: Option<usize>,
}

impl Trainer {
    /// A model whose parameters are all zero until they are loaded.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Setting`] if a number is out of range, [`Error::Device`] if the device is not
    /// there, [`Error::TooLarge`] or [`Error::Torch`] if no memory, or not the device's, can hold the model.
    pub fn new(config: TrainerConfig) -> Result<Self> {
        let TrainerConfig {
            model,
            device,
            compute_dtype,
            threads,
            optimizer: settings,
            micro_batch,
            recompute,
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
        let model = Llama::zeros(model, precision, device, recompute)?;
        tracing::debug!(parameters = model.config.num_parameters(), ?device, ?precision, "made a trainer");
        Ok(Self { model, settings, optimizer: None, micro_batch })
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

    /// Overwrites the fp32 master weights; `tensors[i]` is the i-th of [`ModelConfig::tensors`], row-major. The
    /// optimiser's state stays.
    ///
    /// # Errors
    /// [`Error::TensorCount`] or [`Error::TensorLength`]; then nothing has changed.
    pub fn load_parameters(&mut self, tensors: &[impl AsRef<[f32]>]) -> Result<()> {
        self.model.units.load(tensors)
    }

    /// The fp32 master weights, in the order of [`ModelConfig::tensors`], row-major.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn parameters(&self) -> Result<Vec<Vec<f32>>> {
        self.model.units.read()
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
        if self.model.device != Device::Cpu {
            return compress(layout, binding, config, theta, &self.model.units.masters()?, e);
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
        let (loss, gradients) = self.backward(batch)?;
        let mut optimizer = self.take_optimizer()?;
        let stepped = optimizer.step(&mut self.model.units, gradients, lr);
        self.optimizer = Some(optimizer);
        let grad_norm = stepped?;
        Ok(StepStats { loss: loss as f32, grad_norm: grad_norm as f32, tokens: batch.targets() })
    }

    /// The mean loss of `batch` and its gradients, in the order of [`ModelConfig::tensors`]; changes nothing.
    ///
    /// # Errors
    /// As [`inner_step`](Self::inner_step).
    pub fn gradients(&self, batch: &TokenBatch) -> Result<(f32, Vec<Vec<f32>>)> {
        let (loss, gradients) = self.backward(batch)?;
        let mut values = Vec::with_capacity(self.model.units.specs.len());
        for (unit, flat) in self.model.units.all.iter().zip(gradients.into_inner()?) {
            for view in flat.f_split_with_sizes(&unit.lengths[..], 0)? {
                values.push(to_vec(&view)?);
            }
        }
        Ok((loss as f32, values))
    }

    fn backward(&self, batch: &TokenBatch) -> Result<(f64, Gradients)> {
        self.check(batch)?;
        let scale = 1.0 / batch.targets() as f64;
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
        let loss = sum.map_or(Ok(f64::NAN), |sum| sum.f_double_value(&[]))? * scale;
        match loss.is_finite() {
            true => Ok((loss, gradients)),
            false => Err(Error::NotFinite { what: "loss", value: loss }),
        }
    }

    /// Mean cross-entropy of every sequence of `batch`, in nats per token; changes nothing. May be NaN if the
    /// parameters are.
    ///
    /// # Errors
    /// [`Error::Batch`] or [`Error::Token`] if the batch does not fit the model.
    pub fn losses(&self, batch: &TokenBatch) -> Result<Vec<f32>> {
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
    pub fn save_optimizer(&self) -> Result<Vec<u8>> {
        match &self.optimizer {
            Some(optimizer) => optimizer.save(&self.model.units),
            None => Optimizer::new(self.settings, &self.model.units)?.save(&self.model.units),
        }
    }

    /// Takes over what [`save_optimizer`](Self::save_optimizer) wrote.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] if the bytes are not the state of this model; then nothing has changed.
    pub fn load_optimizer(&mut self, bytes: &[u8]) -> Result<()> {
        let mut optimizer = self.take_optimizer()?;
        let loaded = optimizer.load(&self.model.units, bytes);
        self.optimizer = Some(optimizer);
        loaded
    }

    /// Makes room for the optimiser's moments, which else come with the first step: too little memory shows now.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn prepare_training(&mut self) -> Result<()> {
        self.optimizer = Some(self.take_optimizer()?);
        Ok(())
    }

    /// The optimiser as it is, or a new one; to be put back.
    fn take_optimizer(&mut self) -> Result<Optimizer> {
        self.optimizer.take().map_or_else(|| Optimizer::new(self.settings, &self.model.units), Ok)
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
