//! What is usual in a window: medians over the peers that are known to work.
//!
//! Weights are whole numbers, so that sums of them are exact and every observer finds the same value.

/// Peers without whom none of a window's can be compared with the rest.
pub(super) const FEWEST: usize = 4;

/// How much each of a window's peers counts when it is asked what is usual, by its credit before the window: 1 with some, else 0.
/// While fewer than four have any, those count too who have none to lose, and who was found out still does not.
///
/// A wave of newcomers, who cost nothing, can therefore move nothing that others are measured by. Not by how much credit: the
/// digits of that would decide wherever the rest is even.
#[must_use]
pub fn trust(credits: &[f64]) -> Vec<u128> {
    let is_known = |credit: f64| credit > 0.0;
    let are_enough = credits.iter().filter(|credit| is_known(**credit)).count() >= FEWEST;
    credits.iter().map(|&credit| u128::from(is_known(credit) || !are_enough && credit == 0.0)).collect()
}

/// The value at which half of the weight is reached, from below; so it is the lower one of two when the weight splits evenly.
/// Where no value has any weight, all count alike; nothing of none.
#[must_use]
pub fn lower_median(values: impl IntoIterator<Item = (f64, u128)>) -> Option<f64> {
    let mut values: Vec<(f64, u128)> = values.into_iter().collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    if values.iter().all(|(_, weight)| *weight == 0) {
        values.iter_mut().for_each(|(_, weight)| *weight = 1);
    }
    let total: u128 = values.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0;
    for (value, weight) in values {
        reached += weight;
        if weight > 0 && reached * 2 >= total {
            return Some(value);
        }
    }
    None
}

/// The same from above.
#[must_use]
pub fn upper_median(values: impl IntoIterator<Item = (f64, u128)>) -> Option<f64> {
    lower_median(values.into_iter().map(|(value, weight)| (-value, weight))).map(|value| -value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_median_is_the_one_asked_for() {
        let values = || vec![(3.0, 1), (1.0, 1)];
        assert_eq!((lower_median(values()), upper_median(values())), (Some(1.0), Some(3.0)));
        let values = || vec![(5.0, 1), (-9.0, 1), (4.0, 1)];
        assert_eq!((lower_median(values()), upper_median(values())), (Some(4.0), Some(4.0)));
        assert_eq!(upper_median(vec![(1.0, 3), (2.0, 1), (3.0, 1)]), Some(1.0));
        assert_eq!(lower_median(vec![(1.0, 0), (2.0, 1)]), Some(2.0));
        assert_eq!(lower_median(Vec::new()), None);
        assert_eq!(lower_median(vec![(1.0, 0), (3.0, 0), (2.0, 0)]), Some(2.0));
    }

    #[test]
    fn newcomers_count_for_nothing_beside_four_who_are_known() {
        assert_eq!(trust(&[0.0, -8.0, 3.0, 3.0, 3.0]), [1, 0, 1, 1, 1]);
        assert_eq!(trust(&[0.0, -8.0, 3.0, 3.0, 3.0, 0.5]), [0, 0, 1, 1, 1, 1]);
        assert_eq!(trust(&[f64::NAN; 2]), [0; 2]);
        assert!(trust(&[]).is_empty());
    }
}
