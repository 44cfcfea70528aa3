//! The model against `transformers`: the fixtures of `tests/golden/make_llama_goldens.py`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::PathBuf};

use brigade_protocol::ModelConfig;
use brigade_trainer::{
    AdamWConfig, ComputeDtype, DeviceChoice, OptimizerConfig, Recompute, TokenBatch, Trainer, TrainerConfig,
};
use safetensors::SafeTensors;

const CASES: [&str; 7] = [
    "tied-gqa",
    "untied-mha",
    "untied-wide-heads",
    "tied-mqa-deep",
    "llama3-rope",
    "biased",
    "attention-bias",
];

/// A fixture: a checkpoint of ours that `transformers` has loaded, and what it computed.
struct Golden {
    name: &'static str,
    config: serde_json::Value,
    model: Vec<u8>,
    expected: Vec<u8>,
}

impl Golden {
    fn all() -> impl Iterator<Item = Self> {
        CASES.into_iter().map(|name| {
            let folder =
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llama").join(name);
            let read = |file: &str| fs::read(folder.join(file)).unwrap();
            let config = serde_json::from_slice(&read("config.json")).unwrap();
            Self { name, config, model: read("model.safetensors"), expected: read("expected.safetensors") }
        })
    }

    fn model_config(&self) -> ModelConfig {
        ModelConfig::from_hugging_face(&self.config).unwrap()
    }

    fn trainer(&self, change: impl FnOnce(&mut TrainerConfig)) -> Trainer {
        let mut config = TrainerConfig {
            device: DeviceChoice::Cpu,
            compute_dtype: ComputeDtype::Float32,
            threads: Some(1),
            optimizer: OptimizerConfig::AdamW(AdamWConfig {
                weight_decay: 0.1,
                max_grad_norm: Some(1.0),
                ..AdamWConfig::default()
            }),
            ..TrainerConfig::new(self.model_config())
        };
        change(&mut config);
        let file = SafeTensors::deserialize(&self.model).unwrap();
        let specs = config.model.tensors();
        assert_eq!(file.len(), specs.len(), "{}: as many tensors as the model has", self.name);
        let weights: Vec<_> = specs
            .iter()
            .map(|spec| {
                assert_eq!(file.tensor(&spec.name).unwrap().shape(), spec.shape, "{}", spec.name);
                floats(&file, &spec.name)
            })
            .collect();
        let mut trainer = Trainer::new(config).unwrap();
        trainer.load_parameters(&weights).unwrap();
        trainer
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        floats(&SafeTensors::deserialize(&self.expected).unwrap(), name)
    }

    fn batch(&self) -> TokenBatch {
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        let tokens = file.tensor("tokens").unwrap();
        let ids = tokens.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()) as u32);
        TokenBatch::new(ids.collect(), tokens.shape()[0], tokens.shape()[1] - 1).unwrap()
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Largest difference relative to the largest expected magnitude.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(f32::MIN_POSITIVE, |size, value| size.max(value.abs()));
    found.iter().zip(expected).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs())) / size
}

#[test]
fn config_json_is_the_one_that_transformers_has_read() {
    for golden in Golden::all() {
        let written = golden.model_config().to_hugging_face();
        for (key, value) in golden.config.as_object().unwrap() {
            assert_eq!(&written[key], value, "{}: {key}", golden.name);
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for golden in Golden::all() {
        let (trainer, batch) = (golden.trainer(|_| ()), golden.batch());
        let inputs: Vec<u32> = batch
            .tokens()
            .chunks(batch.sequence_length() + 1)
            .flat_map(|row| &row[..row.len() - 1])
            .copied()
            .collect();
        let logits = trainer.logits(&inputs, batch.sequences()).unwrap();
        let worst = difference(&logits, &golden.expected("logits"));
        assert!(worst <= 1e-5, "{}: {worst}", golden.name);
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for golden in Golden::all() {
        let expected = golden.expected("losses");
        for micro_batch in [None, Some(1)] {
            let trainer = golden.trainer(|config| config.micro_batch = micro_batch);
            let worst = difference(&trainer.losses(&golden.batch()).unwrap(), &expected);
            assert!(worst <= 1e-5, "{}: {worst}", golden.name);
        }
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for golden in Golden::all() {
        for recompute in [Recompute::None, Recompute::All] {
            let trainer = golden.trainer(|config| config.recompute = recompute);
            let (_, gradients) = trainer.gradients(&golden.batch()).unwrap();
            for (spec, gradient) in trainer.model_config().tensors().iter().zip(&gradients) {
                let worst = difference(gradient, &golden.expected(&format!("gradient.{}", spec.name)));
                assert!(worst <= 1e-4, "{}: {}: {worst}", golden.name, spec.name);
            }
        }
    }
}

#[test]
fn adamw_steps_are_those_of_torch() {
    for golden in Golden::all() {
        let (mut trainer, batch) = (golden.trainer(|_| ()), golden.batch());
        let expected = golden.expected("step_losses").into_iter().zip(golden.expected("step_norms"));
        for (step, (loss, norm)) in expected.enumerate() {
            let stats = trainer.inner_step(&batch, 0.01).unwrap();
            assert!((stats.loss / loss - 1.0).abs() < 1e-4, "{} {step}: {stats:?}, {loss}", golden.name);
            assert!((stats.grad_norm / norm - 1.0).abs() < 1e-3, "{} {step}: {stats:?}, {norm}", golden.name);
        }
    }
}

#[test]
fn bf16_is_near() {
    for golden in Golden::all() {
        let trainer = golden.trainer(|config| config.compute_dtype = ComputeDtype::BFloat16);
        let (expected, losses) = (golden.expected("losses"), trainer.losses(&golden.batch()).unwrap());
        let worst = difference(&losses, &expected);
        assert!(worst < 0.02, "{}: {losses:?} for {expected:?}", golden.name);
    }
}
