//! Text in, dataset out: two readings of the inputs, so that memory stays bounded whatever their size.
//!
//! The first reading counts, finds duplicates, fixes the line between training and held-out text and, when a
//! tokenizer is to be trained, keeps a sample. The second tokenises. Nothing depends on time, on the number of
//! cores or on chance: the same inputs give the same bytes.

use std::path::PathBuf;

use brigade_protocol::{
    DATASET_VERSION, DatasetIndex, MAX_SHARD_TOKENS, Split, TOKENIZER_FILE, TokenizerInfo,
};
use indicatif::ProgressBar;

use super::DataError;
use super::error::list;
use super::progress::Progress;
use super::selection::{Admission, Survey, Totals, survey};
use super::sink::Sink;
use super::source::{self, Source};
use super::tokenizer::{Encoder, SAMPLE_BYTES};
use super::writer::{Output, ShardWriter};

/// Text that is tokenised at a time, in bytes: enough to keep every core busy, little enough to hold with its tokens.
const BATCH_BYTES: usize = 4 << 20;
/// Tokens in a shard, unless told otherwise: 2 MiB at two bytes each.
pub const DEFAULT_SHARD_TOKENS: u64 = 1 << 20;
/// The share of documents that is held out, unless told otherwise.
pub const DEFAULT_HELDOUT_FRACTION: f64 = 0.01;
/// The column or field that holds the text, unless told otherwise.
pub const DEFAULT_TEXT_COLUMN: &str = "text";

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerChoice {
    /// A `tokenizer.json`.
    Load {
        /// The file.
        path: PathBuf,
        /// The token that follows each document; the usual names are tried without it.
        end_of_document: Option<String>,
    },
    /// Byte-level BPE, trained on a sample of the corpus.
    Train {
        /// Number of tokens to train.
        vocab_size: u32,
    },
}

/// What to prepare.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Files and folders, read in this order.
    pub inputs: Vec<PathBuf>,
    /// The tokenizer.
    pub tokenizer: TokenizerChoice,
    /// Column of Parquet files and field of JSON lines that holds the text.
    pub text_column: String,
    /// Share of the documents to hold out, in [0, 0.5].
    pub heldout_fraction: f64,
    /// Tokens in every shard but the last, in 2..=[`MAX_SHARD_TOKENS`].
    pub shard_tokens: u64,
    /// Stops reading when this much text has been admitted, in bytes.
    pub max_bytes: Option<u64>,
    /// Whether a dataset that is there already may be replaced by another.
    pub replace: bool,
}

impl PrepareOptions {
    /// The usual choices.
    pub fn new(inputs: Vec<PathBuf>, tokenizer: TokenizerChoice) -> Self {
        Self {
            inputs,
            tokenizer,
            text_column: DEFAULT_TEXT_COLUMN.into(),
            heldout_fraction: DEFAULT_HELDOUT_FRACTION,
            shard_tokens: DEFAULT_SHARD_TOKENS,
            max_bytes: None,
            replace: false,
        }
    }

