//! `config.json`, as `transformers` writes and reads it.

use serde_json::{Value, json};

use super::ModelConfig;
use crate::Error;

/// The fields that are taken over as they are.
const FIELDS: [&str; 12] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
];

impl ModelConfig {
    /// The shape that a `config.json` of `transformers` stands for, of version 4 or 5. What is left out has the default of its
    /// `LlamaConfig`.
    ///
    /// # Errors
    /// [`Error::Model`] names what this family of models does not have (another activation, another kind of RoPE, quantised
    /// weights, …), and a field that is missing or impossible.
    pub fn from_hugging_face(config: &Value) -> Result<Self, Error> {
        refuse_the_foreign(config)?;
        let mut fields = serde_json::Map::new();
        fields.insert("rms_norm_eps".into(), json!(1e-6));
        // Files older than grouped heads do not say that there are none.
        if let Some(heads) = config.get("num_attention_heads") {
            fields.insert("num_key_value_heads".into(), heads.clone());
        }
        for field in FIELDS.into_iter().chain(["initializer_range"]) {
            if let Some(value) = config.get(field).filter(|value| !value.is_null()) {
                fields.insert(field.into(), value.clone());
            }
        }
        let (theta, scaling) = rope(config)?;
        fields.insert("rope_theta".into(), theta);
        fields.extend(scaling.map(|scaling| ("rope_scaling".to_owned(), scaling)));
        let model: Self = serde_json::from_value(fields.into())
            .map_err(|error| Error::model("config.json", error.to_string()))?;
        model.validate()?;
        Ok(model)
    }

    /// The `config.json` that `transformers` reads.
    pub fn to_hugging_face(&self) -> Value {
        let mut config = json!({
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
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "torch_dtype": "float32",
            "use_cache": true,
        });
        if let Some(scaling) = &self.rope_scaling {
            config["rope_scaling"] = json!(scaling);
        }
        config
    }
}

/// Refuses, by its name, a field that makes another model of it. Left out means the default of `transformers`, which for
/// these is the plain model.
fn refuse_the_foreign(config: &Value) -> Result<(), Error> {
    let plain = [
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("hidden_act", json!("silu")),
        ("sliding_window", Value::Null),
        ("quantization_config", Value::Null),
    ];
    for (field, expected) in plain {
        match config.get(field) {
            Some(found) if *found != expected && !found.is_null() => {
                return Err(Error::model(field, format!("is {found}, only {expected} is supported")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `rope_theta`, and what stands for `rope_scaling` if there is any. Version 4 has them beside each other, version 5 together
/// in `rope_parameters`.
fn rope(config: &Value) -> Result<(Value, Option<Value>), Error> {
    let given = |field| config.get(field).filter(|value: &&Value| !value.is_null());
    if given("rope_parameters").is_some()
        && given("rope_scaling").is_some_and(|old| given("rope_parameters") != Some(old))
    {
        return Err(Error::model("rope_scaling", "differs from rope_parameters; leave one of them out"));
    }
    let field = if given("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let mut scaling = match given(field) {
        None => serde_json::Map::new(),
        Some(Value::Object(scaling)) => scaling.clone(),
        Some(other) => return Err(Error::model(field, format!("is {other}, must be an object"))),
    };
    let theta = scaling
        .remove("rope_theta")
        .or_else(|| given("rope_theta").cloned())
        .unwrap_or_else(|| json!(10_000.0));
    for factor in
        [scaling.remove("partial_rotary_factor"), given("partial_rotary_factor").cloned()].iter().flatten()
    {
        if factor.as_f64() != Some(1.0) {
            return Err(Error::model("partial_rotary_factor", format!("is {factor}, only 1 is supported")));
        }
    }
    // What early files of version 4 call it.
    let old_name = scaling.remove("type");
    let kind = scaling.get("rope_type").cloned().or(old_name).unwrap_or_else(|| json!("default"));
    match kind.as_str() {
        Some("default") => Ok((theta, None)),
        Some("llama3") => {
            scaling.insert("rope_type".into(), kind);
            Ok((theta, Some(scaling.into())))
        }
        _ => Err(Error::model(field, format!("is of type {kind}, only default and llama3 are supported"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RopeScaling;
    use super::*;

    fn model() -> ModelConfig {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        ModelConfig {
            rope_scaling: Some(scaling),
            attention_bias: true,
            ..ModelConfig::preset("8b").unwrap()
        }
    }

    #[test]
    fn a_config_comes_back() {
        let config = model().to_hugging_face();
        let read = ModelConfig::from_hugging_face(&config).unwrap();
        assert_eq!(read, ModelConfig { head_dim: Some(model().head_dim()), ..model() });
    }

    #[test]
    fn version_five_puts_rope_together() {
        let mut config = model().to_hugging_face();
        let fields = config.as_object_mut().unwrap();
        let (theta, mut scaling) =
            (fields.remove("rope_theta").unwrap(), fields.remove("rope_scaling").unwrap());
        scaling["rope_theta"] = theta;
        fields.insert("rope_parameters".into(), scaling);
        let read = ModelConfig::from_hugging_face(&config).unwrap();
        assert_eq!((read.rope_theta, read.rope_scaling), (500_000.0, model().rope_scaling));
        config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 7.0 });
        let read = ModelConfig::from_hugging_face(&config).unwrap();
        assert_eq!((read.rope_theta, read.rope_scaling), (7.0, None));
    }

    #[test]
    fn what_cannot_be_represented_is_refused_by_name() {
        for (field, value) in [
            ("model_type", json!("mistral")),
            ("architectures", json!(["LlamaForSequenceClassification"])),
            ("hidden_act", json!("gelu")),
            ("sliding_window", json!(4096)),
            ("partial_rotary_factor", json!(0.5)),
            ("rope_scaling", json!("yarn")),
            ("quantization_config", json!({ "quant_method": "fp8" })),
            ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
            ("rope_scaling", json!({ "type": "linear", "factor": 4.0 })),
            ("rope_parameters", json!({ "rope_type": "dynamic", "rope_theta": 1.0 })),
            ("config.json", json!(0)),
            ("hidden_size", json!(0)),
            ("rope_scaling", json!({ "rope_type": "default" })),
            ("vocab_size", Value::Null),
        ] {
            let mut config = ModelConfig::preset("1b").unwrap().to_hugging_face();
            match (field, &value) {
                ("config.json", _) => {
                    config["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 4.0 })
                }
                ("rope_scaling", Value::Object(scaling))
                    if scaling.get("rope_type") == Some(&json!("default")) =>
                {
                    config["rope_scaling"] = value;
                    config["rope_parameters"] = json!({ "rope_type": "yarn", "rope_theta": 1.0 });
                }
                (_, Value::Null) => drop(config.as_object_mut().unwrap().remove(field)),
                _ => config[field] = value,
            }
            let error = ModelConfig::from_hugging_face(&config).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
        assert!(ModelConfig::from_hugging_face(&json!([])).is_err());
    }

    /// As the first Llama was saved.
    #[test]
    fn what_is_left_out_has_the_default_of_transformers() {
        let old = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048, "pretraining_tp": 2,
            "partial_rotary_factor": 1, "rope_scaling": null,
        });
        let model = ModelConfig::from_hugging_face(&old).unwrap();
        assert_eq!((model.num_key_value_heads, model.rope_theta, model.rms_norm_eps), (32, 10_000.0, 1e-6));
        assert_eq!((model.num_parameters(), model.tie_word_embeddings), (6_738_415_616, false));
    }
}
