//! Checkpoints: θ as a Hugging Face folder, loadable by `transformers` as it lies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use brigade_bucket::keys::{CheckpointFile, RunKey};
use brigade_bucket::{Bucket, Pin};
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{
    Checkpoint, Digest, Envelope, ModelConfig, ObjectPin, Parameters, Signed, SigningKey,
};
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, View};

use super::Run;

/// Bytes of tensors in one safetensors file, as `transformers` cuts them by default.
const FILE_BYTES: usize = 5_000_000_000;

/// The largest checkpoint file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 30;

/// One tensor on its way into a file.
struct Values<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

/// The model's files: `model.safetensors`, or numbered files and their index when one would pass `file_bytes`.
fn model_files(theta: &Parameters, file_bytes: usize) -> anyhow::Result<Vec<(CheckpointFile, Vec<u8>)>> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
    let mut size = 0;
    for (place, spec) in theta.specs().iter().enumerate() {
        let bytes = spec.numel() * 4;
        if size > 0 && size + bytes > file_bytes {
            groups.push(Vec::new());
            size = 0;
        }
        size += bytes;
        groups[0..].last_mut().context("there is always a last group")?.push(place);
    }
    let count = u32::try_from(groups.len()).context("too many checkpoint files")?;
    let name =
        |part| if count == 1 { CheckpointFile::Model } else { CheckpointFile::Part { part, of: count } };
    let mut files = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (part, group) in (1..).zip(&groups) {
        weight_map.extend(group.iter().map(|place| (&theta.specs()[*place].name, name(part).to_string())));
        files.push((name(part), to_safetensors(theta, group)?));
    }
    if count > 1 {
        let total: usize = theta.specs().iter().map(|spec| spec.numel() * 4).sum();
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push((CheckpointFile::ModelIndex, serde_json::to_vec_pretty(&index)?));
    }
    Ok(files)
}

fn to_safetensors(theta: &Parameters, places: &[usize]) -> anyhow::Result<Vec<u8>> {
    let views = places.iter().map(|place| {
        let (spec, values) = (&theta.specs()[*place], &theta.tensors()[*place]);
        (&spec.name, Values { shape: &spec.shape, values })
    });
    // transformers refuses files that do not say which framework they are for.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    Ok(safetensors::serialize(views, metadata)?)
}

/// Puts the fp32 tensors of one file into their places in `tensors`.
fn from_safetensors(
    bytes: &[u8],
    model: &ModelConfig,
    tensors: &mut BTreeMap<String, Vec<f32>>,
) -> anyhow::Result<()> {
    let file = SafeTensors::deserialize(bytes)?;
    for spec in model.tensors() {
        let Ok(view) = file.tensor(&spec.name) else { continue };
        anyhow::ensure!(
            view.dtype() == Dtype::F32 && view.shape() == spec.shape,
            "tensor {} is {:?} {:?}, expected F32 {:?}",
            spec.name,
            view.dtype(),
            view.shape(),
            spec.shape
        );
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        tensors.insert(spec.name, values.collect());
    }
    Ok(())
}

fn assemble(model: &ModelConfig, mut tensors: BTreeMap<String, Vec<f32>>) -> anyhow::Result<Parameters> {
    let specs = model.tensors();
    let values = specs
        .iter()
        .map(|spec| tensors.remove(&spec.name).with_context(|| format!("tensor {} is missing", spec.name)))
        .collect::<anyhow::Result<_>>()?;
    Ok(Parameters::new(specs, values)?)
}

/// All of `parameters` in one safetensors file.
///
/// # Errors
/// When a tensor cannot be written, which no checked model brings about.
pub fn parameters_to_bytes(parameters: &Parameters) -> anyhow::Result<Vec<u8>> {
    let all: Vec<usize> = (0..parameters.specs().len()).collect();
    to_safetensors(parameters, &all)
}

/// Reads what [`parameters_to_bytes`] wrote.
///
/// # Errors
/// Names a tensor that is missing or has another shape than `model` implies.
pub fn parameters_from_bytes(bytes: &[u8], model: &ModelConfig) -> anyhow::Result<Parameters> {
    let mut tensors = BTreeMap::new();
    from_safetensors(bytes, model, &mut tensors)?;
    assemble(model, tensors)
}

