//! The k largest magnitudes of a chunk, exactly.

use crate::layout::CHUNK;
use crate::simd::Simd;

/// Below this many values all of them are candidates.
const SAMPLED: usize = 512;
/// One value in so many is looked at to guess the threshold: odd, so that it visits all columns of a tile.
const STRIDE: usize = 17;

/// Finds one chunk's largest values after the other's; what it remembers is speed, never the result.
#[derive(Debug)]
pub(crate) struct TopK {
    simd: Simd,
    masks: [u64; CHUNK / 64],
    sample: Vec<u32>,
    /// Magnitude and place of all that reach the threshold.
    keys: Vec<u64>,
    selected: Vec<u64>,
    /// Bits of a magnitude that a little more than k values of the chunk before reached.
    hint: u32,
}

impl TopK {
    pub(crate) fn new(simd: Simd) -> Self {
        let (sample, keys, selected) = (Vec::new(), Vec::new(), Vec::new());
        Self { simd, masks: [0; CHUNK / 64], sample, keys, selected, hint: 0 }
    }

    /// Finds the `k` values of largest magnitude in `values` (at most 4096 of them, all finite, `k` ≥ 1).
    ///
    /// Of two equal magnitudes the one that comes first wins. `positions` gets the places in increasing order,
    /// replacing what it held.
    pub(crate) fn select(&mut self, values: &[f32], k: usize, positions: &mut Vec<u16>) {
        debug_assert!((1..=values.len()).contains(&k) && values.len() <= CHUNK);
        self.find_candidates(values, k);
        if k < self.keys.len() {
            self.selected.clone_from(&self.keys);
            let (_, last, _) = self.selected.select_nth_unstable(k - 1);
            let last = *last;
            self.hint = next_hint(!(last >> 12) as u32);
            self.keys.retain(|&key| key <= last);
        }
        positions.clear();
        positions.extend(self.keys.iter().map(|key| (key & 0xfff) as u16));
    }

    /// Leaves the keys of at least `k` values in `keys`, those of the largest magnitudes among them.
    fn find_candidates(&mut self, values: &[f32], k: usize) {
        let guessable = values.len() >= SAMPLED && 8 * k <= values.len();
        // What fitted the chunk before mostly fits this one. If not, a sample tells; if even that is wrong, all count.
        for attempt in 0..3 {
            let threshold = match attempt {
                0 if guessable && self.hint > 0 => self.hint,
                1 if guessable => self.sampled(values, k),
                2 => 0,
                _ => continue,
            };
            self.simd.reach(values, threshold, &mut self.masks);
            let count = self.masks.iter().map(|mask| mask.count_ones() as usize).sum::<usize>();
            if count >= k && (count <= 4 * k || attempt > 0) {
                break;
            }
        }
        self.keys.clear();
        for (word, &mask) in self.masks.iter().enumerate() {
            let mut mask = mask;
            while mask != 0 {
                let place = word * 64 + mask.trailing_zeros() as usize;
                // Smaller keys are larger magnitudes: the bits of a non-negative float order as the float does. The
                // place breaks ties, and makes all keys different.
                self.keys.push(u64::from(!values[place].abs().to_bits()) << 12 | place as u64);
                mask &= mask - 1;
            }
        }
    }

    /// Bits of a magnitude that probably more than `k`, but not many more, of `values` reach.
    fn sampled(&mut self, values: &[f32], k: usize) -> u32 {
        self.sample.clear();
        self.sample.extend(values.iter().step_by(STRIDE).map(|value| value.abs().to_bits()));
        // Half more than the share of k, and a few, so that the guess is too high less than once in a thousand.
        let rank = self.sample.len() * k * 3 / (values.len() * 2) + 6;
        if rank >= self.sample.len() {
            return 0;
        }
        *self.sample.select_nth_unstable_by(rank, |a, b| b.cmp(a)).1
    }
}

/// A little below the magnitude with these bits: an eighth of an octave, or about a third more values of a normal.
fn next_hint(bits: u32) -> u32 {
    bits.saturating_sub(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f32], k: usize) -> Vec<u16> {
        let mut positions = Vec::new();
        TopK::new(Simd::detect()).select(values, k, &mut positions);
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

    /// A hint from a chunk of another size is too high or too low; the next result is the same.
    #[test]
    fn a_hint_does_no_harm() {
        for scale in [1e-6_f32, 0.5, 1.0, 1.1, 1e6] {
            let mut topk = TopK::new(Simd::detect());
            let values: Vec<f32> =
                (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) % 9973) as f32).collect();
            let mut positions = Vec::new();
            topk.select(&values, 64, &mut positions);
            assert!(topk.hint > 0);
            let next: Vec<f32> = values.iter().rev().map(|value| value * scale).collect();
            topk.select(&next, 64, &mut positions);
            assert_eq!(positions, of(&next, 64));
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
