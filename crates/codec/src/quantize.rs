//! Values as a sign and one of a few magnitudes, with a scale for every chunk.
//!
//! Magnitude j of a chunk is `scale · (1 + j·step/256)`: evenly spaced, above the smallest by a step that the whole
//! section shares. Values that survived a top-k bunch just above a threshold, so what differs between chunks is the
//! scale, and what differs between tensors is the length of the tail.

use crate::simd::Simd;

/// Smallest exponent of a scale; the largest is 31.
const MIN_EXPONENT: i32 = -96;
/// Scales for each power of two.
const PER_OCTAVE: u16 = 16;
/// Largest code of a scale; code 0 says that the chunk is all zero.
pub(crate) const MAX_SCALE_CODE: u16 = 128 * PER_OCTAVE;
/// Largest step, in 256ths of the scale.
pub(crate) const MAX_STEP: u16 = 16 * STEP_UNIT;
/// A step of one scale.
const STEP_UNIT: u16 = 256;
/// Once so many values have been looked at, the spread of a section is known well enough: to 1 %, which costs less than
/// 0.1 % of the squared error.
const MEASURED: u64 = 1 << 13;
/// Most magnitudes that any [`CodeBits`] has.
pub(crate) const MAX_LEVELS: usize = 8;

/// Bits of 2^(i/16) rounded to the nearest f32.
const MANTISSAS: [u32; PER_OCTAVE as usize] = [
    0x3f80_0000,
    0x3f85_aac3,
    0x3f8b_95c2,
    0x3f91_c3d3,
    0x3f98_37f0,
    0x3f9e_f532,
    0x3fa5_fed7,
    0x3fad_583f,
    0x3fb5_04f3,
    0x3fbd_08a4,
    0x3fc5_672a,
    0x3fce_248c,
    0x3fd7_44fd,
    0x3fe0_ccdf,
    0x3fea_c0c7,
    0x3ff5_257d,
];
/// 2^((i + ½)/16): where a scale is rounded up to the next.
const MIDDLES: [f64; PER_OCTAVE as usize] = [
    1.021_897_148_654_116_6,
    1.067_140_400_676_823_7,
    1.114_386_742_595_892_4,
    1.163_724_858_777_577_5,
    1.215_247_359_980_469,
    1.269_050_957_191_733_2,
    1.325_236_643_159_741_3,
    1.383_909_881_963_832,
    1.445_180_806_977_046_7,
    1.509_164_427_593_422_8,
    1.575_980_845_107_886_5,
    1.645_755_478_153_965,
    1.718_619_298_122_478,
    1.794_709_075_003_107_2,
    1.874_167_634_110_3,
    1.957_144_124_175_400_2,
];

/// How a kept value is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodeBits {
    /// Sign and chunk scale: one magnitude.
    One = 1,
    /// Sign and two magnitudes, which entropy coding brings to about 1.8 bits.
    Two = 2,
    /// Sign and four magnitudes.
    Three = 3,
    /// Sign and eight magnitudes.
    Four = 4,
}

impl CodeBits {
    /// Number of magnitudes: 1, 2, 4 or 8.
    pub fn levels(self) -> usize {
        1 << self.level_bits()
    }

    /// The code of 1, 2, 3 or 4 bits.
    pub fn from_number(bits: u8) -> Option<Self> {
        [Self::One, Self::Two, Self::Three, Self::Four].into_iter().find(|code| *code as u8 == bits)
    }

    /// Bits that tell the magnitudes apart.
    pub(crate) fn level_bits(self) -> u32 {
        self as u32 - 1
    }
}

/// Magnitudes of a section, relative to a chunk's scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Levels {
    ratios: [f32; MAX_LEVELS],
    count: usize,
    step: u16,
}

impl Levels {
    /// Ratios 1 + j·`step`/256, exact in f32.
    pub(crate) fn new(bits: CodeBits, step: u16) -> Self {
        let ratio = |j| (f32::from(STEP_UNIT) + j as f32 * f32::from(step)) / f32::from(STEP_UNIT);
        Self { ratios: std::array::from_fn(ratio), count: bits.levels(), step }
    }

