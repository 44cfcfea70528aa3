//! How well a model predicts a text.

use anyhow::Context as _;
use brigade_trainer::{TokenBatch, Trainer};
use indicatif::ProgressBar;
use serde::Serialize;

/// A text in full windows, the rest of it left out.
///
/// Nothing is done about documents, and no token is added, so that others can redo it: window i is the tokens from
/// i · `length` on, of which the first is only seen and every other one is predicted from those before it.
#[derive(Debug)]
pub struct Text {
    windows: Vec<u32>,
    length: usize,
    bytes_per_token: f64,
}

/// How well it went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Mean cross-entropy, nats a token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// The loss in bits, for each byte that a token of this text stands for on average.
    pub bits_per_byte: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
}

impl Text {
    /// Cuts `tokens`, which stand for `bytes` of text, into windows of `length` ≥ 2.
    ///
    /// # Errors
    /// When there is not one full window.
    pub fn cut(mut tokens: Vec<u32>, bytes: u64, length: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(length > 1, "a window of {length} has nothing to predict");
        let (total, windows) = (tokens.len(), tokens.len() / length);
        anyhow::ensure!(
            windows > 0,
            "the text has {total} tokens, a window {length}: give a shorter --sequence-length"
        );
        tokens.truncate(windows * length);
        Ok(Self { windows: tokens, length, bytes_per_token: bytes as f64 / total as f64 })
    }

    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.windows.len() / self.length
    }

    /// What `trainer` makes of it, `batch` windows at a time; `bar` advances by one for each window.
    ///
    /// # Errors
    /// A token that the model does not know, a window beyond its context, a loss that is no number.
    pub fn score(&self, trainer: &Trainer, batch: usize, bar: &ProgressBar) -> anyhow::Result<Score> {
        bar.set_length(self.windows() as u64);
        let mut sum = 0.0;
        for windows in self.windows.chunks(self.length * batch.max(1)) {
            let count = windows.len() / self.length;
            let batch = TokenBatch::new(windows.to_vec(), count, self.length - 1)?;
            sum += trainer.losses(&batch)?.into_iter().map(f64::from).sum::<f64>();
            bar.inc(count as u64);
        }
        let loss = sum / self.windows() as f64;
        anyhow::ensure!(
            loss.is_finite(),
            "the loss is {loss}: the model's weights are no numbers, or far too large"
        );
        Ok(Score {
            loss,
            perplexity: loss.exp(),
            bits_per_byte: loss / std::f64::consts::LN_2 / self.bytes_per_token,
            tokens: (self.windows() * (self.length - 1)) as u64,
        })
    }
}

/// The tokens of `text` and its length in bytes.
///
/// # Errors
/// When it cannot be encoded.
pub fn tokens(encoder: &crate::data::Encoder, text: String) -> anyhow::Result<(Vec<u32>, u64)> {
    let bytes = text.len() as u64;
    Ok((encoder.encode(&[text])?.pop().context("one text in, none out")?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_windows_count() {
        let text = Text::cut((0..11).collect(), 44, 4).unwrap();
        assert_eq!(
            (text.windows(), &text.windows[..], text.bytes_per_token),
            (2, &[0, 1, 2, 3, 4, 5, 6, 7][..], 4.0)
        );
        assert!(Text::cut((0..3).collect(), 12, 4).is_err());
        assert!(Text::cut((0..3).collect(), 12, 1).is_err());
    }
}
