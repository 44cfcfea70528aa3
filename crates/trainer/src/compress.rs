//! Error feedback, top-k and quantiser where the parameters are; only positions, codes and what is left come to the host.
//!
//! The bytes are those of `brigade_codec::compress`, on any device. That needs care in three places: products and sums are
//! operations of their own, so that nothing is fused; sums of magnitudes run in the eight lanes of the format, in f64; and
//! the k largest are found by keys that hold the magnitude's bits and the place, of which no two are equal.

use std::ops::Range;

use brigade_codec::device::{self, Assembler, ChunkCodes, LevelFit, SectionLevels};
use brigade_codec::layout::{CHUNK, TILE};
use brigade_codec::{Binding, CodecConfig, Layout};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// Lanes of a sum.
const LANES: i64 = 8;
/// Chunks whose magnitudes come to the host together, for the levels to be fitted.
const FETCHED: usize = 128;
/// Rounds of "nearest level, then least squares" that fit a chunk's scale.
const ROUNDS: usize = 2;

/// The update file of a window that led from `before` to `after`: folds Δ = `before` − `after` into `e` like
/// `brigade_codec::compress`, on the device of `after`.
///
/// All three have a tensor for each of the layout, in its order; those of `after` are contiguous, fp32 and on one device,
/// the others on the host, from which a section at a time goes to the device and back. So the memory needed there beside
/// `after` is some 200 MiB whatever the model's size.
///
/// # Errors
/// [`Error::Codec`] as from `brigade_codec::compress`; [`Error::Torch`]. Of [`Error::TensorCount`], [`Error::TensorLength`] and
/// [`Error::Setting`] nothing has changed; after any other `e` must be thrown away.
pub fn compress(
    layout: &Layout,
    binding: &Binding,
    config: &CodecConfig,
    before: &[Vec<f32>],
    after: &[Tensor],
    e: &mut [Vec<f32>],
) -> Result<Vec<u8>> {
    check(layout, "parameters", before.iter().map(Vec::len))?;
    check(layout, "parameters", after.iter().map(Tensor::numel))?;
    check(layout, "error feedback", e.iter().map(Vec::len))?;
    if after.iter().any(|tensor| tensor.kind() != Kind::Float || !tensor.is_contiguous()) {
        return Err(Error::Setting { field: "parameters", value: 0.0, must: "contiguous and fp32" });
    }
    let mut assembler = Assembler::new(layout, config)?;
    for section in 0..layout.num_sections() {
        let input = |(tensor, elements): (usize, Range<usize>)| {
            let after = after[tensor].f_view([-1])?;
            let after = after.f_narrow(0, elements.start as i64, elements.len() as i64)?;
            Ok(Input { before: &before[tensor][elements.clone()], after, e: &e[tensor][elements] })
        };
        let inputs = layout.pieces(section).map(input).collect::<Result<Vec<_>>>()?;
        let (packed, left) = compress_section(layout, config, &mut assembler, section, &inputs)?;
        assembler.push_packed(packed);
        for ((tensor, elements), left) in layout.pieces(section).zip(left) {
            let len = elements.len();
            left.f_copy_data(&mut e[tensor][elements], len)?;
        }
    }
    Ok(assembler.finish(binding)?)
}

/// What a section has of one tensor, flat.
pub(crate) struct Input<'v> {
    /// The parameters before training, on the host.
    pub(crate) before: &'v [f32],
    /// And after it, where the work is to be done.
    pub(crate) after: Tensor,
    /// The error feedback, on the host.
    pub(crate) e: &'v [f32],
}

