//! Tokens per second of inner steps with the demo's model, in fp32 and bf16, side by side.
//!
//! `cargo run --release -p brigade-trainer --example throughput -- [THREADS] [STEPS] [VOCAB] [DEVICE]`, with `cpu`
//! or a CUDA index as the device. The two precisions take turns step by step, so that other work on the machine
//! slows both alike; medians are reported.
#![allow(clippy::print_stdout)]

use std::{env, error::Error, time::Instant};

use brigade_protocol::ModelConfig;
use brigade_trainer::{ComputeDtype, DeviceChoice, TokenBatch, Trainer, TrainerConfig};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

const SEQUENCES: usize = 16;
const LENGTH: usize = 128;

fn demo_model(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: 256,
        intermediate_size: 688,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: None,
        max_position_embeddings: LENGTH,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

fn trainer(
    model: &ModelConfig,
    compute_dtype: ComputeDtype,
    threads: usize,
    device: DeviceChoice,
) -> Result<Trainer, Box<dyn Error>> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let weights: Vec<Vec<f32>> = model
        .tensors()
        .iter()
        .map(|spec| match spec.shape.len() {
            1 => vec![1.0; spec.numel()],
            _ => (0..spec.numel()).map(|_| (rng.random::<f32>() - 0.5) * 0.07).collect(),
        })
        .collect();
    let config =
        TrainerConfig { device, compute_dtype, threads: Some(threads), ..TrainerConfig::new(model.clone()) };
    let mut trainer = Trainer::new(config)?;
    trainer.load_parameters(&weights)?;
    Ok(trainer)
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let argument =
        |index: usize, default: usize| env::args().nth(index).map_or(Ok(default), |text| text.parse());
    let (threads, steps, vocab) = (argument(1, 1)?, argument(2, 20)?, argument(3, 4096)?);
    let device = match env::args().nth(4).as_deref() {
        None | Some("cpu") => DeviceChoice::Cpu,
        Some(index) => DeviceChoice::Cuda(index.parse()?),
    };
    let model = demo_model(vocab);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let ids = (0..SEQUENCES * (LENGTH + 1)).map(|_| rng.random_range(0..vocab as u32)).collect();
    let batch = TokenBatch::new(ids, SEQUENCES, LENGTH)?;

    let mut trainers =
        [ComputeDtype::Float32, ComputeDtype::BFloat16].map(|dtype| trainer(&model, dtype, threads, device));
    println!("{} parameters, batch {SEQUENCES} × {LENGTH}, {threads} threads", model.num_parameters());
    let mut seconds = [Vec::new(), Vec::new()];
    let mut forward = [Vec::new(), Vec::new()];
    for step in 0..steps + 2 {
        for (index, trainer) in trainers.iter_mut().enumerate() {
            let trainer = trainer.as_mut().map_err(|error| error.to_string())?;
            let start = Instant::now();
            let stats = trainer.inner_step(&batch, 1e-3)?;
            let middle = Instant::now();
            trainer.losses(&batch)?;
            // The first two warm up allocators and oneDNN's caches.
            if step >= 2 {
                seconds[index].push((middle - start).as_secs_f64());
                forward[index].push(middle.elapsed().as_secs_f64());
            }
            if step == steps + 1 {
                let (inner, eval) = (median(&mut seconds[index]), median(&mut forward[index]));
                println!(
                    "{:?}: {:.0} tokens/s in training ({:.1} ms a step, loss {:.3}), {:.0} in evaluation",
                    trainer.compute_kind(),
                    batch.targets() as f64 / inner,
                    inner * 1e3,
                    stats.loss,
                    batch.targets() as f64 / eval,
                );
            }
        }
    }
    Ok(())
}