    /// One for each level.
    pub(crate) fn ratios(&self) -> &[f32] {
        &self.ratios[..self.count]
    }

    /// The magnitudes of a chunk with scale `code`, one f32 multiplication each: all zero for code 0.
    pub(crate) fn magnitudes(&self, code: u16) -> [f32; MAX_LEVELS] {
        let scale = scale_value(code);
        self.ratios.map(|ratio| ratio * scale)
    }

    /// Gives each value of a chunk with scale `code` the nearest level, of two equally near the lower one, and replaces
    /// it by what a reader will see.
    pub(crate) fn assign(&self, simd: Simd, code: u16, values: &mut [f32], codes: &mut [u8]) {
        let magnitudes = self.magnitudes(code);
        let middle = |level: usize| 0.5 * (magnitudes[level] + magnitudes[(level + 1).min(MAX_LEVELS - 1)]);
        simd.quantize(self.count, &std::array::from_fn(middle), &magnitudes, values, codes);
    }

    /// The scale that suits `magnitudes` best, by a few rounds of "nearest level, then least squares" from `start`.
    ///
    /// Returns its code; 0 when it is too small for any.
    pub(crate) fn fit_scale(&self, simd: Simd, magnitudes: &[f32], start: f64) -> u16 {
        const ROUNDS: usize = 2;
        // Least squares with a single level is the mean, and that is where a fit starts.
        let rounds = if self.count > 1 { ROUNDS } else { 0 };
        let mut scale = start;
        for _ in 0..rounds {
            // Also where there are no magnitudes: their mean is no number.
            if scale.is_nan() || scale < scale_value(1).into() {
                return 0;
            }
            let (cross, square) = simd.project(magnitudes, self.ruler(scale));
            scale = cross / square;
        }
        nearest_scale(scale)
    }

    /// How to tell the level next to a magnitude under a scale that is not rounded yet.
    fn ruler(&self, scale: f64) -> Ruler {
        let per_step = f64::from(STEP_UNIT) / f64::from(self.step.max(1));
        Ruler {
            slope: (per_step / scale) as f32,
            offset: -per_step as f32,
            top: (self.count - 1) as f32,
            step: f32::from(self.step) / f32::from(STEP_UNIT),
        }
    }
}

/// Level of a magnitude m: m·slope + offset, within 0 and `top`, to the nearest; its ratio is 1 + level·step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruler {
    pub(crate) slope: f32,
    pub(crate) offset: f32,
    pub(crate) top: f32,
    pub(crate) step: f32,
}

impl Ruler {
    /// The ratio of the level next to `magnitude`.
    #[inline(always)]
    pub(crate) fn ratio(self, magnitude: f32) -> f32 {
        /// 2^23: a float beyond it has no fraction, so adding and subtracting it rounds to the nearest integer, halves
        /// to even.
        const ROUNDER: f32 = 8_388_608.0;
        let place = magnitude * self.slope + self.offset;
        let place = if place > 0.0 { place } else { 0.0 };
        let place = if place < self.top { place } else { self.top };
        1.0 + ((place + ROUNDER) - ROUNDER) * self.step
    }
}

/// The scale that `code` (1 to 2048) stands for: 2^(-96 + (code - 1)/16), and 0 for code 0.
pub fn scale_value(code: u16) -> f32 {
    let Some(code) = code.checked_sub(1) else { return 0.0 };
    let exponent = MIN_EXPONENT + i32::from(code / PER_OCTAVE);
    // A power of two is exact and so is the product.
    f32::from_bits(MANTISSAS[usize::from(code % PER_OCTAVE)])
        * f32::from_bits(((127 + exponent) as u32) << 23)
}

/// Code of the scale nearest to `scale` by ratio: 0 below the range, the last code above it.
pub(crate) fn nearest_scale(scale: f64) -> u16 {
    if scale.is_nan() || scale < f64::from(scale_value(1)) {
        return 0;
    }
    let bits = scale.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | 1023 << 52);
    let step = MIDDLES.iter().take_while(|&&middle| mantissa >= middle).count() as i32;
    let code = (exponent - MIN_EXPONENT) * i32::from(PER_OCTAVE) + step + 1;
    code.min(MAX_SCALE_CODE.into()) as u16
}

