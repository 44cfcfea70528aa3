//! The trainer as its callers see it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::num::NonZeroUsize;

use brigade_protocol::ModelConfig;
use brigade_trainer::{
    AdamWConfig, ComputeDtype, Error, GenerateOptions, OptimizerConfig, Recompute, TokenBatch, Trainer,
    TrainerConfig,
};
use common::{batch, config, tiny, trainer, weights};

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

fn relative_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let difference: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = pairs().map(|(_, b)| f64::from(*b).powi(2)).sum();
    (difference / size).sqrt()
}

#[test]
fn parameters_come_back_as_they_were_loaded() {
    for tied in [false, true] {
        let model = tiny(tied);
        assert_eq!(trainer(config(model.clone())).parameters().unwrap(), weights(&model, 1));
    }
}

#[test]
fn zero_parameters_know_nothing() {
    let model = tiny(true);
    let trainer = Trainer::new(config(model.clone())).unwrap();
    for loss in trainer.losses(&batch(&model, 3, 5, 2)).unwrap() {
        assert!((loss - 23.0_f32.ln()).abs() < 1e-5);
    }
}

#[test]
fn gradients_are_the_slope_of_the_loss() {
    for tied in [false, true] {
        let model = tiny(tied);
        let mut trainer = trainer(config(model.clone()));
        let batch = batch(&model, 2, 9, 3);
        let start = trainer.parameters().unwrap();
        let (loss, gradients) = trainer.gradients(&batch).unwrap();
        assert!((f64::from(loss) - mean(&trainer.losses(&batch).unwrap())).abs() < 1e-5);
        for (index, spec) in model.tensors().iter().enumerate() {
            let slope: f64 = gradients[index].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let mut loss_at = |step: f64| {
                let mut moved = start.clone();
                for (w, g) in moved[index].iter_mut().zip(&gradients[index]) {
                    *w += (step * f64::from(*g) / slope) as f32;
                }
                trainer.load_parameters(&moved).unwrap();
                mean(&trainer.losses(&batch).unwrap())
            };
            let measured = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            assert!((measured / slope - 1.0).abs() < 0.02, "{}: {measured} for {slope}", spec.name);
        }
    }
}

#[test]
fn micro_batches_change_only_rounding() {
    let model = tiny(false);
    let batch = batch(&model, 5, 7, 4);
    let (loss, whole) = trainer(config(model.clone())).gradients(&batch).unwrap();
    for (micro_batch, recompute) in [(2, Recompute::None), (1, Recompute::All)] {
        let variant = TrainerConfig { micro_batch: Some(micro_batch), recompute, ..config(model.clone()) };
        let (other_loss, other) = trainer(variant).gradients(&batch).unwrap();
        assert!((loss - other_loss).abs() < 1e-5);
        assert!(relative_distance(&other, &whole) < 1e-5);
    }
}

#[test]
fn recomputation_changes_no_bit() {
    let every = |n| Recompute::Every(NonZeroUsize::new(n).unwrap());
    let model = ModelConfig { num_hidden_layers: 5, ..tiny(true) };
    let batch = batch(&model, 3, 12, 4);
    for compute_dtype in [ComputeDtype::Float32, ComputeDtype::BFloat16] {
        let run = |recompute| {
            let mut trainer = trainer(TrainerConfig { recompute, compute_dtype, ..config(model.clone()) });
            let gradients = trainer.gradients(&batch).unwrap();
            let steps: Vec<_> = (0..5).map(|_| trainer.inner_step(&batch, 3e-3).unwrap()).collect();
            (gradients, steps, trainer.parameters().unwrap())
        };
        let kept = run(Recompute::None);
        for recompute in [every(2), every(3), every(9), Recompute::All] {
            assert!(run(recompute) == kept, "{recompute:?} in {compute_dtype:?}");
        }
    }
}

