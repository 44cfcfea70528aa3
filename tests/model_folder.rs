//! Models in Hugging Face folders, as people use them: `brigade eval` and `brigade generate`.

#![cfg(feature = "torch")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brigade::data::Encoder;
use brigade::folder;
use brigade_protocol::{ModelConfig, Parameters};
use brigade_trainer::{ComputeDtype, DeviceChoice, TokenBatch, Trainer, TrainerConfig};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use support::{brigade, brigade_fails};

const LENGTH: usize = 32;

/// A small model with weights far from zero, a tokenizer and a text.
struct Place {
    dir: tempfile::TempDir,
    model: ModelConfig,
    theta: Parameters,
    encoder: Encoder,
    text: String,
}

impl Place {
    fn new() -> Self {
        let text: String =
            (0..400).map(|n| format!("line {n}: the naïve fox jumps {} times;\n", n * n)).collect();
        let encoder = Encoder::train(300, vec![text.clone()]).unwrap();
        let model = ModelConfig {
            vocab_size: 304,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            initializer_range: 0.3,
            ..ModelConfig::preset("demo").unwrap()
        };
        let theta = Parameters::initialise(&model, &[3; 32]);
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir, model, theta, encoder, text };
        std::fs::write(place.path("text.txt"), &place.text).unwrap();
        place.write("whole");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let end = self.encoder.end_of_document();
        for (file, bytes) in folder::files(&self.model, &self.theta, self.encoder.json(), end).unwrap() {
            std::fs::write(folder.join(file.to_string()), bytes).unwrap();
        }
        folder
    }

    /// The same model in bfloat16, a tensor to a file, with an index.
    fn write_parts(&self) -> PathBuf {
        let folder = self.write("parts");
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        let mut map = BTreeMap::new();
        for (i, (spec, values)) in self.theta.specs().iter().zip(self.theta.tensors()).enumerate() {
            let file = format!("model-{i:05}-of-00099.safetensors");
            let bytes: Vec<u8> =
                values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
            save(&folder.join(&file), &spec.name, Dtype::BF16, &spec.shape, &bytes);
            map.insert(spec.name.clone(), file);
        }
        let index = serde_json::json!({ "metadata": { "total_size": 0 }, "weight_map": map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        folder
    }

    fn eval(&self, folder: &Path) -> serde_json::Value {
        let words = ["eval", "--json", "--device", "cpu", "--sequence-length", "32", "--data"];
        let text = self.path("text.txt");
        serde_json::from_str(&brigade(&words, &[&text, Path::new("--checkpoint"), folder])).unwrap()
    }

    fn eval_fails(&self, folder: &Path, expected: &[&str]) {
        let text = self.path("text.txt");
        brigade_fails(&["eval", "--data"], &[&text, Path::new("--checkpoint"), folder], expected);
    }

    fn trainer(&self) -> Trainer {
        let config = TrainerConfig {
            device: DeviceChoice::Cpu,
            compute_dtype: ComputeDtype::Float32,
            ..TrainerConfig::new(self.model.clone())
        };
        let mut trainer = Trainer::new(config).unwrap();
        trainer.load_parameters(self.theta.tensors()).unwrap();
        trainer
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        self.encoder.encode(&[text.to_owned()]).unwrap().remove(0)
    }
}

fn save(path: &Path, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
}

/// The loss by its definition: each window's logits, each token's share of the softmax.
#[test]
fn eval_is_the_mean_over_full_windows() {
    let place = Place::new();
    let score = place.eval(&place.path("whole"));
    let (trainer, tokens) = (place.trainer(), place.tokens(&place.text));
    let windows = tokens.len() / LENGTH;
    assert!(windows > 20 && tokens.len() % LENGTH > 0);
    let mut sum = 0.0;
    for window in tokens.chunks_exact(LENGTH) {
        let logits = trainer.logits(&window[..LENGTH - 1], 1).unwrap();
        for (row, target) in logits.chunks_exact(place.model.vocab_size).zip(&window[1..]) {
            let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            sum += total.ln() - f64::from(row[*target as usize]);
        }
    }
    let count = windows * (LENGTH - 1);
    let loss = sum / count as f64;
    let number = |field: &str| score[field].as_f64().unwrap();
    assert!((number("loss") / loss - 1.0).abs() < 1e-5, "{score}, {loss}");
    assert!((number("perplexity") / loss.exp() - 1.0).abs() < 1e-4);
    let bytes_per_token = place.text.len() as f64 / tokens.len() as f64;
    assert!((number("bits_per_byte") * bytes_per_token * 2_f64.ln() / loss - 1.0).abs() < 1e-5);
    assert_eq!(number("tokens"), count as f64);
}

#[test]
fn parts_in_bfloat16_are_the_same_model() {
    let place = Place::new();
    let (whole, parts) = (place.eval(&place.path("whole")), place.eval(&place.write_parts()));
    let ratio = parts["loss"].as_f64().unwrap() / whole["loss"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 0.01, "{whole}, {parts}");
}

#[test]
fn generate_goes_on_with_the_likeliest() {
    let place = Place::new();
    let prompt = "line 7: the naïve";
    let words =
        ["generate", "--prompt", prompt, "--temperature", "0", "--max-new-tokens", "12", "--device", "cpu"];
    let text = brigade(&words, &[Path::new("--checkpoint"), &place.path("whole")]);
    let mut tokens = place.tokens(prompt);
    let trainer = place.trainer();
    for _ in 0..12 {
        let logits = trainer.logits(&tokens, 1).unwrap();
        let last = &logits[logits.len() - place.model.vocab_size..];
        let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap() as u32;
        if best == place.encoder.end_of_document() {
            break;
        }
        tokens.push(best);
    }
    assert!(tokens.len() > place.tokens(prompt).len());
    let expected = place.encoder.decode(&tokens).unwrap();
    assert_eq!(text.strip_suffix('\n').unwrap(), expected);
    // Nothing but what follows, though something must be there for it to follow.
    let from_nothing =
        ["generate", "--prompt", "", "--temperature", "0", "--max-new-tokens", "9", "--device", "cpu"];
    let text = brigade(&from_nothing, &[Path::new("--checkpoint"), &place.path("whole")]);
    assert!(!text.contains("endoftext") && text.len() > 1, "{text}");
    let seeded = |seed: &str| {
        let words = ["generate", "--prompt", prompt, "--seed", seed, "--temperature", "2", "--device", "cpu"];
        brigade(&words, &[Path::new("--checkpoint"), &place.path("whole")])
    };
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
}

#[test]
fn a_folder_that_is_no_such_model_is_refused_by_name() {
    let place = Place::new();
    let empty = place.path("empty");
    std::fs::create_dir(&empty).unwrap();
    place.eval_fails(&empty, &["config.json", "no Hugging Face folder"]);

    let folder = place.write("broken");
    let edit = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(folder.join(file), text.replace(from, to)).unwrap();
    };
    let change = |from: &str, to: &str, expected: &[&str]| {
        edit("config.json", from, to);
        place.eval_fails(&folder, expected);
        edit("config.json", to, from);
    };
    change("\"llama\"", "\"mistral\"", &["config.json", "model_type", "mistral"]);
    change(
        "\"intermediate_size\": 48",
        "\"intermediate_size\": 40",
        &["layers.0.mlp.down_proj", "[32, 48]", "[32, 40]"],
    );
    change("\"vocab_size\": 304", "\"vocab_size\": 299", &["300 tokens", "299"]);
    change("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", &["model.layers.2", "missing"]);
    change("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", &["model.layers.1", "not in the model"]);

    let weights = folder.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    place.eval_fails(&folder, &["model.safetensors"]);
    let file = SafeTensors::deserialize(&whole).unwrap();
    let norm = file.tensor("model.norm.weight").unwrap();
    save(&weights, "model.norm.weight", Dtype::I32, norm.shape(), norm.data());
    place.eval_fails(&folder, &["model.norm.weight", "I32"]);
    std::fs::remove_file(&weights).unwrap();
    place.eval_fails(&folder, &["safe_serialization=True"]);
    let index = serde_json::json!({ "weight_map": { "model.norm.weight": "../../elsewhere.safetensors" } });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    place.eval_fails(&folder, &["names a file elsewhere"]);

    let text = place.path("text.txt");
    let whole = place.path("whole");
    let shared = [text.as_path(), Path::new("--checkpoint"), &whole];
    brigade_fails(
        &["eval", "--sequence-length", "66", "--data"],
        &shared,
        &["--sequence-length is 66", "65"],
    );
    brigade_fails(&["eval", "--sequence-length", "1", "--data"], &shared, &["--sequence-length is 1,"]);
    brigade_fails(&["generate", "--prompt", "x", "--top-p", "0"], &shared[1..], &["top_p"]);
    let batch = TokenBatch::new(vec![0; 4], 1, 3).unwrap();
    assert!(place.trainer().losses(&batch).unwrap()[0].is_finite());
}
