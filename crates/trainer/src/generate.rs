//! Text from the model, one token at a time.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    Error, Result, Trainer,
    batch::{check_ids, id_tensor},
    model::{Decoding, to_vec},
};

/// How to choose the tokens that follow a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Divides the logits; zero takes the likeliest token every time.
    pub temperature: f64,
    /// Choose among the likeliest tokens that together have at least this probability (arXiv 1904.09751), in `(0, 1]`.
    pub top_p: f64,
    /// The same seed, prompt and parameters give the same tokens on the same device.
    pub seed: u64,
    /// Stop after any of these tokens, if it comes.
    pub stop_tokens: Vec<u32>,
}

impl Default for GenerateOptions {
    /// 64 tokens at temperature 0.8, top-p 0.95, seed 0, no stop tokens.
    fn default() -> Self {
        Self { max_new_tokens: 64, temperature: 0.8, top_p: 0.95, seed: 0, stop_tokens: Vec::new() }
    }
}

impl GenerateOptions {
    /// Checks that the options can be followed.
    ///
    /// # Errors
    /// [`Error::Setting`] names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        let (t, p) = (self.temperature, self.top_p);
        if !(t.is_finite() && t >= 0.0) {
            return Err(Error::Setting { field: "temperature", value: t, must: "at least 0 and finite" });
        }
        if !(p > 0.0 && p <= 1.0) {
            return Err(Error::Setting { field: "top_p", value: p, must: "above 0 and at most 1" });
        }
        Ok(())
    }
}

/// Draws tokens from logits.
pub(crate) struct Sampler {
    temperature: f64,
    top_p: f64,
    rng: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(options: &GenerateOptions) -> Self {
        let GenerateOptions { temperature, top_p, seed, .. } = *options;
        Self { temperature, top_p, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Index of the chosen logit; a NaN is never chosen unless all are.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> usize {
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| !logits[i].is_nan()).collect();
        // Ties fall to the lower index, so that the choice does not depend on the sort.
        order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let Some(&best) = order.first() else { return 0 };
        if self.temperature == 0.0 {
            return best;
        }
        let weight = |i: usize| (f64::from(logits[i] - logits[best]) / self.temperature).exp();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut kept = 0.0;
        let nucleus = order.iter().take_while(|&&i| {
            let wanted = kept < self.top_p * total;
            kept += weight(i);
            wanted
        });
        let nucleus: Vec<usize> = nucleus.copied().collect();
        let mass: f64 = nucleus.iter().map(|&i| weight(i)).sum();
        let mut left = self.rng.random::<f64>() * mass;
        for &i in &nucleus {
            left -= weight(i);
            if left < 0.0 {
                return i;
            }
        }
        nucleus.last().copied().unwrap_or(best)
    }
}

impl Trainer {
    /// The tokens that follow `prompt`, without it. Only as much of the end as the model's context holds is seen.
    ///
    /// # Errors
    /// As [`generate_with`](Self::generate_with).
    pub fn generate(&self, prompt: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.generate_with(prompt, options, |token| {
            tokens.push(token);
            true
        })?;
        Ok(tokens)
    }

    /// The same, each token as soon as it is chosen, until `take` says no.
    ///
    /// Keys and values of what has passed are kept, so a token costs one position; once the context is full, it slides,
    /// and a token costs all of it.
    ///
    /// # Errors
    /// [`Error::Setting`] if an option is out of range, [`Error::Batch`] if the prompt is empty, [`Error::Token`] if
    /// it holds an id that the model does not have, [`Error::NotFinite`] if the model's weights are no numbers.
    pub fn generate_with(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut take: impl FnMut(u32) -> bool,
    ) -> Result<()> {
        self.whole()?;
        options.validate()?;
        if prompt.is_empty() {
            return Err(Error::Batch {
                sequences: 1,
                sequence_length: 0,
                reason: "the prompt is empty".into(),
            });
        }
        check_ids(prompt, self.model.config.vocab_size)?;
        let context = self.model.config.max_position_embeddings;
        let mut sampler = Sampler::new(options);
        let mut tokens = prompt.to_vec();
        tokens.drain(..tokens.len().saturating_sub(context));
        let longest = context.min(tokens.len().saturating_add(options.max_new_tokens));
        let mut decoding = Decoding::new(&self.model, longest as i64)?;
        let mut passed = 0;
        for _ in 0..options.max_new_tokens {
            if tokens.len() > context {
                // Every position has moved by one, so nothing that was kept is right any more.
                tokens.remove(0);
                decoding.clear();
                passed = 0;
            }
            let ids = id_tensor(&tokens[passed..], tokens.len() - passed, self.model.device)?;
            let logits = to_vec(&decoding.extend(&self.model, &ids)?)?;
            if logits.iter().all(|logit| logit.is_nan()) {
                return Err(Error::NotFinite { what: "logits", value: f64::NAN });
            }
            let token = sampler.choose(&logits) as u32;
            passed = tokens.len();
            tokens.push(token);
            if !take(token) || options.stop_tokens.contains(&token) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(options: &GenerateOptions, logits: &[f32]) -> Vec<usize> {
        let mut sampler = Sampler::new(options);
        let mut counts = vec![0; logits.len()];
        (0..10_000).for_each(|_| counts[sampler.choose(logits)] += 1);
        counts
    }

    #[test]
    fn zero_temperature_takes_the_best() {
        let options = GenerateOptions { temperature: 0.0, ..GenerateOptions::default() };
        assert_eq!(counts(&options, &[0.0, 3.0, f32::NAN, 3.0]), [0, 10_000, 0, 0]);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let options = GenerateOptions { temperature: 1.0, top_p: 1.0, ..GenerateOptions::default() };
        let counts = counts(&options, &[0.0, 2.0_f32.ln(), 5.0_f32.ln(), f32::NEG_INFINITY]);
        for (count, share) in counts.iter().zip([0.125, 0.25, 0.625, 0.0]) {
            assert!((*count as f64 / 10_000.0 - share).abs() < 0.02, "{counts:?}");
        }
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn the_nucleus_cuts_the_tail() {
        let options = GenerateOptions { temperature: 1.0, top_p: 0.8, ..GenerateOptions::default() };
        let counts = counts(&options, &[0.0, 2.0_f32.ln(), 5.0_f32.ln()]);
        assert_eq!(counts[0], 0);
        assert!(counts[1] > 2500 && counts[2] > 6500, "{counts:?}");
    }

    #[test]
    fn hostile_logits_do_no_harm() {
        let options = GenerateOptions::default();
        assert_eq!(Sampler::new(&options).choose(&[]), 0);
        assert_eq!(Sampler::new(&options).choose(&[f32::NAN; 3]), 0);
        let chosen = Sampler::new(&options).choose(&[f32::INFINITY, f32::INFINITY, 0.0]);
        assert!(chosen < 2);
    }
}
