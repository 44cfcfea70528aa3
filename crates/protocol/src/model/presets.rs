//! Models by name.

use super::ModelConfig;

impl ModelConfig {
    /// The names that [`preset`](Self::preset) knows, from the smallest model to the largest.
    pub const PRESETS: [&str; 5] = ["demo", "150m", "1b", "8b", "covenant-72b"];

    /// A model by its name: `demo` learns to spell on two cores; `150m` and `1b` are for trials on one GPU; `8b` is Llama 3's;
    /// `covenant-72b` is Covenant-72B's, with untied embeddings and a vocabulary of 2^18, as its published number of parameters
    /// implies.
    pub fn preset(name: &str) -> Option<Self> {
        let [vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, context] = match name {
            "demo" => [4096, 256, 704, 4, 4, 2, 256],
            "150m" => [32_000, 768, 2048, 14, 12, 12, 2048],
            "1b" => [32_000, 2048, 8192, 16, 32, 8, 2048],
            "8b" => [128_256, 4096, 14_336, 32, 32, 8, 8192],
            "covenant-72b" => [262_144, 8192, 28_672, 80, 64, 8, 2048],
            _ => return None,
        };
        let is_small = matches!(name, "demo" | "150m");
        Some(Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: None,
            max_position_embeddings: context,
            rope_theta: if is_small { 10_000.0 } else { 500_000.0 },
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: name == "demo",
            attention_bias: false,
            mlp_bias: false,
            initializer_range: 0.02,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_numbers_of_parameters_that_are_published() {
        let parameters = |name| ModelConfig::preset(name).unwrap().num_parameters();
        // Llama 3 8B's, and Covenant-72B's.
        assert_eq!(parameters("8b"), 8_030_261_248);
        assert_eq!(parameters("covenant-72b"), 72_747_327_488);
        // Two embeddings, a norm, and blocks of 4·768² + 3·768·2048 and of 2.5·2048² + 3·2048·8192, with two norms each.
        assert_eq!((parameters("150m"), parameters("1b")), (148_264_704, 1_104_218_112));
        for name in ModelConfig::PRESETS {
            ModelConfig::preset(name).unwrap().validate().unwrap();
        }
        assert_eq!(ModelConfig::preset("70b"), None);
    }
}
