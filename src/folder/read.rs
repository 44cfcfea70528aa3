//! Files to a model.

use std::collections::BTreeMap;

use anyhow::Context as _;
use brigade_protocol::{ModelConfig, Parameters};
use safetensors::{Dtype, SafeTensors};

/// Puts the fp32 tensors of one file into their places in `tensors`.
pub(crate) fn read_into(
    bytes: &[u8],
    model: &ModelConfig,
    tensors: &mut BTreeMap<String, Vec<f32>>,
) -> anyhow::Result<()> {
    let file = SafeTensors::deserialize(bytes)?;
    for spec in model.tensors() {
        let Ok(view) = file.tensor(&spec.name) else { continue };
        anyhow::ensure!(
            view.dtype() == Dtype::F32 && view.shape() == spec.shape,
            "tensor {} is {:?} {:?}, expected F32 {:?}",
            spec.name,
            view.dtype(),
            view.shape(),
            spec.shape
        );
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        tensors.insert(spec.name, values.collect());
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
