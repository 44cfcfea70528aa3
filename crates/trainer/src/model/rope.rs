//! Rotary position embedding (RoPE, arXiv 2104.09864), in the half-rotation form of `transformers`.

use std::f32::consts::PI;

use brigade_protocol::{ModelConfig, RopeScaling};
use brigade_torch_ext::fused;
use tch::{Device, Kind, Tensor};

use crate::Result;

/// Cosines and signed sines of every position, `[length, 1, head_dim]` in the compute dtype.
///
/// Element `i` of a head is paired with `i + head_dim/2`; both turn by `position · θ^(-2i/head_dim)`.
#[derive(Debug)]
pub(crate) struct Rope {
    cos: Tensor,
    /// `-sin` for the first half of a head and `sin` for the second, so that a roll by half a head does for
    /// `rotate_half`, which would negate and concatenate.
    sin: Tensor,
    length: i64,
    half: i64,
}

impl Rope {
    /// Tables for the positions `0..length`.
    ///
    /// Computed in fp32 on the CPU in the order of operations of `transformers`, so that every device turns by the
    /// same angles.
    pub(crate) fn new(config: &ModelConfig, length: i64, kind: Kind, device: Device) -> Result<Self> {
        let dim = config.head_dim();
        let frequencies = frequencies(config);
        let angle = |position: usize, i: usize| position as f32 * frequencies[i % (dim / 2)];
        let indices = || (0..length as usize).flat_map(|position| (0..dim).map(move |i| (position, i)));
        let cos: Vec<f32> = indices().map(|(position, i)| angle(position, i).cos()).collect();
        let sin: Vec<f32> = indices()
            .map(|(position, i)| angle(position, i).sin() * if i < dim / 2 { -1.0 } else { 1.0 })
            .collect();
        let table = |values: &[f32]| -> Result<Tensor> {
            let shaped = Tensor::f_from_slice(values)?.f_view([length, 1, dim as i64])?;
            Ok(shaped.f_to_kind(kind)?.f_to_device(device)?)
        };
        Ok(Self { cos: table(&cos)?, sin: table(&sin)?, length, half: dim as i64 / 2 })
    }

    /// Number of positions.
    pub(crate) fn length(&self) -> i64 {
        self.length
    }

    /// The tables of `length` positions from `start` on; shares their storage.
    pub(crate) fn part(&self, start: i64, length: i64) -> Result<Self> {
        let cut = |table: &Tensor| table.f_narrow(0, start, length);
        Ok(Self { cos: cut(&self.cos)?, sin: cut(&self.sin)?, length, half: self.half })
    }

    /// Queries, keys and values, each `[batch, length, its heads, head_dim]`, from their projections
    /// `[batch, length, (heads + 2·kv_heads)·head_dim]`; queries and keys are turned by their positions.
    pub(crate) fn split(&self, projected: &Tensor, heads: i64, kv_heads: i64) -> Result<[Tensor; 3]> {
        if !projected.device().is_cuda() {
            return Ok(fused::rotary(projected, &self.cos, &self.sin, heads, kv_heads)?);
        }
        let dim = 2 * self.half;
        // Queries and keys are neighbours, so one rotation serves both; a split's backward is one concatenation.
        let parts = projected.f_split_with_sizes([(heads + kv_heads) * dim, kv_heads * dim], -1)?;
        let turned = self.rotate(&parts[0].f_unflatten(-1, [heads + kv_heads, dim])?)?;
        let values = parts[1].f_unflatten(-1, [kv_heads, dim])?;
        let mut turned = turned.f_split_with_sizes([heads, kv_heads], 2)?;
        let (keys, queries) = (turned.swap_remove(1), turned.swap_remove(0));
        Ok([queries, keys, values])
    }

    /// Turns heads `[batch, length, heads, head_dim]` by their positions.
    fn rotate(&self, heads: &Tensor) -> Result<Tensor> {
        let swapped = heads.f_roll([self.half], [-1])?;
        Ok(heads.f_mul(&self.cos)?.f_addcmul(&swapped, &self.sin)?)
    }
}

/// By how much each pair of a head turns from one position to the next, in radians; fp32 throughout, as in `transformers`.
fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let (dim, theta) = (config.head_dim(), config.rope_theta as f32);
    let plain = (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32));
    match &config.rope_scaling {
        None => plain.collect(),
        Some(scaling) => plain.map(|frequency| stretched(scaling, frequency)).collect(),
    }
}

/// The frequency in place of `frequency`, once the context is extended.
fn stretched(scaling: &RopeScaling, frequency: f32) -> f32 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        scaling;
    let (context, factor) = (*original_max_position_embeddings as f32, *factor as f32);
    let (low, high) = (*low_freq_factor as f32, *high_freq_factor as f32);
    let wave = 2.0 * PI / frequency;
    if wave > context / low {
        frequency / factor
    } else if wave < context / high {
        frequency
    } else {
        let share = (context / wave - low) / (high - low);
        (1.0 - share) * (frequency / factor) + share * frequency
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::tests::tiny;

    #[test]
    fn long_waves_are_stretched_and_short_ones_are_not() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        // Waves of 128, 16 and 32 positions: long, as long as the longest short one, and a third of the way to that.
        let [long, short, between] = [128.0, 15.99, 32.0].map(|wave| {
            let frequency = 2.0 * PI / wave;
            stretched(&scaling, frequency) / frequency
        });
        assert_eq!((long, short), (0.125, 1.0));
        assert!((between - (2.0 / 3.0 / 8.0 + 1.0 / 3.0)).abs() < 1e-6, "{between}");
    }

    #[test]
    fn pairs_turn_by_their_angle() {
        let config = ModelConfig { head_dim: Some(4), rope_theta: 100.0, ..tiny() };
        let rope = Rope::new(&config, 3, Kind::Float, Device::Cpu).unwrap();
        let head = [1.0_f32, 2.0, 3.0, 4.0];
        let heads = Tensor::from_slice(&head).view([1, 1, 1, 4]).expand([1, 3, 1, 4], false).contiguous();
        let out = Vec::<f32>::try_from(rope.rotate(&heads).unwrap().view(-1)).unwrap();
        // As a GPU does it and as a CPU does it.
        let [queries, keys, values] =
            rope.split(&Tensor::cat(&[&heads, &heads, &heads], 3).flatten(2, 3), 1, 1).unwrap();
        assert!(queries.equal(&keys) && values.equal(&heads));
        assert!(queries.allclose(&rope.rotate(&heads).unwrap(), 1e-6, 1e-6, false));
        for (position, row) in out.chunks(4).enumerate() {
            for i in 0..2 {
                // θ = 100 and head_dim = 4: the second pair turns ten times slower.
                let (sin, cos) = (position as f32 * [1.0, 0.1][i]).sin_cos();
                let want = (head[i] * cos - head[i + 2] * sin, head[i + 2] * cos + head[i] * sin);
                assert!((row[i] - want.0).abs() < 1e-6 && (row[i + 2] - want.1).abs() < 1e-6);
            }
        }
    }
}
