//! How long a file may be: known from layout and config, before a byte of it is read.

use crate::encode::CodecConfig;
use crate::header;
use crate::layout::{CHUNK, Layout};
use crate::merge::DeltaConfig;
use crate::quantize::CodeBits;
use crate::section::{Format, kept_in_chunk};

/// Most bytes that an update for `layout` can have: about a tenth above what one usually has.
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
pub(crate) fn section_bytes(layout: &Layout, section: usize, format: Format) -> u64 {
    let full = chunk_bits(CHUNK, format);
    let bits = |len| if len == CHUNK { full } else { chunk_bits(len, format) };
    let stream: u64 = layout.section(section).map(|chunk| bits(chunk.len)).sum();
    // The state is 64 bits of which 32 are the message's, and the last word may be part empty.
    format.preamble_len() as u64 + stream.div_ceil(8) + 12
}

/// Most bits of a chunk of `len` elements.
///
/// Positions: log2 C(n, k), and what the binomial tables can lose against it: at most half log2 of the 64 rows for
/// being wider than the hypergeometric law, a sixteenth off in the density for each position kept, and rounding; k/4 + 16
/// covers that with room. Then a sign and at most log2 of the levels for each value, a scale of 11 bits and a
/// count of 13.
fn chunk_bits(len: usize, format: Format) -> u64 {
    const SCALE_AND_COUNT: u64 = 24;
    let n = len as u64;
    let slack = |k: u64| k / 4 + 16 + SCALE_AND_COUNT;
    match format.top_k {
        Some(top_k) => {
            let kept = kept_in_chunk(top_k, len);
            let k = kept as u64;
            binomial_bits(len, kept) + k * format.bits as u64 + slack(k.min(n - k))
        }
        // The worst number of values k: log2 C(n, k) + k·bits ≤ n·log2(1 + 2^bits), here in thousandths.
        None => {
            let worst = match format.bits {
                CodeBits::One => 1_585,
                CodeBits::Two => 2_322,
                CodeBits::Three => 3_170,
                CodeBits::Four => 4_088,
            };
            (n * worst).div_ceil(1000) + slack(n / 2) + n / 64
        }
    }
}

/// log2 C(n, k) rounded up to whole bits, in integers so that every reader has the same bound.
fn binomial_bits(n: usize, k: usize) -> u64 {
    let k = k.min(n - k);
    let sum = |from: usize| (from + 1..=from + k).map(|x| log2_floor(x as u32)).sum::<u64>();
    // Each logarithm is short by less than 2^-16: add that to the numerator's.
    (sum(n - k) + k as u64 - sum(0)).div_ceil(1 << 16)
}

/// log2 `x` in 2^-16ths, rounded down, by squaring; `x` ≥ 1.
fn log2_floor(x: u32) -> u64 {
    let whole = x.ilog2();
    let mut mantissa = u64::from(x) << (31 - whole); // in [1, 2), 31 fractional bits
    let mut log = u64::from(whole);
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        let carry = mantissa >> 32;
        log = log << 1 | carry;
        mantissa >>= carry;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rans::Encoder;
    use crate::subset;

    #[test]
    fn integer_logarithms() {
        for x in 1..5000_u32 {
            let exact = f64::from(x).log2() * 65536.0;
            let got = log2_floor(x) as f64;
            assert!(got <= exact + 1e-6 && got > exact - 2.0, "{x}: {got} {exact}");
        }
        for (n, k) in [(4096, 64), (4096, 32), (4096, 4096), (4096, 2048), (130, 3), (1, 1)] {
            let exact = subset::entropy_bits(n, k);
            let got = binomial_bits(n, k) as f64;
            assert!(got >= exact - 1e-9 && got <= exact + 1.5 + k as f64 / 32768.0, "{n} {k}: {got} {exact}");
        }
    }

    fn cost(positions: &[u16], n: usize) -> f64 {
        const COPIES: usize = 32;
        let mut encoder = Encoder::new();
        (0..COPIES).for_each(|_| subset::put(&mut encoder, positions, n));
        let mut bytes = Vec::new();
        encoder.finish(&mut bytes);
        (bytes.len() * 8 - 32) as f64 / COPIES as f64
    }

    /// Positions chosen to hurt: packed at either end, spread with any stride, in bursts, one row in two.
    #[test]
    fn no_arrangement_of_positions_exceeds_the_slack() {
        let n = CHUNK;
        let mut worst = f64::MIN;
        for k in
            [1, 2, 5, 16, 32, 63, 64, 65, 100, 128, 200, 256, 512, 700, 1024, 1500, 2048, 2500, 3500, 4000]
        {
            let mut arrangements: Vec<Vec<u16>> = vec![(0..k).collect(), (n as u16 - k..n as u16).collect()];
            for burst in [1, 2, 3, 7, 16, 33, 64, 100, 128] {
                let bursts = usize::from(k).div_ceil(burst);
                let stride = (n / bursts).max(burst);
                let all = (0..n).filter(|p| p % stride < burst).map(|p| p as u16);
                arrangements.push(all.take(k.into()).collect());
                let late = (0..n).filter(|p| (n - 1 - p) % stride < burst).map(|p| p as u16);
                let late: Vec<u16> = late.collect();
                arrangements.push(late[late.len().saturating_sub(k.into())..].to_vec());
            }
            for positions in arrangements {
                let k = positions.len();
                let over = cost(&positions, n) - subset::entropy_bits(n, k) - k.min(n - k) as f64 / 4.0;
                worst = worst.max(over);
                assert!(over < 16.0, "k {k}: {over} bits over, from {:?}", &positions[..k.min(4)]);
            }
        }
        assert!(worst > -16.0, "the arrangements should come near the bound: {worst}");
    }
}
