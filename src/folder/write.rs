//! A model to files.

use brigade_bucket::keys::CheckpointFile;
use brigade_protocol::{ModelConfig, Parameters};
use safetensors::Dtype;

use super::parts::{self, FILE_BYTES};

/// The model's files: `model.safetensors`, or numbered files and their index when one would pass `file_bytes`.
pub(super) fn model_files(
    theta: &Parameters,
    file_bytes: u64,
) -> anyhow::Result<Vec<(CheckpointFile, Vec<u8>)>> {
    let parts = parts::cut(theta.specs(), Dtype::F32, file_bytes)?;
    let mut files = Vec::new();
    for part in &parts {
        files.push((part.file, to_safetensors(theta, &part.places)?));
    }
    let index = parts::index(theta.specs(), &parts, Dtype::F32)?;
    files.extend(index.map(|index| (CheckpointFile::ModelIndex, index)));
    Ok(files)
}

pub(super) fn to_safetensors(theta: &Parameters, places: &[usize]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = parts::header(theta.specs(), places, Dtype::F32)?;
    let values = places.iter().map(|place| &theta.tensors()[*place]);
    bytes.reserve_exact(values.clone().map(|values| values.len() * 4).sum());
    values.flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    Ok(bytes)
}

/// All of `parameters` in one safetensors file.
///
/// # Errors
/// When a tensor cannot be written, which no checked model brings about.
pub fn to_bytes(parameters: &Parameters) -> anyhow::Result<Vec<u8>> {
    let all = parts::cut(parameters.specs(), Dtype::F32, u64::MAX)?;
    let places = all.first().map_or(&[][..], |part| &part.places);
    to_safetensors(parameters, places)
}

/// `tokenizer_config.json` for a tokenizer that comes without one.
pub(super) fn tokenizer_config(model: &ModelConfig) -> serde_json::Value {
    serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    })
}

/// The files of a Hugging Face folder: weights, `config.json`, and the tokenizer.
///
/// # Errors
/// When a tensor cannot be written, which no checked model brings about.
pub fn files(
    model: &ModelConfig,
    theta: &Parameters,
    tokenizer: &[u8],
    end_of_document: u32,
) -> anyhow::Result<Vec<(CheckpointFile, Vec<u8>)>> {
    let mut config = model.to_hugging_face();
    config["eos_token_id"] = end_of_document.into();
    config["bos_token_id"] = end_of_document.into();
    let generation = serde_json::json!({ "bos_token_id": end_of_document, "eos_token_id": end_of_document });
    let mut files = model_files(theta, FILE_BYTES)?;
    files.push((CheckpointFile::Config, serde_json::to_vec_pretty(&config)?));
    files.push((CheckpointFile::GenerationConfig, serde_json::to_vec_pretty(&generation)?));
    files.push((CheckpointFile::Tokenizer, tokenizer.to_vec()));
    files.push((CheckpointFile::TokenizerConfig, serde_json::to_vec_pretty(&tokenizer_config(model))?));
    Ok(files)
}
