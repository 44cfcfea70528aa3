//! Llama as in `transformers`' `LlamaForCausalLM`, block by block.
//!
//! A block's input is a leaf of its own graph and its backward pass is a call of its own, so whatever has to happen
//! between blocks (recomputing one, gathering its parameters, scattering its gradient) is a line between two calls.

mod attention;
mod block;
mod decode;
mod gradients;
mod loss;
mod mlp;
mod norm;
mod rope;
mod run;
mod unit;

use std::{cell::RefCell, sync::Arc};

use brigade_protocol::{ModelConfig, TensorSpec};
use brigade_torch_ext::autograd::Scratch;
use tch::{Device, Kind, Tensor};

pub(crate) use self::decode::Decoding;
pub(crate) use self::gradients::Gradients;
pub(crate) use self::unit::{Units, to_vec};
use self::{
    block::block,
    norm::rms_norm,
    rope::Rope,
    run::{BlockRun, vjp},
};
use crate::{Error, Recompute, Result, device::Precision, ranks::Group};

/// The extents that a block needs, as libtorch counts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) hidden: i64,
    pub(crate) intermediate: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) head_dim: i64,
    pub(crate) eps: f64,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
}

impl Shape {
    fn new(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden_size as i64,
            intermediate: config.intermediate_size as i64,
            heads: config.num_attention_heads as i64,
            kv_heads: config.num_key_value_heads as i64,
            head_dim: config.head_dim() as i64,
            eps: config.rms_norm_eps,
            attention_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
        }
    }
}

/// Refuses what would overflow the arithmetic on sizes; what is merely too large for the device, libtorch refuses.
fn check_size(config: &ModelConfig) -> Result<()> {
    let numel = |spec: &TensorSpec| spec.shape.iter().map(|&extent| extent as u128).product::<u128>();
    let parameters: u128 = config.tensors().iter().map(numel).sum();
    if parameters > 1 << 56 { Err(Error::TooLarge { parameters }) } else { Ok(()) }
}

/// A model with its parameters on one device.
#[derive(Debug)]
pub(crate) struct Llama {
    pub(crate) config: ModelConfig,
    pub(crate) units: Units,
    pub(crate) device: Device,
    precision: Precision,
    shape: Shape,
    recompute: Recompute,
    /// The longest table made so far.
    rope: RefCell<Option<Rope>>,
    /// What the weights in a graph point to between its forward and backward pass, if they are gathered from ranks.
    scratch: RefCell<Option<Scratch>>,
}

impl Llama {
    /// A model whose parameters are all zero.
    pub(crate) fn zeros(
        config: ModelConfig,
        precision: Precision,
        device: Device,
        recompute: Recompute,
        group: Arc<Group>,
    ) -> Result<Self> {
        config.validate()?;
        check_size(&config)?;
        let units = Units::zeros(&config, precision, device, group)?;
        let shape = Shape::new(&config);
        Ok(Self {
            config,
            units,
            device,
            precision,
            shape,
            recompute,
            rope: RefCell::new(None),
            scratch: RefCell::new(None),
        })
    }

