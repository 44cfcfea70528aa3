//! The tensors of a folder that somebody else has written, found in its files and not yet read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_protocol::{Digest, ModelConfig, TensorSpec, leaf_digests, state_root};
use safetensors::Dtype;

use super::header::{Header, Step, type_name};

/// The types in which weights are read.
const READABLE: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];

/// Every tensor of a model, each in one file, with the shape that the model implies.
#[derive(Debug)]
pub struct Weights {
    specs: Vec<TensorSpec>,
    files: Vec<(PathBuf, Header)>,
    /// File and type of each tensor.
    places: BTreeMap<String, (usize, Dtype)>,
}

impl Weights {
    /// Looks into all `files`; `index` says which of them has which tensor, if there is one.
    pub(super) fn find(
        model: &ModelConfig,
        files: &[PathBuf],
        index: Option<&BTreeMap<String, PathBuf>>,
    ) -> anyhow::Result<Self> {
        let mut weights = Self { specs: model.tensors(), files: Vec::new(), places: BTreeMap::new() };
        for path in files {
            weights.look_into(path, model, index).with_context(|| name_of(path))?;
        }
        for (tensor, path) in index.into_iter().flatten() {
            anyhow::ensure!(
                weights.places.contains_key(tensor) || is_redundant(tensor, model),
                "the index says that {} has tensor {tensor}; it is not there",
                name_of(path)
            );
        }
        for spec in &weights.specs {
            anyhow::ensure!(weights.places.contains_key(&spec.name), "tensor {} is missing", spec.name);
        }
        Ok(weights)
    }

    fn look_into(
        &mut self,
        path: &Path,
        model: &ModelConfig,
        index: Option<&BTreeMap<String, PathBuf>>,
    ) -> anyhow::Result<()> {
        let header = Header::read(&mut File::open(path)?)?;
        let wanted: BTreeMap<&str, &TensorSpec> =
            self.specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        for name in header.names() {
            let Some(spec) = wanted.get(name.as_str()) else {
                anyhow::ensure!(
                    is_redundant(&name, model),
                    "tensor {name} is not in the model of config.json"
                );
                continue;
            };
            if let Some(index) = index {
                let listed = index.get(&name).with_context(|| format!("the index lacks tensor {name}"))?;
                anyhow::ensure!(listed == path, "the index says that {} has tensor {name}", name_of(listed));
            }
            if let Some(dtype) = header.check(spec, &READABLE)? {
                self.places.insert(name, (self.files.len(), dtype));
            }
        }
        self.files.push((path.to_owned(), header));
        Ok(())
    }

    /// Names and shapes, in the order of [`ModelConfig::tensors`].
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// The files' number.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// The types that the tensors have, as `torch` calls them.
    pub fn dtypes(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.places.values().map(|(_, dtype)| type_name(*dtype)).collect();
        names.into_iter().collect()
    }

    /// How much [`values`](Self::values) of all tensors reads, in bytes.
    pub fn bytes(&self) -> u64 {
        let bytes = |spec: &TensorSpec| {
            let bits = self.places.get(&spec.name).map_or(0, |(_, dtype)| dtype.bitsize());
            (spec.numel() * bits / 8) as u64
        };
        self.specs.iter().map(bytes).sum()
    }

    /// The values of one tensor.
    ///
    /// # Errors
    /// Names the file that cannot be read, or the tensor and the place of a value that is no finite number;
    /// [`Stopped`](crate::shutdown::Stopped).
    pub fn values(&self, spec: &TensorSpec, step: &Step<'_>) -> anyhow::Result<Vec<f32>> {
        let place = self.places.get(&spec.name).and_then(|(file, _)| self.files.get(*file));
        let (path, header) = place.with_context(|| format!("tensor {} is missing", spec.name))?;
        let read = || header.values(&mut File::open(path)?, spec, &READABLE, step);
        let values = read().with_context(|| path.display().to_string())?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let columns = spec.shape.last().copied().unwrap_or(1).max(1);
            let place = if spec.shape.len() == 1 { vec![at] } else { vec![at / columns, at % columns] };
            anyhow::bail!(
                "{}: tensor {} has {} at {place:?}; take a checkpoint from before it diverged",
                path.display(),
                spec.name,
                values[at]
            );
        }
        Ok(values)
    }

    /// Reads everything for its state root in float32.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn state_root(&self, step: &Step<'_>) -> anyhow::Result<Digest> {
        let leaves = self.specs.iter().map(|spec| Ok((spec, leaf_digests(&self.values(spec, step)?))));
        Ok(state_root(leaves.collect::<anyhow::Result<Vec<_>>>()?))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What some versions of `transformers` save although it follows from the rest.
fn is_redundant(name: &str, model: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (model.tie_word_embeddings && name == "lm_head.weight")
}
