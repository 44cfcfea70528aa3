//! The inner products of a window's updates: all that robust rules need to know of them.

/// Inner products of `g` updates, row after row.
///
/// Geometry without vectors: norms, distances and cosines of the updates and of every weighted sum of them follow from it,
/// whatever the size of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    g: usize,
    products: Vec<f64>,
}

impl Gram {
    /// From `g · g` products, row after row, as the codec computes them; nothing if their number is not a square or one is not
    /// finite.
    #[must_use]
    pub fn new(products: Vec<f64>) -> Option<Self> {
        let g = products.len().isqrt();
        (g * g == products.len() && products.iter().all(|product| product.is_finite()))
            .then_some(Self { g, products })
    }

    /// Number of updates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.g
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.g == 0
    }

    /// ⟨uᵢ, uⱼ⟩.
    #[must_use]
    pub fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.g + j]
    }

    /// ‖uᵢ‖.
    #[must_use]
    pub fn norm(&self, i: usize) -> f64 {
        self.product(i, i).max(0.0).sqrt()
    }

    /// ‖uᵢ − uⱼ‖².
    #[must_use]
    pub fn squared_distance(&self, i: usize, j: usize) -> f64 {
        (self.product(i, i) + self.product(j, j) - 2.0 * self.product(i, j)).max(0.0)
    }

    /// The cosine of the angle between uᵢ and uⱼ; 0 if one of them is zero.
    #[must_use]
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms > 0.0 { (self.product(i, j) / norms).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// The products of some of the updates, in the order of `of`.
    #[must_use]
    pub fn of(&self, of: &[usize]) -> Self {
        let row = |&i: &usize| of.iter().map(move |&j| self.product(i, j));
        Self { g: of.len(), products: of.iter().flat_map(row).collect() }
    }

    /// ‖uᵢ − Σⱼ wⱼ uⱼ‖² for every i.
    pub(super) fn squared_distances_to(&self, weights: &[f64]) -> Vec<f64> {
        let along: Vec<f64> =
            (0..self.g).map(|i| (0..self.g).map(|j| self.product(i, j) * weights[j]).sum()).collect();
        let square: f64 = along.iter().zip(weights).map(|(along, weight)| along * weight).sum();
        (0..self.g).map(|i| (self.product(i, i) - 2.0 * along[i] + square).max(0.0)).collect()
    }
}
