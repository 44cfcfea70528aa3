//! The model's shape, and the tensors that it implies.
//!
//! Names and shapes are those of `transformers`' `LlamaForCausalLM`, so that a checkpoint is a Hugging Face
//! folder as it lies.

mod hugging_face;
mod presets;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The hyperparameters of a Llama, named as in Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Number of token ids, and of rows in the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU hidden layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads; divides `num_attention_heads` (GQA, arXiv 2305.13245).
    pub num_key_value_heads: usize,
    /// Width of one head; `hidden_size / num_attention_heads` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// The longest context that the model is trained for, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies (RoPE, arXiv 2104.09864).
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched for a longer context; not at all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in RMSNorm.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding itself.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Whether the four projections of attention have a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attention_bias: bool,
    /// Whether the three projections of the feed-forward layer have a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mlp_bias: bool,
    /// Standard deviation of the normal distribution that weights are drawn from.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
}

/// Stretched rotary frequencies, as in `rope_scaling` of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3's: long waves are stretched, short ones are not, and those between in part (arXiv 2407.21783, §3.4.2, and the
    /// model's published code).
    Llama3 {
        /// How much long waves are stretched.
        factor: f64,
        /// Waves longer than `original_max_position_embeddings` divided by this are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_position_embeddings` divided by this are short.
        high_freq_factor: f64,
        /// The context, in tokens, before it was extended.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    fn validate(&self) -> Result<(), Error> {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
            self;
        let positive = [
            ("factor", factor),
            ("low_freq_factor", low_freq_factor),
            ("high_freq_factor", high_freq_factor),
        ];
        for (field, value) in positive {
            if !(value.is_finite() && *value > 0.0) {
                let reason = format!("has {field} {value}, must be positive and finite");
                return Err(Error::model("rope_scaling", reason));
            }
        }
        if high_freq_factor <= low_freq_factor {
            return Err(Error::model(
                "rope_scaling",
                "must have a high_freq_factor above its low_freq_factor",
            ));
        }
        if !(1..=1 << 24).contains(original_max_position_embeddings) {
            let reason = format!(
                "has original_max_position_embeddings {original_max_position_embeddings}, must be between 1 and 16777216"
            );
            return Err(Error::model("rope_scaling", reason));
        }
        Ok(())
    }
}

// Serde wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_rms_norm_eps() -> f64 {
    1e-5
}

fn default_initializer_range() -> f64 {
    0.02
}

