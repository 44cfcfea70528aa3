//! Models from and to other people's folders, as people use them: `brigade import` and `brigade export`.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use brigade::data::Encoder;
use brigade::folder::{self, Folder};
use brigade_protocol::{ModelConfig, Parameters, RopeScaling};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use serde_json::{Value, json};
use support::{PATIENCE, brigade, brigade_fails};

/// Type, shape and bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A small model that has all that a Llama may have, and a tokenizer.
struct Place {
    dir: tempfile::TempDir,
    model: ModelConfig,
    theta: Parameters,
    encoder: Encoder,
}

impl Place {
    fn new() -> Self {
        let text = (0..400).map(|n| format!("line {n}: the fox jumps {} times;\n", n * n)).collect();
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        };
        let model = ModelConfig {
            vocab_size: 304,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            max_position_embeddings: 64,
            rope_scaling: Some(scaling),
            attention_bias: true,
            mlp_bias: true,
            tie_word_embeddings: false,
            ..ModelConfig::preset("demo").unwrap()
        };
        let mut theta = Parameters::initialise(&model, &[3; 32]);
        // Biases begin as zeros, and norms as ones: here every value is another one.
        for (i, tensor) in theta.tensors_mut().iter_mut().enumerate() {
            tensor.iter_mut().enumerate().for_each(|(j, value)| *value += (i * 1000 + j) as f32 * 1e-6);
        }
        let encoder = Encoder::train(300, vec![text]).unwrap();
        let place = Self { dir: tempfile::tempdir().unwrap(), model, theta, encoder };
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

    fn export(&self, out: &str, words: &[&str]) -> Value {
        let words = [&["export", "--json"], words, &["--checkpoint"]].concat();
        answer(&words, &[&self.path("whole"), Path::new("--out"), &self.path(out)])
    }

    /// Everything that lies where the folders are.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// θ in numbers of another type.
    fn rounded(&self, round: impl Fn(f32) -> f32) -> Parameters {
        let mut theta = self.theta.clone();
        theta.tensors_mut().iter_mut().flatten().for_each(|value| *value = round(*value));
        theta
    }
}

fn answer(words: &[&str], paths: &[&Path]) -> Value {
    serde_json::from_str(&brigade(words, paths)).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn parameters(folder: &Path) -> Parameters {
    Folder::open(folder).unwrap().parameters(&|_| Ok(())).unwrap()
}

#[test]
fn float32_survives_the_way_out_and_back_to_the_last_bit() {
    let place = Place::new();
    let exported = place.export("parts", &["--max-shard-size", "20KB"]);
    assert!(exported["files"].as_u64().unwrap() > 3, "{exported}");
    let imported =
        answer(&["import", "--json"], &[&place.path("parts"), Path::new("--out"), &place.path("back")]);
    assert_eq!(imported["state_root"], json!(place.theta.root()));
    assert_eq!(exported["state_root"], imported["state_root"]);
    assert_eq!(imported["parameters"], json!(place.model.num_parameters()));
    assert_eq!(imported["layers"], 2);
    assert_eq!(imported["dtypes"], json!(["float32"]));
    assert_eq!(imported["files"], exported["files"]);
    assert_eq!(
        imported["tokenizer"],
        json!({ "tokens": place.encoder.vocab_size(), "sha256": place.encoder.sha256() })
    );
    let settings: toml::Table = toml::from_str(imported["run_toml"].as_str().unwrap()).unwrap();
    assert_eq!(settings["model"]["from"].as_str(), place.path("back").to_str());
    // What comes back is a checkpoint, byte for byte.
    for entry in std::fs::read_dir(place.path("whole")).unwrap() {
        let name = entry.unwrap().file_name();
        let [before, after] = ["whole", "back"].map(|folder| std::fs::read(place.path(folder).join(&name)));
        assert!(before.unwrap() == after.unwrap(), "{name:?}");
    }
    assert_eq!(place.names(), ["back", "parts", "whole"]);
}

#[test]
fn parts_in_other_types_are_read_as_they_were_rounded() {
    let place = Place::new();
    for (dtype, name, expected) in [
        ("bf16", "bfloat16", place.rounded(|value| bf16::from_f32(value).to_f32())),
        ("fp16", "float16", place.rounded(|value| f16::from_f32(value).to_f32())),
    ] {
        let exported = place.export(name, &["--dtype", dtype, "--max-shard-size", "20KB"]);
        let folder = place.path(name);
        assert!(parameters(&folder) == expected, "{name}");
        assert_ne!(expected.root(), place.theta.root());
        assert_eq!(exported["state_root"], json!(expected.root()));
        let imported = answer(&["import", "--json"], &[&folder]);
        assert_eq!(imported["state_root"], exported["state_root"]);
        assert_eq!((&imported["dtypes"], &exported["dtype"]), (&json!([name]), &json!(name)));
        assert_eq!(imported["out"], Value::Null);

        let config = read(&folder.join("config.json"));
        assert_eq!(config["torch_dtype"], name);
        assert_eq!(config["eos_token_id"], place.encoder.end_of_document());
        assert_eq!(config["rope_scaling"]["rope_type"], "llama3");
        let index = read(&folder.join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], place.model.num_parameters() * 2);
        assert_eq!(index["weight_map"].as_object().unwrap().len(), place.theta.specs().len());
        let files = exported["files"].as_u64().unwrap();
        for part in 1..=files {
            let bytes =
                std::fs::read(folder.join(format!("model-{part:05}-of-{files:05}.safetensors"))).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            assert!(
                file.len() == 1
                    || file.tensors().iter().map(|(_, t)| t.data().len()).sum::<usize>() <= 20_000
            );
        }
    }
}

