//! Which windows of a long history to read, so that few tell most.

use std::collections::{BTreeMap, BTreeSet};

use super::window::Summary;

/// Lines that are read of the whole history: more than a screen has columns.
const SPREAD: u64 = 256;
/// Newest windows that are all read.
const RECENT: u64 = 64;

/// The next windows to read, at most `most`: first the newest, then evenly spread ones, coarse before fine. Their distance is a power of two
/// that grows with the run, so that what was read stays useful. `gone` are those that cannot be read.
pub(super) fn next_to_fill(
    newest: u64,
    held: &BTreeMap<u64, Summary>,
    gone: &BTreeSet<u64>,
    most: usize,
) -> Vec<u64> {
    let finest = finest(newest);
    let coarsest = finest * SPREAD;
    let strides = std::iter::successors(Some(coarsest), |stride| Some(stride / 2));
    let strides = strides.take_while(|stride| *stride >= finest);
    // The newest is perhaps not closed yet; whoever looks has it with all its records.
    let recent = (newest.saturating_sub(RECENT)..newest).rev();
    let spread =
        strides.flat_map(|stride| (0..newest).step_by(usize::try_from(stride).unwrap_or(usize::MAX)));
    let mut seen = BTreeSet::new();
    let wanted = recent
        .chain(spread)
        .filter(|window| !held.contains_key(window) && !gone.contains(window) && seen.insert(*window));
    wanted.take(most).collect()
}

/// Drops lines that tell least, so that a run of any length needs the same memory: the newest stay, and those that would be
/// read again.
pub(super) fn thin(newest: u64, held: &mut BTreeMap<u64, Summary>) {
    if held.len() as u64 > 2 * (SPREAD + RECENT) {
        let finest = finest(newest);
        held.retain(|window, _| window + RECENT >= newest || window.is_multiple_of(finest));
    }
}

/// The distance of lines far from the newest.
fn finest(newest: u64) -> u64 {
    newest.div_ceil(SPREAD).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_rest_is_even() {
        let (none, all_there) = (BTreeMap::new(), BTreeSet::new());
        assert_eq!(next_to_fill(0, &none, &all_there, 9), Vec::<u64>::new());
        assert_eq!(next_to_fill(3, &none, &all_there, 9), [2, 1, 0]);
        let all = next_to_fill(10_000, &none, &all_there, usize::MAX);
        assert!(all.len() as u64 <= RECENT + SPREAD, "{}", all.len());
        assert_eq!(all[..3], [9999, 9998, 9997]);
        for newest in [1, 255, 256, 257, 300, 511, 512, 513, 100_000] {
            let all = next_to_fill(newest, &none, &all_there, usize::MAX);
            assert!(all.len() as u64 <= RECENT + SPREAD, "{newest}: {}", all.len());
        }
        let mut spread = all[RECENT as usize..].to_vec();
        assert_eq!(spread[..2], [0, 8192]);
        spread.sort_unstable();
        let gaps: Vec<u64> = spread.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == 64), "{gaps:?}");
    }
}
