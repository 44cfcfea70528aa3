//! The loss of θ, from what miners state of it.

/// What one miner states: the mean over its first sequences, in nats a token.
pub(super) fn mean(losses: &[f32]) -> Option<f64> {
    let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    Some(sum / losses.len() as f64).filter(|mean| mean.is_finite())
}

/// What miners state together. No single one moves it far: not every statement is checked in every window.
pub(super) fn median(stated: impl Iterator<Item = f64>) -> Option<f64> {
    let mut stated: Vec<f64> = stated.collect();
    stated.sort_by(f64::total_cmp);
    let upper = *stated.get(stated.len() / 2)?;
    let lower = stated[(stated.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_liar_does_not_move_it() {
        assert_eq!(median([4.25, 1e16, 4.0].into_iter()), Some(4.25));
        assert_eq!(median([4.25, 4.0, 4.5, -1e16].into_iter()), Some(4.125));
        assert_eq!(median([4.0].into_iter()), Some(4.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_miner_that_states_nothing_states_no_number() {
        assert_eq!(mean(&[4.0, 5.0]), Some(4.5));
        assert_eq!(mean(&[]), None);
    }
}
