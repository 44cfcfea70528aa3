//! Records for tests.

use crate::{
    Compression, Digest, FORMAT_VERSION, Manifest, ModelConfig, Official, Outer, Scoring, SigningKey,
    Timestamp, Training, Validator, Windows,
};

/// A manifest with a small model, whose validators have the keys of `seeds`.
pub(crate) fn manifest(seeds: &[u8]) -> Manifest {
    let id = |seed: u8| SigningKey::from_seed(&[seed; 32]).peer_id();
    Manifest {
        version: FORMAT_VERSION,
        name: "test".into(),
        created_at: Timestamp(1),
        aggregator: Official { id: id(0), seal_to: "age1aggregator".into() },
        validators: seeds
            .iter()
            .map(|seed| Validator { id: id(*seed), seal_to: format!("age1validator{seed}"), stake: 1 })
            .collect(),
        model: ModelConfig {
            vocab_size: 256,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: None,
            max_position_embeddings: 64,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
        },
        dataset: Digest([7; 32]),
        training: Training { sequence_length: 64, ..Training::default() },
        compression: Compression::default(),
        outer: Outer::default(),
        windows: Windows::default(),
        scoring: Scoring::default(),
        gauntlet: crate::gauntlet::Gauntlet::default(),
        initial_state_root: Digest([8; 32]),
    }
}
