//! Which k of n positions: coded in log2 C(n, k) bits and hardly more, whatever the positions are.
//!
//! The n positions are cut into rows of 64 (the last may be shorter). For every row but the last the number of
//! positions in it is coded, as a binomial with the density of what is left; the last row's number follows. Then,
//! within the row, the rank of its subset among all subsets of that size, all equally likely. The exact law of the
//! counts is hypergeometric; the binomial costs about 0.3 bits a chunk more and needs 88 small tables in place of one
//! for every (n, k) left.

use std::sync::LazyLock;

use crate::layout::CHUNK;
use crate::rans::{Decoder, Encoder, MAX_UNIFORM, Reason};

/// Positions in a row.
const ROW: usize = 64;
/// Slots of a count's table, as a power of two.
const COUNT_BITS: u32 = 15;
/// Tables for each power of two of the density.
const STEPS: u32 = 8;
/// Smallest exponent of a density in units of 2^-15: one position in 4096 is 2^3 of them.
const MIN_EXPONENT: u32 = 3;
/// Number of tables: densities from 2^-12 up to one half.
const TABLES: usize = ((COUNT_BITS - 1 - MIN_EXPONENT) * STEPS) as usize;

/// Binomial coefficients, `BINOMIAL[k][n]` = C(n, k) for n, k ≤ 64; the largest, C(64, 32), is below 2^61.
static BINOMIAL: [[u64; ROW + 1]; ROW + 1] = {
    let mut table = [[0; ROW + 1]; ROW + 1];
    let mut n = 0;
    while n <= ROW {
        table[0][n] = 1;
        let mut k = 1;
        while k <= n {
            table[k][n] = table[k - 1][n - 1] + table[k][n - 1];
            k += 1;
        }
        n += 1;
    }
    table
};

/// First slot of each count 0..=64 in a row, and the end, for each of the densities.
static COUNTS: LazyLock<Vec<[u16; ROW + 2]>> =
    LazyLock::new(|| (0..TABLES as u32).map(|i| cumulative(density(i))).collect());

/// The density in the middle of table `i`'s range: (8 + i mod 8 + ½) / 8 · 2^(3 + i / 8) / 2^15.
fn density(i: u32) -> f64 {
    let mantissa = f64::from(STEPS + i % STEPS) + 0.5;
    mantissa / f64::from(STEPS) * f64::from(1 << (MIN_EXPONENT + i / STEPS)) / f64::from(1 << COUNT_BITS)
}

/// Slots for Binomial(64, `p`): every count owns one at least, and the likeliest owns what rounding left over.
///
/// Only IEEE `+ - × ÷` in this order, so every machine has the same tables.
fn cumulative(p: f64) -> [u16; ROW + 2] {
    let share = f64::from((1_u32 << COUNT_BITS) - (ROW as u32 + 1));
    let odds = p / (1.0 - p);
    let mut mass = 1.0 - p;
    for _ in 0..6 {
        mass *= mass; // six squarings: (1 - p)^64
    }
    let mut freq = [0_u16; ROW + 1];
    for (count, freq) in freq.iter_mut().enumerate() {
        *freq = 1 + (mass * share) as u16;
        mass *= (ROW - count) as f64 / (count + 1) as f64 * odds;
    }
    let mode = (0..=ROW).rev().max_by_key(|&count| freq[count]).unwrap_or(0);
    freq[mode] += (1 << COUNT_BITS) - freq.iter().sum::<u16>();
    let mut starts = [0; ROW + 2];
    for count in 0..=ROW {
        starts[count + 1] = starts[count] + freq[count];
    }
    starts
}

/// What is left of a chunk: `n` positions from here to its end, `k` of them in the subset.
#[derive(Debug, Clone, Copy)]
struct Left {
    n: usize,
    k: usize,
}

impl Left {
    /// Whether the rest is known without a bit: nothing or everything.
    fn settled(self) -> bool {
        self.k == 0 || self.k == self.n
    }

    /// The table for the next row, and whether it counts absences, as it does above a density of one half.
    fn table(self) -> (&'static [u16; ROW + 2], bool) {
        let absences = 2 * self.k > self.n;
        let k = if absences { self.n - self.k } else { self.k };
        let q = (((k as u32) << COUNT_BITS) / self.n as u32).min((1 << (COUNT_BITS - 1)) - 1);
        let exponent = q.ilog2();
        let step = (q >> (exponent - MIN_EXPONENT)) - STEPS;
        (&COUNTS[((exponent - MIN_EXPONENT) * STEPS + step) as usize], absences)
    }
}

