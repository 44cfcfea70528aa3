//! Robust means: which weights the updates of a window get, from their inner products alone.

use serde::{Deserialize, Serialize};

use super::gram::Gram;
use super::median::lower_median;

/// Passes of the rules that approach their result; both have converged to 1e-6 long before on anything that was tried.
const PASSES: usize = 64;

/// How a window's updates become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// All alike.
    #[default]
    Mean,
    /// Without the `f` that are farthest from the geometric median.
    Trimmed,
    /// The point that is nearest to all of them, by the sum of distances (RFA, arXiv 1912.13445; Weiszfeld's passes).
    GeometricMedian,
    /// The mean of the `n − f` whose nearest `n − f − 2` neighbours are nearest (Multi-Krum, arXiv 1703.02757).
    MultiKrum,
    /// From the point so far, no update moves it by more than the median distance (centred clipping, arXiv 2012.10333).
    CentredClipping,
}

/// Weights of the updates of `gram` under `rule`: not negative, with the sum 1. At most `faulty` of them are thought to be
/// hostile.
///
/// Sums and square roots in a fixed order, so that every observer gets the same.
#[must_use]
pub fn weights(rule: Rule, gram: &Gram, faulty: usize) -> Vec<f64> {
    let n = gram.len();
    let all = vec![1.0 / n.max(1) as f64; n];
    // Of one or two nobody can tell who is wrong.
    if n < 3 {
        return all;
    }
    let keep = n - faulty.min((n - 1) / 2);
    match rule {
        Rule::Mean => all,
        Rule::Trimmed => keep_lowest(&gram.squared_distances_to(&geometric_median(gram)), keep),
        Rule::GeometricMedian => geometric_median(gram),
        Rule::MultiKrum => keep_lowest(&krum_scores(gram, keep), keep),
        Rule::CentredClipping => centred_clipping(gram),
    }
}

/// Equal weights for the `keep` lowest; of equals the first.
fn keep_lowest(scores: &[f64], keep: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
    let mut weights = vec![0.0; scores.len()];
    order[..keep].iter().for_each(|&i| weights[i] = 1.0 / keep as f64);
    weights
}

fn krum_scores(gram: &Gram, keep: usize) -> Vec<f64> {
    let neighbours = keep.saturating_sub(2).max(1);
    let score = |i: usize| {
        let mut distances: Vec<f64> =
            (0..gram.len()).filter(|&j| j != i).map(|j| gram.squared_distance(i, j)).collect();
        distances.sort_by(f64::total_cmp);
        distances[..neighbours].iter().sum()
    };
    (0..gram.len()).map(score).collect()
}

fn geometric_median(gram: &Gram) -> Vec<f64> {
    let n = gram.len();
    let mut weights = vec![1.0 / n as f64; n];
    // An update that the point falls upon would get all the weight.
    let least = 1e-6 * middle((0..n).map(|i| gram.norm(i)));
    if least <= f64::MIN_POSITIVE {
        return weights;
    }
    for _ in 0..PASSES {
        let near = gram.squared_distances_to(&weights).into_iter().map(|d| 1.0 / d.sqrt().max(least));
        let near: Vec<f64> = near.collect();
        let sum: f64 = near.iter().sum();
        weights = near.iter().map(|near| near / sum).collect();
    }
    weights
}

fn centred_clipping(gram: &Gram) -> Vec<f64> {
    let n = gram.len();
    // The geometric median is where no minority can have pulled it far.
    let mut weights = geometric_median(gram);
    for _ in 0..PASSES {
        let distances: Vec<f64> = gram.squared_distances_to(&weights).into_iter().map(f64::sqrt).collect();
        let radius = middle(distances.iter().copied());
        let steps: Vec<f64> = distances
            .iter()
            .map(|distance| if *distance > radius { radius / distance } else { 1.0 } / n as f64)
            .collect();
        let stays = 1.0 - steps.iter().sum::<f64>();
        weights.iter_mut().zip(steps).for_each(|(weight, step)| *weight = *weight * stays + step);
    }
    weights
}

/// The lower median of values that count alike; 0 of none.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    lower_median(values.map(|value| (value, 1))).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 5] =
        [Rule::Mean, Rule::Trimmed, Rule::GeometricMedian, Rule::MultiKrum, Rule::CentredClipping];

    fn gram(vectors: &[Vec<f64>]) -> Gram {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let row = |a: &Vec<f64>| vectors.iter().map(|b| product(a, b)).collect::<Vec<f64>>();
        Gram::new(vectors.iter().flat_map(row).collect()).unwrap()
    }

    /// Eight directions that have a fifth in common, as honest updates do, each of length about 1.
    fn honest(count: usize) -> Vec<Vec<f64>> {
        let one =
            |n: usize| (0..=count).map(move |i| if i == count { 0.45 } else { f64::from(u8::from(i == n)) });
        (0..count).map(|n| one(n).collect()).collect()
    }

    #[test]
    fn weights_sum_to_one_and_are_equal_among_equals() {
        for rule in RULES {
            for n in 0..10 {
                let weights = weights(rule, &gram(&honest(n)), 0);
                let even = 1.0 / n.max(1) as f64;
                assert!(
                    weights.iter().all(|weight| (weight - even).abs() < 1e-9),
                    "{rule:?} {n}: {weights:?}"
                );
            }
        }
    }

    #[test]
    fn a_flipped_and_enlarged_update_is_left_out_or_held_down() {
        let mut vectors = honest(8);
        for vector in &mut vectors[..2] {
            vector.iter_mut().for_each(|value| *value *= -10.0);
        }
        let gram = gram(&vectors);
        // What it would take from a mean: 10 · 2 / 8 against 6 / 8 of the honest.
        for (rule, most) in [
            (Rule::Trimmed, 0.0),
            (Rule::MultiKrum, 0.0),
            (Rule::GeometricMedian, 0.06),
            (Rule::CentredClipping, 0.12),
        ] {
            let weights = weights(rule, &gram, 2);
            let hostile: f64 = weights[..2].iter().sum();
            assert!(hostile <= most + 1e-12, "{rule:?}: {weights:?}");
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let zeros = vec![vec![0.0; 4]; 5];
        for rule in RULES {
            let weights = weights(rule, &gram(&zeros), 2);
            assert!(weights.iter().all(|weight| weight.is_finite()), "{rule:?}: {weights:?}");
        }
    }

    #[test]
    fn what_is_no_gram_matrix_is_none() {
        assert_eq!(Gram::new(vec![1.0, 2.0]), None);
        assert_eq!(Gram::new(vec![f64::NAN]), None);
        assert!(Gram::new(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn geometry_follows_from_products() {
        let gram = gram(&[vec![3.0, 4.0], vec![-3.0, -4.0], vec![0.0, 0.0]]);
        assert_eq!((gram.norm(0), gram.cosine(0, 1), gram.cosine(0, 2)), (5.0, -1.0, 0.0));
        assert_eq!(gram.squared_distance(0, 1), 100.0);
        assert_eq!(gram.of(&[2, 1]).norm(1), 5.0);
        assert_eq!(gram.squared_distances_to(&[0.5, 0.5, 0.0]), [25.0, 25.0, 0.0]);
    }
}
