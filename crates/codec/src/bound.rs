//! How long a file may be: known from layout and config, before a byte of it is read.

use crate::encode::CodecConfig;
use crate::header;
use crate::layout::Layout;
use crate::merge::DeltaConfig;
use crate::section::{DISTANCES, Format, WORD_BITS, kept_in_chunk, low_bits};

/// Most bytes that an update for `layout` can have: about a fifth above what one usually has.
///
/// A reader refuses anything longer before it fetches it.
pub fn max_update_bytes(layout: &Layout, config: &CodecConfig) -> u64 {
    file_bytes(layout, config.format())
}

/// Most bytes that a delta for `layout` can have, whatever number of updates it merges.
pub fn max_delta_bytes(layout: &Layout, config: &DeltaConfig) -> u64 {
    file_bytes(layout, config.format())
}

pub(crate) fn file_bytes(layout: &Layout, format: Format) -> u64 {
    let sections = 0..layout.num_sections();
    let frame = header::frame_len(sections.len()) as u64;
    frame + sections.map(|section| section_bytes(layout, section, format)).sum::<u64>()
}

/// Most bytes of section `section`.
///
/// Distances that are coded by how often they occur cost no more than under any fixed law, so no more than under the
/// geometric one: N·h(K/N) for K values of N elements. To that come what a table loses by having whole shares (an
/// eighth of a bit a value covers it), what follows a far distance, the signs and levels, and for each chunk a scale of
/// at most 24 bits and a count of 13.
pub(crate) fn section_bytes(layout: &Layout, section: usize, format: Format) -> u64 {
    let elements = layout.section_elements(section);
    let chunks = layout.section(section);
    let heads = 40 * chunks.len() as u64;
    let values = match format.top_k {
        Some(top_k) => {
            let kept = chunks.map(|chunk| kept_in_chunk(top_k, chunk.len) as u64).sum();
            value_bits(elements, kept, format)
        }
        None => most_value_bits(elements, format),
    };
    format.max_preamble_len() as u64 + (heads + values).div_ceil(8) + 4
}

/// Most bits of `kept` values among `elements`.
fn value_bits(elements: u64, kept: u64, format: Format) -> u64 {
    let low_bits = low_bits(elements, kept);
    let far = elements / ((DISTANCES as u64 - 1) << low_bits) * u64::from(WORD_BITS - low_bits);
    let rest = elements - kept;
    let whole = kept * log2_ratio(elements, kept) + rest * log2_ratio(elements, rest);
    whole.div_ceil(1 << FRACTION)
        + far.min(kept * u64::from(WORD_BITS))
        + kept * format.bits as u64
        + kept / 8
        + 64
}

/// Most bits of any number of values among `elements`.
fn most_value_bits(elements: u64, format: Format) -> u64 {
    // The number of values that costs most lies between these steps; their distance costs a few hundredths.
    let steps = (1..=64).map(|step| value_bits(elements, (elements * step).div_ceil(64), format));
    let most = steps.max().unwrap_or(0);
    most + most / 16
}

/// Fractional bits of a logarithm.
const FRACTION: u32 = 16;

