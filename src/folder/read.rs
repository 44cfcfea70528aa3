//! Files that this program has written, to a model.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::Context as _;
use brigade_protocol::{ModelConfig, Parameters};
use safetensors::Dtype;

use super::header::{Header, no_step};

/// Puts the fp32 tensors of one file into their places in `tensors`.
pub(crate) fn read_into(
    bytes: &[u8],
    model: &ModelConfig,
    tensors: &mut BTreeMap<String, Vec<f32>>,
) -> anyhow::Result<()> {
    let mut file = Cursor::new(bytes);
    let header = Header::read(&mut file)?;
    for spec in model.tensors() {
        if header.check(&spec, &[Dtype::F32])?.is_some() {
            let values = header.values(&mut file, &spec, &[Dtype::F32], &no_step)?;
            tensors.insert(spec.name, values);
        }
    }
    Ok(())
}

/// θ from the tensors that were read.
pub(crate) fn assemble(
    model: &ModelConfig,
    mut tensors: BTreeMap<String, Vec<f32>>,
) -> anyhow::Result<Parameters> {
    let specs = model.tensors();
    let values = specs
        .iter()
        .map(|spec| tensors.remove(&spec.name).with_context(|| format!("tensor {} is missing", spec.name)))
        .collect::<anyhow::Result<_>>()?;
    Ok(Parameters::new(specs, values)?)
}

/// Reads what [`to_bytes`](super::to_bytes) wrote.
///
/// # Errors
/// Names a tensor that is missing or has another shape than `model` implies.
pub fn from_bytes(bytes: &[u8], model: &ModelConfig) -> anyhow::Result<Parameters> {
    let mut tensors = BTreeMap::new();
    read_into(bytes, model, &mut tensors)?;
    assemble(model, tensors)
}