#[test]
fn bf16_follows_fp32() {
    let model = tiny(true);
    let batch = batch(&model, 4, 16, 5);
    let (loss, exact) = trainer(config(model.clone())).gradients(&batch).unwrap();
    let half = TrainerConfig { compute_dtype: ComputeDtype::BFloat16, ..config(model) };
    let mut half = trainer(half);
    let (half_loss, rough) = half.gradients(&batch).unwrap();
    assert!((loss - half_loss).abs() < 0.02, "{loss} {half_loss}");
    assert!(relative_distance(&rough, &exact) < 0.03);
    assert_eq!(half.parameters().unwrap(), weights(half.model_config(), 1), "the masters stay fp32");
    // A step far below bf16's resolution still arrives in the masters and, after enough of them, in the loss.
    let before = half.parameters().unwrap();
    half.inner_step(&batch, 1e-6).unwrap();
    assert!(relative_distance(&half.parameters().unwrap(), &before) > 1e-7);
}

#[test]
fn training_learns_and_repeats_itself_to_the_bit() {
    for (dtype, recompute) in
        [(ComputeDtype::Float32, Recompute::None), (ComputeDtype::BFloat16, Recompute::All)]
    {
        let model = tiny(true);
        let batch = batch(&model, 4, 12, 6);
        let run = || {
            let mut trainer =
                trainer(TrainerConfig { compute_dtype: dtype, recompute, ..config(model.clone()) });
            let losses: Vec<f32> = (0..60).map(|_| trainer.inner_step(&batch, 1e-2).unwrap().loss).collect();
            (losses, trainer.parameters().unwrap())
        };
        let (losses, parameters) = run();
        assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
        assert_eq!(run(), (losses, parameters));
    }
}

#[test]
fn a_saved_optimiser_goes_on_where_it_was() {
    let model = tiny(false);
    let batches: Vec<_> = (0..6).map(|seed| batch(&model, 2, 8, seed)).collect();
    let mut whole = trainer(config(model.clone()));
    for batch in &batches[..3] {
        whole.inner_step(batch, 3e-3).unwrap();
    }
    let (weights, state) = (whole.parameters().unwrap(), whole.save_optimizer().unwrap());

    let mut resumed = Trainer::new(config(model)).unwrap();
    resumed.load_parameters(&weights).unwrap();
    resumed.load_optimizer(&state).unwrap();
    assert_eq!(resumed.save_optimizer().unwrap(), state);
    for batch in &batches[3..] {
        assert_eq!(whole.inner_step(batch, 3e-3).unwrap(), resumed.inner_step(batch, 3e-3).unwrap());
    }
    assert_eq!(whole.parameters().unwrap(), resumed.parameters().unwrap());

    // Before the first step there is a state, too.
    let fresh = Trainer::new(config(tiny(false))).unwrap().save_optimizer().unwrap();
    whole.load_optimizer(&fresh).unwrap();
    assert_eq!(whole.save_optimizer().unwrap(), fresh);
}

#[test]
fn foreign_optimiser_state_is_refused_whole() {
    let mut trainer = trainer(config(tiny(false)));
    trainer.inner_step(&batch(&tiny(false), 2, 8, 1), 1e-3).unwrap();
    let own = trainer.save_optimizer().unwrap();
    let mut broken = own.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let tied = Trainer::new(config(tiny(true))).unwrap().save_optimizer().unwrap();
    let wider = ModelConfig { intermediate_size: 38, ..tiny(false) };
    let wider = Trainer::new(config(wider)).unwrap().save_optimizer().unwrap();
    for bytes in [&b"nonsense"[..], &own[..own.len() - 1], &broken, &tied, &wider, &[]] {
        assert!(matches!(trainer.load_optimizer(bytes), Err(Error::OptimizerState { .. })));
        assert_eq!(trainer.save_optimizer().unwrap(), own);
    }
}