/// One parameter tensor: its Hugging Face name and its shape (one or two dimensions).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name, as in `transformers`' `state_dict`.
    pub name: String,
    /// Extent of every dimension, row-major.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Every parameter, in the one order that layouts, state roots and update files use.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim();
        let kv = self.num_key_value_heads * self.head_dim();
        let mut tensors = vec![TensorSpec::new("model.embed_tokens.weight", [self.vocab_size, d])];
        for layer in 0..self.num_hidden_layers {
            let mut push = |name: &str, shape: &[usize]| {
                tensors.push(TensorSpec::new(format!("model.layers.{layer}.{name}"), shape));
            };
            push("input_layernorm.weight", &[d]);
            // What is multiplied by the same activations lies together.
            let projections = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
            projections
                .iter()
                .for_each(|(name, rows)| push(&format!("self_attn.{name}.weight"), &[*rows, d]));
            if self.attention_bias {
                projections.iter().for_each(|(name, rows)| push(&format!("self_attn.{name}.bias"), &[*rows]));
            }
            push("self_attn.o_proj.weight", &[d, q]);
            if self.attention_bias {
                push("self_attn.o_proj.bias", &[d]);
            }
            push("post_attention_layernorm.weight", &[d]);
            push("mlp.gate_proj.weight", &[f, d]);
            push("mlp.up_proj.weight", &[f, d]);
            if self.mlp_bias {
                push("mlp.gate_proj.bias", &[f]);
                push("mlp.up_proj.bias", &[f]);
            }
            push("mlp.down_proj.weight", &[d, f]);
            if self.mlp_bias {
                push("mlp.down_proj.bias", &[d]);
            }
        }
        tensors.push(TensorSpec::new("model.norm.weight", [d]));
        if !self.tie_word_embeddings {
            tensors.push(TensorSpec::new("lm_head.weight", [self.vocab_size, d]));
        }
        tensors
    }

    /// Number of parameters; a tied embedding counts once.
    pub fn num_parameters(&self) -> usize {
        self.tensors().iter().map(TensorSpec::numel).sum()
    }

    /// Checks that the extents are positive and fit each other.
    ///
    /// # Errors
    /// [`Error::Model`] names the field and what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        // The bound keeps every product of two extents far inside usize, whatever a stranger's manifest says.
        for (field, value) in positive {
            if value == 0 || value > 1 << 24 {
                return Err(Error::model(field, format!("is {value}, must be between 1 and 16777216")));
            }
        }
        if self.num_hidden_layers > 4096 {
            return Err(Error::model("num_hidden_layers", "must be at most 4096"));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(Error::model("num_key_value_heads", "must divide num_attention_heads"));
        }
        // Also with an explicit head_dim: transformers refuses the folder otherwise.
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::model("num_attention_heads", "must divide hidden_size"));
        }
        let head_dim = self.head_dim();
        if head_dim == 0 || head_dim > 1 << 16 || !head_dim.is_multiple_of(2) {
            return Err(Error::model("head_dim", format!("is {head_dim}, must be even and at most 65536")));
        }
        let heads = self.num_attention_heads * head_dim;
        if heads > 1 << 24 {
            return Err(Error::model(
                "head_dim",
                format!("makes the heads {heads} wide, must be at most 16777216"),
            ));
        }
        for (field, value) in [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::model(field, format!("is {value}, must be positive and finite")));
            }
        }
        self.rope_scaling.as_ref().map_or(Ok(()), RopeScaling::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covenant() -> ModelConfig {
        ModelConfig::preset("covenant-72b").unwrap()
    }

    #[test]
    fn tied_models_have_no_output_projection() {
        let tied = ModelConfig { tie_word_embeddings: true, ..covenant() };
        assert_eq!(tied.num_parameters(), 72_747_327_488 - 262_144 * 8192);
        assert!(tied.tensors().iter().all(|t| t.name != "lm_head.weight"));
    }

    #[test]
    fn biases_stand_behind_their_weights() {
        let names = |model: ModelConfig| -> Vec<String> {
            let block = model
                .tensors()
                .into_iter()
                .filter_map(|t| Some(t.name.strip_prefix("model.layers.0.")?.to_owned()));
            block.collect()
        };
        let plain = names(covenant());
        let both = names(ModelConfig { attention_bias: true, mlp_bias: true, ..covenant() });
        assert_eq!((plain.len(), both.len()), (9, 16));
        assert_eq!(both.iter().filter(|name| name.ends_with(".weight")).cloned().collect::<Vec<_>>(), plain);
        for bias in both.iter().filter_map(|name| name.strip_suffix(".bias")) {
            assert!(plain.contains(&format!("{bias}.weight")), "{bias}");
        }
    }

    #[test]
    fn misfits_are_refused_by_name() {
        covenant().validate().unwrap();
        let bad = ModelConfig { num_key_value_heads: 7, ..covenant() };
        assert!(bad.validate().unwrap_err().to_string().contains("num_key_value_heads"));
        for (factor, low_freq_factor, high_freq_factor, context) in
            [(f64::NAN, 1.0, 4.0, 8192), (8.0, 4.0, 4.0, 8192), (8.0, 0.0, 4.0, 8192), (8.0, 1.0, 4.0, 0)]
        {
            let original_max_position_embeddings = context;
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            };
            let bad = ModelConfig { rope_scaling: Some(scaling), ..covenant() };
            assert!(bad.validate().unwrap_err().to_string().contains("rope_scaling"));
        }
        let huge = ModelConfig { vocab_size: usize::MAX, ..covenant() };
        assert!(huge.validate().unwrap_err().to_string().contains("vocab_size"));
    }
}
