//! Several ranks, each on a thread of its own, against one.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::Arc;

use brigade_codec::{Binding, CodeBits, CodecConfig, Layout};
use brigade_protocol::ModelConfig;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::group_tests::groups;
use super::serve::serve;
use crate::model::tests::tiny;
use crate::step::Measured;
use crate::{
    ComputeDtype, DeviceChoice, Error, MuonConfig, OptimizerConfig, Recompute, TokenBatch, Trainer,
    TrainerConfig,
};

/// Extents that neither two nor four divide, so that shares are filled up.
pub(super) fn model(tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig { vocab_size: 131, hidden_size: 20, num_hidden_layers: 3, tie_word_embeddings, ..tiny() }
}

pub(super) fn parameters(model: &ModelConfig) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut random = |numel| (0..numel).map(|_| (rng.random::<f32>() - 0.5) * 0.2).collect();
    let tensors = model.tensors();
    tensors
        .iter()
        .map(|t| if t.shape.len() == 1 { vec![1.0; t.numel()] } else { random(t.numel()) })
        .collect()
}

pub(super) fn batch(step: u64, sequences: usize) -> TokenBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(step % 10);
    let tokens = (0..sequences * 17).map(|_| rng.random_range(0..131)).collect();
    TokenBatch::new(tokens, sequences, 16).unwrap()
}

/// Calls `work` on rank 0 of `ranks`, with the parameters loaded.
fn with_ranks<R>(ranks: usize, config: &TrainerConfig, work: impl FnOnce(&mut Trainer) -> R) -> R {
    let mut groups = groups(ranks).into_iter();
    let group = groups.next().unwrap();
    std::thread::scope(|scope| {
        let others: Vec<_> = groups.map(|group| scope.spawn(move || serve(&group))).collect();
        if ranks > 1 {
            group.broadcast(Some(serde_json::to_vec(config).unwrap())).unwrap();
        }
        let mut trainer = Trainer::with_group(config.clone(), Arc::clone(&group)).unwrap();
        trainer.load_parameters(&parameters(&config.model)).unwrap();
        // The others wait for the next command for ever: a failed assertion must not keep them from the end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut trainer)));
        let ended = trainer.lead(|| super::Command::End);
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.unwrap();
        for other in others {
            other.join().unwrap().unwrap();
        }
        result
    })
}

pub(super) fn config(model: ModelConfig, compute_dtype: ComputeDtype) -> TrainerConfig {
    let (device, threads) = (DeviceChoice::Cpu, Some(1));
    TrainerConfig { device, compute_dtype, threads, micro_batch: Some(2), ..TrainerConfig::new(model) }
}

#[test]
fn any_number_of_ranks_trains_the_same() {
    let every_second = Recompute::Every(NonZeroUsize::new(2).unwrap());
    let muon = OptimizerConfig::Muon(MuonConfig::default());
    for (tied, dtype, recompute, optimizer, tolerance) in [
        (false, ComputeDtype::Float32, Recompute::None, OptimizerConfig::default(), 1e-5),
        (true, ComputeDtype::Float32, every_second, OptimizerConfig::default(), 1e-5),
        (true, ComputeDtype::BFloat16, Recompute::All, OptimizerConfig::default(), 2e-3),
        (false, ComputeDtype::Float32, Recompute::None, muon, 1e-5),
    ] {
        let config = TrainerConfig { recompute, optimizer, ..config(model(tied), dtype) };
        let run = |ranks| {
            with_ranks(ranks, &config, |trainer| {
                let steps = (0..50).map(|step| trainer.inner_step(&batch(step, 8), 1e-3).unwrap());
                let steps: Vec<_> = steps.collect();
                (steps, trainer.parameters().unwrap())
            })
        };
        let (alone, parameters_alone) = run(1);
        assert!(alone[49].loss < alone[0].loss - 0.05, "it learns: {alone:?}");
        for ranks in [2, 4] {
            let (together, parameters) = run(ranks);
            for (step, (a, b)) in alone.iter().zip(&together).enumerate() {
                assert_eq!(a.tokens, b.tokens);
                let (loss, norm) = ((a.loss / b.loss - 1.0).abs(), (a.grad_norm / b.grad_norm - 1.0).abs());
                assert!(
                    loss < tolerance && norm < 100.0 * tolerance,
                    "{ranks} ranks, step {step}: {a:?} {b:?}"
                );
            }
            let far = parameters_alone.iter().flatten().zip(parameters.iter().flatten());
            let far = far.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < (100.0 * tolerance).min(1e-2), "{ranks} ranks: {far}");
        }
    }
}