#[test]
fn a_step_that_is_not_finite_is_not_taken() {
    let model = tiny(false);
    let mut trainer = trainer(config(model.clone()));
    let batch = batch(&model, 2, 8, 1);
    trainer.inner_step(&batch, 1e-3).unwrap();
    let state = trainer.save_optimizer().unwrap();
    let mut weights = weights(&model, 1);
    weights[3][0] = f32::NAN;
    trainer.load_parameters(&weights).unwrap();
    assert!(matches!(trainer.inner_step(&batch, 1e-3), Err(Error::NotFinite { .. })));
    assert_eq!(trainer.save_optimizer().unwrap(), state);
    assert!(matches!(trainer.inner_step(&batch, f64::NAN), Err(Error::Setting { field: "lr", .. })));
}

#[test]
fn the_clip_bounds_the_step_and_decay_spares_the_norms() {
    let model = tiny(false);
    let batch = batch(&model, 2, 8, 1);
    let still =
        AdamWConfig { weight_decay: 0.5, eps: 1e12, max_grad_norm: Some(1e-3), ..AdamWConfig::default() };
    let optimizer = OptimizerConfig::AdamW(still);
    let mut trainer = trainer(TrainerConfig { optimizer, ..config(model.clone()) });
    let before = trainer.parameters().unwrap();
    let stats = trainer.inner_step(&batch, 0.1).unwrap();
    assert!(stats.grad_norm > 1e-2, "the norm before the clipping is reported");
    assert_eq!(stats.tokens, 16);
    let after = trainer.parameters().unwrap();
    for ((spec, before), after) in model.tensors().iter().zip(&before).zip(&after) {
        // With a huge eps nothing but the decay moves: lr · decay = 0.05 of every matrix, the embedding too.
        let kept = if spec.shape.len() == 1 { 1.0 } else { 0.95 };
        for (before, after) in before.iter().zip(after) {
            assert!((after - kept * before).abs() < 1e-6, "{}", spec.name);
        }
    }
}

#[test]
fn hostile_input_is_a_typed_error() {
    let model = tiny(false);
    let mut trainer = trainer(config(model.clone()));
    let outside = TokenBatch::new(vec![0, 23, 1], 1, 2).unwrap();
    assert!(matches!(trainer.losses(&outside), Err(Error::Token { id: 23, position: 1, .. })));
    assert!(matches!(trainer.inner_step(&outside, 0.1), Err(Error::Token { .. })));
    assert!(matches!(trainer.losses(&batch(&model, 1, 17, 1)), Err(Error::Batch { .. })));
    assert!(matches!(trainer.logits(&[0, 1, 2], 2), Err(Error::Batch { .. })));
    assert!(matches!(trainer.logits(&[0], 0), Err(Error::Batch { .. })));
    assert!(matches!(trainer.logits(&[u32::MAX], 1), Err(Error::Token { .. })));
    assert!(matches!(trainer.load_parameters(&[[0.0_f32]]), Err(Error::TensorCount { .. })));
    let mut values = weights(&model, 1);
    values[4].pop();
    assert!(matches!(trainer.load_parameters(&values), Err(Error::TensorLength { .. })));
    assert_eq!(trainer.parameters().unwrap(), weights(&model, 1));

    let broken = ModelConfig { num_key_value_heads: 3, ..tiny(false) };
    assert!(matches!(Trainer::new(config(broken)), Err(Error::Model(_))));
    let settings = AdamWConfig { betas: (0.9, 1.0), ..AdamWConfig::default() };
    let config = TrainerConfig { optimizer: OptimizerConfig::AdamW(settings), ..config(tiny(false)) };
    assert!(matches!(Trainer::new(config), Err(Error::Setting { field: "betas", .. })));
}

#[test]
fn a_model_that_fits_no_memory_is_a_typed_error() {
    let wide = ModelConfig { vocab_size: 1 << 24, hidden_size: 1 << 22, ..tiny(true) };
    let endless = ModelConfig { num_attention_heads: 1 << 24, head_dim: Some(1 << 16), ..wide.clone() };
    assert!(matches!(Trainer::new(config(wide)), Err(Error::Torch(_))));
    // Refused by its shape, before any product of extents is formed.
    assert!(matches!(Trainer::new(config(endless)), Err(Error::Model(_))));
}

