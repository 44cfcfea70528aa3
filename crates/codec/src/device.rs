//! What a compressor on another kind of processor needs to make the same bytes as [`compress`](crate::compress()).
//!
//! Such a compressor folds, selects and quantises where the tensors are, so that only positions and codes come back; here
//! they become a file. `docs/update-format.md` §7 says which arithmetic binds it.

use crate::encode::CodecConfig;
use crate::error::{Error, Result};
use crate::header::{self, Binding, Kind};
use crate::layout::Layout;
use crate::pack::Packer;
use crate::quantize::{self, CodeBits, Fit, Levels, Spread};
use crate::section::kept_in_chunk;
use crate::simd::Simd;

pub use crate::encode::MAX_MAGNITUDE;
pub use crate::quantize::scale_value;

/// Code of the scale nearest to `scale` by ratio; 0 if it is below the least one, or no number.
pub fn scale_code(scale: f64) -> u16 {
    quantize::nearest_scale(scale)
}

/// The least scale: a chunk whose mean magnitude is below it is zero.
pub fn least_scale() -> f64 {
    scale_value(1).into()
}

/// Values kept of a chunk of `len` elements.
pub fn kept(config: &CodecConfig, len: usize) -> usize {
    kept_in_chunk(config.top_k, len)
}

/// How far apart the magnitude levels of a section are, found from its first chunks.
#[derive(Debug)]
pub struct LevelFit {
    bits: CodeBits,
    spread: Spread,
}

/// What [`LevelFit`] finds.
#[derive(Debug, Clone, Copy)]
pub struct SectionLevels {
    fit: Fit,
    levels: Levels,
}

impl LevelFit {
    /// Nothing seen yet.
    pub fn new(bits: CodeBits) -> Self {
        Self { bits, spread: Spread::new() }
    }

    /// Whether more chunks would not be looked at.
    pub fn is_known(&self) -> bool {
        self.bits.levels() == 1 || self.spread.is_known()
    }

    /// Looks at a chunk's `magnitudes`, whose mean is `mean`.
    pub fn add(&mut self, magnitudes: &[f32], mean: f64) {
        self.spread.add(magnitudes, mean);
    }

    /// The levels.
    pub fn finish(&self) -> SectionLevels {
        let fit = self.spread.fit(self.bits);
        SectionLevels { fit, levels: Levels::new(self.bits, fit.step) }
    }
}

impl SectionLevels {
    /// Scale to start the fit of a chunk from, in units of its mean magnitude.
    pub fn start(&self) -> f64 {
        self.fit.start
    }

    /// Distance of the levels, in 256ths of the scale.
    pub fn step(&self) -> u16 {
        self.fit.step
    }

    /// Ratios of the levels to the scale.
    pub fn ratios(&self) -> &[f32] {
        self.levels.ratios()
    }
}

/// One chunk's values, coded.
#[derive(Debug, Clone, Copy)]
pub struct ChunkCodes<'c> {
    /// Where they are in the chunk, increasing.
    pub positions: &'c [u16],
    /// Level of each, and its sign in the highest bit.
    pub codes: &'c [u8],
    /// Code of the chunk's scale; 0 if it is zero.
    pub scale: u16,
}

/// Makes an update file, section by section.
#[derive(Debug)]
pub struct Assembler {
    layout: Layout,
    config: CodecConfig,
    packer: Packer,
    sections: Vec<Vec<u8>>,
}

impl Assembler {
    /// The beginning of a file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(layout: &Layout, config: &CodecConfig) -> Result<Self> {
        config.check()?;
        let packer = Packer::new(Simd::detect(), config.format());
        Ok(Self { layout: layout.clone(), config: *config, packer, sections: Vec::new() })
    }

    /// The next section: all its chunks, in order, with the levels that they were coded with.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn push(&mut self, levels: &SectionLevels, chunks: &[ChunkCodes<'_>]) -> Result<()> {
        let packed = self.pack(self.sections.len(), levels, chunks)?;
        self.push_packed(packed);
        Ok(())
    }

    /// The next section, packed here or elsewhere.
    pub fn push_packed(&mut self, packed: Vec<u8>) {
        self.sections.push(packed);
    }

    /// The bytes of section number `section`: all its chunks, in order, with the levels that they were coded with.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Section`] for what is no section of the layout.
    pub fn pack(
        &mut self,
        section: usize,
        levels: &SectionLevels,
        chunks: &[ChunkCodes<'_>],
    ) -> Result<Vec<u8>> {
        let (expected, actual) = (self.layout.num_sections(), section + 1);
        if actual > expected {
            return Err(Error::Shape { what: "number of sections", expected, actual });
        }
        let of_section = self.layout.section(section);
        if of_section.len() != chunks.len() {
            let (expected, actual) = (of_section.len(), chunks.len());
            return Err(Error::Shape { what: "chunks of a section", expected, actual });
        }
        self.packer.begin_coded(levels.fit, levels.levels);
        for (chunk, coded) in of_section.zip(chunks) {
            let k = kept_in_chunk(self.config.top_k, chunk.len);
            if coded.positions.len() != k || coded.codes.len() != k {
                return Err(Error::Shape {
                    what: "values of a chunk",
                    expected: k,
                    actual: coded.positions.len(),
                });
            }
            let is_in_order = coded.positions.is_sorted_by(|a, b| a < b)
                && coded.positions.last().is_none_or(|&last| usize::from(last) < chunk.len);
            let levels = self.config.bits.levels();
            if !is_in_order || coded.codes.iter().any(|code| usize::from(code & 0x7f) >= levels) {
                return Err(Error::Section { section, reason: "positions or codes are out of order" });
            }
            self.packer.push_coded(&chunk, coded.positions, coded.codes, coded.scale);
        }
        Ok(self.packer.finish(|_, _, _| {}))
    }

    /// The file.
    ///
    /// # Errors
    /// [`Error::Shape`] if sections are missing.
    pub fn finish(self, binding: &Binding) -> Result<Vec<u8>> {
        let (expected, actual) = (self.layout.num_sections(), self.sections.len());
        if actual != expected {
            return Err(Error::Shape { what: "number of sections", expected, actual });
        }
        header::write(Kind::Update, binding, &self.layout, self.config.format(), self.sections)
    }
}
