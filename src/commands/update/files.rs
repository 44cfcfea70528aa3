//! The files around an update: its tensors' names and shapes, and dense tensors.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Name and shape of each tensor, in order.
pub(super) type Shapes = Vec<(String, Vec<usize>)>;

/// Where the names and shapes for `file` are looked for.
pub(super) fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".layout.json");
    name.into()
}

/// What to say when a file is about other tensors than were named.
pub(super) const OTHER_LAYOUT: &str = "the layout is not that of the file: name the config.json of the run's model, as it lies in every checkpoint, with --layout";

/// Names and shapes from the file or folder that was named, or from the file beside `file` if there is one.
pub(super) fn layout_for(file: &Path, named: Option<&Path>) -> anyhow::Result<Option<Shapes>> {
    let beside = beside(file);
    let Some(path) = named.or_else(|| beside.exists().then_some(beside.as_path())) else { return Ok(None) };
    // A checkpoint's folder says it with its model.
    let config = path.join("config.json");
    let path = if path.is_dir() { config.as_path() } else { path };
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Ok(Some(read_tensors(path)?.0));
    }
    let wrong = || format!("{} is neither a list of [name, shape] nor a model's config.json", path.display());
    let value: serde_json::Value = serde_json::from_slice(&read(path)?).with_context(wrong)?;
    if value.is_array() {
        return Ok(Some(serde_json::from_value(value).with_context(wrong)?));
    }
    let model = brigade_protocol::ModelConfig::from_hugging_face(&value).with_context(wrong)?;
    Ok(Some(model.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()))
}

pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The tensors of a file in the order in which they lie.
pub(super) fn read_tensors(path: &Path) -> anyhow::Result<(Shapes, Vec<Vec<f32>>)> {
    let bytes = read(path)?;
    let file =
        SafeTensors::deserialize(&bytes).with_context(|| format!("{} is no .safetensors", path.display()))?;
    let mut tensors = file.tensors();
    tensors.sort_by_key(|(_, view)| view.data().as_ptr());
    let mut shapes = Vec::new();
    let mut values = Vec::new();
    for (name, view) in tensors {
        anyhow::ensure!(
            view.dtype() == Dtype::F32,
            "{}: `{name}` is {:?}, not F32",
            path.display(),
            view.dtype()
        );
        values.push(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        shapes.push((name, view.shape().to_vec()));
    }
    Ok((shapes, values))
}

pub(super) fn write_tensors(path: &Path, shapes: &Shapes, values: &[Vec<f32>]) -> anyhow::Result<()> {
    let bytes: Vec<Vec<u8>> =
        values.iter().map(|tensor| tensor.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = shapes
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    write(path, &safetensors::serialize(views, None)?)
}
