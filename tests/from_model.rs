//! A run that goes on from a model that is there already.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use brigade::data::Encoder;
use brigade::folder;
use brigade_protocol::{ModelConfig, Parameters};
use brigade_trainer::{ComputeDtype, DeviceChoice, TokenBatch, Trainer, TrainerConfig};
use support::stores::Store;
use support::{Terms, World, brigade};

const LENGTH: usize = 32;

/// The text that the run trains on, too.
fn text() -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/protocol/src");
    ["manifest.rs", "parameters.rs", "records.rs"]
        .map(|file| std::fs::read_to_string(sources.join(file)).unwrap())
        .concat()
}

/// A model that has learnt something of the text, and its loss.
fn trained(encoder: &Encoder, model: &ModelConfig) -> (Parameters, f64) {
    let tokens = encoder.encode(&[text()]).unwrap().remove(0);
    let config = TrainerConfig {
        device: DeviceChoice::Cpu,
        compute_dtype: ComputeDtype::Float32,
        ..TrainerConfig::new(model.clone())
    };
    let mut trainer = Trainer::new(config).unwrap();
    trainer.load_parameters(Parameters::initialise(model, &[5; 32]).tensors()).unwrap();
    let mut losses = Vec::new();
    for step in 0..120 {
        let sequences: Vec<u32> = (0..8)
            .flat_map(|row| {
                let begin = (step * 8 + row) * 97 % (tokens.len() - LENGTH - 1);
                tokens[begin..=begin + LENGTH].to_vec()
            })
            .collect();
        let batch = TokenBatch::new(sequences, 8, LENGTH).unwrap();
        losses.push(f64::from(trainer.inner_step(&batch, 5e-3).unwrap().loss));
    }
    // Of several, as some sequences are harder than others.
    let loss = losses[100..].iter().sum::<f64>() / 20.0;
    let values = trainer.parameters().unwrap();
    (Parameters::new(model.tensors(), values).unwrap(), loss)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_starts_from_the_weights_of_an_exported_folder() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = Encoder::train(500, vec![text()]).unwrap();
    let model = ModelConfig {
        vocab_size: 512,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        max_position_embeddings: 64,
        attention_bias: true,
        ..ModelConfig::preset("demo").unwrap()
    };
    let (theta, loss) = trained(&encoder, &model);
    let random = (model.vocab_size as f64).ln();
    assert!(loss < random - 1.0, "{loss} of {random}");
    let (checkpoint, exported) = (dir.path().join("checkpoint"), dir.path().join("exported"));
    std::fs::create_dir(&checkpoint).unwrap();
    for (file, bytes) in folder::files(&model, &theta, encoder.json(), encoder.end_of_document()).unwrap() {
        std::fs::write(checkpoint.join(file.to_string()), bytes).unwrap();
    }
    let words = ["export", "--max-shard-size", "100KB", "--checkpoint"];
    brigade(&words, &[&checkpoint, Path::new("--out"), &exported]);

    let terms = Terms { windows: 1, start_peers: 1, model: Some(exported), ..Terms::default() };
    let mut world = World::new(Store::embedded(), 1, &terms);
    let names = ["aggregator", "validator", "miner-0"];
    world.start_all(&names);
    world.expect_success(&names);
    let run = world.run("aggregator").await;
    assert_eq!(run.manifest().model.tensors(), model.tensors());
    // The chain is checked to begin with the manifest's state root.
    let (open, close) = world.chain(1).await.remove(0);
    assert_eq!(open.record.state_root, theta.root());
    assert_eq!(close.record.accepted.len(), 1);
    let events = world.events("miner-0");
    let passed = events.iter().find(|event| event["event"] == "passed").unwrap();
    let train_loss = passed["train_loss"].as_f64().unwrap();
    assert!((train_loss - loss).abs() < 1.0 && train_loss < random - 0.7, "{train_loss}, {loss}, {random}");
}
