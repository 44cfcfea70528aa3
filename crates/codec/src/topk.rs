//! The k largest magnitudes of a chunk, exactly.

/// Finds the `k` values of largest magnitude in `values` (at most 4096 of them, all finite, `k` ≥ 1).
///
/// Of two equal magnitudes the one that comes first wins. `positions` gets the places in increasing order and
/// `keys` is scratch space; both are replaced.
pub(crate) fn select(values: &[f32], k: usize, keys: &mut Vec<u64>, positions: &mut Vec<u16>) {
    debug_assert!((1..=values.len()).contains(&k) && values.len() <= crate::layout::CHUNK);
    keys.clear();
    // Bits of a non-negative float order as the float does. The place breaks ties, and makes all keys different.
    keys.extend(values.iter().enumerate().map(|(place, value)| {
        let magnitude = u64::from(value.abs().to_bits());
        !(magnitude << 12) & !0xfff | place as u64
    }));
    if k < keys.len() {
        keys.select_nth_unstable(k - 1);
    }
    positions.clear();
    positions.extend(keys[..k].iter().map(|key| (key & 0xfff) as u16));
    positions.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f32], k: usize) -> Vec<u16> {
        let mut positions = Vec::new();
        select(values, k, &mut Vec::new(), &mut positions);
        positions
    }

    #[test]
    fn lower_place_wins_a_tie() {
        assert_eq!(of(&[1.0, -2.0, 2.0, 2.0, 0.5], 2), [1, 2]);
        assert_eq!(of(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(of(&[3.0, 1.0], 2), [0, 1]);
    }

    proptest! {
        #[test]
        fn same_as_a_stable_sort(values in prop::collection::vec(-4..4_i32, 1..300), k in 1..300_usize) {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32 / 2.0).collect();
            let k = k.min(values.len());
            let mut order: Vec<u16> = (0..values.len() as u16).collect();
            order.sort_by(|&a, &b| values[b as usize].abs().total_cmp(&values[a as usize].abs()));
            order.truncate(k);
            order.sort_unstable();
            prop_assert_eq!(of(&values, k), order);
        }
    }
}
