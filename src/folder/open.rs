//! A folder that somebody else has written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::{ModelConfig, Parameters};
use serde_json::Value;

use super::header::Step;
use super::weights::Weights;
use crate::data::Encoder;

/// The longest `config.json` or index that is read, in bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A Llama on disk, as `transformers` saves it: whole or in parts, in float32, bfloat16 or float16.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Value,
    model: ModelConfig,
    files: Vec<PathBuf>,
    /// In which of `files` each tensor is; only if there is an index.
    index: Option<BTreeMap<String, PathBuf>>,
}

impl Folder {
    /// Reads the shape of the model and which files there are.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and what in `config.json` is no Llama.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (config, model) = Self::open_config(path)?;
        let (whole, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        // A folder that was saved anew in one piece may still have an old index; `transformers` looks in this order.
        let (files, index) = match (whole.exists(), index.exists()) {
            (true, _) => (vec![whole], None),
            (false, true) => {
                let map = weight_map(path, &index)?;
                let files: BTreeSet<&PathBuf> = map.values().collect();
                (files.into_iter().cloned().collect(), Some(map))
            }
            (false, false) => anyhow::bail!(
                "{} has no model.safetensors, whole or in parts; save the model with `safe_serialization=True`",
                path.display()
            ),
        };
        Ok(Self { path: path.to_owned(), config, model, files, index })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as it lies there.
    pub(super) fn config(&self) -> &Value {
        &self.config
    }

    /// Reads the shape of the model alone; its weights need not be there.
    ///
    /// # Errors
    /// Names what in `config.json` is no Llama.
    pub fn open_shape(path: &Path) -> anyhow::Result<ModelConfig> {
        Self::open_config(path).map(|(_, model)| model)
    }

    fn open_config(path: &Path) -> anyhow::Result<(Value, ModelConfig)> {
        let at = path.join("config.json");
        let config = json(&at).with_context(|| format!("{} is no Hugging Face folder", path.display()))?;
        let model = ModelConfig::from_hugging_face(&config).with_context(|| at.display().to_string())?;
        Ok((config, model))
    }

    /// The shape of the model.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Finds every tensor, and checks name, shape and type of each, without reading the weights.
    ///
    /// # Errors
    /// Names the tensor that is missing, misshapen, twice there, of a type that is no number's, or of another model; where the
    /// index and its files contradict each other; or the file that cannot be read.
    pub fn weights(&self) -> anyhow::Result<Weights> {
        Weights::find(&self.model, &self.files, self.index.as_ref())
            .with_context(|| self.path.display().to_string())
    }

    /// Reads all parameters, a tensor at a time.
    ///
    /// # Errors
    /// As [`weights`](Self::weights), and names a tensor with a value that is no finite number.
    pub fn parameters(&self, step: &Step<'_>) -> anyhow::Result<Parameters> {
        let weights = self.weights()?;
        let values = weights.specs().iter().map(|spec| weights.values(spec, step));
        let values = values.collect::<anyhow::Result<_>>()?;
        Ok(Parameters::new(weights.specs().to_vec(), values)?)
    }

    /// The tokenizer beside the model.
    ///
    /// # Errors
    /// When there is none, or it has tokens that the model does not know.
    pub fn tokenizer(&self) -> anyhow::Result<Encoder> {
        let path = self.path.join("tokenizer.json");
        anyhow::ensure!(
            path.exists(),
            "{} has no tokenizer.json; save the tokenizer with `AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
            self.path.display()
        );
        let rows = self.model.vocab_size;
        let encoder = match self.end_tokens()?.first() {
            Some(end) => {
                anyhow::ensure!(
                    (*end as usize) < rows,
                    "{}: eos_token_id is {end}, the model has {rows} tokens",
                    self.path.display()
                );
                Encoder::load_with_end(&path, *end)?
            }
            None => Encoder::load(&path, None).context("config.json has no eos_token_id")?,
        };
        let tokens = encoder.vocab_size() as usize;
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
            let end = config.get("eos_token_id").unwrap_or(&Value::Null);
            let ends = end.as_array().map_or(std::slice::from_ref(end), Vec::as_slice);
            let ends: Vec<u32> = ends.iter().filter_map(|end| u32::try_from(end.as_u64()?).ok()).collect();
            if !ends.is_empty() {
                return Ok(ends);
            }
        }
        Ok(Vec::new())
    }
}

fn json(path: &Path) -> anyhow::Result<Value> {
    let read = || -> anyhow::Result<_> {
        let mut bytes = Vec::new();
        let taken = fs::File::open(path)?.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes)?;
        anyhow::ensure!(taken as u64 <= MAX_JSON_BYTES, "is longer than {} MiB", MAX_JSON_BYTES >> 20);
        Ok(serde_json::from_slice(&bytes)?)
    };
    read().with_context(|| path.display().to_string())
}

/// In which file each tensor is, as the index says.
fn weight_map(folder: &Path, index: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let value = json(index)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.with_context(|| format!("{} has no weight_map", index.display()))?;
    let place = |(tensor, file): (&String, &Value)| {
        // A file beside the index, not somewhere else on this machine.
        let file = file.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
        let file = file.with_context(|| format!("{} names a file elsewhere", index.display()))?;
        Ok((tensor.clone(), folder.join(file)))
    };
    map.iter().map(place).collect()
}
