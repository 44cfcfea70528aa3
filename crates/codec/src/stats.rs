//! Where a file's bits went.

use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::rans::Reason;
use crate::update::{Sections, Update};

/// Sizes of a file by what they are for, in bits, and the bound for its positions.
///
/// The parts are measured as information in the entropy coder's state, so they need not be whole bits; with `framing`
/// they sum to the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// Elements in the layout.
    pub parameters: u64,
    /// Values in the file.
    pub kept: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bits for positions, and in a delta for how many there are.
    pub index_bits: f64,
    /// Bits for signs and magnitude levels.
    pub code_bits: f64,
    /// Bits for chunk scales.
    pub scale_bits: f64,
    /// Everything else: header, hashes, preambles, and what the entropy coder starts and ends with.
    pub framing_bits: f64,
    /// Σ log2 C(n, k) over the chunks: no code that does not know the positions beforehand can do better on average.
    pub index_bound_bits: f64,
}

impl Stats {
    /// Bits of the file for each value kept.
    pub fn bits_per_kept(&self) -> f64 {
        8.0 * self.bytes as f64 / self.kept.max(1) as f64
    }

    /// Bits of the file for each parameter of the model.
    pub fn bits_per_parameter(&self) -> f64 {
        8.0 * self.bytes as f64 / self.parameters as f64
    }

    /// How many times smaller than the same tensors in fp32.
    pub fn compression(&self) -> f64 {
        32.0 / self.bits_per_parameter()
    }

    fn of(sections: &Sections) -> Result<Self> {
        let parts = TensorStats::of(sections)?;
        let sum = |of: fn(&TensorStats) -> f64| parts.iter().map(of).sum::<f64>();
        let (index_bits, code_bits) = (sum(|p| p.index_bits), sum(|p| p.code_bits));
        let scale_bits = sum(|p| p.scale_bits);
        let bytes = sections.frame().file_len();
        Ok(Self {
            parameters: sections.layout().num_parameters(),
            kept: sections.kept(),
            bytes,
            index_bits,
            code_bits,
            scale_bits,
            framing_bits: 8.0 * bytes as f64 - (index_bits + code_bits + scale_bits),
            index_bound_bits: sum(|p| p.index_bound_bits),
        })
    }

    /// Least bits that the positions, and the codes and scales as they are, could have taken: what the file is measured
    /// against.
    pub fn bound_bits(&self) -> f64 {
        self.index_bound_bits + self.code_bits + self.scale_bits
    }
}

/// One tensor's share of a file, in bits of information as in [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TensorStats {
    /// Chunks of the tensor.
    pub chunks: u64,
    /// Its values in the file.
    pub kept: u64,
    /// Bits for positions.
    pub index_bits: f64,
    /// Bits for signs and magnitude levels.
    pub code_bits: f64,
    /// Bits for chunk scales.
    pub scale_bits: f64,
    /// Σ log2 C(n, k) over the chunks.
    pub index_bound_bits: f64,
}

impl TensorStats {
    pub(crate) fn of(sections: &Sections) -> Result<Vec<Self>> {
        let mut all = vec![Self::default(); sections.layout().tensors().len()];
        for section in 0..sections.layout().num_sections() {
            let bytes = sections.load(section)?;
            Self::add(&mut all, sections, section, &bytes)
                .map_err(|reason| Error::Section { section, reason })?;
        }
        Ok(all)
    }

    fn add(all: &mut [Self], sections: &Sections, section: usize, bytes: &[u8]) -> Result<(), Reason> {
        let mut reader = sections.reader(bytes);
        let level_bits = reader.level_bits();
        for chunk in sections.layout().section(section) {
            let stats = &mut all[chunk.tensor];
            let before = reader.bits_left();
            let head = reader.read_head(chunk.len)?;
            let between = reader.bits_left();
            reader.read_values(head, chunk.len)?;
            let codes = head.count as f64 * (1.0 + level_bits);
            stats.chunks += 1;
            stats.kept += head.count as u64;
            stats.scale_bits += before - between;
            stats.code_bits += codes;
            stats.index_bits += between - reader.bits_left() - codes;
            stats.index_bound_bits += entropy_bits(chunk.len, head.count);
        }
        Ok(())
    }
}

/// log2 C(n, k): what a subset costs at best, in bits.
fn entropy_bits(n: usize, k: usize) -> f64 {
    (0..k).map(|i| ((n - i) as f64 / (k - i) as f64).log2()).sum()
}

impl Update {
    /// Where the file's bits went.
    ///
    /// # Errors
    /// As for `for_each`.
    pub fn stats(&self) -> Result<Stats> {
        Stats::of(self.sections())
    }

    /// The same for each tensor.
    ///
    /// # Errors
    /// As for `for_each`.
    pub fn tensor_stats(&self) -> Result<Vec<TensorStats>> {
        TensorStats::of(self.sections())
    }
}

impl Delta {
    /// Where the file's bits went.
    ///
    /// # Errors
    /// As for `for_each`.
    pub fn stats(&self) -> Result<Stats> {
        Stats::of(self.sections())
    }

    /// The same for each tensor.
    ///
    /// # Errors
    /// As for `for_each`.
    pub fn tensor_stats(&self) -> Result<Vec<TensorStats>> {
        TensorStats::of(self.sections())
    }
}
