//! `brigade eval` and `brigade generate`: a model in a folder, at work.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use brigade_trainer::{GenerateOptions, Trainer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Compute;
use crate::data::Encoder;
use crate::evaluate::{self, Score, Text};
use crate::folder::Folder;
use crate::roles::model::device_config;

/// The longest text that is evaluated, in bytes: it is encoded as a whole.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Tokens that go through the model at once, unless somebody says otherwise.
const BATCH_TOKENS: usize = 16_384;

/// A model, and where it computes.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// A Hugging Face folder of a Llama: `config.json`, `*.safetensors`, `tokenizer.json`.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// `auto` (the first GPU, else the CPU), `cpu`, or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// `auto`, `float32` or `bfloat16`.
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    dtype: String,
    /// Threads on the CPU; as many as there are cores when left out.
    #[arg(long)]
    threads: Option<usize>,
}

impl ModelArgs {
    fn open(&self) -> anyhow::Result<Folder> {
        Folder::open(&self.checkpoint)
    }

    /// The model with its parameters. These are read first: what is not there needs no room.
    fn load(self, folder: &Folder) -> anyhow::Result<Trainer> {
        let Self { device, dtype, threads, .. } = self;
        let compute = Compute { device: Some(device), dtype: Some(dtype), threads, ..Compute::default() };
        let config = device_config(folder.model(), &compute)?;
        let bar = bar("reading the model");
        let parameters = folder.parameters(&bar)?;
        bar.finish_and_clear();
        let mut trainer = Trainer::new(config)?;
        trainer.load_parameters(parameters.tensors())?;
        Ok(trainer)
    }
}

/// Arguments of `brigade eval`.
#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A file of plain text (UTF-8), taken as one text.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Tokens in a window; when left out the model's context, but at most 2048.
    #[arg(long, value_name = "TOKENS")]
    sequence_length: Option<usize>,
    /// Windows that go through the model at once; some 16,384 tokens when left out.
    #[arg(long, value_name = "WINDOWS")]
    batch_size: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `brigade eval`.
///
/// # Errors
/// Names what is wrong with the folder or the text.
pub(super) fn eval(args: EvalArgs) -> anyhow::Result<()> {
    let EvalArgs { model, data, sequence_length, batch_size, json } = args;
    let folder = model.open()?;
    let context = folder.model().max_position_embeddings;
    let length = sequence_length.unwrap_or(context.min(2048));
    anyhow::ensure!(
        (2..=context + 1).contains(&length),
        "--sequence-length is {length}, must be from 2 to {}: the model's context is {context}",
        context + 1
    );
    let (tokens, bytes) = evaluate::tokens(&folder.tokenizer()?, read_text(&data)?)?;
    let text = Text::cut(tokens, bytes, length).with_context(|| data.display().to_string())?;
    let trainer = model.load(&folder)?;
    let bar = bar("windows");
    let score = text.score(&trainer, batch_size.unwrap_or(BATCH_TOKENS / length), &bar)?;
    bar.finish_and_clear();
    super::answer(if json { serde_json::to_string(&score)? } else { describe(&score) })
}

fn describe(score: &Score) -> String {
    let Score { loss, perplexity, bits_per_byte, tokens } = score;
    format!(
        "loss {loss:.4} nats a token, perplexity {perplexity:.2}, {bits_per_byte:.4} bits a byte, over {tokens} tokens"
    )
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(cannot)?.len();
    anyhow::ensure!(
        length <= MAX_TEXT_BYTES,
        "{} has {length} bytes; give a part of it, at most {MAX_TEXT_BYTES}",
        path.display()
    );
    std::fs::read_to_string(path).with_context(cannot)
}

/// Arguments of `brigade generate`.
#[derive(Debug, clap::Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// How the text begins.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Most tokens to add.
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token every time.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
    /// The same seed gives the same text; drawn anew each time when left out.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs `brigade generate`: the prompt, then each piece of text as soon as it is there.
///
/// # Errors
/// Names what is wrong with the folder or an option.
pub(super) fn generate(args: GenerateArgs) -> anyhow::Result<()> {
    let GenerateArgs { model, prompt, max_new_tokens, temperature, top_p, seed } = args;
    let seed = match seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?,
    };
    let folder = model.open()?;
    let encoder = folder.tokenizer()?;
    let mut stop_tokens = folder.end_tokens()?;
    stop_tokens.push(encoder.end_of_document());
    let options = GenerateOptions { max_new_tokens, temperature, top_p, seed, stop_tokens };
    options.validate()?;
    let mut tokens = encoder.encode_prompt(&prompt)?;
    if tokens.is_empty() {
        // What a document begins after.
        tokens.push(encoder.end_of_document());
    }
    let trainer = model.load(&folder)?;
    match write_on(&trainer, &encoder, &prompt, &tokens, &options)
        .map_err(anyhow::Error::downcast::<io::Error>)
    {
        // Who reads it has read enough, as `head` does.
        Err(Ok(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Ok(error)) => Err(error).context("cannot write to the standard output"),
        Err(Err(error)) => Err(error),
        Ok(()) => super::answer(""),
    }
}

/// Prints `prompt`, whose tokens are `tokens`, and then what follows.
fn write_on(
    trainer: &Trainer,
    encoder: &Encoder,
    prompt: &str,
    tokens: &[u32],
    options: &GenerateOptions,
) -> anyhow::Result<()> {
    let print = |text: &str| {
        let mut output = io::stdout();
        write!(output, "{text}").and_then(|()| output.flush())
    };
    print(prompt)?;
    // What a token stands for depends on those before it.
    let mut stream = encoder.stream();
    for token in tokens {
        stream(*token)?;
    }
    let (mut held, mut shown) = (Vec::new(), Ok(()));
    trainer.generate_with(tokens, options, |token| {
        held.push(token);
        shown = stream(token).map_err(anyhow::Error::from).and_then(|text| {
            if let Some(text) = text {
                held.clear();
                print(&text)?;
            }
            Ok(())
        });
        shown.is_ok()
    })?;
    shown?;
    held.retain(|token| !options.stop_tokens.contains(token));
    // A character that was never finished.
    Ok(print(&encoder.decode(&held)?)?)
}

/// A bar on standard error, if that is a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let is_terminal = io::stderr().is_terminal();
    let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target).with_message(what);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
