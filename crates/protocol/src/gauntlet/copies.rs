//! Copies: updates that point the same way as no two honest ones do.

use super::gram::Gram;
use crate::Timestamp;

/// When an update was sent, by two clocks that no peer controls both of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When its receipt was written, by the clock of the peer's own store.
    pub received_at: Timestamp,
    /// When the run's copy of that receipt was written, by the clock of the run's store: a receipt is a commitment to the bytes of
    /// its update, and this is the order in which commitments were seen.
    pub mirrored_at: Timestamp,
}

impl Sent {
    /// Earlier by both clocks. A store that lies about its clock cannot make its peer's update earlier than one that the run
    /// had seen before, and a run that was slow to look cannot make it later than it was.
    fn is_before(&self, other: &Self) -> bool {
        self.received_at < other.received_at && self.mirrored_at < other.mirrored_at
    }
}

/// Updates that speak with one voice; most have one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Whoever no other member was surely earlier than. Where the clocks disagree they are several: nobody is blamed for what
    /// another may have done, and together they count once.
    pub first: Vec<usize>,
    /// Whoever sent what another member had sent before.
    pub copies: Vec<usize>,
}

/// Groups updates whose cosine exceeds `cosine`.
///
/// Copies are found first, pair by pair, and what is left is grouped: an update between two others, which is like both of them,
/// can neither blame one for the other nor join them.
///
/// `sent` has an entry for every update of `gram`.
#[must_use]
pub fn voices(gram: &Gram, cosine: f64, sent: &[Sent]) -> Vec<Voice> {
    let count = gram.len();
    let is_like = |i: usize, j: usize| i != j && gram.cosine(i, j) > cosine;
    // In the order of time, so that it is known of whoever was before whether it is a copy: a copy has nothing to be copied.
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&i| (sent[i].received_at, sent[i].mirrored_at, i));
    let mut originals: Vec<Option<usize>> = vec![None; count];
    for i in order {
        let is_original = |&j: &usize| originals[j].is_none() && is_like(i, j) && sent[j].is_before(&sent[i]);
        originals[i] = (0..count).find(is_original);
    }
    let mut group: Vec<usize> = (0..count).collect();
    for i in 0..count {
        for j in 0..i {
            let are_first = originals[i].is_none() && originals[j].is_none();
            if are_first && is_like(i, j) && group[i] != group[j] {
                let (from, to) = (group[i].max(group[j]), group[i].min(group[j]));
                group.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
            }
        }
    }
    let root = |i: usize| group[originals[i].unwrap_or(i)];
    let voice = |of: usize| {
        let members = (0..count).filter(|&i| root(i) == of);
        let (copies, first) = members.partition(|&i| originals[i].is_some());
        Voice { first, copies }
    };
    (0..count).map(voice).filter(|voice| !voice.first.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Updates of length 1 with these cosines; all others are 0.1.
    fn gram(g: usize, cosines: &[(usize, usize, f64)]) -> Gram {
        let product = |i: usize, j: usize| {
            let named = cosines.iter().find(|(a, b, _)| (*a, *b) == (i, j) || (*b, *a) == (i, j));
            if i == j { 1.0 } else { named.map_or(0.1, |(_, _, cosine)| *cosine) }
        };
        Gram::new((0..g * g).map(|n| product(n / g, n % g)).collect()).unwrap()
    }

    fn sent(times: &[(u64, u64)]) -> Vec<Sent> {
        let sent =
            |(own, run): &(u64, u64)| Sent { received_at: Timestamp(*own), mirrored_at: Timestamp(*run) };
        times.iter().map(sent).collect()
    }

    fn one(first: &[usize], copies: &[usize]) -> Voice {
        Voice { first: first.to_vec(), copies: copies.to_vec() }
    }

    #[test]
    fn the_later_of_two_is_the_copy() {
        let gram = gram(4, &[(1, 3, 0.99)]);
        let times = sent(&[(10, 11), (40, 41), (20, 21), (30, 31)]);
        assert_eq!(voices(&gram, 0.5, &times), [one(&[0], &[]), one(&[2], &[]), one(&[3], &[1])]);
    }

    #[test]
    fn a_clock_that_lies_blames_nobody_else() {
        let gram = gram(2, &[(0, 1, 0.99)]);
        // 0 copies 1 and says that it was earlier; or the run was slow to see 1.
        for times in [[(5, 41), (30, 31)], [(40, 31), (30, 41)], [(30, 31), (30, 31)]] {
            assert_eq!(voices(&gram, 0.5, &sent(&times)), [one(&[0, 1], &[])]);
        }
    }

    #[test]
    fn an_update_between_two_others_blames_neither() {
        // 2 is half of 0 and half of 1, who have nothing in common; 1 was sent after 0.
        let gram = gram(3, &[(0, 2, 0.6), (1, 2, 0.6), (0, 1, 0.0)]);
        let late = sent(&[(10, 11), (20, 21), (30, 31)]);
        assert_eq!(voices(&gram, 0.5, &late), [one(&[0], &[2]), one(&[1], &[])]);
        let between = sent(&[(10, 11), (20, 21), (15, 16)]);
        assert_eq!(voices(&gram, 0.5, &between), [one(&[0], &[2]), one(&[1], &[])]);
    }

    #[test]
    fn noisy_copies_of_one_are_one_voice() {
        let gram = gram(4, &[(0, 1, 0.7), (1, 2, 0.7), (0, 2, 0.49)]);
        let times = sent(&[(30, 31), (10, 11), (20, 21), (0, 1)]);
        assert_eq!(voices(&gram, 0.5, &times), [one(&[1], &[0, 2]), one(&[3], &[])]);
        assert_eq!(voices(&gram, 0.8, &times).len(), 4);
    }
}