/// A tokenizer is more than `tokenizer.json`; what is not there and needed is made.
#[test]
fn what_belongs_to_the_model_comes_along() {
    let place = Place::new();
    let whole = place.path("whole");
    std::fs::write(whole.join("chat_template.jinja"), "{{ messages }}").unwrap();
    std::fs::write(whole.join("special_tokens_map.json"), "{}").unwrap();
    std::fs::remove_file(whole.join("generation_config.json")).unwrap();
    std::fs::remove_file(whole.join("tokenizer_config.json")).unwrap();
    let mut config = read(&whole.join("config.json"));
    config["eos_token_id"] = json!([0, 7]);
    config["pad_token_id"] = json!(5);
    std::fs::write(whole.join("config.json"), config.to_string()).unwrap();
    place.export("out", &[]);
    let out = place.path("out");
    assert_eq!(std::fs::read(out.join("chat_template.jinja")).unwrap(), b"{{ messages }}");
    assert_eq!(std::fs::read(out.join("special_tokens_map.json")).unwrap(), b"{}");
    assert_eq!(std::fs::read(out.join("tokenizer.json")).unwrap(), place.encoder.json());
    let generation = read(&out.join("generation_config.json"));
    assert_eq!((&generation["eos_token_id"], &generation["pad_token_id"]), (&json!([0, 7]), &json!(5)));
    assert_eq!(read(&out.join("config.json"))["eos_token_id"], json!([0, 7]));
    assert_eq!(read(&out.join("tokenizer_config.json"))["tokenizer_class"], "PreTrainedTokenizerFast");
    let text = brigade(&["import"], &[&out]);
    assert!(text.contains("a Llama of 35,424 parameters") && text.contains("float32 in one file"), "{text}");
    assert!(text.contains(&format!("[model]\nfrom = \"{}\"", out.display())), "{text}");
}

