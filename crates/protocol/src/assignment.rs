//! Who trains on what: a pure function of the window's seed, the peer and the run.
//!
//! The shards of window w follow from the seed of window w − 1, so that a peer can fetch them ahead; the
//! sequences follow from the seed of window w, so that nobody can train on them ahead.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::{Digest, PeerId};

/// One training sequence: number `index` of shard `shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    /// Position in [`crate::DatasetIndex`]'s list of shards.
    pub shard: u32,
    /// The sequence's number in that shard.
    pub index: u64,
}

/// Whose sequences are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The training sequences of a peer.
    Assigned(PeerId),
    /// Sequences that belong to nobody: the common ruler of all validators.
    Unassigned,
}

impl Draw {
    fn bytes(&self) -> [u8; 33] {
        let mut out = [0; 33];
        if let Self::Assigned(peer) = self {
            out[0] = 1;
            out[1..].copy_from_slice(&peer.0);
        }
        out
    }
}

/// The shards that `draw` takes its sequences from: `count` of them, all different while there are enough,
/// each drawn in proportion to its number of sequences.
///
/// `previous_seed` is the seed of the window before, or the run's id for window 0. `sequences[s]` is the number
/// of sequences in shard `s`.
pub fn shards(run: &Digest, previous_seed: &Digest, draw: Draw, sequences: &[u64], count: u32) -> Vec<u32> {
    let mut rng = rng("shards", run, previous_seed, &draw);
    let mut left: Vec<u64> = sequences.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let total: u64 = left.iter().sum();
        if total == 0 {
            break;
        }
        let shard = pick(&left, below(&mut rng, total));
        left[shard] = 0;
        chosen.push(shard as u32);
    }
    chosen
}

/// `count` sequences out of `shards`, uniform and independent.
///
/// `seed` is the window's own. Returns nothing when the shards hold no sequence.
pub fn sequences(
    run: &Digest,
    seed: &Digest,
    draw: Draw,
    sequences: &[u64],
    shards: &[u32],
    count: usize,
) -> Vec<SequenceId> {
    let mut rng = rng("sequences", run, seed, &draw);
    let sizes: Vec<u64> = shards.iter().map(|shard| sequences[*shard as usize]).collect();
    let total: u64 = sizes.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    (0..count)
        .map(|_| {
            let mut index = below(&mut rng, total);
            let at = pick(&sizes, index);
            index -= sizes[..at].iter().sum::<u64>();
            SequenceId { shard: shards[at], index }
        })
        .collect()
}

/// The digest of `ids` in order, as a receipt states it.
pub fn samples_digest(ids: &[SequenceId]) -> Digest {
    let bytes: Vec<u8> = ids
        .iter()
        .flat_map(|id| [u64::from(id.shard).to_le_bytes(), id.index.to_le_bytes()].concat())
        .collect();
    Digest::of_parts("brigade samples v1", &[&bytes])
}

fn rng(what: &str, run: &Digest, seed: &Digest, draw: &Draw) -> ChaCha20Rng {
    let label = format!("brigade {what} v1");
    ChaCha20Rng::from_seed(Digest::of_parts(&label, &[&run.0, &seed.0, &draw.bytes()]).0)
}

/// A uniform integer below `bound`, without modulo bias.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let value = rng.next_u64();
        if value < zone {
            return value % bound;
        }
    }
}

/// The place whose span of the running sum holds `at`.
fn pick(sizes: &[u64], mut at: u64) -> usize {
    for (place, size) in sizes.iter().enumerate() {
        if at < *size {
            return place;
        }
        at -= size;
    }
    sizes.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const RUN: Digest = Digest([1; 32]);
    const SEED: Digest = Digest([2; 32]);
    const PEER: Draw = Draw::Assigned(PeerId([3; 32]));

    #[test]
    fn shards_differ_and_skip_empty_ones() {
        let sizes = [10, 0, 10, 10, 0, 10];
        let chosen = shards(&RUN, &SEED, PEER, &sizes, 4);
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 4);
        assert!(!chosen.contains(&1) && !chosen.contains(&4));
        assert_eq!(shards(&RUN, &SEED, PEER, &sizes, 9).len(), 4);
    }

    #[test]
    fn sequences_stay_in_bounds_and_spread_evenly() {
        let sizes = [5, 1000, 10];
        let ids = sequences(&RUN, &SEED, PEER, &sizes, &[2, 0], 3000);
        assert!(ids.iter().all(|id| id.shard != 1 && id.index < sizes[id.shard as usize]));
        let in_two = ids.iter().filter(|id| id.shard == 2).count();
        assert!((1850..2150).contains(&in_two), "{in_two} of 3000 should be near 2000");
    }

    #[test]
    fn every_input_matters() {
        let draw = |run, seed, draw| sequences(&run, &seed, draw, &[1 << 40], &[0], 4);
        let base = draw(RUN, SEED, PEER);
        assert_eq!(base, draw(RUN, SEED, PEER));
        assert_ne!(base, draw(SEED, SEED, PEER));
        assert_ne!(base, draw(RUN, RUN, PEER));
        assert_ne!(base, draw(RUN, SEED, Draw::Unassigned));
        assert_ne!(base, draw(RUN, SEED, Draw::Assigned(PeerId([4; 32]))));
    }

    #[test]
    fn nothing_to_draw_from_is_no_panic() {
        assert!(shards(&RUN, &SEED, PEER, &[], 2).is_empty());
        assert!(sequences(&RUN, &SEED, PEER, &[0], &[0], 2).is_empty());
    }
}