#[test]
fn a_rank_holds_its_share_and_little_more() {
    let config = config(model(false), ComputeDtype::Float32);
    let total = config.model.num_parameters() as f64;
    for ranks in [2, 4] {
        with_ranks(ranks, &config, |trainer| {
            trainer.inner_step(&batch(0, 4), 1e-3).unwrap();
            let (_, gradients) = trainer_gradients(trainer);
            let own: usize = trainer.model.units.all.iter().map(|unit| unit.master.numel()).sum();
            let moments = trainer.optimizer.as_ref().unwrap().numel();
            for held in [own, gradients, moments / 2] {
                assert!(held as f64 <= 1.1 / ranks as f64 * total, "{held} of {total} on one of {ranks}");
            }
        });
    }
}

/// Takes another step, and counts the gradients that this rank is left with.
fn trainer_gradients(trainer: &mut Trainer) -> (f64, usize) {
    let batch = batch(1, 4);
    trainer
        .lead(|| super::Command::Step {
            tokens: batch.tokens().to_vec(),
            sequences: 4,
            sequence_length: 16,
            lr: 0.0,
        })
        .unwrap();
    let (sum, gradients) = trainer.backward(&batch).unwrap();
    let gradients = gradients.into_inner().unwrap();
    let Measured { loss, norm } =
        Measured::wait(&trainer.model.units.group, &sum, &gradients, &batch).unwrap();
    let numel = gradients.iter().map(tch::Tensor::numel).sum();
    // What the others do after it.
    let mut optimizer = trainer.take_optimizer().unwrap();
    optimizer.step(&mut trainer.model.units, &gradients, norm, 0.0).unwrap();
    trainer.optimizer = Some(optimizer);
    (loss, numel)
}

#[test]
fn one_file_and_one_state_come_from_all() {
    // The embedding and the output alone are several sections each, and one goes from a unit into the next.
    let config = config(ModelConfig { vocab_size: 70_000, ..model(false) }, ComputeDtype::Float32);
    let layout = Layout::new(config.model.tensors().into_iter().map(|t| (t.name, t.shape))).unwrap();
    assert!(layout.num_sections() > 3, "{} sections", layout.num_sections());
    let theta = parameters(&config.model);
    let binding = Binding { run: [1; 32], window: 2, peer: [3; 32], start_state_root: [4; 32] };
    let muon = OptimizerConfig::Muon(MuonConfig::default());
    for (bits, optimizer) in [(CodeBits::One, muon), (CodeBits::Two, OptimizerConfig::default())] {
        let config = TrainerConfig { optimizer, ..config.clone() };
        let codec = CodecConfig { top_k: 64, bits, error_feedback_decay: 0.95 };
        let mut e = theta.clone();
        let (trained, state, file, left) = with_ranks(3, &config, |trainer| {
            for step in 0..3 {
                trainer.inner_step(&batch(step, 3), 1e-3).unwrap();
            }
            let file = trainer.compress(&layout, &binding, &codec, &theta, &mut e).unwrap();
            (trainer.parameters().unwrap(), trainer.save_optimizer().unwrap(), file, e)
        });
        let mut e = theta.clone();
        let alone = with_ranks(1, &config, |trainer| {
            trainer.load_parameters(&trained).unwrap();
            assert_eq!(trainer.compress(&layout, &binding, &codec, &theta, &mut e).unwrap(), file);
            assert!(e == left);
            trainer.load_optimizer(&state).unwrap();
            assert_eq!(trainer.save_optimizer().unwrap(), state);
            trainer.losses(&batch(0, 3)).unwrap()
        });
        // And back into ranks, of another number.
        with_ranks(2, &config, |trainer| {
            trainer.load_optimizer(&state).unwrap();
            assert_eq!(trainer.save_optimizer().unwrap(), state);
            assert!(matches!(trainer.load_optimizer(&state[..99]), Err(Error::OptimizerState { .. })));
            assert!(matches!(trainer.inner_step(&batch(0, 3), 1e-3), Err(Error::Batch { .. })));
            // Which nobody shares out, so that any number of sequences will do.
            trainer.load_parameters(&trained).unwrap();
            let together = trainer.losses(&batch(0, 3)).unwrap();
            assert_eq!(together.len(), 3);
            assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5), "{together:?} {alone:?}");
            trainer.inner_step(&batch(0, 4), 1e-3).unwrap();
        });
    }
}

