//! The model's shape, and the tensors that it implies.
//!
//! Names and shapes are those of `transformers`' `LlamaForCausalLM`, so that a checkpoint is a Hugging Face
//! folder as it lies.

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
    /// Added to the mean square in RMSNorm.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding itself.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Standard deviation of the normal distribution that weights are drawn from.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
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
            let block = [
                ("input_layernorm.weight", vec![d]),
                ("self_attn.q_proj.weight", vec![q, d]),
                ("self_attn.k_proj.weight", vec![kv, d]),
                ("self_attn.v_proj.weight", vec![kv, d]),
                ("self_attn.o_proj.weight", vec![d, q]),
                ("post_attention_layernorm.weight", vec![d]),
                ("mlp.gate_proj.weight", vec![f, d]),
                ("mlp.up_proj.weight", vec![f, d]),
                ("mlp.down_proj.weight", vec![d, f]),
            ];
            tensors.extend(
                block
                    .into_iter()
                    .map(|(name, shape)| TensorSpec::new(format!("model.layers.{layer}.{name}"), shape)),
            );
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
        Ok(())
    }

    /// The shape that a `config.json` of `transformers` stands for. What changes numbers must be there, because its default
    /// has changed between versions of `transformers`.
    ///
    /// # Errors
    /// [`Error::Model`] names what this family of models does not have (another activation, biases, scaled RoPE), and a
    /// field that is missing or impossible.
    pub fn from_hugging_face(config: &serde_json::Value) -> Result<Self, Error> {
        let plain = [
            ("model_type", serde_json::json!("llama")),
            ("hidden_act", serde_json::json!("silu")),
            ("attention_bias", serde_json::json!(false)),
            ("mlp_bias", serde_json::json!(false)),
            ("rope_scaling", serde_json::Value::Null),
        ];
        for (field, expected) in plain {
            // Left out means the default of transformers, which for these is the plain model.
            match config.get(field) {
                Some(found) if *found != expected => {
                    return Err(Error::model(field, format!("is {found}, only {expected} is supported")));
                }
                _ => {}
            }
        }
        for field in ["rope_theta", "rms_norm_eps"] {
            if config.get(field).is_none() {
                return Err(Error::model(field, "is missing"));
            }
        }
        let mut fields = config.clone();
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|field, value| Self::FIELDS.contains(&field.as_str()) && !value.is_null());
        }
        let model: Self =
            serde_json::from_value(fields).map_err(|error| Error::model("config.json", error.to_string()))?;
        model.validate()?;
        Ok(model)
    }

    /// The fields of `config.json` that are taken over.
    const FIELDS: [&str; 12] = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
        "tie_word_embeddings",
        "initializer_range",
    ];

    /// The `config.json` that `transformers` reads.
    pub fn to_hugging_face(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim(),
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "torch_dtype": "float32",
            "use_cache": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hugging_face_config_comes_back() {
        let model = covenant();
        let config = model.to_hugging_face();
        let read = ModelConfig::from_hugging_face(&config).unwrap();
        assert_eq!(read, ModelConfig { head_dim: Some(model.head_dim()), ..model });
        for (field, value) in [
            ("model_type", serde_json::json!("mistral")),
            ("attention_bias", serde_json::json!(true)),
            ("rope_scaling", serde_json::json!({ "rope_type": "llama3" })),
            ("hidden_size", serde_json::json!(0)),
        ] {
            let mut other = config.clone();
            other[field] = value;
            let error = ModelConfig::from_hugging_face(&other).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        assert!(ModelConfig::from_hugging_face(&serde_json::json!([])).is_err());
    }

    fn covenant() -> ModelConfig {
        ModelConfig {
            vocab_size: 262_144,
            hidden_size: 8192,
            intermediate_size: 28_672,
            num_hidden_layers: 80,
            num_attention_heads: 64,
            num_key_value_heads: 8,
            head_dim: None,
            max_position_embeddings: 2048,
            rope_theta: 500_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }

    #[test]
    fn covenant_72b_has_the_published_number_of_parameters() {
        assert_eq!(covenant().num_parameters(), 72_747_327_488);
    }

    #[test]
    fn tied_models_have_no_output_projection() {
        let tied = ModelConfig { tie_word_embeddings: true, ..covenant() };
        assert_eq!(tied.num_parameters(), 72_747_327_488 - 262_144 * 8192);
        assert!(tied.tensors().iter().all(|t| t.name != "lm_head.weight"));
    }

    #[test]
    fn misfits_are_refused_by_name() {
        covenant().validate().unwrap();
        let bad = ModelConfig { num_key_value_heads: 7, ..covenant() };
        assert!(bad.validate().unwrap_err().to_string().contains("num_key_value_heads"));
        let huge = ModelConfig { vocab_size: usize::MAX, ..covenant() };
        assert!(huge.validate().unwrap_err().to_string().contains("vocab_size"));
    }
}
