//! Muon as the trainer's callers see it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use brigade_protocol::{ModelConfig, TensorSpec};
use brigade_trainer::{AdamWConfig, Error, MuonConfig, OptimizerConfig, TokenBatch, Trainer, TrainerConfig};
use common::{batch, config, tiny, trainer};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::Tensor;

fn muon(model: ModelConfig) -> TrainerConfig {
    TrainerConfig { optimizer: OptimizerConfig::Muon(MuonConfig::default()), ..config(model) }
}

/// With biases, which are AdamW's.
fn model() -> ModelConfig {
    ModelConfig { attention_bias: true, mlp_bias: true, ..tiny(false) }
}

fn is_muons(spec: &TensorSpec) -> bool {
    spec.name.ends_with("_proj.weight")
}

fn tensors(values: &[Vec<f32>], specs: &[TensorSpec]) -> Vec<Tensor> {
    let shape = |spec: &TensorSpec| spec.shape.iter().map(|&extent| extent as i64).collect::<Vec<_>>();
    values.iter().zip(specs).map(|(values, spec)| Tensor::from_slice(values).reshape(shape(spec))).collect()
}

/// Keller Jordan's, written down once more with momentum as he has it: a sum of gradients and not their mean.
fn keller_jordan(weight: &Tensor, gradient: &Tensor, buffer: &mut Tensor, lr: f64, decay: f64) -> Tensor {
    *buffer = &*buffer * 0.95 + gradient;
    let update = gradient + &*buffer * 0.95;
    let (rows, columns) = update.size2().unwrap();
    let mut x = if rows > columns { update.tr() } else { update };
    x = &x / (x.norm() + 1e-7);
    for _ in 0..5 {
        let a = x.mm(&x.tr());
        let b = &a * -4.7750 + a.mm(&a) * 2.0315;
        x = &x * 3.4445 + b.mm(&x);
    }
    let x = if rows > columns { x.tr() } else { x };
    weight * (1.0 - lr * decay) - x * (lr * 0.2 * (rows.max(columns) as f64).sqrt())
}

#[test]
fn steps_are_those_of_a_plain_implementation() {
    let (model, lr) = (model(), 0.01);
    let specs = model.tensors();
    assert_eq!(specs.iter().filter(|spec| is_muons(spec)).count(), 2 * 7);
    let settings = AdamWConfig { weight_decay: 0.5, max_grad_norm: None, ..AdamWConfig::default() };
    let optimizer = OptimizerConfig::Muon(MuonConfig { adamw: settings, ..MuonConfig::default() });
    let adamw = OptimizerConfig::AdamW(settings);
    let mut ours = trainer(TrainerConfig { optimizer, ..config(model.clone()) });
    let mut theirs = trainer(TrainerConfig { optimizer: adamw, ..config(model.clone()) });
    let mut buffers: Vec<Tensor> =
        tensors(&ours.parameters().unwrap(), &specs).iter().map(Tensor::zeros_like).collect();
    for seed in 0..4 {
        let batch = batch(&model, 3, 8, seed);
        let (before, gradients) = (ours.parameters().unwrap(), ours.gradients(&batch).unwrap().1);
        theirs.load_parameters(&before).unwrap();
        theirs.inner_step(&batch, lr).unwrap();
        ours.inner_step(&batch, lr).unwrap();
        let (after, by_adamw) = (ours.parameters().unwrap(), theirs.parameters().unwrap());
        let (before, gradients) = (tensors(&before, &specs), tensors(&gradients, &specs));
        for (index, spec) in specs.iter().enumerate() {
            if !is_muons(spec) {
                assert_eq!(after[index], by_adamw[index], "{}", spec.name);
                continue;
            }
            let expected = keller_jordan(&before[index], &gradients[index], &mut buffers[index], lr, 0.5);
            let found = Tensor::from_slice(&after[index]).view_as(&expected);
            let moved = (&expected - &before[index]).norm();
            let far = ((found - expected).norm() / moved).double_value(&[]);
            // Newton–Schulz blows roundings of small singular values up by 3.4445⁵, as it does the values.
            assert!(far < 1e-3, "{} in step {seed}: {far}", spec.name);
        }
    }
}

