//! A model as a Hugging Face folder: `config.json`, `*.safetensors`, `tokenizer.json`. What is written is loadable by
//! `transformers` as it lies.

mod aside;
mod copy;
mod header;
mod open;
mod parts;
mod read;
mod weights;
mod write;

pub(crate) use aside::Aside;
pub use copy::{Float, Form, Written, copy};
pub use header::Step;
pub use open::Folder;
pub(crate) use parts::FILE_BYTES;
pub use read::from_bytes;
pub(crate) use read::{assemble, read_into};
pub use weights::Weights;
pub use write::{files, to_bytes};

#[cfg(test)]
mod tests {
    use super::parts::FILE_BYTES;
    use super::read::{assemble, read_into};
    use super::write::{model_files, to_safetensors};
    use brigade_bucket::keys::CheckpointFile;
    use brigade_protocol::{ModelConfig, Parameters};
    use std::collections::BTreeMap;

    fn tiny() -> ModelConfig {
        serde_json::from_value(serde_json::json!({
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        }))
        .unwrap()
    }

    #[test]
    fn theta_survives_files_whole_and_cut() {
        let model = tiny();
        let theta = Parameters::initialise(&model, &[1; 32]);
        for limit in [FILE_BYTES, 10_000] {
            let files = model_files(&theta, limit).unwrap();
            let mut tensors = BTreeMap::new();
            for (name, bytes) in &files {
                if matches!(name, CheckpointFile::Model | CheckpointFile::Part { .. }) {
                    read_into(bytes, &model, &mut tensors).unwrap();
                }
            }
            assert_eq!(assemble(&model, tensors).unwrap(), theta);
            assert_eq!(files.iter().any(|(name, _)| *name == CheckpointFile::ModelIndex), limit == 10_000);
        }
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named() {
        let model = tiny();
        let theta = Parameters::initialise(&model, &[1; 32]);
        let some: Vec<usize> = (1..theta.specs().len()).collect();
        let bytes = to_safetensors(&theta, &some).unwrap();
        let mut tensors = BTreeMap::new();
        read_into(&bytes, &model, &mut tensors).unwrap();
        let error = assemble(&model, tensors).unwrap_err().to_string();
        assert!(error.contains("model.embed_tokens.weight"), "{error}");

        let wider = ModelConfig { intermediate_size: 64, ..model };
        let error = read_into(&bytes, &wider, &mut BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("mlp"), "{error}");
    }
}
