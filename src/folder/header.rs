//! What stands in front of the tensors of a `.safetensors` file, and the walk over those behind it.
//!
//! One tensor is read at a time, and that in blocks, so that a file of any size costs the memory of its largest tensor.

use std::io::{Read, Seek, SeekFrom};

use anyhow::Context as _;
use brigade_protocol::TensorSpec;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::shutdown::Stopped;

/// The longest header that is read, in bytes: the limit of the `safetensors` library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes that are converted at once; a multiple of every type's size.
const BLOCK_BYTES: usize = 1 << 16;

/// Is told how many bytes have been read since the last time, and may wish that this stops.
pub type Step<'a> = dyn Fn(u64) -> Result<(), Stopped> + 'a;

/// A [`Step`] for who neither watches nor stops.
pub(crate) fn no_step(_: u64) -> Result<(), Stopped> {
    Ok(())
}

/// Where each tensor of a `.safetensors` file lies, checked against the file's length.
#[derive(Debug)]
pub(crate) struct Header {
    /// Where the tensors begin, in bytes.
    start: u64,
    tensors: Metadata,
}

impl Header {
    /// Reads the header of `file`, all of which must be accounted for.
    ///
    /// # Errors
    /// When it is no such file, or one that was cut off.
    pub(crate) fn read(file: &mut (impl Read + Seek)) -> anyhow::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut size = [0; 8];
        file.read_exact(&mut size).context("is no .safetensors file")?;
        let size = u64::from_le_bytes(size);
        anyhow::ensure!(
            size <= MAX_HEADER_BYTES.min(length - 8),
            "is no .safetensors file: its header would have {size} bytes"
        );
        let mut json = vec![0; size as usize];
        file.read_exact(&mut json)?;
        let tensors: Metadata =
            serde_json::from_slice(&json).context("is no .safetensors file, or a damaged one")?;
        let start = 8 + size;
        let expected = start.saturating_add(tensors.data_len() as u64);
        anyhow::ensure!(
            length == expected,
            "has {length} bytes, its header says {expected}: was the copy cut off?"
        );
        Ok(Self { start, tensors })
    }

    /// The tensors' names, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.tensors.offset_keys();
        names.sort_unstable();
        names
    }

    /// The type of a tensor, which must have the shape of `spec` and be of one of the types that are `allowed`; `None` if the
    /// file does not have it.
    ///
    /// # Errors
    /// Names the tensor, what it is and what it must be.
    pub(crate) fn check(&self, spec: &TensorSpec, allowed: &[Dtype]) -> anyhow::Result<Option<Dtype>> {
        let Some(TensorInfo { dtype, shape, .. }) = self.tensors.info(&spec.name) else { return Ok(None) };
        let name = &spec.name;
        anyhow::ensure!(
            *shape == spec.shape,
            "tensor {name} is {shape:?}, config.json says {:?}",
            spec.shape
        );
        let names: Vec<_> = allowed.iter().map(|dtype| type_name(*dtype)).collect();
        anyhow::ensure!(
            allowed.contains(dtype),
            "tensor {name} is {}, not {}",
            type_name(*dtype),
            names.join(" or ")
        );
        Ok(Some(*dtype))
    }

    /// The values of a tensor that [`check`](Self::check) has found in `file`.
    ///
    /// # Errors
    /// When `file` cannot be read, [`Stopped`], or as [`check`](Self::check).
    pub(crate) fn values(
        &self,
        file: &mut (impl Read + Seek),
        spec: &TensorSpec,
        allowed: &[Dtype],
        step: &Step<'_>,
    ) -> anyhow::Result<Vec<f32>> {
        let info =
            self.tensors.info(&spec.name).with_context(|| format!("tensor {} is missing", spec.name))?;
        let (dtype, (begin, end)) = (self.check(spec, allowed)?.unwrap_or(info.dtype), info.data_offsets);
        file.seek(SeekFrom::Start(self.start + begin as u64))?;
        let mut values = Vec::with_capacity(spec.numel());
        let mut block = vec![0; BLOCK_BYTES.min(end - begin)];
        let mut left = end - begin;
        while left > 0 {
            let block = &mut block[..BLOCK_BYTES.min(left)];
            file.read_exact(block)?;
            append(dtype, block, &mut values)?;
            left -= block.len();
            step(block.len() as u64)?;
        }
        Ok(values)
    }
}

fn append(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) -> anyhow::Result<()> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::BF16 => values.extend(halves().map(|b| bf16::from_le_bytes(*b).to_f32())),
        Dtype::F16 => values.extend(halves().map(|b| f16::from_le_bytes(*b).to_f32())),
        other => anyhow::bail!("no numbers are read from {}", type_name(other)),
    }
    Ok(())
}

/// A type as `torch` calls it, if it is one that weights have.
pub(crate) fn type_name(dtype: Dtype) -> String {
    match dtype {
        Dtype::F32 => "float32".into(),
        Dtype::BF16 => "bfloat16".into(),
        Dtype::F16 => "float16".into(),
        other => format!("{other:?}"),
    }
}