#[test]
fn a_loss_that_is_no_number_leaves_all_ranks_as_they_were() {
    let config = config(model(true), ComputeDtype::Float32);
    with_ranks(2, &config, |trainer| {
        let good = parameters(&config.model);
        let mut bad = good.clone();
        bad[3][0] = f32::NAN;
        for _ in 0..3 {
            trainer.load_parameters(&bad).unwrap();
            let error = trainer.inner_step(&batch(0, 4), 1e-3).unwrap_err();
            assert!(matches!(error, Error::NotFinite { what: "loss", .. }), "{error}");
        }
        trainer.load_parameters(&good).unwrap();
        assert_eq!(trainer.parameters().unwrap(), good);
        trainer.inner_step(&batch(0, 4), 1e-3).unwrap();
        assert_eq!(trainer.model.units.group.untaken(), 0, "nothing is left of the steps that were given up");
    });
}

#[test]
fn a_lost_rank_is_an_error_with_its_name() {
    let config = config(model(false), ComputeDtype::Float32);
    let mut groups = groups(3).into_iter();
    let (group, second, third) = (groups.next().unwrap(), groups.next().unwrap(), groups.next().unwrap());
    let error = std::thread::scope(|scope| {
        let second = scope.spawn(move || serve(&second));
        let third = scope.spawn(move || {
            // It makes its trainer, and then is gone.
            third.broadcast(None).unwrap();
            third.sum(&[]).unwrap();
            drop(third);
        });
        group.broadcast(Some(serde_json::to_vec(&config).unwrap())).unwrap();
        let mut trainer = Trainer::with_group(config.clone(), Arc::clone(&group)).unwrap();
        third.join().unwrap();
        let error = trainer.load_parameters(&parameters(&config.model));
        let error = error.and_then(|()| trainer.inner_step(&batch(0, 3), 1e-3).map(drop)).unwrap_err();
        drop((trainer, group));
        assert!(second.join().unwrap().is_err());
        error
    });
    assert!(matches!(error, Error::Rank { rank: 2, .. }), "{error}");
}

#[test]
fn offloaded_moments_change_no_bit_and_may_come_back() {
    let muon = OptimizerConfig::Muon(MuonConfig::default());
    for optimizer in [OptimizerConfig::default(), muon] {
        let beside = TrainerConfig { optimizer, ..config(model(false), ComputeDtype::Float32) };
        let offloaded = TrainerConfig { offload: true, ..beside.clone() };
        for ranks in [1, 3] {
            let run = |config: &TrainerConfig, steps: std::ops::Range<u64>, from: Option<(&[_], &[u8])>| {
                with_ranks(ranks, config, |trainer| {
                    if let Some((parameters, moments)) = from {
                        trainer.load_parameters(parameters).unwrap();
                        trainer.load_optimizer(moments).unwrap();
                    }
                    for step in steps {
                        trainer.inner_step(&batch(step, 3), 1e-3).unwrap();
                    }
                    (trainer.parameters().unwrap(), trainer.save_optimizer().unwrap())
                })
            };
            let (half, whole) = (run(&beside, 0..2, None), run(&beside, 0..4, None));
            assert_eq!(run(&offloaded, 0..4, None), whole, "{ranks} ranks");
            // What one kind has saved the other goes on from.
            assert_eq!(run(&offloaded, 2..4, Some((&half.0, &half.1))), whole, "{ranks} ranks");
            let half = run(&offloaded, 0..2, None);
            assert_eq!(run(&beside, 2..4, Some((&half.0, &half.1))), whole, "{ranks} ranks");
        }
    }
}