/// Writes the subset `positions` (strictly increasing, all below `n` ≤ 4096). Backwards, as rANS must.
pub(crate) fn put(encoder: &mut Encoder, positions: &[u16], n: usize) {
    debug_assert!(n <= CHUNK && positions.is_sorted_by(|a, b| a < b));
    debug_assert!(positions.last().is_none_or(|&p| usize::from(p) < n));
    let mut end = positions.len();
    for row in (0..n.div_ceil(ROW)).rev() {
        let start = positions[..end].partition_point(|&p| usize::from(p) < row * ROW);
        let inside = &positions[start..end];
        let left = Left { n: n - row * ROW, k: positions.len() - start };
        end = start;
        if left.settled() {
            continue;
        }
        put_row(encoder, inside, row, left.n.min(ROW));
        if left.n > ROW {
            let (starts, absences) = left.table();
            let count = if absences { ROW - inside.len() } else { inside.len() };
            encoder.put(starts[count].into(), (starts[count + 1] - starts[count]).into(), COUNT_BITS);
        }
    }
}

/// Reads `k` positions below `n` into `positions`, replacing what it held; `k` ≤ `n` ≤ 4096.
pub(crate) fn get(
    decoder: &mut Decoder<'_>,
    k: usize,
    n: usize,
    positions: &mut Vec<u16>,
) -> Result<(), Reason> {
    positions.clear();
    let mut left = Left { n, k };
    while !left.settled() {
        let base = n - left.n;
        let width = left.n.min(ROW);
        let count = if left.n > ROW { get_count(decoder, left)? } else { left.k };
        get_row(decoder, count, width, base, positions)?;
        left = Left { n: left.n - width, k: left.k - count };
    }
    if left.k > 0 {
        positions.extend((n - left.n..n).map(|p| p as u16));
    }
    Ok(())
}

/// Reads how many positions the next row of 64 has, and checks that the rest can hold the others.
fn get_count(decoder: &mut Decoder<'_>, left: Left) -> Result<usize, Reason> {
    let (starts, absences) = left.table();
    let slot = decoder.peek(COUNT_BITS) as u16;
    let symbol = starts.partition_point(|&start| start <= slot) - 1;
    decoder.advance(starts[symbol].into(), (starts[symbol + 1] - starts[symbol]).into(), COUNT_BITS)?;
    let count = if absences { ROW - symbol } else { symbol };
    if count > left.k || left.k - count > left.n - ROW {
        return Err("a row's count contradicts the chunk's");
    }
    Ok(count)
}

/// How a rank below `n` is split: the low bits as they are, and how many values the rest can have (≤ 2^20).
fn split(n: u64) -> (u32, u32) {
    let low = (u64::BITS - (n - 1).leading_zeros()).saturating_sub(MAX_UNIFORM.ilog2());
    (low, ((n - 1) >> low) as u32 + 1)
}

/// Writes which of the `width` positions of row `row` are `inside`: its rank in colexicographic order.
fn put_row(encoder: &mut Encoder, inside: &[u16], row: usize, width: usize) {
    let n = BINOMIAL[inside.len()][width];
    let place = |(i, &p): (usize, &u16)| BINOMIAL[i + 1][usize::from(p) - row * ROW];
    let rank: u64 = inside.iter().enumerate().map(place).sum();
    let (low, high) = split(n);
    encoder.put_bits(rank as u32 & mask(low.min(32)), low.min(32));
    encoder.put_bits((rank >> 32) as u32 & mask(low.saturating_sub(32)), low.saturating_sub(32));
    encoder.put_uniform((rank >> low) as u32, high);
}

/// Reads which `count` of the `width` positions from `base` on are in the subset.
fn get_row(
    decoder: &mut Decoder<'_>,
    count: usize,
    width: usize,
    base: usize,
    positions: &mut Vec<u16>,
) -> Result<(), Reason> {
    if count > width {
        return Err("a row's count contradicts the chunk's");
    }
    let n = BINOMIAL[count][width];
    let (low, high) = split(n);
    let mut rank = u64::from(decoder.uniform(high)?) << low;
    rank |= u64::from(decoder.bits(low.saturating_sub(32))?) << 32;
    rank |= u64::from(decoder.bits(low.min(32))?);
    if rank >= n {
        return Err("a row's rank is out of range");
    }
    let first = positions.len();
    positions.resize(first + count, 0);
    // The largest position with C(position, i) ≤ rank is the i-th; what is left is a rank among those below it.
    let mut end = width;
    for i in (1..=count).rev() {
        end = BINOMIAL[i][..end].partition_point(|&c| c <= rank) - 1;
        rank -= BINOMIAL[i][end];
        positions[first + i - 1] = (base + end) as u16;
    }
    Ok(())
}