/// The bytes of one section, and the error feedback that is left of each of its `pieces`.
pub(crate) fn compress_section(
    layout: &Layout,
    config: &CodecConfig,
    assembler: &mut Assembler,
    section: usize,
    inputs: &[Input<'_>],
) -> Result<(Vec<u8>, Vec<Tensor>)> {
    let _no_grad = tch::no_grad_guard();
    let (mut groups, mut left) = (Vec::new(), Vec::new());
    let mut first = 0;
    for ((tensor, elements), input) in layout.pieces(section).zip(inputs) {
        let piece = Piece { tensor, elements, columns: layout.tensors()[tensor].columns() };
        let folded = piece.fold(config, input)?;
        first += piece.cut(&folded, first, config, &mut groups)?;
        left.push(folded);
    }
    let levels = fit(config, &groups)?;
    let coded = groups.iter_mut().map(|group| group.quantize(&levels)).collect::<Result<Vec<_>>>()?;
    let mut chunks = Vec::with_capacity(first);
    for (group, coded) in groups.iter().zip(&coded) {
        chunks.extend(group.numbers.iter().enumerate().map(|(i, &number)| (number, coded.chunk(i))));
    }
    chunks.sort_unstable_by_key(|(number, _)| *number);
    let chunks: Vec<ChunkCodes<'_>> = chunks.into_iter().map(|(_, chunk)| chunk).collect();
    Ok((assembler.pack(section, &levels, &chunks)?, left))
}

pub(crate) fn check(
    layout: &Layout,
    what: &'static str,
    lengths: impl ExactSizeIterator<Item = usize>,
) -> Result<()> {
    let (expected, found) = (layout.tensors().len(), lengths.len());
    if found != expected {
        return Err(Error::TensorCount { expected, found });
    }
    for (of, found) in layout.tensors().iter().zip(lengths) {
        if found != of.len() {
            let name = format!("{what} of {}", of.name());
            return Err(Error::TensorLength { name, expected: of.len(), found });
        }
    }
    Ok(())
}

/// What a section has of one tensor.
struct Piece {
    tensor: usize,
    elements: Range<usize>,
    columns: Option<usize>,
}

impl Piece {
    /// `β·e + Δ`, on the device of `after`.
    fn fold(&self, config: &CodecConfig, &Input { before, ref after, e }: &Input<'_>) -> Result<Tensor> {
        let there = |values: &[f32]| Tensor::f_from_slice(values)?.f_to_device(after.device());
        let delta = there(before)?.f_sub_(after)?;
        let mut e = there(e)?;
        let _ = e.f_mul_scalar_(f64::from(config.error_feedback_decay))?.f_add_(&delta)?;
        // False for NaN too.
        let fits = e.f_abs()?.f_le(f64::from(device::MAX_MAGNITUDE))?;
        if !bool::try_from(fits.f_all()?)? {
            let bad = fits.f_logical_not()?.f_nonzero()?.f_view([-1])?;
            let at = bad.f_int64_value(&[0])?;
            let value = e.f_double_value(&[at])? as f32;
            let (tensor, index) = (self.tensor, self.elements.start + at as usize);
            let what = "pseudo-gradient with error feedback";
            return Err(brigade_codec::Error::Value { what, tensor, index, value }.into());
        }
        Ok(e)
    }

    /// Cuts the piece into chunks, by their size, and selects from them. The first chunk has the number `first` in its section;
    /// returns how many there are.
    fn cut(&self, e: &Tensor, first: usize, config: &CodecConfig, groups: &mut Vec<Group>) -> Result<usize> {
        let Some(columns) = self.columns else {
            let whole = self.elements.len() / CHUNK * CHUNK;
            for (start, end) in [(0, whole), (whole, self.elements.len())] {
                let len = (end - start).min(CHUNK);
                if len > 0 {
                    let region =
                        e.f_narrow(0, start as i64, (end - start) as i64)?.f_view([-1, len as i64])?;
                    let numbers = (first + start / CHUNK..).take((end - start) / len).collect();
                    groups.push(Group::new(region, [1, len], numbers, config)?);
                }
            }
            return Ok(self.elements.len().div_ceil(CHUNK));
        };
        let rows = self.elements.len() / columns;
        let matrix = e.f_view([rows as i64, columns as i64])?;
        let across = columns.div_ceil(TILE);
        for (top, height, down) in bands(rows) {
            for (left, width, along) in bands(columns) {
                let region = matrix.f_narrow(0, top as i64, (height * down) as i64)?;
                let region = region.f_narrow(1, left as i64, (width * along) as i64)?;
                let (above, beside) = (top / TILE, left / TILE);
                let tiles = (0..down).flat_map(|i| (0..along).map(move |j| (i, j)));
                let numbers = tiles.map(|(i, j)| first + (above + i) * across + beside + j).collect();
                groups.push(Group::new(region, [height, width], numbers, config)?);
            }
        }
        Ok(rows.div_ceil(TILE) * across)
    }
}

/// Cuts `len` into tiles: start, size and number of those of full size, and of the last if it is smaller.
fn bands(len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let whole = len / TILE * TILE;
    [(0, TILE, len / TILE), (whole, len - whole, 1)].into_iter().filter(|(_, size, number)| size * number > 0)
}

/// Chunks of one size, side by side.
struct Group {
    /// A view of the error feedback, as it is on the device.
    region: Tensor,
    /// Rows and columns of a chunk.
    size: [i64; 2],
    /// Which chunks of the section they are.
    numbers: Vec<usize>,
    /// All elements: [chunks, elements].
    elements: Tensor,
    /// Where the kept ones are, increasing: [chunks, k], int64.
    positions: Tensor,
    /// Their values, and magnitudes.
    values: Tensor,
    magnitudes: Tensor,
    /// The mean magnitude of each chunk, f64.
    means: Vec<f64>,
}

impl Group {
    fn new(region: Tensor, size: [usize; 2], numbers: Vec<usize>, config: &CodecConfig) -> Result<Self> {
        let (len, size) = (size[0] * size[1], size.map(|extent| extent as i64));
        let k = device::kept(config, len) as i64;
        let elements = chunked(&region, size)?;
        // Larger keys are larger magnitudes, of equals the lower place.
        let places = Tensor::f_arange(len as i64, (Kind::Int64, region.device()))?;
        let bits = elements.f_abs()?.f_view_dtype(Kind::Int)?.f_to_kind(Kind::Int64)?;
        let keys = bits.f_mul_scalar(CHUNK as i64)?.f_add_scalar(CHUNK as i64 - 1)?.f_sub(&places)?;
        let (largest, _) = keys.f_topk(k, -1, true, false)?;
        let positions = largest.f_remainder(CHUNK as i64)?.f_neg()?.f_add_scalar(CHUNK as i64 - 1)?;
        let (positions, _) = positions.f_sort(-1, false)?;
        let values = elements.f_gather(1, &positions, false)?;
        let magnitudes = values.f_abs()?;
        let sums = lane_sum(&magnitudes.f_to_kind(Kind::Double)?)?;
        let means = Vec::<f64>::try_from(sums)?.into_iter().map(|sum| sum / k as f64).collect();
        Ok(Self { region, size, numbers, elements, positions, values, magnitudes, means })
    }

    /// Finds the scales, gives every value its level, and subtracts what a reader will see from the error feedback.
    fn quantize(&mut self, levels: &SectionLevels) -> Result<Coded> {
        let device = self.region.device();
        let scales: Vec<u16> = self.fit_scales(levels)?.into_iter().map(device::scale_code).collect();
        let values: Vec<f32> = scales.iter().map(|&scale| device::scale_value(scale)).collect();
        let column = Tensor::f_from_slice(&values)?.f_to_device(device)?.f_view([-1, 1])?;
        let level_magnitudes = levels.ratios().iter().map(|&ratio| column.f_mul_scalar(f64::from(ratio)));
        let level_magnitudes = level_magnitudes.collect::<Result<Vec<_>, _>>()?;
        let mut level = self.positions.f_zeros_like()?;
        let mut decoded = level_magnitudes[0].f_expand_as(&self.values)?;
        for pair in level_magnitudes.windows(2) {
            let middle = pair[0].f_add(&pair[1])?.f_mul_scalar(0.5)?;
            let exceeds = self.magnitudes.f_gt_tensor(&middle)?;
            level = level.f_add(&exceeds.f_to_kind(Kind::Int64)?)?;
            decoded = pair[1].f_where_self(&exceeds, &decoded)?;
        }
        let is_negative = self.values.f_signbit()?;
        let decoded = decoded.f_neg()?.f_where_self(&is_negative, &decoded)?;
        let left = self.values.f_sub(&decoded)?;
        let elements = self.elements.f_scatter_(1, &self.positions, &left)?;
        self.region.f_copy_(&unchunked(&elements, self.size, &self.region)?)?;
        let signs = is_negative.f_to_kind(Kind::Int64)?.f_mul_scalar(128)?;
        Ok(Coded {
            k: self.positions.size()[1] as usize,
            positions: to_host(&self.positions)?,
            codes: to_host(&level.f_add(&signs)?)?.into_iter().map(|code| code as u8).collect(),
            scales,
        })
    }

    /// The scale that suits each chunk best, not rounded yet; 0 if it is too small for any.
    fn fit_scales(&self, levels: &SectionLevels) -> Result<Vec<f64>> {
        let starts: Vec<f64> = self.means.iter().map(|mean| levels.start() * mean).collect();
        if levels.ratios().len() == 1 {
            return Ok(starts);
        }
        let device = self.region.device();
        let per_step = 256.0 / f64::from(levels.step().max(1));
        let step = f64::from(f32::from(levels.step()) / 256.0);
        let offset = f64::from(-per_step as f32);
        let top = (levels.ratios().len() - 1) as f64;
        let magnitudes = self.magnitudes.f_to_kind(Kind::Double)?;
        let mut scales = Tensor::f_from_slice(&starts)?.f_to_device(device)?;
        let mut is_zero = scales.f_ge(device::least_scale())?.f_logical_not()?;
        for _ in 0..ROUNDS {
            let slope =
                scales.f_full_like(per_step)?.f_div(&scales)?.f_to_kind(Kind::Float)?.f_view([-1, 1])?;
            let places = self.magnitudes.f_mul(&slope)?.f_add_scalar(offset)?.f_clamp(0.0, top)?;
            let ratios = places.f_round()?.f_mul_scalar(step)?.f_add_scalar(1.0)?.f_to_kind(Kind::Double)?;
            let cross = lane_sum(&magnitudes.f_mul(&ratios)?)?;
            let square = lane_sum(&ratios.f_mul(&ratios)?)?;
            scales = cross.f_div(&square)?;
            is_zero = is_zero.f_logical_or(&scales.f_ge(device::least_scale())?.f_logical_not()?)?;
        }
        Ok(Vec::try_from(scales.f_masked_fill(&is_zero, 0.0)?)?)
    }
}

/// A group's positions and codes, on the host.
struct Coded {
    k: usize,
    positions: Vec<u16>,
    codes: Vec<u8>,
    scales: Vec<u16>,
}

impl Coded {
    fn chunk(&self, number: usize) -> ChunkCodes<'_> {
        let range = number * self.k..(number + 1) * self.k;
        ChunkCodes {
            positions: &self.positions[range.clone()],
            codes: &self.codes[range],
            scale: self.scales[number],
        }
    }
}