    /// Hidden states after the last norm, `[sequences, length, hidden]` in the compute dtype, for ids int64
    /// `[sequences, length]`. No graph is kept.
    pub(crate) fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let rope = self.rope(ids)?;
        let mut x = self.embed(ids)?;
        for layer in 0..self.config.num_hidden_layers {
            x = block(&self.units.weights(self.units.block(layer), false)?, &x, &rope, &self.shape, None)?;
        }
        rms_norm(&x, &self.units.weights(self.units.norm(), false)?, self.shape.eps)
    }

    /// fp32 logits `[.., vocab]` of hidden states `[.., hidden]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let hidden = hidden.f_to_kind(self.precision.products)?;
        Ok(hidden.f_linear(&self.output()?, None::<&Tensor>)?.f_to_kind(Kind::Float)?)
    }

    /// Dtype of activations.
    pub(crate) fn kind(&self) -> Kind {
        self.precision.activations
    }

    /// Dtype in which matrices are multiplied.
    pub(crate) fn product_kind(&self) -> Kind {
        self.precision.products
    }

    /// Cross-entropy of every target in nats, fp32 `[sequences, length]`; ids and targets are int64 of that shape.
    pub(crate) fn token_losses(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(ids)?.f_flatten(0, 1)?;
        let _guard = tch::no_grad_guard();
        let losses = loss::token_losses(&hidden, &self.output()?, &targets.f_flatten(0, 1)?)?;
        Ok(losses.f_view_as(targets)?)
    }

    /// Adds the gradients of `scale · Σ cross-entropy` to `gradients`; returns the sum without the scale, fp32.
    ///
    /// `ids` and `targets` are int64 `[sequences, length]`.
    pub(crate) fn backward(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        scale: f64,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let rope = self.rope(ids)?;
        let mut runs = Vec::with_capacity(self.config.num_hidden_layers);
        let mut x = self.embed(ids)?;
        for layer in 0..self.config.num_hidden_layers {
            let (run, output) = BlockRun::forward(self, layer, x, &rope)?;
            runs.push(run);
            x = output;
        }
        let (sum, mut gradient) = self.head_backward(x, targets, scale, gradients)?;
        while let Some(run) = runs.pop() {
            gradient = run.backward(self, &rope, gradient, gradients)?;
        }
        self.embed_backward(ids, &gradient, gradients)?;
        Ok(sum)
    }

    /// The last norm, the output projection and the loss; returns the loss and the gradient of `x`.
    fn head_backward(
        &self,
        mut x: Tensor,
        targets: &Tensor,
        scale: f64,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let x = x.f_requires_grad_(true)?;
        let weight = self.units.weights(self.units.norm(), true)?;
        let hidden = tch::with_grad(|| rms_norm(&x, &weight, self.shape.eps))?;
        let loss = {
            let _guard = tch::no_grad_guard();
            let flat = hidden.f_detach()?.f_flatten(0, 1)?;
            loss::loss_gradients(&flat, &self.output()?, &targets.f_flatten(0, 1)?, scale)?
        };
        gradients.add(&self.units, self.units.output(), loss.weight.f_flatten(0, -1)?)?;
        let [gradient, weight] = vjp(&hidden, &loss.hidden.f_view_as(&hidden)?, [&x, &weight])?;
        gradients.add(&self.units, self.units.norm(), weight)?;
        Ok((loss.sum, gradient))
    }

    /// Rows of the embedding, `[sequences, length, hidden]` in the compute dtype.
    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let table = self.units.weights(Units::EMBEDDING, false)?.f_view([-1, self.shape.hidden])?;
        Ok(Tensor::f_embedding(&table, ids, -1, false, false)?.f_to_kind(self.kind())?)
    }

    /// Adds the gradient of the embedding's rows, in fp32: a frequent token's row is a sum over many positions.
    fn embed_backward(&self, ids: &Tensor, gradient: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let wide = gradient.f_to_kind(Kind::Float)?;
        let rows = self.config.vocab_size as i64;
        let table = Tensor::f_embedding_dense_backward(&wide, ids, rows, -1, false)?;
        gradients.add(&self.units, Units::EMBEDDING, table.f_flatten(0, -1)?)
    }

    /// The output projection, `[vocab, hidden]` in the dtype of products.
    fn output(&self) -> Result<Tensor> {
        Ok(self.units.weights(self.units.output(), false)?.f_view([-1, self.shape.hidden])?)
    }

    /// Lets a block's gathered `weights` go, but for the graph that leads to them.
    fn park(&self, weights: &Tensor) -> Result<()> {
        let mut scratch = self.scratch.borrow_mut();
        if scratch.is_none() {
            // With the zeros that fill up the last rank's share.
            let numel = weights.size()[0] + self.units.group.world() as i64;
            *scratch = Some(Scratch::new(numel, weights.f_kind()?, self.device)?);
        }
        Ok(scratch.as_ref().map_or(Ok(()), |scratch| scratch.park(weights))?)
    }

    /// Rotary tables for the length of `ids` `[sequences, length]`.
    fn rope(&self, ids: &Tensor) -> Result<Rope> {
        self.rope_at(0, ids.size()[1])
    }

    /// Rotary tables of `length` positions from `start` on; made anew only beyond the longest ones ever.
    fn rope_at(&self, start: i64, length: i64) -> Result<Rope> {
        let mut cached = self.rope.borrow_mut();
        match cached.as_ref() {
            Some(rope) if rope.length() >= start + length => rope.part(start, length),
            _ => {
                let rope = Rope::new(&self.config, start + length, self.kind(), self.device)?;
                cached.insert(rope).part(start, length)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A model small enough for finite differences.
    pub(crate) fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 17,
            hidden_size: 12,
            intermediate_size: 10,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: Some(4),
            max_position_embeddings: 16,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
        }
    }

    #[test]
    fn bf16_is_the_same_whichever_way_it_is_multiplied() {
        let config = ModelConfig { vocab_size: 300, hidden_size: 64, intermediate_size: 96, ..tiny() };
        tch::manual_seed(3);
        let values: Vec<Vec<f32>> = config
            .tensors()
            .iter()
            .map(|spec| to_vec(&(Tensor::randn([spec.numel() as i64], tch::kind::FLOAT_CPU) * 0.1)).unwrap())
            .collect();
        let ids = Tensor::randint(300, [2, 16], tch::kind::INT64_CPU);
        let of = |precision| {
            let mut model =
                Llama::zeros(config.clone(), precision, Device::Cpu, Recompute::None, Group::alone())
                    .unwrap();
            model.units.load(Some(&values)).unwrap();
            let mut gradients = Gradients::none(&model.units);
            let loss = model.backward(&ids, &ids, 1.0, &mut gradients).unwrap().double_value(&[]);
            (loss, Tensor::cat(&gradients.into_inner().unwrap(), 0))
        };
        let (narrow, widened, exact) =
            (of(Precision::BFLOAT16), of(Precision::BFLOAT16_WIDENED), of(Precision::FLOAT32));
        let far = |a: &(f64, Tensor), b: &(f64, Tensor)| {
            ((a.0 / b.0 - 1.0).abs(), ((&a.1 - &b.1).norm() / b.1.norm()).double_value(&[]))
        };
        let (loss, gradient) = far(&narrow, &widened);
        let (from_exact, gradient_from_exact) = far(&widened, &exact);
        assert!(loss < 1e-3 && gradient < 2e-2, "{loss} {gradient}");
        // bf16 it is, not fp32 under another name.
        assert!(gradient_from_exact > gradient / 4.0 && gradient_from_exact > 1e-4);
        assert!(from_exact < 1e-2 && gradient_from_exact < 5e-2, "{from_exact} {gradient_from_exact}");
    }
}