/// How a section's magnitudes are spread, in units of their chunk's mean.
///
/// A histogram, so that fitting costs the same for any number of values and does not depend on their order.
#[derive(Debug)]
pub(crate) struct Spread {
    bins: Vec<u32>,
    total: u64,
}

/// What [`Spread::fit`] finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fit {
    /// Distance of the levels, in 256ths of the scale.
    pub(crate) step: u16,
    /// Scale to start from, in units of a chunk's mean magnitude.
    pub(crate) start: f64,
}

impl Fit {
    /// A single level lies at the mean.
    pub(crate) const ONE_LEVEL: Self = Self { step: 0, start: 1.0 };
}

impl Spread {
    const BINS: usize = 1024;
    /// Bins for each mean: 16 means are as far as the histogram reaches.
    const PER_MEAN: f64 = 64.0;

    pub(crate) fn new() -> Self {
        Self { bins: vec![0; Self::BINS], total: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.bins.fill(0);
        self.total = 0;
    }

    /// Whether more values would hardly change the fit.
    pub(crate) fn is_known(&self) -> bool {
        self.total >= MEASURED
    }

    /// Counts the magnitudes of one chunk, whose mean is `mean` (NaN for one without values).
    pub(crate) fn add(&mut self, magnitudes: &[f32], mean: f64) {
        // Below the least scale a chunk becomes zero.
        if mean.is_nan() || mean < f64::from(scale_value(1)) {
            return;
        }
        let to_bin = (Self::PER_MEAN / mean) as f32;
        for &magnitude in magnitudes {
            let bin = (magnitude * to_bin).min((Self::BINS - 1) as f32) as usize;
            self.bins[bin & (Self::BINS - 1)] += 1;
        }
        self.total += magnitudes.len() as u64;
    }

    /// Evenly spaced levels a + j·b that minimise the squared error, by alternating nearest level and regression
    /// (for two levels this is Lloyd's algorithm).
    pub(crate) fn fit(&self, bits: CodeBits) -> Fit {
        const ROUNDS: usize = 24;
        let levels = bits.levels();
        if levels == 1 {
            return Fit::ONE_LEVEL;
        }
        if self.total == 0 {
            return Fit { step: 1, start: 1.0 };
        }
        let tail = 1.0 / (2 * levels) as f64;
        let mut a = self.quantile(tail);
        let mut b = (self.quantile(1.0 - tail) - a) / (levels - 1) as f64;
        for _ in 0..ROUNDS {
            let Some(next) = self.regress(a, b, levels) else { break };
            (a, b) = next;
        }
        let step = (b / a * f64::from(STEP_UNIT) + 0.5) as u16;
        Fit { step: step.clamp(1, MAX_STEP), start: a }
    }

    /// One round: every bin to its nearest level, then the line through (level, magnitude).
    fn regress(&self, a: f64, b: f64, levels: usize) -> Option<(f64, f64)> {
        let (mut n, mut j1, mut j2, mut x1, mut jx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (bin, &count) in self.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let x = (bin as f64 + 0.5) / Self::PER_MEAN;
            let level = ((x - a) / b + 0.5) as usize; // saturates below 0
            let (j, count) = (level.min(levels - 1) as f64, f64::from(count));
            n += count;
            j1 += count * j;
            j2 += count * j * j;
            x1 += count * x;
            jx += count * j * x;
        }
        let spread = n * j2 - j1 * j1;
        if spread <= 0.0 {
            return None; // all on one level
        }
        let b = (n * jx - j1 * x1) / spread;
        let a = (x1 - b * j1) / n;
        // The lowest level must stay above zero, and the step in its range.
        Some((a.max(b / 16.0), b))
    }

    /// Middle of the bin in which a share `q` of the values lies below.
    fn quantile(&self, q: f64) -> f64 {
        let mut below = 0;
        let bin = self.bins.iter().position(|&count| {
            below += u64::from(count);
            below as f64 > q * self.total as f64
        });
        (bin.unwrap_or(Self::BINS - 1) as f64 + 0.5) / Self::PER_MEAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_sixteenths_of_octaves() {
        assert_eq!(scale_value(0), 0.0);
        assert_eq!(scale_value(1), 2_f32.powi(-96));
        assert_eq!(scale_value(1 + 96 * 16), 1.0);
        assert_eq!(scale_value(1 + 97 * 16), 2.0);
        assert_eq!(scale_value(1 + 96 * 16 + 8), std::f32::consts::SQRT_2);
        for code in 1..MAX_SCALE_CODE {
            let ratio = f64::from(scale_value(code + 1)) / f64::from(scale_value(code));
            assert!((ratio - 2_f64.powf(1.0 / 16.0)).abs() < 1e-6);
        }
        assert!(scale_value(MAX_SCALE_CODE) < 2_f32.powi(32));
    }

    #[test]
    fn nearest_scale_inverts_scale_value() {
        for code in 0..=MAX_SCALE_CODE {
            let scale = f64::from(scale_value(code));
            assert_eq!(nearest_scale(scale), code);
            if code > 1 {
                assert_eq!(nearest_scale(scale * 1.02), code);
                assert_eq!(nearest_scale(scale * 0.98), code);
            }
        }
        assert_eq!(nearest_scale(1e300), MAX_SCALE_CODE);
        assert_eq!(nearest_scale(1e-300), 0);
        assert_eq!(nearest_scale(f64::NAN), 0);
    }

    #[test]
    fn mantissas_and_middles_are_powers_of_two() {
        for i in 0..usize::from(PER_OCTAVE) {
            assert_eq!(f32::from_bits(MANTISSAS[i]), 2_f64.powf(i as f64 / 16.0) as f32);
            assert!((MIDDLES[i] / 2_f64.powf((i as f64 + 0.5) / 16.0) - 1.0).abs() < 1e-14);
        }
    }

    /// The fit of a single chunk.
    fn fit_one(bits: CodeBits, magnitudes: &[f32]) -> (Fit, f64) {
        let mean = Simd::detect().sum(magnitudes) / magnitudes.len() as f64;
        let mut spread = Spread::new();
        spread.add(magnitudes, mean);
        (spread.fit(bits), mean)
    }

    #[test]
    fn two_clusters_are_found() {
        let magnitudes: Vec<f32> = (0..80).map(|i| if i % 4 == 0 { 3.0 } else { 1.5 }).collect();
        let (fit, mean) = fit_one(CodeBits::Two, &magnitudes);
        assert_eq!(mean, 1.875);
        assert!((i32::from(fit.step) - 256).abs() <= 4, "{fit:?}");
        let levels = Levels::new(CodeBits::Two, 256);
        let code = levels.fit_scale(Simd::detect(), &magnitudes, fit.start * mean);
        let scale = scale_value(code);
        assert!((scale / 1.5 - 1.0).abs() < 0.022);
        let (mut values, mut codes) = ([1.4, -2.0, 2.3, -9.0], [0; 4]);
        levels.assign(Simd::detect(), code, &mut values, &mut codes);
        assert_eq!((values, codes), ([scale, -scale, 2.0 * scale, -2.0 * scale], [0, 128, 1, 129]));
    }

    #[test]
    fn equal_magnitudes_do_not_upset_the_fit() {
        for bits in [CodeBits::One, CodeBits::Two, CodeBits::Three, CodeBits::Four] {
            let (fit, mean) = fit_one(bits, &[2.0; 64]);
            assert_eq!(fit.step, u16::from(bits != CodeBits::One));
            let code = Levels::new(bits, fit.step).fit_scale(Simd::detect(), &[2.0; 64], mean * fit.start);
            assert!((scale_value(code) - 2.0).abs() < 0.05);
        }
    }

    #[test]
    fn what_is_too_small_or_not_there_has_no_scale() {
        for magnitudes in [&[1e-38_f32; 8][..], &[0.0; 3], &[]] {
            let (fit, mean) = fit_one(CodeBits::Two, magnitudes);
            let levels = Levels::new(CodeBits::Two, fit.step);
            assert_eq!(levels.fit_scale(Simd::detect(), magnitudes, fit.start * mean), 0);
        }
    }
}