/// The levels of a section, from its first chunks.
fn fit(config: &CodecConfig, groups: &[Group]) -> Result<SectionLevels> {
    let mut fit = LevelFit::new(config.bits);
    let mut chunks: Vec<(usize, usize, usize)> = Vec::new();
    for (of, group) in groups.iter().enumerate() {
        chunks.extend(group.numbers.iter().enumerate().map(|(row, &number)| (number, of, row)));
    }
    chunks.sort_unstable();
    let mut fetched: Vec<Vec<f32>> = vec![Vec::new(); groups.len()];
    for (_, of, row) in chunks {
        if fit.is_known() {
            break;
        }
        let (group, fetched) = (&groups[of], &mut fetched[of]);
        let k = group.magnitudes.size()[1] as usize;
        if row * k == fetched.len() {
            // Many rows in one go: each is a wait for the device. A group's chunks come in the order of its rows.
            let rows = FETCHED.min(group.numbers.len() - row);
            let next = group.magnitudes.f_narrow(0, row as i64, rows as i64)?.f_reshape([-1])?;
            fetched.extend(Vec::<f32>::try_from(next)?);
        }
        fit.add(&fetched[row * k..(row + 1) * k], group.means[row]);
    }
    Ok(fit.finish())
}

/// The chunks of a region next to each other: [chunks, elements], a copy.
fn chunked(region: &Tensor, [height, width]: [i64; 2]) -> Result<Tensor> {
    let size = region.size();
    let (down, along) = (size[0] / height, size[1] / width);
    let tiles = region.f_reshape([down, height, along, width])?.f_permute([0, 2, 1, 3])?;
    // `reshape` alone might give a view of the error feedback.
    let mut copy = Tensor::f_empty([down * along, height * width], (region.kind(), region.device()))?;
    copy.f_copy_(&tiles.f_reshape([down * along, height * width])?)?;
    Ok(copy)
}