fn edit_tensors(file: &Path, edit: impl FnOnce(&mut Tensors)) {
    let bytes = std::fs::read(file).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A file, its bytes if it is there, and what the error says.
type Replaced<'a> = (&'a str, Option<&'a [u8]>, &'a [&'a str]);

const NORM: &str = "model.norm.weight";
const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn a_tensor_that_does_not_belong_is_refused_by_name() {
    type Edit = fn(&mut Tensors);
    let cases: &[(Edit, &[&str])] = &[
        (|t| drop(t.remove(UP)), &[UP, "is missing"]),
        (
            |t| drop(t.remove("model.layers.0.mlp.down_proj.bias")),
            &["layers.0.mlp.down_proj.bias", "missing"],
        ),
        (|t| drop(t.remove("lm_head.weight")), &["lm_head.weight", "is missing"]),
        (|t| t.get_mut(UP).unwrap().1 = vec![32, 48], &[UP, "[32, 48]", "[48, 32]"]),
        (|t| t.get_mut(NORM).unwrap().1 = vec![1, 32], &[NORM, "[1, 32]", "[32]"]),
        (
            |t| drop(t.insert("model.layers.2.input_layernorm.weight".into(), t[NORM].clone())),
            &["model.layers.2.input_layernorm.weight", "not in the model"],
        ),
        (
            |t| drop(t.insert("model.layers.0.self_attn.q_norm.weight".into(), t[NORM].clone())),
            &["q_norm", "not in the model"],
        ),
        (|t| t.get_mut(NORM).unwrap().0 = Dtype::I32, &[NORM, "I32", "float16"]),
        (
            |t| *t.get_mut(NORM).unwrap() = (Dtype::F64, vec![32], vec![0; 256]),
            &[NORM, "F64", "float32 or bfloat16"],
        ),
        (|t| *t.get_mut(NORM).unwrap() = (Dtype::F8_E4M3, vec![32], vec![0; 32]), &[NORM, "F8_E4M3"]),
        (
            |t| t.get_mut(UP).unwrap().2[4 * 33..4 * 34].copy_from_slice(&f32::NAN.to_le_bytes()),
            &[UP, "NaN at [1, 1]"],
        ),
        (
            |t| t.get_mut(NORM).unwrap().2[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes()),
            &[NORM, "inf at [2]"],
        ),
    ];
    let place = Place::new();
    for (edit, expected) in cases {
        let folder = place.write("broken");
        edit_tensors(&folder.join("model.safetensors"), edit);
        brigade_fails(&["import"], &[&folder], expected);
        brigade_fails(&["import"], &[&folder, Path::new("--out"), &place.path("out")], expected);
        assert_eq!(place.names(), ["broken", "whole"]);
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_by_name() {
    let place = Place::new();
    let cases: &[(&str, Value, &[&str])] = &[
        ("model_type", json!("mistral"), &["model_type", "mistral"]),
        ("sliding_window", json!(4096), &["sliding_window"]),
        ("quantization_config", json!({ "quant_method": "fp8" }), &["quantization_config"]),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }), &["rope_scaling", "yarn"]),
        ("hidden_act", json!("gelu"), &["hidden_act"]),
        ("vocab_size", json!(299), &["tokenizer has 300 tokens", "299"]),
        ("eos_token_id", json!(304), &["eos_token_id is 304", "304 tokens"]),
        ("attention_bias", json!(false), &["self_attn", "bias", "not in the model"]),
        ("tie_word_embeddings", json!(null), &[]),
    ];
    for (field, value, expected) in cases {
        let folder = place.write("broken");
        let mut config = read(&folder.join("config.json"));
        config[field] = value.clone();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        // Only what the model calls its end is asked of the tokenizer.
        std::fs::remove_file(folder.join("generation_config.json")).unwrap();
        if expected.is_empty() {
            brigade(&["import"], &[&folder]);
        } else {
            brigade_fails(&["import"], &[&folder], expected);
        }
    }
    let weights = std::fs::read(place.path("whole/model.safetensors")).unwrap();
    let cut_off = [&weights[..weights.len() - 1], &[]].concat();
    let cases: &[Replaced] = &[
        ("config.json", None, &["config.json", "no Hugging Face folder"]),
        ("config.json", Some(b"{"), &["config.json"]),
        ("tokenizer.json", None, &["no tokenizer.json", "save_pretrained"]),
        ("tokenizer.json", Some(b"{}"), &["tokenizer.json"]),
        ("model.safetensors", None, &["safe_serialization=True"]),
        ("model.safetensors", Some(b""), &["model.safetensors", "no .safetensors file"]),
        ("model.safetensors", Some(b"\xff\xff\xff\xff\xff\xff\xff\xff{}"), &["model.safetensors", "header"]),
        ("model.safetensors", Some(b"\x02\0\0\0\0\0\0\0[]"), &["model.safetensors", "no .safetensors file"]),
        ("model.safetensors", Some(&cut_off), &["model.safetensors", "cut off"]),
    ];
    for (file, bytes, expected) in cases {
        let folder = place.write("broken");
        match bytes {
            Some(bytes) => std::fs::write(folder.join(file), bytes).unwrap(),
            None => std::fs::remove_file(folder.join(file)).unwrap(),
        }
        brigade_fails(&["import"], &[&folder], expected);
    }
}

#[test]
fn an_index_that_contradicts_its_files_is_refused() {
    let place = Place::new();
    place.export("parts", &["--max-shard-size", "20KB"]);
    let folder = place.path("parts");
    let path = folder.join("model.safetensors.index.json");
    let good = read(&path);
    let file = |tensor: &str| good["weight_map"][tensor].as_str().unwrap();
    let (first, last) = (file("model.embed_tokens.weight"), file("lm_head.weight"));
    assert_ne!(first, last);
    type Edit<'a> = &'a dyn Fn(&mut Value);
    let cases: &[(Edit, &[&str])] = &[
        (&|map| map[NORM] = first.into(), &[NORM, "the index says", first]),
        (&|map| map["extra"] = last.into(), &["extra", last, "not there"]),
        (&|map| drop(map.as_object_mut().unwrap().remove(NORM)), &["the index lacks", NORM]),
        (&|map| map[NORM] = "model-9.safetensors".into(), &["model-9.safetensors"]),
        (&|map| map[NORM] = "../whole/model.safetensors".into(), &["names a file elsewhere"]),
        (&|map| map[NORM] = 7.into(), &["names a file elsewhere"]),
        (&|map| *map = json!([]), &["has no weight_map"]),
    ];
    for (edit, expected) in cases {
        let mut index = good.clone();
        edit(&mut index["weight_map"]);
        std::fs::write(&path, index.to_string()).unwrap();
        brigade_fails(&["import"], &[&folder], expected);
    }
    std::fs::write(&path, good.to_string()).unwrap();
    std::fs::copy(folder.join(first), folder.join("model-9.safetensors")).unwrap();
    brigade(&["import"], &[&folder]);
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let mut place = Place::new();
    let (whole, out) = (place.path("whole"), place.path("out"));
    let fails = |words: &[&str], out: &Path, expected: &[&str]| {
        let words = [&["export"], words, &["--checkpoint"]].concat();
        brigade_fails(&words, &[&whole, Path::new("--out"), out], expected);
    };
    fails(&[], &whole, &["whole", "is not empty"]);
    fails(&[], &whole.join("config.json"), &["config.json"]);
    fails(&[], Path::new("/"), &["/"]);
    std::fs::create_dir(place.path("out.unfinished")).unwrap();
    fails(&[], &out, &["out.unfinished", "remove it"]);
    std::fs::remove_dir(place.path("out.unfinished")).unwrap();

    let last = place.theta.tensors().len() - 1;
    place.theta.tensors_mut()[last][5] = -65_520.0;
    place.write("whole");
    fails(&["--dtype", "fp16"], &out, &["lm_head.weight", "-65520", "float16", "bf16"]);
    place.theta.tensors_mut()[last][5] = f32::MAX;
    place.write("whole");
    fails(&["--dtype", "bf16"], &out, &["lm_head.weight", "bfloat16"]);
    assert_eq!(place.names(), ["whole"]);
    // An empty folder is as good as none.
    std::fs::create_dir(&out).unwrap();
    place.export("out", &[]);
    assert!(parameters(&out) == place.theta);
}

/// Zeros that take no room on the disk, of a model that takes a while.
#[test]
fn ctrl_c_leaves_nothing_half() {
    let place = Place::new();
    let large = ModelConfig { intermediate_size: 1 << 19, mlp_bias: false, ..place.model.clone() };
    let folder = place.write("large");
    let config = large.to_hugging_face();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut end = 0;
    let infos = large.tensors().into_iter().map(|spec| {
        let begin = end;
        end += spec.numel() * 4;
        (spec.name, TensorInfo { dtype: Dtype::F32, shape: spec.shape, data_offsets: (begin, end) })
    });
    let header = serde_json::to_vec(&Metadata::new(None, infos.collect()).unwrap()).unwrap();
    let file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    std::io::Write::write_all(&mut &file, &(header.len() as u64).to_le_bytes()).unwrap();
    std::io::Write::write_all(&mut &file, &header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    assert!(end > 300_000_000, "{end}");

    let mut export = Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(["export", "--dtype", "bf16", "--checkpoint"])
        .arg(&folder)
        .arg("--out")
        .arg(place.path("out"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !place.path("out.unfinished/model.safetensors").exists() {
        assert!(started.elapsed() < PATIENCE && export.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Command::new("kill").args(["-INT", &export.id().to_string()]).status().unwrap();
    let output = export.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("error: stopped"), "{errors}");
    assert_eq!(place.names(), ["large", "whole"]);
}
