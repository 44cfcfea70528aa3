//! A tiny model with fixed weights.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use brigade_protocol::ModelConfig;
use brigade_trainer::{ComputeDtype, DeviceChoice, TokenBatch, Trainer, TrainerConfig};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub fn tiny(tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 23,
        hidden_size: 24,
        intermediate_size: 37,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: Some(8),
        max_position_embeddings: 16,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings,
        initializer_range: 0.02,
        rope_scaling: None,
        attention_bias: false,
        mlp_bias: false,
    }
}

pub fn config(model: ModelConfig) -> TrainerConfig {
    TrainerConfig {
        device: DeviceChoice::Cpu,
        compute_dtype: ComputeDtype::Float32,
        threads: Some(1),
        ..TrainerConfig::new(model)
    }
}

/// Uniform weights of standard deviation 0.1; norms around one.
pub fn weights(model: &ModelConfig, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |mean: f32| mean + (rng.random::<f32>() - 0.5) * 0.35;
    let tensor = |spec: &brigade_protocol::TensorSpec| {
        let mean = if spec.shape.len() == 1 { 1.0 } else { 0.0 };
        (0..spec.numel()).map(|_| draw(mean)).collect()
    };
    model.tensors().iter().map(tensor).collect()
}

pub fn trainer(config: TrainerConfig) -> Trainer {
    let values = weights(&config.model, 1);
    let mut trainer = Trainer::new(config).unwrap();
    trainer.load_parameters(&values).unwrap();
    trainer
}

pub fn batch(model: &ModelConfig, sequences: usize, length: usize, seed: u64) -> TokenBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let ids = (0..sequences * (length + 1)).map(|_| rng.random_range(0..model.vocab_size as u32)).collect();
    TokenBatch::new(ids, sequences, length).unwrap()
}
