//! Tokens per second of inner steps with the demo's model, in fp32 and bf16, side by side.
//!
//! `cargo run --release -p brigade-trainer --example throughput -- [THREADS] [STEPS] [VOCAB] [DEVICE] [DTYPE]`, with
//! `cpu` or a CUDA index as the device, and one of `f32`, `bf16`, `both`. The two precisions take turns step by step, so that other work on the machine
//! slows both alike; medians are reported. `alone` is the rate by the time that the main thread spent on a core, which
//! is what the wall clock would show on a machine that does nothing else.
#![allow(clippy::print_stdout)]

use std::{env, error::Error, fs, time::Instant};

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
        rope_scaling: None,
        attention_bias: false,
        mlp_bias: false,
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

/// Now, and how long this thread has been on a core; both in seconds.
fn clocks(start: Instant) -> [f64; 2] {
    let on_core = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = on_core.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
    [start.elapsed().as_secs_f64(), nanoseconds * 1e-9]
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

    let dtypes: &[ComputeDtype] = match env::args().nth(5).as_deref() {
        Some("f32") => &[ComputeDtype::Float32],
        Some("bf16") => &[ComputeDtype::BFloat16],
        _ => &[ComputeDtype::Float32, ComputeDtype::BFloat16],
    };
    let mut trainers = Vec::new();
    for &dtype in dtypes {
        let samples: [Vec<f64>; 4] = Default::default();
        trainers.push((trainer(&model, dtype, threads, device)?, samples));
    }
    println!("{} parameters, batch {SEQUENCES} × {LENGTH}, {threads} threads", model.num_parameters());
    let start = Instant::now();
    for step in 0..steps + 2 {
        for (trainer, samples) in &mut trainers {
            let before = clocks(start);
            trainer.inner_step(&batch, 1e-3)?;
            let between = clocks(start);
            trainer.losses(&batch)?;
            let after = clocks(start);
            // The first two warm up allocators and oneDNN's caches.
            if step >= 2 {
                for clock in 0..2 {
                    samples[clock].push(between[clock] - before[clock]);
                    samples[2 + clock].push(after[clock] - between[clock]);
                }
            }
        }
    }
    for (trainer, samples) in &mut trainers {
        let kind = trainer.compute_kind();
        let [step, step_alone, losses, losses_alone] =
            samples.each_mut().map(|seconds| batch.targets() as f64 / median(seconds));
        println!(
            "{kind:?}: {step:.0} tokens/s in training ({step_alone:.0} alone), \
             {losses:.0} in evaluation ({losses_alone:.0} alone)"
        );
    }
    Ok(())
}