/// The files of a Hugging Face folder: weights, `config.json`, and the tokenizer.
///
/// # Errors
/// When a tensor cannot be written, which no checked model brings about.
pub fn folder(
    model: &ModelConfig,
    theta: &Parameters,
    tokenizer: &[u8],
    end_of_document: u32,
) -> anyhow::Result<Vec<(CheckpointFile, Vec<u8>)>> {
    let mut config = model.to_hugging_face();
    config["eos_token_id"] = end_of_document.into();
    config["bos_token_id"] = end_of_document.into();
    let generation = serde_json::json!({ "bos_token_id": end_of_document, "eos_token_id": end_of_document });
    let tokenizer_config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    let mut files = model_files(theta, FILE_BYTES)?;
    files.push((CheckpointFile::Config, serde_json::to_vec_pretty(&config)?));
    files.push((CheckpointFile::GenerationConfig, serde_json::to_vec_pretty(&generation)?));
    files.push((CheckpointFile::Tokenizer, tokenizer.to_vec()));
    files.push((CheckpointFile::TokenizerConfig, serde_json::to_vec_pretty(&tokenizer_config)?));
    Ok(files)
}

/// What a checkpoint of a run is made of.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The run.
    pub run: Digest,
    /// The window that starts from θ.
    pub window: u64,
    /// The shape of θ.
    pub model: &'a ModelConfig,
    /// θ.
    pub theta: &'a Parameters,
    /// The aggregator's error feedback.
    pub error_feedback: &'a Parameters,
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// The token that ends a document.
    pub end_of_document: u32,
}

impl Contents<'_> {
    /// Uploads the folder, its signed record last: its existence is the commit.
    ///
    /// Two aggregators may get here at once, or one twice: all of them write the same bytes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn publish(&self, bucket: &Bucket, signer: &SigningKey) -> anyhow::Result<()> {
        let key = |file| RunKey::Checkpoint { window: self.window, file }.to_string();
        let mut files = folder(self.model, self.theta, self.tokenizer, self.end_of_document)?;
        // An empty error feedback, as before the first window, is left out.
        if self.error_feedback.tensors().iter().flatten().any(|value| *value != 0.0) {
            files.push((CheckpointFile::ErrorFeedback, parameters_to_bytes(self.error_feedback)?));
        }
        let mut pins = Vec::new();
        for (file, bytes) in files {
            pins.push(ObjectPin {
                key: file.to_string(),
                size: bytes.len() as u64,
                sha256: Digest::of(&bytes),
            });
            bucket.put(&key(file), Bytes::from(bytes)).await?;
        }
        let checkpoint = Checkpoint {
            run: self.run,
            window: self.window,
            state_root: self.theta.root(),
            error_feedback_root: self.error_feedback.root(),
            files: pins,
        };
        let (envelope, _) = Envelope::sign(checkpoint, signer)?;
        bucket.put(&key(CheckpointFile::Record), Bytes::from(envelope.to_bytes())).await?;
        Ok(())
    }
}

/// Whether the checkpoint before `window` is committed.
///
/// # Errors
/// When the store fails.
pub async fn exists(run: &Run, window: u64) -> anyhow::Result<bool> {
    let key = RunKey::Checkpoint { window, file: CheckpointFile::Record };
    Ok(run.bucket().head(&key.to_string()).await?.is_some())
}

/// The newest checkpoint of a run, of which only committed ones count.
///
/// # Errors
/// When there is none, or its record is not the aggregator's.
pub async fn latest(run: &Run) -> anyhow::Result<Signed<Checkpoint>> {
    let listed = run.bucket().list(RunKey::CHECKPOINTS, 1_000_000).await?;
    let newest = listed
        .iter()
        .filter_map(|object| match object.key.parse() {
            Ok(RunKey::Checkpoint { window, file: CheckpointFile::Record }) => Some(window),
            _ => None,
        })
        .max()
        .context("the run has no checkpoint; `brigade run create` has not finished")?;
    at(run, newest).await?.with_context(|| format!("checkpoint {newest} has vanished"))
}

/// The checkpoint before `window`, if it is committed.
///
/// # Errors
/// When its record is not the aggregator's.
pub async fn at(run: &Run, window: u64) -> anyhow::Result<Option<Signed<Checkpoint>>> {
    let key = RunKey::Checkpoint { window, file: CheckpointFile::Record };
    let checkpoint = run.record::<Checkpoint>(&key).await?;
    if let Some(Signed { record, .. }) = &checkpoint {
        anyhow::ensure!(
            record.run == run.id() && record.window == window,
            "{key} belongs to another run or window"
        );
    }
    Ok(checkpoint)
}

