//! `brigade data`: turn text into token shards.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use brigade_bucket::keys::RunKey;
use brigade_bucket::{Bucket, BucketOptions, Dialect};
use brigade_protocol::Split;
use indicatif::{HumanBytes, HumanCount};
use object_store::path::Path as Key;
use serde::Deserialize as _;

use crate::config::{self, BucketSection, RunSettings, explain, hasty};
use crate::data::{
    DEFAULT_HELDOUT_FRACTION, DEFAULT_SHARD_TOKENS, DEFAULT_TEXT_COLUMN, FolderSink, ObjectSink,
    PrepareOptions, Prepared, Progress, Sink, TokenizerChoice, prepare,
};
use crate::roles::start;
use crate::spelling::several;

/// What to do with text.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Tokenise text and write it as shards, with an index, into a folder or a bucket.
    ///
    /// The same inputs give the same bytes. Exact duplicates are dropped. A part is held out, chosen by content, on which
    /// nobody trains.
    Prepare(Box<PrepareArgs>),
}

/// Arguments of `brigade data prepare`.
#[derive(Debug, clap::Args)]
pub(super) struct PrepareArgs {
    /// Text, source code, .jsonl, .jsonl.zst or .parquet; folders are walked.
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// Token that follows each document; found by its usual names when left out.
    #[arg(long, value_name = "TOKEN", conflicts_with = "train_bpe")]
    end_of_document: Option<String>,
    /// Column of .parquet and field of .jsonl that holds the text.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TEXT_COLUMN)]
    text_column: String,
    /// Share of the documents to hold out.
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_HELDOUT_FRACTION)]
    heldout_fraction: f64,
    /// Tokens in a shard.
    #[arg(long, value_name = "TOKENS", default_value_t = DEFAULT_SHARD_TOKENS)]
    shard_tokens: u64,
    /// Stop after so many bytes of text.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Replace another dataset at the same place.
    #[arg(long)]
    replace: bool,
    /// Answer with the index, as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct TokenizerArgs {
    /// Tokenizer to use (tokenizer.json of Hugging Face).
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Train a byte-level BPE tokenizer with so many tokens on a sample of the text.
    #[arg(long, value_name = "TOKENS")]
    train_bpe: Option<u32>,
}

/// Where to: exactly one of a folder, a bucket by its URL, and the bucket of a run to be created.
#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// A folder, or s3://BUCKET/PREFIX with the keys of the AWS environment.
    #[arg(long, value_name = "DIR|URL", required_unless_present = "config", conflicts_with = "config")]
    output: Option<String>,
    /// The terms of a run (TOML), as for `brigade run create`: writes data/ of its bucket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// https://HOST[:PORT] of the store, unless it is Amazon's.
    #[arg(long, value_name = "URL", requires = "output")]
    endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, default_value = "us-east-1", requires = "output")]
    region: String,
    /// Which S3 the store speaks: aws, r2, ceph, minio or embedded.
    #[arg(long, default_value = "aws", value_parser = dialect, requires = "output")]
    dialect: Dialect,
}

fn dialect(name: &str) -> Result<Dialect, serde::de::value::Error> {
    Dialect::deserialize(serde::de::value::StrDeserializer::new(name))
}

/// Runs `brigade data`.
///
/// # Errors
/// When the text, the tokenizer or the output cannot be used.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    let Action::Prepare(args) = action;
    let runtime = super::runtime()?;
    let sink = args.place.open(runtime.handle(), args.replace)?;
    let started = Instant::now();
    let prepared = prepare(&args.options()?, &*sink, Progress::terminal())?;
    let answer = if args.json {
        String::from_utf8(prepared.index.to_json())?
    } else {
        summary(&prepared, &*sink, started.elapsed())
    };
    std::io::stdout().write_all(answer.as_bytes())?;
    Ok(())
}

impl PrepareArgs {
    fn options(&self) -> anyhow::Result<PrepareOptions> {
        let tokenizer = match (&self.tokenizer.tokenizer, self.tokenizer.train_bpe) {
            (Some(path), _) => {
                TokenizerChoice::Load { path: path.clone(), end_of_document: self.end_of_document.clone() }
            }
            (None, vocab_size) => {
                let vocab_size = vocab_size.context("--tokenizer or --train-bpe is needed")?;
                TokenizerChoice::Train { vocab_size }
            }
        };
        Ok(PrepareOptions {
            inputs: self.input.clone(),
            tokenizer,
            text_column: self.text_column.clone(),
            heldout_fraction: self.heldout_fraction,
            shard_tokens: self.shard_tokens,
            max_bytes: self.max_bytes,
            replace: self.replace,
        })
    }
}

