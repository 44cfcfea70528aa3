//! A model to files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::Context as _;
use brigade_bucket::keys::CheckpointFile;
use brigade_protocol::{ModelConfig, Parameters};
use safetensors::{Dtype, View};

/// Bytes of tensors in one safetensors file, as `transformers` cuts them by default.
pub(super) const FILE_BYTES: usize = 5_000_000_000;

/// One tensor on its way into a file.
struct Values<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

/// The model's files: `model.safetensors`, or numbered files and their index when one would pass `file_bytes`.
pub(super) fn model_files(
    theta: &Parameters,
    file_bytes: usize,
) -> anyhow::Result<Vec<(CheckpointFile, Vec<u8>)>> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
    let mut size = 0;
    for (place, spec) in theta.specs().iter().enumerate() {
        let bytes = spec.numel() * 4;
        if size > 0 && size + bytes > file_bytes {
            groups.push(Vec::new());
            size = 0;
        }
        size += bytes;
        groups[0..].last_mut().context("there is always a last group")?.push(place);
    }
    let count = u32::try_from(groups.len()).context("too many checkpoint files")?;
    let name =
        |part| if count == 1 { CheckpointFile::Model } else { CheckpointFile::Part { part, of: count } };
    let mut files = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (part, group) in (1..).zip(&groups) {
        weight_map.extend(group.iter().map(|place| (&theta.specs()[*place].name, name(part).to_string())));
        files.push((name(part), to_safetensors(theta, group)?));
    }
    if count > 1 {
        let total: usize = theta.specs().iter().map(|spec| spec.numel() * 4).sum();
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push((CheckpointFile::ModelIndex, serde_json::to_vec_pretty(&index)?));
    }
    Ok(files)
}

pub(super) fn to_safetensors(theta: &Parameters, places: &[usize]) -> anyhow::Result<Vec<u8>> {
    let views = places.iter().map(|place| {
        let (spec, values) = (&theta.specs()[*place], &theta.tensors()[*place]);
        (&spec.name, Values { shape: &spec.shape, values })
    });
    // transformers refuses files that do not say which framework they are for.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    Ok(safetensors::serialize(views, metadata)?)
}

/// All of `parameters` in one safetensors file.
///
/// # Errors
/// When a tensor cannot be written, which no checked model brings about.
pub fn to_bytes(parameters: &Parameters) -> anyhow::Result<Vec<u8>> {
    let all: Vec<usize> = (0..parameters.specs().len()).collect();
    to_safetensors(parameters, &all)
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
    let tokenizer_config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    let mut files = model_files(theta, FILE_BYTES)?;
    files.push((CheckpointFile::Config, serde_json::to_vec_pretty(&config)?));
    files.push((CheckpointFile::GenerationConfig, serde_json::to_vec_pretty(&generation)?));
    files.push((CheckpointFile::Tokenizer, tokenizer.to_vec()));
    files.push((CheckpointFile::TokenizerConfig, serde_json::to_vec_pretty(&tokenizer_config)?));
    Ok(files)
}