/// log2(`whole` / `part`) in 2^-16ths, rounded up, by squaring, in integers so that every reader has the same bound.
/// 0 where `part` is 0. Both must be below 2^32.
fn log2_ratio(whole: u64, part: u64) -> u64 {
    if part == 0 || part >= whole {
        return 0;
    }
    let ratio = (whole << 31) / part; // 31 fractional bits, above 1
    let log = ratio.ilog2();
    let mut mantissa = if log > 31 { ratio >> (log - 31) } else { ratio };
    let mut digits = u64::from(log - 31);
    for _ in 0..FRACTION {
        mantissa = (mantissa * mantissa) >> 31;
        let carry = mantissa >> 32;
        digits = digits << 1 | carry;
        mantissa >>= carry;
    }
    // Rounded down so far: by the division, by the shift, by the digits left out.
    digits + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CHUNK, Chunk};
    use crate::pack::Packer;
    use crate::quantize::CodeBits;
    use crate::simd::Simd;

    #[test]
    fn integer_logarithms() {
        for (whole, part) in
            [(4096, 64), (4096, 4032), (100, 99), (3, 1), (1 << 22, 1), ((1 << 22) + 1, 1 << 22)]
        {
            let exact = (whole as f64 / part as f64).log2() * 65536.0;
            let got = log2_ratio(whole, part) as f64;
            assert!(got >= exact - 1e-6 && got < exact + 3.0, "{whole}/{part}: {got} {exact}");
        }
        assert_eq!([log2_ratio(5, 0), log2_ratio(5, 5)], [0, 0]);
    }

    /// Bits of a section of `chunks` chunks with these positions each, beyond the bound; negative if it holds.
    fn excess(format: Format, positions: &[Vec<u16>]) -> i64 {
        let mut packer = Packer::new(Simd::detect(), format);
        packer.begin();
        let chunk = Chunk { tensor: 0, base: 0, width: CHUNK, stride: 0, len: CHUNK };
        for (i, positions) in positions.iter().enumerate() {
            // Levels and scales that tell nothing about the next.
            let value = |j: usize| ((i * 31 + j) * 2_654_435_761 % 977 + 500) as f32 * [1.0, 1e-9][i % 2];
            let mut values: Vec<f32> = (0..positions.len()).map(value).collect();
            packer.push(&chunk, positions, &mut values, |_, _, _| {});
        }
        let bytes = packer.finish(|_, _, _| {}).len() as i64;
        let layout = Layout::new([("t".to_owned(), vec![CHUNK * positions.len()])]).unwrap();
        bytes - section_bytes(&layout, 0, format) as i64
    }

    /// Positions chosen to hurt: packed at either end, spread with any stride, in bursts, far from each other.
    #[test]
    fn no_arrangement_of_positions_exceeds_the_bound() {
        let n = CHUNK;
        for bits in [CodeBits::One, CodeBits::Two, CodeBits::Four] {
            for k in [
                1, 2, 5, 16, 32, 63, 64, 65, 100, 128, 200, 256, 512, 700, 1024, 1500, 2048, 3500, 4000, 4096,
            ] {
                let format = Format { bits, top_k: Some(k) };
                let k = k as usize;
                let mut all: Vec<Vec<u16>> = vec![(0..k as u16).collect(), ((n - k) as u16..=4095).collect()];
                for burst in [1, 2, 3, 7, 16, 33, 64, 100, 128, 200] {
                    let stride = (n / k.div_ceil(burst)).max(burst);
                    let spread: Vec<u16> = (0..n).filter(|p| p % stride < burst).map(|p| p as u16).collect();
                    if spread.len() >= k {
                        all.push(spread[..k].to_vec());
                        all.push(spread[spread.len() - k..].to_vec());
                    }
                }
                for positions in &all {
                    for chunks in [1, 40] {
                        let excess = excess(format, &vec![positions.clone(); chunks]);
                        assert!(
                            excess <= 0,
                            "k {k}, {chunks} chunks: {excess} from {:?}",
                            &positions[..k.min(4)]
                        );
                        let delta = Format { bits, top_k: None };
                        let delta_excess = self::excess(delta, &vec![positions.clone(); chunks]);
                        assert!(delta_excess <= 0, "delta k {k}: {delta_excess}");
                    }
                }
                // All arrangements in turn: distances with the least regularity.
                let mixed: Vec<_> = (0..60).map(|i| all[i * 7 % all.len()].clone()).collect();
                assert!(excess(format, &mixed) <= 0, "k {k}, mixed");
            }
        }
    }

    #[test]
    fn the_bound_is_not_far_above_what_is_usual() {
        let layout = Layout::new([("t".to_owned(), vec![4096, 4096])]).unwrap();
        let config = CodecConfig { top_k: 64, bits: CodeBits::Two, error_feedback_decay: 0.0 };
        let bits = max_update_bytes(&layout, &config) as f64 * 8.0 / (4096.0 * 64.0);
        assert!((9.4..11.8).contains(&bits), "{bits}");
    }
}
