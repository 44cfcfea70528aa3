//! Training steps, one for each line on stdin: what `benches/peer/compare.py` holds against PyTorch.
//!
//! Prints "ready", then for every line the seconds of one step and its loss.
#![allow(clippy::print_stdout)]

use std::{collections::HashMap, env, error::Error, fs, io, io::Write, time::Instant};

use brigade_protocol::ModelConfig;
use brigade_trainer::{ComputeDtype, DeviceChoice, TokenBatch, Trainer, TrainerConfig};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let options: HashMap<&str, &str> =
        words.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    let option = |name: &str| options.get(name).copied().ok_or(format!("{name} is missing"));
    let (sequences, length) = (option("--sequences")?.parse()?, option("--length")?.parse()?);
    let model = ModelConfig::from_hugging_face(&serde_json::from_slice(&fs::read(option("--config")?)?)?)?;
    let config = TrainerConfig {
        device: if option("--device")? == "cuda" { DeviceChoice::Cuda(0) } else { DeviceChoice::Cpu },
        compute_dtype: if option("--dtype")? == "bf16" {
            ComputeDtype::BFloat16
        } else {
            ComputeDtype::Float32
        },
        threads: Some(option("--threads")?.parse()?),
        ..TrainerConfig::new(model.clone())
    };
    let mut trainer = Trainer::new(config)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let width = (12.0_f64.sqrt() * model.initializer_range) as f32;
    let mut random = |numel: usize| (0..numel).map(|_| (rng.random::<f32>() - 0.5) * width).collect();
    let weights: Vec<Vec<f32>> = model
        .tensors()
        .iter()
        .map(|spec| if spec.shape.len() == 1 { vec![1.0; spec.numel()] } else { random(spec.numel()) })
        .collect();
    trainer.load_parameters(&weights)?;
    let ids = (0..sequences * (length + 1)).map(|_| rng.random_range(0..model.vocab_size as u32)).collect();
    let batch = TokenBatch::new(ids, sequences, length)?;

    println!("ready");
    io::stdout().flush()?;
    for line in io::stdin().lines() {
        line?;
        let start = Instant::now();
        let stats = trainer.inner_step(&batch, 1e-3)?;
        println!("{} {}", start.elapsed().as_secs_f64(), stats.loss);
        io::stdout().flush()?;
    }
    Ok(())
}