    fn check(&self) -> Result<(), DataError> {
        if !(0.0..=0.5).contains(&self.heldout_fraction) {
            let reason = format!("{} is not in 0..=0.5", self.heldout_fraction);
            return Err(DataError::setting("--heldout-fraction", reason));
        }
        if !(2..=MAX_SHARD_TOKENS).contains(&self.shard_tokens) {
            let reason = format!("{} is not in 2..={MAX_SHARD_TOKENS}", self.shard_tokens);
            return Err(DataError::setting("--shard-tokens", reason));
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The index, as written.
    pub index: DatasetIndex,
    /// Files that were read.
    pub files: u64,
    /// Stretches of input left out because they were not UTF-8 text.
    pub not_text: u64,
}

/// Prepares a dataset. Blocks, and uses every core; call it off the async runtime.
///
/// # Errors
/// [`DataError`]: of the options, the inputs, the tokenizer and the sink.
pub fn prepare(options: &PrepareOptions, sink: &dyn Sink, progress: Progress) -> Result<Prepared, DataError> {
    options.check()?;
    let mut output = Output::open(sink, options.replace)?;
    let sources = source::find(&options.inputs)?;
    let plan = Plan::new(&options.tokenizer)?;
    let mut survey = look(options, &sources, plan.sample_bytes(), progress)?;
    if survey.totals.documents == 0 {
        return Err(DataError::NoText {
            inputs: list(options.inputs.iter().map(|i| i.display().to_string())),
        });
    }
    let encoder = match plan {
        Plan::Ready(encoder) => *encoder,
        Plan::Train(vocab_size) => train(vocab_size, std::mem::take(&mut survey.sample), progress)?,
    };
    let index = tokenise(options, &sources, &survey, &encoder, &mut output, progress)?;
    output.finish(&index)?;
    Ok(Prepared { index, files: sources.len() as u64, not_text: survey.totals.not_text })
}

/// A [`TokenizerChoice`] that was found good before anything else is read: a wrong path shows in a second, not in an hour.
enum Plan {
    Ready(Box<Encoder>),
    Train(u32),
}

impl Plan {
    fn new(choice: &TokenizerChoice) -> Result<Self, DataError> {
        match choice {
            TokenizerChoice::Load { path, end_of_document } => {
                Ok(Self::Ready(Box::new(Encoder::load(path, end_of_document.as_deref())?)))
            }
            TokenizerChoice::Train { vocab_size } => {
                Encoder::check_vocab(*vocab_size).map(|()| Self::Train(*vocab_size))
            }
        }
    }

    fn sample_bytes(&self) -> u64 {
        match self {
            Self::Ready(_) => 0,
            Self::Train(_) => SAMPLE_BYTES,
        }
    }
}

fn look(
    options: &PrepareOptions,
    sources: &[Source],
    sample_bytes: u64,
    progress: Progress,
) -> Result<Survey, DataError> {
    let bar = progress.bytes("reading", sources.iter().map(|s| s.bytes).sum());
    let fraction = options.heldout_fraction;
    let survey = survey(sources, &options.text_column, options.max_bytes, fraction, sample_bytes, &bar);
    bar.finish_and_clear();
    survey
}

fn train(vocab_size: u32, sample: Vec<String>, progress: Progress) -> Result<Encoder, DataError> {
    let bar = progress.spinner("training BPE");
    let encoder = Encoder::train(vocab_size, sample);
    bar.finish_and_clear();
    encoder
}

fn tokenise(
    options: &PrepareOptions,
    sources: &[Source],
    survey: &Survey,
    encoder: &Encoder,
    output: &mut Output<'_>,
    progress: Progress,
) -> Result<DatasetIndex, DataError> {
    let tokenizer = TokenizerInfo { file: TOKENIZER_FILE.into(), sha256: output.tokenizer(encoder.json())? };
    let token_bytes = DatasetIndex::token_bytes_for(encoder.vocab_size());
    let bar = progress.bytes("tokenising", survey.totals.bytes);
    let mut packer = Packer {
        encoder,
        batch: Batch::default(),
        train: ShardWriter::new(Split::Train, options.shard_tokens, token_bytes),
        heldout: ShardWriter::new(Split::Heldout, options.shard_tokens, token_bytes),
        bar: bar.clone(),
    };
    let mut admission = Admission::new(options.max_bytes);
    let read = admission.read(sources, &options.text_column, &ProgressBar::hidden(), |lot, text| {
        packer.add(survey.threshold.split(lot), text, output)
    });
    let packed = read.and_then(|()| packer.flush(output));
    bar.finish_and_clear();
    packed?;
    same(survey.totals, admission.totals)?;
    Ok(DatasetIndex {
        version: DATASET_VERSION,
        tokenizer,
        vocab_size: encoder.vocab_size(),
        token_bytes,
        end_of_document: encoder.end_of_document(),
        shard_tokens: options.shard_tokens,
        train: packer.train.finish(output)?,
        heldout: packer.heldout.finish(output)?,
        train_text_bytes: packer.train.text_bytes,
        heldout_text_bytes: packer.heldout.text_bytes,
        documents: survey.totals.documents,
        heldout_documents: packer.heldout.documents,
        duplicates_dropped: survey.totals.duplicates,
    })
}

/// The split was fixed on the first reading; a second that differs would break it without a word.
fn same(first: Totals, second: Totals) -> Result<(), DataError> {
    if first == second {
        return Ok(());
    }
    let say = |totals: Totals| format!("{} documents of {} bytes", totals.documents, totals.bytes);
    Err(DataError::Changed { expected: say(first), found: say(second) })
}

/// Documents waiting to be tokenised together.
#[derive(Debug, Default)]
struct Batch {
    texts: Vec<String>,
    splits: Vec<Split>,
    bytes: usize,
}

/// Tokenises documents by the batch and deals them out to the splits, in order.
struct Packer<'e> {
    encoder: &'e Encoder,
    batch: Batch,
    train: ShardWriter,
    heldout: ShardWriter,
    bar: ProgressBar,
}

impl Packer<'_> {
    fn add(&mut self, split: Split, text: &str, output: &mut Output<'_>) -> Result<(), DataError> {
        self.batch.texts.push(text.to_owned());
        self.batch.splits.push(split);
        self.batch.bytes += text.len();
        if self.batch.bytes >= BATCH_BYTES { self.flush(output) } else { Ok(()) }
    }

    fn flush(&mut self, output: &mut Output<'_>) -> Result<(), DataError> {
        let batch = std::mem::take(&mut self.batch);
        let encoded = self.encoder.encode(&batch.texts)?;
        for ((text, split), tokens) in batch.texts.iter().zip(batch.splits).zip(encoded) {
            let writer = match split {
                Split::Train => &mut self.train,
                Split::Heldout => &mut self.heldout,
            };
            writer.document(&tokens, self.encoder.end_of_document(), text.len() as u64, output)?;
        }
        self.bar.inc(batch.bytes as u64);
        Ok(())
    }
}