fn mask(bits: u32) -> u32 {
    ((1_u64 << bits) - 1) as u32
}

/// log2 C(n, k): what a subset costs at best, in bits.
pub(crate) fn entropy_bits(n: usize, k: usize) -> f64 {
    (0..k).map(|i| ((n - i) as f64 / (k - i) as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    fn encode(subsets: &[(Vec<u16>, usize)]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        for (positions, n) in subsets.iter().rev() {
            put(&mut encoder, positions, *n);
        }
        let mut bytes = Vec::new();
        encoder.finish(&mut bytes);
        bytes
    }

    fn random_subset(rng: &mut ChaCha8Rng, k: usize, n: usize) -> Vec<u16> {
        let mut all: Vec<u16> = (0..n as u16).collect();
        for i in 0..k {
            let j = i + (rng.next_u64() % (n - i) as u64) as usize;
            all.swap(i, j);
        }
        all.truncate(k);
        all.sort_unstable();
        all
    }

    #[test]
    fn tables_are_complete() {
        for starts in COUNTS.iter() {
            assert_eq!((starts[0], starts[ROW + 1]), (0, 1 << COUNT_BITS));
            assert!(starts.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn density_is_within_its_tables_range() {
        for n in [65, 100, 128, 1000, 4096_usize] {
            for k in 1..n {
                let left = Left { n, k };
                let (table, absences) = left.table();
                let p = if absences { (n - k) as f64 } else { k as f64 } / n as f64;
                let i = COUNTS.iter().position(|t| std::ptr::eq(t, table)).unwrap();
                assert!((density(i as u32) / p - 1.0).abs() < 0.07, "{left:?}");
            }
        }
    }

    #[test]
    fn random_positions_cost_hardly_more_than_the_bound() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for k in [8, 16, 32, 64, 128, 256, 451, 1024, 2048, 3000, 4000] {
            let chunks = 400;
            let subsets: Vec<_> = (0..chunks).map(|_| (random_subset(&mut rng, k, CHUNK), CHUNK)).collect();
            let bits = encode(&subsets).len() as f64 * 8.0 - 64.0;
            let bound = entropy_bits(CHUNK, k) * f64::from(chunks);
            let (each, bound) = (bits / f64::from(chunks), bound / f64::from(chunks));
            assert!(each > bound - 0.1 && each < 0.6 + 1.0005 * bound, "k {k}: {each} bits, bound {bound}");
        }
    }

    fn subset() -> impl Strategy<Value = (Vec<u16>, usize)> {
        let n = prop_oneof![1..=130_usize, Just(CHUNK), 1..=CHUNK];
        n.prop_flat_map(|n| {
            let sparse = prop::collection::btree_set(0..n as u16, 0..=n.min(200));
            let run = (0..n, 0..n).prop_map(|(a, b)| (a.min(b) as u16..=a.max(b) as u16).collect());
            let flipped = prop::collection::btree_set(0..n as u16, 0..=n.min(40)).prop_map(move |out| {
                (0..n as u16).filter(|p| !out.contains(p)).collect::<std::collections::BTreeSet<_>>()
            });
            (prop_oneof![sparse, run, flipped].prop_map(|set| set.into_iter().collect()), Just(n))
        })
    }

    proptest! {
        #[test]
        fn round_trip(subsets in prop::collection::vec(subset(), 1..5)) {
            let bytes = encode(&subsets);
            let mut decoder = Decoder::new(&bytes).unwrap();
            let mut positions = Vec::new();
            for (expected, n) in &subsets {
                get(&mut decoder, expected.len(), *n, &mut positions).unwrap();
                prop_assert_eq!(&positions, expected);
            }
            decoder.finish().unwrap();
        }

        #[test]
        fn hostile_bytes_give_increasing_positions_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 8..200), n in 1..=CHUNK, k in 0..=CHUNK,
        ) {
            let k = k.min(n);
            let Ok(mut decoder) = Decoder::new(&bytes) else { return Ok(()) };
            let mut positions = Vec::new();
            if get(&mut decoder, k, n, &mut positions).is_ok() {
                prop_assert_eq!(positions.len(), k);
                prop_assert!(positions.is_sorted_by(|a, b| a < b));
                prop_assert!(positions.iter().all(|&p| usize::from(p) < n));
            }
        }
    }

    #[test]
    fn known_binomials() {
        assert_eq!(BINOMIAL[2][64], 2016);
        assert_eq!(BINOMIAL[32][64], 1_832_624_140_942_590_534);
        assert!((entropy_bits(4096, 64) / 64.0 - 7.364).abs() < 5e-4);
    }
}
