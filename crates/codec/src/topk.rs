//! The k largest magnitudes of a chunk, exactly.

use crate::layout::CHUNK;

/// Below this many values all of them are candidates.
const SAMPLED: usize = 512;
/// One value in so many is looked at to guess the threshold: odd, so that it visits all columns of a tile.
const STRIDE: usize = 17;

/// Buffers that one call after the other uses.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sample: Vec<u32>,
    keys: Vec<u64>,
}

/// Finds the `k` values of largest magnitude in `values` (at most 4096 of them, all finite, `k` ≥ 1).
///
/// Of two equal magnitudes the one that comes first wins. `positions` gets the places in increasing order, replacing
/// what it held.
pub(crate) fn select(values: &[f32], k: usize, scratch: &mut Scratch, positions: &mut Vec<u16>) {
    debug_assert!((1..=values.len()).contains(&k) && values.len() <= CHUNK);
    let Scratch { sample, keys } = scratch;
    gather(values, guess(values, k, sample), keys);
    if keys.len() < k {
        gather(values, 0, keys); // the guess was too high
    }
    if k < keys.len() {
        keys.select_nth_unstable(k - 1);
    }
    positions.clear();
    positions.extend(keys[..k].iter().map(|key| (key & 0xfff) as u16));
    positions.sort_unstable();
}

/// Bits of a magnitude that probably more than `k`, but not many more, of `values` reach.
fn guess(values: &[f32], k: usize, sample: &mut Vec<u32>) -> u32 {
    if values.len() < SAMPLED || 8 * k > values.len() {
        return 0;
    }
    sample.clear();
    sample.extend(values.iter().step_by(STRIDE).map(|value| value.abs().to_bits()));
    // Half more than the share of k, and a few, so that the guess is too high less than once in a thousand.
    let rank = sample.len() * k * 3 / (values.len() * 2) + 6;
    if rank >= sample.len() {
        return 0;
    }
    *sample.select_nth_unstable_by(rank, |a, b| b.cmp(a)).1
}

/// Keys of all values whose magnitude's bits are at least `threshold`.
///
/// Smaller keys are larger magnitudes: the bits of a non-negative float order as the float does. The place breaks
/// ties, and makes all keys different.
fn gather(values: &[f32], threshold: u32, keys: &mut Vec<u64>) {
    keys.clear();
    keys.resize(values.len(), 0);
    let mut count = 0;
    for (place, value) in values.iter().enumerate() {
        let magnitude = value.abs().to_bits();
        // Always written and seldom kept: no branch that the processor would guess wrong.
        keys[count] = u64::from(!magnitude) << 12 | place as u64;
        count += usize::from(magnitude >= threshold);
    }
    keys.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f32], k: usize) -> Vec<u16> {
        let mut positions = Vec::new();
        select(values, k, &mut Scratch::default(), &mut positions);
        positions
    }

    #[test]
    fn lower_place_wins_a_tie() {
        assert_eq!(of(&[1.0, -2.0, 2.0, 2.0, 0.5], 2), [1, 2]);
        assert_eq!(of(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(of(&[3.0, 1.0], 2), [0, 1]);
    }

    /// Values that hide from the sample: the guess is then far too high or far too low.
    #[test]
    fn a_wrong_guess_does_no_harm() {
        for (seen, hidden) in [(9.0, 1.0), (0.0, 1.0), (1.0, 9.0)] {
            let values: Vec<f32> = (0..4096).map(|i| if i % STRIDE == 0 { seen } else { hidden }).collect();
            let high = |i: &u16| (usize::from(*i) % STRIDE == 0) == (seen > hidden);
            let (first, rest): (Vec<u16>, Vec<u16>) = (0..4096).partition(high);
            let mut expected: Vec<u16> = first.into_iter().chain(rest).take(300).collect();
            expected.sort_unstable();
            assert_eq!(of(&values, 300), expected);
        }
    }

    proptest! {
        #[test]
        fn same_as_a_stable_sort(
            values in prop::collection::vec(-400..400_i32, 1..2000), k in 1..300_usize, coarse in 1..200_i32,
        ) {
            let values: Vec<f32> = values.into_iter().map(|v| (v / coarse) as f32 / 2.0).collect();
            let k = k.min(values.len());
            let mut order: Vec<u16> = (0..values.len() as u16).collect();
            order.sort_by(|&a, &b| values[b as usize].abs().total_cmp(&values[a as usize].abs()));
            order.truncate(k);
            order.sort_unstable();
            prop_assert_eq!(of(&values, k), order);
        }
    }
}