#[test]
fn a_saved_optimiser_goes_on_where_it_was() {
    let model = model();
    let batches: Vec<_> = (0..6).map(|seed| batch(&model, 2, 8, seed)).collect();
    let mut whole = trainer(muon(model.clone()));
    for batch in &batches[..3] {
        whole.inner_step(batch, 3e-3).unwrap();
    }
    let (weights, state) = (whole.parameters().unwrap(), whole.save_optimizer().unwrap());
    let file = safetensors::SafeTensors::deserialize(&state).unwrap();
    for spec in model.tensors() {
        let has = |prefix: &str| file.tensor(&format!("{prefix}.{}", spec.name)).is_ok();
        assert_eq!(has("momentum_buffer"), is_muons(&spec), "{}", spec.name);
        assert_eq!(has("exp_avg") && has("exp_avg_sq"), !is_muons(&spec), "{}", spec.name);
    }

    let mut resumed = Trainer::new(muon(model)).unwrap();
    resumed.load_parameters(&weights).unwrap();
    resumed.load_optimizer(&state).unwrap();
    assert_eq!(resumed.save_optimizer().unwrap(), state);
    for batch in &batches[3..] {
        assert_eq!(whole.inner_step(batch, 3e-3).unwrap(), resumed.inner_step(batch, 3e-3).unwrap());
    }
    assert_eq!(whole.parameters().unwrap(), resumed.parameters().unwrap());
    assert_eq!(whole.save_optimizer().unwrap(), resumed.save_optimizer().unwrap());
}

#[test]
fn the_state_of_the_other_optimiser_is_refused_by_name() {
    let model = model();
    let mut adamw = trainer(config(model.clone()));
    let mut muon = trainer(muon(model.clone()));
    for trainer in [&mut adamw, &mut muon] {
        trainer.inner_step(&batch(&model, 2, 8, 1), 1e-3).unwrap();
    }
    let (of_adamw, of_muon) = (adamw.save_optimizer().unwrap(), muon.save_optimizer().unwrap());
    let refuses = |trainer: &mut Trainer, bytes: &[u8], named: &str| {
        let own = trainer.save_optimizer().unwrap();
        let error = trainer.load_optimizer(bytes).unwrap_err();
        assert!(
            matches!(error, Error::OptimizerState { .. }) && error.to_string().contains(named),
            "{error}"
        );
        assert_eq!(trainer.save_optimizer().unwrap(), own);
    };
    refuses(&mut adamw, &of_muon, "is of Muon");
    refuses(&mut muon, &of_adamw, "is of AdamW");
    let mut broken = of_muon.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    refuses(&mut muon, &broken, "finite");
    refuses(&mut muon, &of_muon[..end - 1], "");
}

/// Text in which a token follows, nine times of ten, from the two before it.
fn text(sequences: usize, length: usize, seed: u64) -> TokenBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ids: Vec<u32> = Vec::new();
    for index in 0..sequences * (length + 1) {
        let follows = index % (length + 1) >= 2 && rng.random::<f32>() < 0.9;
        ids.push(if follows {
            (ids[index - 1] * 5 + ids[index - 2] * 3 + 1) % 23
        } else {
            rng.random_range(0..23)
        });
    }
    TokenBatch::new(ids, sequences, length).unwrap()
}

/// Loss on text that was not trained on, after text that never came twice: a single batch learnt by heart says little of
/// a language model's optimiser, and AdamW is good at that.
#[test]
fn it_learns_faster_than_adamw() {
    let model = ModelConfig { hidden_size: 64, intermediate_size: 128, ..tiny(true) };
    let heldout = text(32, 16, 0);
    for seed in [1, 2] {
        let loss_after = |config: TrainerConfig, lr| {
            let mut trainer = trainer(config);
            for step in 0..200 {
                trainer.inner_step(&text(16, 16, 1000 * seed + step), lr).unwrap();
            }
            let losses = trainer.losses(&heldout).unwrap();
            losses.iter().sum::<f32>() / losses.len() as f32
        };
        let adamw = [3e-3, 1e-2].map(|lr| loss_after(config(model.clone()), lr));
        let muon = loss_after(muon(model.clone()), 1e-2);
        assert!(adamw.iter().all(|adamw| muon < *adamw), "seed {seed}: {muon} for {adamw:?}");
    }
}

#[test]
fn a_step_that_is_not_finite_is_not_taken() {
    let model = model();
    let mut trainer = trainer(muon(model.clone()));
    let batch = batch(&model, 2, 8, 1);
    trainer.inner_step(&batch, 1e-3).unwrap();
    let (state, mut weights) = (trainer.save_optimizer().unwrap(), trainer.parameters().unwrap());
    weights[3][0] = f32::NAN;
    trainer.load_parameters(&weights).unwrap();
    assert!(matches!(trainer.inner_step(&batch, 1e-3), Err(Error::NotFinite { .. })));
    assert_eq!(trainer.save_optimizer().unwrap(), state);

    let optimizer = OptimizerConfig::Muon(MuonConfig { momentum: 1.0, ..MuonConfig::default() });
    let refused = Trainer::new(TrainerConfig { optimizer, ..config(model) });
    assert!(matches!(refused, Err(Error::Setting { field: "momentum", .. })));
}
