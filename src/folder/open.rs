//! A folder that somebody else has written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::{ModelConfig, Parameters, TensorSpec};
use half::{bf16, f16};
use indicatif::ProgressBar;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::assemble;
use crate::data::Encoder;

/// The longest `config.json` or index that is read, in bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A Llama on disk, as `transformers` saves it: whole or in parts, in float32, bfloat16 or float16.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    model: ModelConfig,
    files: Vec<PathBuf>,
}

impl Folder {
    /// Reads the shape of the model and which files there are.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and what in `config.json` is no Llama.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let model = Self::open_shape(path)?;
        let (whole, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        // A folder that was saved anew in one piece may still have an old index; `transformers` looks in this order.
        let files = match (whole.exists(), index.exists()) {
            (true, _) => vec![whole],
            (false, true) => parts(path, &index)?,
            (false, false) => anyhow::bail!(
                "{} has no model.safetensors, whole or in parts; save the model with `safe_serialization=True`",
                path.display()
            ),
        };
        Ok(Self { path: path.to_owned(), model, files })
    }

    /// Reads the shape of the model alone; its weights need not be there.
    ///
    /// # Errors
    /// Names what in `config.json` is no Llama.
    pub fn open_shape(path: &Path) -> anyhow::Result<ModelConfig> {
        let at = path.join("config.json");
        let config = json(&at).with_context(|| format!("{} is no Hugging Face folder", path.display()))?;
        ModelConfig::from_hugging_face(&config).with_context(|| at.display().to_string())
    }

    /// The shape of the model.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Reads all parameters, a file at a time; `bar` advances by one for each.
    ///
    /// # Errors
    /// Names the tensor that is missing, misshapen, of a type that is no number's, or of another model; or the file that
    /// cannot be read.
    pub fn parameters(&self, bar: &ProgressBar) -> anyhow::Result<Parameters> {
        bar.set_length(self.files.len() as u64);
        let specs = self.model.tensors();
        let wanted: BTreeMap<&str, &TensorSpec> =
            specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let mut tensors = BTreeMap::new();
        for path in &self.files {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut read = || -> anyhow::Result<()> {
                let mut found = SafeTensors::deserialize(&bytes)?.tensors();
                // In an order of its own, so that of several wrong ones it is always the same that is named.
                found.sort_by(|(a, _), (b, _)| a.cmp(b));
                for (name, view) in found {
                    match wanted.get(name.as_str()) {
                        Some(spec) => drop(tensors.insert(name, floats(spec, &view)?)),
                        None if is_redundant(&name, &self.model) => {}
                        None => anyhow::bail!("tensor {name} is not in the model of config.json"),
                    }
                }
                Ok(())
            };
            read().with_context(|| path.display().to_string())?;
            bar.inc(1);
        }
        assemble(&self.model, tensors).with_context(|| self.path.display().to_string())
    }

    /// The tokenizer beside the model.
    ///
    /// # Errors
    /// When there is none, or it has tokens that the model does not know.
    pub fn tokenizer(&self) -> anyhow::Result<Encoder> {
        let path = self.path.join("tokenizer.json");
        let encoder = match self.end_tokens()?.first() {
            Some(end) => Encoder::load_with_end(&path, *end)?,
            None => Encoder::load(&path, None)?,
        };
        let (tokens, rows) = (encoder.vocab_size() as usize, self.model.vocab_size);
        anyhow::ensure!(
            tokens <= rows,
            "{}: the tokenizer has {tokens} tokens, the model {rows}",
            self.path.display()
        );
        Ok(encoder)
    }

    /// The tokens that end a text, as `generation_config.json` or else `config.json` says; none if neither does.
    ///
    /// # Errors
    /// When a file is no JSON.
    pub fn end_tokens(&self) -> anyhow::Result<Vec<u32>> {
        for file in ["generation_config.json", "config.json"] {
            let path = self.path.join(file);
            if !path.exists() {
                continue;
            }
            let config = json(&path)?;
            let end = config.get("eos_token_id").unwrap_or(&serde_json::Value::Null);
            let ends = end.as_array().map_or(std::slice::from_ref(end), Vec::as_slice);
            let ends: Vec<u32> = ends.iter().filter_map(|end| u32::try_from(end.as_u64()?).ok()).collect();
            if !ends.is_empty() {
                return Ok(ends);
            }
        }
        Ok(Vec::new())
    }
}

fn json(path: &Path) -> anyhow::Result<serde_json::Value> {
    let read = || -> anyhow::Result<_> {
        let mut bytes = Vec::new();
        let taken = fs::File::open(path)?.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes)?;
        anyhow::ensure!(taken as u64 <= MAX_JSON_BYTES, "is longer than {} MiB", MAX_JSON_BYTES >> 20);
        Ok(serde_json::from_slice(&bytes)?)
    };
    read().with_context(|| path.display().to_string())
}

/// The files that an index names.
fn parts(folder: &Path, index: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let value = json(index)?;
    let map = value.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.with_context(|| format!("{} has no weight_map", index.display()))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        // A file beside the index, not somewhere else on this machine.
        let name = name.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
        names.insert(name.with_context(|| format!("{} names a file elsewhere", index.display()))?);
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// What some versions of `transformers` save although it follows from the rest.
fn is_redundant(name: &str, model: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (model.tie_word_embeddings && name == "lm_head.weight")
}

fn floats(spec: &TensorSpec, view: &TensorView<'_>) -> anyhow::Result<Vec<f32>> {
    let (name, shape) = (&spec.name, view.shape());
    anyhow::ensure!(shape == spec.shape, "tensor {name} is {shape:?}, config.json says {:?}", spec.shape);
    let halves = || view.data().as_chunks::<2>().0.iter();
    Ok(match view.dtype() {
        Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        other => anyhow::bail!("tensor {name} is {other:?}, not float32, bfloat16 or float16"),
    })
}
