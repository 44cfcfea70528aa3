//! How tensors are spread over `.safetensors` files, and what stands in front of them there.

use anyhow::Context as _;
use brigade_bucket::keys::CheckpointFile;
use brigade_protocol::TensorSpec;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// Bytes of tensors in one safetensors file, as `transformers` cuts them by default.
pub(crate) const FILE_BYTES: u64 = 5_000_000_000;

/// One file, and the places of its tensors in the model, in the order in which they lie in it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: CheckpointFile,
    pub(super) places: Vec<usize>,
}

fn bytes_of(spec: &TensorSpec, dtype: Dtype) -> u64 {
    (spec.numel() * dtype.bitsize() / 8) as u64
}

/// Spreads tensors over files of at most `file_bytes` each, in their order; none is cut, so that a file may hold one that is
/// larger.
pub(super) fn cut(specs: &[TensorSpec], dtype: Dtype, file_bytes: u64) -> anyhow::Result<Vec<Part>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (place, spec) in specs.iter().enumerate() {
        let bytes = bytes_of(spec, dtype);
        match groups.last_mut() {
            Some(group) if bytes <= room => group.push(place),
            _ => {
                groups.push(vec![place]);
                room = file_bytes;
            }
        }
        room = room.saturating_sub(bytes);
    }
    let of = u32::try_from(groups.len()).context("too many checkpoint files")?;
    let part = |(part, mut places): (u32, Vec<usize>)| {
        // As the `safetensors` library orders them.
        places.sort_by(|a, b| specs[*a].name.cmp(&specs[*b].name));
        let file = if of == 1 { CheckpointFile::Model } else { CheckpointFile::Part { part, of } };
        Part { file, places }
    };
    Ok((1..).zip(groups).map(part).collect())
}

/// `model.safetensors.index.json`; `None` if there is but one file.
pub(super) fn index(
    specs: &[TensorSpec],
    parts: &[Part],
    dtype: Dtype,
) -> Result<Option<Vec<u8>>, serde_json::Error> {
    if parts.len() == 1 {
        return Ok(None);
    }
    let names = |part: &Part| {
        let file = part.file.to_string();
        part.places
            .iter()
            .map(move |place| (specs[*place].name.clone(), file.clone().into()))
            .collect::<Vec<_>>()
    };
    let weight_map: serde_json::Map<_, _> = parts.iter().flat_map(names).collect();
    let total: u64 = specs.iter().map(|spec| bytes_of(spec, dtype)).sum();
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    serde_json::to_vec_pretty(&index).map(Some)
}

/// What stands in front of the tensors at `places`, which follow in this order.
pub(super) fn header(specs: &[TensorSpec], places: &[usize], dtype: Dtype) -> anyhow::Result<Vec<u8>> {
    let mut end = 0;
    let tensors = places.iter().map(|place| {
        let spec = &specs[*place];
        let begin = end;
        end += spec.numel() * dtype.bitsize() / 8;
        (spec.name.clone(), TensorInfo { dtype, shape: spec.shape.clone(), data_offsets: (begin, end) })
    });
    // transformers refuses files that do not say which framework they are for.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let mut json = serde_json::to_vec(&Metadata::new(metadata, tensors.collect())?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aggregators of different versions must write the same checkpoint, byte for byte.
    #[test]
    fn the_header_is_that_of_the_library() {
        let spec = |name: &str, shape: &[usize]| TensorSpec { name: name.into(), shape: shape.into() };
        let specs = [spec("b", &[2, 3]), spec("a", &[5])];
        let parts = cut(&specs, Dtype::F32, 1000).unwrap();
        let header = header(&specs, &parts[0].places, Dtype::F32).unwrap();
        let bytes = [0; 24];
        let views = specs.iter().map(|spec| {
            let bytes = &bytes[..spec.numel() * 4];
            (&spec.name, safetensors::tensor::TensorView::new(Dtype::F32, spec.shape.clone(), bytes).unwrap())
        });
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        let file = safetensors::serialize(views, metadata).unwrap();
        assert_eq!(file[..file.len() - 44], header);
    }

    #[test]
    fn a_tensor_that_is_too_large_gets_a_file_of_its_own() {
        let specs: Vec<_> = [2, 9, 1, 1]
            .iter()
            .enumerate()
            .map(|(i, numel)| TensorSpec { name: i.to_string(), shape: vec![*numel] })
            .collect();
        let parts = cut(&specs, Dtype::BF16, 4).unwrap();
        let places: Vec<_> = parts.iter().map(|part| part.places.clone()).collect();
        assert_eq!(places, [vec![0], vec![1], vec![2, 3]]);
        assert_eq!(parts[2].file.to_string(), "model-00003-of-00003.safetensors");
    }
}
