//! A model from one folder to another, in another type or other files.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use brigade_bucket::keys::CheckpointFile;
use brigade_protocol::{Digest, TensorSpec, leaf_digests, state_root};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;

use super::aside::Aside;
use super::header::{Step, type_name};
use super::parts::{self, FILE_BYTES};
use super::weights::Weights;
use super::{Folder, write};

/// What belongs to a tokenizer, and is taken over as it lies.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// A type in which weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// 32 bits: what a run trains, to the last bit.
    Float32,
    /// 16 bits, 8 of them the exponent: float32's range.
    BFloat16,
    /// 16 bits, 5 of them the exponent: up to 65504.
    Float16,
}

impl Float {
    fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::BFloat16 => Dtype::BF16,
            Self::Float16 => Dtype::F16,
        }
    }

    /// As `torch` calls it.
    pub fn name(self) -> String {
        type_name(self.dtype())
    }

    /// Rounds to the nearest value that this type has, of two equally near ones to the even.
    fn round(self, value: f32) -> f32 {
        match self {
            Self::Float32 => value,
            Self::BFloat16 => bf16::from_f32(value).to_f32(),
            Self::Float16 => f16::from_f32(value).to_f32(),
        }
    }

    /// Rounds a tensor.
    ///
    /// # Errors
    /// Names a value that is too large for this type.
    fn round_all(self, spec: &TensorSpec, values: &mut [f32]) -> anyhow::Result<()> {
        for value in values {
            let rounded = self.round(*value);
            anyhow::ensure!(
                rounded.is_finite(),
                "tensor {} has {value}, too large for {}; take bf16 or fp32",
                spec.name,
                self.name()
            );
            *value = rounded;
        }
        Ok(())
    }

    /// Writes values that are rounded already.
    fn write(self, values: &[f32], to: &mut impl std::io::Write) -> std::io::Result<()> {
        values.iter().try_for_each(|value| match self {
            Self::Float32 => to.write_all(&value.to_le_bytes()),
            Self::BFloat16 => to.write_all(&bf16::from_f32(*value).to_le_bytes()),
            Self::Float16 => to.write_all(&f16::from_f32(*value).to_le_bytes()),
        })
    }
}

/// How weights are written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// In which type.
    pub float: Float,
    /// Most bytes of tensors in a file; one that is larger gets a file of its own.
    pub file_bytes: u64,
}

impl Form {
    /// As checkpoints of a run are.
    pub const CHECKPOINT: Self = Self { float: Float::Float32, file_bytes: FILE_BYTES };
}

/// What [`copy`] has written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// State root of the weights as they were written.
    pub state_root: Digest,
    /// Number of `.safetensors` files.
    pub files: usize,
    /// Bytes of tensors in them.
    pub bytes: u64,
}

/// Writes the model of `folder`, whose tensors are `weights`, as the folder `out`, which `transformers` loads. One tensor is in
/// memory at a time; `out` is there once it is whole, and not before.
///
/// # Errors
/// Names what is wrong with a file of either folder, or a value that the type cannot hold;
/// [`Stopped`](crate::shutdown::Stopped).
pub fn copy(
    folder: &Folder,
    weights: &Weights,
    out: &Path,
    form: Form,
    step: &Step<'_>,
) -> anyhow::Result<Written> {
    let aside = Aside::begin(out)?;
    let written = write_weights(weights, &aside, form, step)?;
    let mut config = folder.model().to_hugging_face();
    config["torch_dtype"] = form.float.name().into();
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let ids: serde_json::Map<String, Value> =
        ids.iter().filter_map(|id| Some(((*id).to_owned(), folder.config().get(*id)?.clone()))).collect();
    for (id, value) in &ids {
        config[id] = value.clone();
    }
    aside.write("config.json", &serde_json::to_vec_pretty(&config)?)?;
    for name in COMPANIONS {
        let from = folder.path().join(name);
        if from.exists() {
            let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            aside.write(name, &bytes)?;
        } else if name == "tokenizer_config.json" {
            aside.write(name, &serde_json::to_vec_pretty(&write::tokenizer_config(folder.model()))?)?;
        } else if name == "generation_config.json" {
            aside.write(name, &serde_json::to_vec_pretty(&ids)?)?;
        }
    }
    aside.finish()?;
    Ok(written)
}

fn write_weights(weights: &Weights, aside: &Aside, form: Form, step: &Step<'_>) -> anyhow::Result<Written> {
    let (specs, dtype) = (weights.specs(), form.float.dtype());
    let parts = parts::cut(specs, dtype, form.file_bytes)?;
    let mut leaves = vec![Vec::new(); specs.len()];
    for part in &parts {
        let path = aside.path().join(part.file.to_string());
        let cannot = || format!("cannot write {}", path.display());
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).with_context(cannot)?);
        file.write_all(&parts::header(specs, &part.places, dtype)?).with_context(cannot)?;
        for place in &part.places {
            let mut values = weights.values(&specs[*place], step)?;
            form.float.round_all(&specs[*place], &mut values)?;
            form.float.write(&values, &mut file).with_context(cannot)?;
            leaves[*place] = leaf_digests(&values);
        }
        let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(cannot)?;
        file.sync_all().with_context(cannot)?;
    }
    if let Some(index) = parts::index(specs, &parts, dtype)? {
        aside.write(&CheckpointFile::ModelIndex.to_string(), &index)?;
    }
    let values: usize = specs.iter().map(TensorSpec::numel).sum();
    Ok(Written {
        state_root: state_root(specs.iter().zip(leaves)),
        files: parts.len(),
        bytes: (values * dtype.bitsize() / 8) as u64,
    })
}
