//! θ as plain numbers, and its state root.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

use crate::{Digest, Error, ModelConfig, TensorSpec};

/// Elements in one leaf of the state root. A sharded peer hashes the leaves that it holds.
const LEAF_ELEMENTS: usize = 1 << 20;

/// The values of every tensor of a model, fp32, in the order of [`ModelConfig::tensors`].
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    specs: Vec<TensorSpec>,
    tensors: Vec<Vec<f32>>,
}

impl Parameters {
    /// Takes `tensors` as the values of `specs`.
    ///
    /// # Errors
    /// [`Error::Shape`] names the first tensor whose number of elements does not fit.
    pub fn new(specs: Vec<TensorSpec>, tensors: Vec<Vec<f32>>) -> Result<Self, Error> {
        if specs.len() != tensors.len() {
            return Err(Error::Shape { tensor: "all".into(), expected: specs.len(), found: tensors.len() });
        }
        for (spec, tensor) in specs.iter().zip(&tensors) {
            if spec.numel() != tensor.len() {
                let (expected, found) = (spec.numel(), tensor.len());
                return Err(Error::Shape { tensor: spec.name.clone(), expected, found });
            }
        }
        Ok(Self { specs, tensors })
    }

    /// All zeros: an empty error feedback.
    pub fn zeros(model: &ModelConfig) -> Self {
        let specs = model.tensors();
        let tensors = specs.iter().map(|spec| vec![0.0; spec.numel()]).collect();
        Self { specs, tensors }
    }

    /// Fresh weights: norms one, biases zero, everything else normal with standard deviation `initializer_range`, the
    /// projections back into the residual stream divided by √(2 · layers) (GPT-2, Radford et al. 2019, §2.3).
    pub fn initialise(model: &ModelConfig, seed: &[u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(*seed);
        let residual = (2.0 * model.num_hidden_layers as f64).sqrt();
        let specs = model.tensors();
        let tensors = specs
            .iter()
            .map(|spec| {
                if spec.shape.len() == 1 {
                    return vec![if spec.name.ends_with(".bias") { 0.0 } else { 1.0 }; spec.numel()];
                }
                let writes_residual =
                    spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
                let std = model.initializer_range / if writes_residual { residual } else { 1.0 };
                normal(&mut rng, spec.numel(), std)
            })
            .collect();
        Self { specs, tensors }
    }

    /// Names and shapes.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Values, one vector a tensor.
    pub fn tensors(&self) -> &[Vec<f32>] {
        &self.tensors
    }

    /// Values, to be changed in place; lengths must stay.
    pub fn tensors_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.tensors
    }

    /// The [`state_root`].
    pub fn root(&self) -> Digest {
        state_root(self.specs.iter().zip(self.tensors.iter().map(|tensor| leaf_digests(tensor))))
    }
}

/// The state root: SHA-256 over every tensor's name, shape and leaves, in the order of [`ModelConfig::tensors`].
pub fn state_root<'a>(tensors: impl IntoIterator<Item = (&'a TensorSpec, Vec<Digest>)>) -> Digest {
    let mut root = Sha256::new();
    root.update(b"brigade state root v1");
    for (spec, leaves) in tensors {
        root.update((spec.name.len() as u64).to_le_bytes());
        root.update(spec.name.as_bytes());
        root.update((spec.shape.len() as u64).to_le_bytes());
        for extent in &spec.shape {
            root.update((*extent as u64).to_le_bytes());
        }
        leaves.iter().for_each(|leaf| root.update(leaf.0));
    }
    Digest(root.finalize().into())
}

/// The leaves of one tensor, for who does not hold all of θ at once.
///
/// A leaf is the SHA-256 of 2²⁰ elements (the last may be shorter) as little-endian fp32; its bits count, so that −0 and 0
/// differ and a NaN has its own root.
pub fn leaf_digests(values: &[f32]) -> Vec<Digest> {
    values.chunks(LEAF_ELEMENTS).map(leaf_digest).collect()
}

fn leaf_digest(values: &[f32]) -> Digest {
    let mut hasher = Sha256::new();
    let mut buffer = [0; 4096];
    for block in values.chunks(buffer.len() / 4) {
        for (bytes, value) in buffer.chunks_exact_mut(4).zip(block) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&buffer[..block.len() * 4]);
    }
    Digest(hasher.finalize().into())
}

/// `count` draws from N(0, std²) by Box and Muller's method.
fn normal(rng: &mut ChaCha20Rng, count: usize, std: f64) -> Vec<f32> {
    // 53 random bits, moved off zero so that the logarithm stays finite.
    let mut uniform = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let mut out = Vec::with_capacity(count + 1);
    while out.len() < count {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt() * std, std::f64::consts::TAU * uniform());
        out.push((radius * angle.cos()) as f32);
        out.push((radius * angle.sin()) as f32);
    }
    out.truncate(count);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: None,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
        }
    }

    #[test]
    fn root_sees_every_value_and_every_bit() {
        let theta = Parameters::initialise(&tiny(), &[1; 32]);
        let root = theta.root();
        assert_eq!(root, theta.clone().root());
        for tensor in 0..theta.tensors().len() {
            let mut other = theta.clone();
            let last = other.tensors()[tensor].len() - 1;
            let value = &mut other.tensors_mut()[tensor][last];
            *value = f32::from_bits(value.to_bits() ^ 1);
            assert_ne!(other.root(), root, "tensor {tensor}");
        }
    }

    #[test]
    fn initial_weights_have_the_promised_spread() {
        let theta = Parameters::initialise(&tiny(), &[1; 32]);
        let embedding = &theta.tensors()[0];
        let mean = embedding.iter().sum::<f32>() / embedding.len() as f32;
        let std = (embedding.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / embedding.len() as f32).sqrt();
        assert!((std - 0.02).abs() < 0.002, "{std}");
        assert!(mean.abs() < 0.002, "{mean}");
        assert_ne!(theta, Parameters::initialise(&tiny(), &[2; 32]));
    }

    #[test]
    fn misfits_are_refused_by_name() {
        let specs = tiny().tensors();
        let mut tensors: Vec<_> = specs.iter().map(|s| vec![0.0; s.numel()]).collect();
        tensors[3].pop();
        let error = Parameters::new(specs, tensors).unwrap_err().to_string();
        assert!(error.contains("model.layers.0.self_attn.k_proj.weight"), "{error}");
    }
}