#[test]
fn generation_repeats_itself_and_slides_beyond_the_context() {
    let model = tiny(true);
    let mut trainer = trainer(config(model.clone()));
    // 0 1 2 3 0 1 2 3 …
    let ids: Vec<u32> = (0..4 * 13).map(|i| (i % 13 % 4) as u32).collect();
    let batch = TokenBatch::new(ids, 4, 12).unwrap();
    for _ in 0..80 {
        trainer.inner_step(&batch, 1e-2).unwrap();
    }

    let greedy = GenerateOptions { max_new_tokens: 30, temperature: 0.0, ..GenerateOptions::default() };
    let tokens = trainer.generate(&[0, 1, 2, 3, 0], &greedy).unwrap();
    assert_eq!(tokens[..6], [1, 2, 3, 0, 1, 2]);
    assert_eq!(tokens.len(), 30);
    let stopped = GenerateOptions { stop_tokens: vec![3], ..greedy.clone() };
    assert_eq!(trainer.generate(&[0, 1, 2, 3, 0], &stopped).unwrap(), [1, 2, 3]);

    let warm = GenerateOptions { temperature: 2.0, seed: 7, ..GenerateOptions::default() };
    let first = trainer.generate(&[5], &warm).unwrap();
    assert_eq!(trainer.generate(&[5], &warm).unwrap(), first);
    assert_ne!(trainer.generate(&[5], &GenerateOptions { seed: 8, ..warm }).unwrap(), first);
    assert!(matches!(trainer.generate(&[], &GenerateOptions::default()), Err(Error::Batch { .. })));
    assert!(matches!(trainer.generate(&[23], &GenerateOptions::default()), Err(Error::Token { .. })));
}

/// Keeping keys and values changes nothing: every step is the choice from the logits of the whole.
#[test]
fn generation_takes_the_best_of_the_logits() {
    for tied in [true, false] {
        let model = ModelConfig { attention_bias: !tied, ..tiny(tied) };
        let mut trainer = trainer(config(model.clone()));
        // Far from uniform, so that no two logits are near each other.
        let weights = trainer.parameters().unwrap();
        let larger: Vec<Vec<f32>> =
            weights.iter().map(|tensor| tensor.iter().map(|value| value * 8.0).collect()).collect();
        trainer.load_parameters(&larger).unwrap();
        let options = GenerateOptions { max_new_tokens: 20, temperature: 0.0, ..GenerateOptions::default() };
        let mut tokens = vec![3, 1, 4];
        let written = trainer.generate(&tokens, &options).unwrap();
        for found in written {
            let seen = &tokens[tokens.len().saturating_sub(model.max_position_embeddings)..];
            let logits = trainer.logits(seen, 1).unwrap();
            let last = &logits[logits.len() - model.vocab_size..];
            let best = last.iter().copied().fold(f32::MIN, f32::max);
            assert!(best - last[found as usize] < 1e-4, "{tokens:?}: {found} of {last:?}");
            tokens.push(found);
        }
        assert_eq!(tokens.len(), 23);
        let mut few = Vec::new();
        let mut take = |token| {
            few.push(token);
            few.len() < 5
        };
        trainer.generate_with(&[3, 1, 4], &options, &mut take).unwrap();
        assert_eq!(few, tokens[3..8]);
    }
}

#[test]
fn a_trainer_moves_to_its_own_thread() {
    let model = tiny(true);
    let batch = batch(&model, 2, 8, 1);
    let mut here = trainer(config(model.clone()));
    let mut there = trainer(config(model));
    let (moved, stats) = std::thread::spawn({
        let batch = batch.clone();
        move || {
            let stats = there.inner_step(&batch, 1e-3).unwrap();
            (there, stats)
        }
    })
    .join()
    .unwrap();
    assert_eq!(here.inner_step(&batch, 1e-3).unwrap(), stats);
    assert_eq!(here.parameters().unwrap(), moved.parameters().unwrap());
}
