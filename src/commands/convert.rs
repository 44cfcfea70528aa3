//! `brigade import` and `brigade export`: models from and to other people's folders.

use std::fmt::Write as _;
use std::path::PathBuf;

use brigade_protocol::{Digest, ModelConfig};
use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::data::Progress;
use crate::folder::{self, Float, Folder, Form, Step};
use crate::shutdown::{Shutdown, Stopped};

/// Arguments of `brigade import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A Hugging Face folder of a Llama: `config.json`, `*.safetensors`, `tokenizer.json`.
    #[arg(value_name = "HF_DIR")]
    folder: PathBuf,
    /// Write the model here as a checkpoint of a run is: in float32.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What a folder holds.
#[derive(Debug, Serialize)]
struct Imported {
    parameters: usize,
    layers: usize,
    /// As `torch` calls them.
    dtypes: Vec<String>,
    /// Number of `.safetensors` files.
    files: usize,
    tokenizer: Tokens,
    /// Of the weights in float32: what the manifest of a run that starts from them says.
    state_root: Digest,
    model: ModelConfig,
    /// The folder that was written.
    out: Option<PathBuf>,
    /// What to say in a run's settings.
    run_toml: String,
}

#[derive(Debug, Serialize)]
struct Tokens {
    tokens: u32,
    sha256: Digest,
}

/// Runs `brigade import`.
///
/// # Errors
/// Names what in the folder cannot be represented, or why it cannot be written.
pub(super) fn import(args: ImportArgs) -> anyhow::Result<()> {
    let ImportArgs { folder: path, out, json } = args;
    let folder = Folder::open(&path)?;
    let tokenizer = folder.tokenizer()?;
    let weights = folder.weights()?;
    let model = folder.model().clone();
    let (dtypes, files, to) = (weights.dtypes(), weights.files(), out.clone());
    let state_root = watched("reading the model", weights.bytes(), move |step| match to {
        Some(to) => Ok(folder::copy(&folder, &weights, &to, Form::CHECKPOINT, step)?.state_root),
        None => weights.state_root(step),
    })?;
    let from = std::path::absolute(out.as_deref().unwrap_or(&path))?;
    let imported = Imported {
        parameters: model.num_parameters(),
        layers: model.num_hidden_layers,
        dtypes,
        files,
        tokenizer: Tokens { tokens: tokenizer.vocab_size(), sha256: tokenizer.sha256() },
        state_root,
        model,
        out,
        run_toml: format!("[model]\nfrom = {}\n", toml::Value::from(from.display().to_string())),
    };
    super::answer(if json { serde_json::to_string(&imported)? } else { describe(&imported) })
}

fn describe(imported: &Imported) -> String {
    let Imported { parameters, model, dtypes, files, tokenizer, state_root, out, run_toml, .. } = imported;
    let mut text = format!(
        "a Llama of {} parameters: {} layers × {}, feed-forward {}, {}/{} heads, vocabulary {}\n",
        HumanCount(*parameters as u64),
        model.num_hidden_layers,
        model.hidden_size,
        model.intermediate_size,
        model.num_attention_heads,
        model.num_key_value_heads,
        model.vocab_size,
    );
    let files = if *files == 1 { "one file".into() } else { format!("{files} files") };
    // A `String` takes everything that is written to it.
    let _ = writeln!(text, "weights: {} in {files}, state root {state_root}", dtypes.join(" and "));
    let _ = writeln!(text, "tokenizer: {} tokens, SHA-256 {}", tokenizer.tokens, tokenizer.sha256);
    if let Some(out) = out {
        let _ = writeln!(text, "written to {} in float32", out.display());
    }
    let _ = write!(text, "a run starts from it with, in run.toml:\n\n{}", run_toml.trim_end());
    text
}

/// Arguments of `brigade export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// A checkpoint of a run (`brigade run download`), or any folder that `brigade import` accepts.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The weights' type. `fp32` is what a run trains, to the last bit.
    #[arg(long, value_enum, default_value_t = DtypeArg::Fp32)]
    dtype: DtypeArg,
    /// Most bytes of tensors in a file: a number, or one with KB, MB, GB, TB, KiB, MiB, GiB or TiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    #[value(alias = "bfloat16")]
    Bf16,
    #[value(alias = "float16")]
    Fp16,
    #[value(alias = "float32")]
    Fp32,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Exported {
    out: PathBuf,
    parameters: usize,
    dtype: String,
    /// Number of `.safetensors` files.
    files: usize,
    /// Bytes of tensors in them.
    bytes: u64,
    /// Of the weights as they were written, rounded if they were.
    state_root: Digest,
}

/// Runs `brigade export`.
///
/// # Errors
/// Names what is wrong with the checkpoint, or why the folder cannot be written.
pub(super) fn export(args: ExportArgs) -> anyhow::Result<()> {
    let ExportArgs { checkpoint, out, dtype, max_shard_size, json } = args;
    let float = match dtype {
        DtypeArg::Bf16 => Float::BFloat16,
        DtypeArg::Fp16 => Float::Float16,
        DtypeArg::Fp32 => Float::Float32,
    };
    let form = Form { float, file_bytes: max_shard_size };
    let folder = Folder::open(&checkpoint)?;
    folder.tokenizer()?;
    let weights = folder.weights()?;
    let (parameters, to) = (folder.model().num_parameters(), out.clone());
    let written = watched("writing the model", weights.bytes(), move |step| {
        folder::copy(&folder, &weights, &to, form, step)
    })?;
    let folder::Written { state_root, files, bytes } = written;
    let exported = Exported { out, parameters, dtype: float.name(), files, bytes, state_root };
    super::answer(if json { serde_json::to_string(&exported)? } else { tell(&exported) })
}

fn tell(exported: &Exported) -> String {
    let Exported { out, parameters, dtype, files, bytes, state_root } = exported;
    format!(
        "{}: {} parameters in {dtype}, {} in {} file{}, state root {state_root}",
        out.display(),
        HumanCount(*parameters as u64),
        HumanBytes(*bytes),
        files,
        if *files == 1 { "" } else { "s" },
    )
}

/// Runs `work` with a bar over `bytes` bytes until it ends, or somebody wishes that it does.
fn watched<T: Send + 'static>(
    what: &'static str,
    bytes: u64,
    work: impl FnOnce(&Step<'_>) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    super::runtime()?.block_on(async {
        let shutdown = Shutdown::listen(false)?;
        let bar = Progress::terminal().bytes(what, bytes);
        let task = tokio::task::spawn_blocking(move || {
            let done = work(&|read| {
                bar.inc(read);
                if shutdown.is_requested() { Err(Stopped) } else { Ok(()) }
            });
            bar.finish_and_clear();
            done
        });
        match task.await? {
            // What was being read then is of no interest.
            Err(error) if error.is::<Stopped>() => Err(Stopped.into()),
            done => done,
        }
    })
}

/// A number of bytes: `5GB` is 5,000,000,000, `5GiB` is 5 · 2³⁰.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => return Err(format!("{other} is no unit: KB, MB, GB, TB, KiB, MiB, GiB or TiB")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "a positive number of bytes is needed, as 5GB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in
            [("5GB", 5_000_000_000), ("2 MiB", 2 << 20), ("700", 700), ("1KB", 1000), ("9B", 9)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for (text, named) in [
            ("5gb", "gb"),
            ("0GB", "positive"),
            ("GB", "positive"),
            ("-1GB", "-1GB"),
            ("99999999TB", "positive"),
        ] {
            let error = size(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