/// The inverse of [`chunked`].
fn unchunked(elements: &Tensor, [height, width]: [i64; 2], region: &Tensor) -> Result<Tensor> {
    let size = region.size();
    let tiles = elements.f_view([size[0] / height, size[1] / width, height, width])?;
    Ok(tiles.f_permute([0, 2, 1, 3])?.f_reshape(&size)?)
}

/// The sum of each row of `terms` ([rows, columns], f64, none negative), element i in lane i mod 8 and lane after lane.
fn lane_sum(terms: &Tensor) -> Result<Tensor> {
    let columns = terms.size()[1];
    // Adding zeros changes nothing.
    let terms = terms.f_constant_pad_nd([0, (LANES - columns % LANES) % LANES])?;
    let terms = terms.f_view([terms.size()[0], -1, LANES])?;
    let mut lanes = terms.f_select(1, 0)?;
    for turn in 1..terms.size()[1] {
        lanes = lanes.f_add(&terms.f_select(1, turn)?)?;
    }
    let mut sum = lanes.f_select(1, 0)?;
    for lane in 1..LANES {
        sum = sum.f_add(&lanes.f_select(1, lane)?)?;
    }
    Ok(sum)
}

/// Small non-negative integers, row after row.
fn to_host(numbers: &Tensor) -> Result<Vec<u16>> {
    let numbers = numbers.f_to_kind(Kind::Int16)?.f_view([-1])?;
    Ok(Vec::<i16>::try_from(numbers)?.into_iter().map(|number| number as u16).collect())
}