impl PlaceArgs {
    fn open(&self, runtime: &tokio::runtime::Handle, replace: bool) -> anyhow::Result<Box<dyn Sink>> {
        if let Some(path) = &self.config {
            let settings: RunSettings = config::read(path)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            // Before hours of work that nobody could keep.
            let bucket = runtime.block_on(start::writable(&settings.bucket, "bucket", folder))?;
            if replace {
                runtime.block_on(expect_no_run(&bucket))?;
            }
            return in_bucket(&bucket, &settings.bucket.prefix, Some(RunKey::DATA), runtime);
        }
        let output = self.output.as_deref().context("--output or --config is needed")?;
        let Some(place) = output.strip_prefix("s3://") else {
            anyhow::ensure!(
                !output.contains("://"),
                "--output {output}: give a folder or s3://BUCKET/PREFIX"
            );
            return Ok(Box::new(FolderSink::new(output)));
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let section = BucketSection {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            bucket: bucket.into(),
            prefix: prefix.trim_end_matches('/').into(),
            dialect: self.dialect,
            access_key_id: None,
            secret_access_key: None,
            reader: None,
        };
        let open = |options| section.open("bucket", Path::new(""), options);
        let bucket = open(BucketOptions::default())?;
        if let Err(error) = runtime.block_on(start::takes_objects(&open(hasty())?, &bucket)) {
            let remedy = as_options(&explain("bucket", &error).1);
            return Err(anyhow::Error::from(error).context(format!("{output} does not work; {remedy}")));
        }
        in_bucket(&bucket, &section.prefix, None, runtime)
    }
}

/// A remedy that speaks of settings, for who has none: what they are called on the command line.
fn as_options(remedy: &str) -> String {
    let names = [
        ("bucket.access_key_id", "AWS_ACCESS_KEY_ID"),
        ("bucket.secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("bucket.endpoint", "--endpoint"),
        ("bucket.region", "--region"),
        ("bucket.dialect", "--dialect"),
        ("bucket.bucket", "--output"),
        ("[bucket]", "--output"),
    ];
    names.iter().fold(remedy.to_owned(), |text, (setting, option)| text.replace(setting, option))
}

/// A manifest fixes the data of its run: with other data nobody could follow it.
async fn expect_no_run(bucket: &Bucket) -> anyhow::Result<()> {
    let manifest = bucket.head(&RunKey::Manifest.to_string()).await?;
    anyhow::ensure!(
        manifest.is_none(),
        "the bucket {} holds a run, which is signed on its data: give another run another bucket.prefix",
        bucket.name()
    );
    Ok(())
}

/// A place in a bucket: `under` a prefix.
fn in_bucket(
    bucket: &Bucket,
    prefix: &str,
    under: Option<&str>,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<Box<dyn Sink>> {
    let mut prefix = Key::parse(prefix).context("prefix")?;
    prefix.extend(under);
    Ok(Box::new(ObjectSink::new(bucket.object_store(), bucket.name(), prefix, runtime.clone())))
}

/// What a person wants to know of the result.
fn summary(prepared: &Prepared, sink: &dyn Sink, took: Duration) -> String {
    let index = &prepared.index;
    let text = index.train_text_bytes + index.heldout_text_bytes;
    let rate = (text as f64 / took.as_secs_f64().max(1e-3)) as u64;
    let mut out = format!("{sink}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<10} {value}");
    };
    let documents = [index.documents, index.heldout_documents, index.duplicates_dropped].map(HumanCount);
    let [kept, heldout, dropped] = documents;
    line(
        "text",
        format!("{} in {} files, {}/s", HumanBytes(text), HumanCount(prepared.files), HumanBytes(rate)),
    );
    line("documents", format!("{kept}, of which {heldout} held out; {dropped} duplicates dropped"));
    if prepared.not_text > 0 {
        line("left out", format!("{} stretches that are not UTF-8 text", HumanCount(prepared.not_text)));
    }
    line("vocabulary", format!("{} tokens", HumanCount(index.vocab_size.into())));
    for split in [Split::Train, Split::Heldout] {
        let tokens = HumanCount(index.tokens(split));
        let shards = several(index.shards(split).len() as u64, "shard");
        let density = index.bytes_per_token(split).unwrap_or(0.0);
        line(split.name(), format!("{tokens} tokens in {shards}, {density:.3} bytes a token"));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        action: Action,
    }

    fn parse(args: &[&str]) -> Result<Box<PrepareArgs>, String> {
        let program =
            Program::try_parse_from(["x", "prepare"].iter().chain(args)).map_err(|e| e.to_string())?;
        let Action::Prepare(args) = program.action;
        Ok(args)
    }

    #[test]
    fn exactly_one_tokenizer_and_one_place() {
        let args = parse(&["--input", "a", "b", "--train-bpe", "4096", "--output", "out"]).unwrap();
        assert_eq!(args.input, [Path::new("a"), Path::new("b")]);
        let options = args.options().unwrap();
        assert!(matches!(options.tokenizer, TokenizerChoice::Train { vocab_size: 4096 }));
        assert_eq!((options.shard_tokens, options.heldout_fraction), (1 << 20, 0.01));
        assert!(parse(&["--input", "a", "--train-bpe", "9", "--output", "o", "--config", "c"]).is_err());
        assert!(parse(&["--input", "a", "--train-bpe", "9"]).is_err());
        assert!(parse(&["--input", "a", "--output", "o"]).is_err());
        assert!(parse(&["--input", "a", "--output", "o", "--train-bpe", "9", "--tokenizer", "t"]).is_err());
        assert!(parse(&["--train-bpe", "9", "--output", "o"]).is_err());
    }

    #[test]
    fn a_place_that_is_none_is_refused() {
        let runtime = super::super::runtime().unwrap();
        let open = |args: &[&str]| {
            let args = [&["--input", "a", "--train-bpe", "300"], args].concat();
            parse(&args).map(|args| args.place.open(runtime.handle(), false).map(|sink| sink.to_string()))
        };
        assert_eq!(open(&["--output", "some/folder"]).unwrap().unwrap(), "some/folder");
        assert!(open(&["--output", "ftp://x"]).unwrap().is_err());
        assert!(open(&["--output", "s3://sets", "--dialect", "floppy"]).is_err());
    }
}
