//! How sure a measurement of a few sequences is.

use crate::Improvement;

impl Improvement {
    /// How many standard errors the mean is above 0, as a normal variable would be: of few sequences the same quotient tells less.
    /// Nothing after one sequence.
    #[must_use]
    pub fn in_sigmas(&self) -> Option<f64> {
        let freedom = self.freedom()?;
        let t = self.mean / self.standard_error.max(f64::MIN_POSITIVE);
        // Wallace's bound of the normal quantile (Biometrika 46:1124), within 2 % from three degrees of freedom on.
        let z = ((freedom * (t * t / freedom).ln_1p()).max(0.0)).sqrt() * (8.0 * freedom + 1.0)
            / (8.0 * freedom + 3.0);
        Some(if t < 0.0 { -z } else { z })
    }

    /// What the true improvement exceeds as seldom as a normal variable exceeds `sigmas`; nothing after one sequence.
    ///
    /// The standard error is itself estimated from the same few sequences, so it is Student's t that tells how far the mean
    /// may be off: of four, three sigmas are 8.5 standard errors, and taken as three they blame 1 in 35 who did no harm.
    #[must_use]
    pub fn at_most(&self, sigmas: f64) -> Option<f64> {
        Some(self.mean + student_t(sigmas, self.freedom()?) * self.standard_error)
    }

    fn freedom(&self) -> Option<f64> {
        self.sequences.checked_sub(1).filter(|freedom| *freedom > 0).map(f64::from)
    }
}

/// The quantile of Student's t with `freedom` degrees that lies where `z` lies in the normal distribution: the expansion
/// of Cornish and Fisher (Abramowitz and Stegun 26.7.5). Sums and products alone, so that every observer gets the same.
fn student_t(z: f64, freedom: f64) -> f64 {
    let square = z * z;
    let first = (square + 1.0) * z / 4.0;
    let second = ((5.0 * square + 16.0) * square + 3.0) * z / 96.0;
    let third = (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) * z / 384.0;
    z + (first + (second + third / freedom) / freedom) / freedom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sequences_prove_little() {
        let measured = |sequences| Improvement { mean: -0.4, standard_error: 0.1, sequences };
        assert_eq!(measured(0).at_most(3.0), None);
        assert_eq!(measured(1).at_most(3.0), None);
        assert!(measured(4).at_most(3.0).unwrap() > 0.0);
        assert!(measured(64).at_most(3.0).unwrap() < 0.0);
        // From tables of the distribution, at the normal's 3 and 1.96 sigmas.
        for (z, freedom, t) in
            [(3.0, 7.0, 4.530), (3.0, 63.0, 3.113), (1.96, 3.0, 3.182), (1.96, 30.0, 2.042)]
        {
            let found = student_t(z, freedom);
            assert!((found / t - 1.0_f64).abs() < 0.01, "{z} {freedom} {found}");
        }
    }

    #[test]
    fn standard_errors_of_few_sequences_are_fewer_sigmas() {
        for (t, freedom, z) in [(4.530, 7, 3.0), (3.113, 63, 3.0), (-3.182, 3, -1.96), (2.042, 30, 1.96)] {
            let measured = Improvement { mean: t, standard_error: 1.0, sequences: freedom + 1 };
            let found = measured.in_sigmas().unwrap();
            assert!((found / z - 1.0_f64).abs() < 0.03, "{t} {freedom}: {found}, not {z}");
        }
        assert_eq!(Improvement { mean: 1.0, standard_error: 0.0, sequences: 1 }.in_sigmas(), None);
        let exact = Improvement { mean: 0.0, standard_error: 0.0, sequences: 8 };
        assert_eq!(exact.in_sigmas(), Some(0.0));
    }
}
