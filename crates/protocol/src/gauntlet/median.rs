//! What is usual in a window: medians in which every peer counts for what is known of it.
//!
//! Weights are whole numbers, so that sums of them are exact and every observer finds the same value.

/// Peers without whom none of a window's can be compared with the rest.
pub(super) const FEWEST: usize = 4;

/// Parts of a nat of credit that still count.
const PARTS: f64 = 1024.0;

/// How much each of a window's peers counts when it is asked what is usual: its credit before the window, in nats. While fewer than
/// four have any, all count alike.
///
/// A wave of newcomers, who cost nothing, can therefore move nothing that others are measured by.
#[must_use]
pub fn trust(credits: &[f64]) -> Vec<u128> {
    let trust: Vec<u128> = credits.iter().map(|credit| (credit.max(0.0) * PARTS) as u128).collect();
    let known = trust.iter().filter(|trust| **trust > 0).count();
    if known < FEWEST { vec![1; credits.len()] } else { trust }
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
        assert_eq!(trust(&[0.0, -8.0, 3.0, 3.0, 3.0]), [1; 5]);
        let known = trust(&[0.0, -8.0, 3.0, 3.0, 3.0, 0.5]);
        assert_eq!(known, [0, 0, 3072, 3072, 3072, 512]);
        assert_eq!(trust(&[f64::NAN; 2]), [1; 2]);
        assert!(trust(&[]).is_empty());
    }
}