/// Fetches θ of a checkpoint and checks its state root.
///
/// # Errors
/// When a file is missing or another one, or θ does not have the root that was signed.
pub async fn fetch_theta(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Parameters> {
    let model = &run.manifest().model;
    let mut tensors = BTreeMap::new();
    for pin in &checkpoint.files {
        if let Some(CheckpointFile::Model | CheckpointFile::Part { .. }) = CheckpointFile::from_name(&pin.key)
        {
            from_safetensors(&fetch(run, checkpoint, pin).await?, model, &mut tensors)?;
        }
    }
    let theta = assemble(model, tensors)?;
    expect_digest("state root of the checkpoint", checkpoint.state_root, theta.root())?;
    Ok(theta)
}

/// Fetches the aggregator's error feedback of a checkpoint and checks its root.
///
/// # Errors
/// As [`fetch_theta`].
pub async fn fetch_error_feedback(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Parameters> {
    let model = &run.manifest().model;
    let error_feedback = match checkpoint.files.iter().find(|pin| is_error_feedback(pin)) {
        None => Parameters::zeros(model),
        Some(pin) => parameters_from_bytes(&fetch(run, checkpoint, pin).await?, model)?,
    };
    let (expected, found) = (checkpoint.error_feedback_root, error_feedback.root());
    expect_digest("root of the checkpoint's error feedback", expected, found)?;
    Ok(error_feedback)
}

fn is_error_feedback(pin: &ObjectPin) -> bool {
    CheckpointFile::from_name(&pin.key) == Some(CheckpointFile::ErrorFeedback)
}

async fn fetch(run: &Run, checkpoint: &Checkpoint, pin: &ObjectPin) -> anyhow::Result<Bytes> {
    anyhow::ensure!(pin.size <= MAX_FILE_BYTES, "checkpoint file {} says it has {} bytes", pin.key, pin.size);
    let file = CheckpointFile::from_name(&pin.key).context("the checkpoint names a file of no known kind")?;
    let key = RunKey::Checkpoint { window: checkpoint.window, file }.to_string();
    let wanted = Pin { etag: None, sha256: pin.sha256, size: pin.size };
    Ok(run.bucket().get_pinned(&key, &wanted).await?)
}

/// Downloads the Hugging Face folder of a checkpoint.
///
/// # Errors
/// When a file is missing or another one, or the disk is full.
pub async fn download(run: &Run, checkpoint: &Checkpoint, folder: &Path) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(folder).await?;
    for pin in checkpoint.files.iter().filter(|pin| !is_error_feedback(pin)) {
        // Only names that we know become paths: a record might say `../…`.
        let file =
            CheckpointFile::from_name(&pin.key).context("the checkpoint names a file of no known kind")?;
        let path = folder.join(file.to_string());
        let bytes = fetch(run, checkpoint, pin).await?;
        tokio::fs::write(&path, bytes).await.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        serde_json::from_value(serde_json::json!({
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        }))
        .unwrap()
    }

    #[test]
    fn theta_survives_files_whole_and_cut() {
        let model = tiny();
        let theta = Parameters::initialise(&model, &[1; 32]);
        for limit in [FILE_BYTES, 10_000] {
            let files = model_files(&theta, limit).unwrap();
            let mut tensors = BTreeMap::new();
            for (name, bytes) in &files {
                if matches!(name, CheckpointFile::Model | CheckpointFile::Part { .. }) {
                    from_safetensors(bytes, &model, &mut tensors).unwrap();
                }
            }
            assert_eq!(assemble(&model, tensors).unwrap(), theta);
            assert_eq!(files.iter().any(|(name, _)| *name == CheckpointFile::ModelIndex), limit == 10_000);
        }
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named() {
        let model = tiny();
        let theta = Parameters::initialise(&model, &[1; 32]);
        let some: Vec<usize> = (1..theta.specs().len()).collect();
        let bytes = to_safetensors(&theta, &some).unwrap();
        let mut tensors = BTreeMap::new();
        from_safetensors(&bytes, &model, &mut tensors).unwrap();
        let error = assemble(&model, tensors).unwrap_err().to_string();
        assert!(error.contains("model.embed_tokens.weight"), "{error}");

        let wider = ModelConfig { intermediate_size: 64, ..model };
        let error = from_safetensors(&bytes, &wider, &mut BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("mlp"), "{error}");
    }
}
