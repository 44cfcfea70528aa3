//! `brigade init`, `brigade join`: a folder to start from.

use std::path::PathBuf;

use brigade_bucket::Dialect;
use serde::Deserialize as _;

use crate::init::{Made, Own, Participant, Role, Terms, by_asking, whoever};
use crate::run::url::RunUrl;

/// What to start.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// A run: its terms and the aggregator's identity.
    Run(RunArgs),
    /// A miner: settings, identity, and where its keys are.
    Miner(Args),
    /// A validator, likewise.
    Validator(Args),
    /// An aggregator, once its run is created.
    Aggregator(Args),
}

/// Where things are written, and whether anybody is asked.
#[derive(Debug, clap::Args)]
struct Place {
    /// Folder to write into; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Ask nothing: what has no default must be given.
    #[arg(long)]
    yes: bool,
}

/// Arguments of a participant.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's URL, as `brigade run create` prints it.
    #[arg(long, value_name = "RUN_URL")]
    run: Option<RunUrl>,
    #[command(flatten)]
    rest: Rest,
}

/// Arguments of `brigade join`.
#[derive(Debug, clap::Args)]
pub(super) struct JoinArgs {
    /// The run's URL, as `brigade run create` prints it.
    run: RunUrl,
    /// Score instead of train.
    #[arg(long)]
    validator: bool,
    #[command(flatten)]
    rest: Rest,
}

#[derive(Debug, clap::Args)]
struct Rest {
    #[command(flatten)]
    place: Place,
    /// Your key to the run's bucket, as env:NAME or file:PATH.
    #[arg(long, value_name = "REFERENCE")]
    run_key_id: Option<String>,
    /// Its secret, likewise.
    #[arg(long, value_name = "REFERENCE")]
    run_secret: Option<String>,
    /// Your own bucket.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Its store, https://host[:port]; empty for Amazon S3.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Its region.
    #[arg(long)]
    region: Option<String>,
    /// Key prefix in it.
    #[arg(long)]
    prefix: Option<String>,
    /// Which S3 its store speaks: aws, r2, ceph, minio, embedded. The store is asked when left out.
    #[arg(long, value_parser = parse_dialect)]
    dialect: Option<Dialect>,
    /// The key that writes it, as env:NAME or file:PATH; the AWS environment's when left out and there is one.
    #[arg(long, value_name = "REFERENCE")]
    bucket_key_id: Option<String>,
    /// Its secret, likewise.
    #[arg(long, value_name = "REFERENCE")]
    bucket_secret: Option<String>,
    /// A key that only reads it, for the aggregator and the validators.
    #[arg(long, value_name = "REFERENCE")]
    reader_key_id: Option<String>,
    /// Its secret, likewise.
    #[arg(long, value_name = "REFERENCE")]
    reader_secret: Option<String>,
    /// Follow peers to private addresses: only for a run within one machine or network.
    #[arg(long)]
    allow_private_endpoints: bool,
}

/// Arguments of `brigade init run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// What people call the run.
    #[arg(long)]
    name: Option<String>,
    /// The model's shape: a preset's name.
    #[arg(long)]
    preset: Option<String>,
    /// The run's bucket.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Its store, https://host[:port]; empty for Amazon S3.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Its region.
    #[arg(long)]
    region: Option<String>,
    /// Key prefix in it.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Which S3 its store speaks: aws, r2, ceph, minio, embedded. The store is asked when left out.
    #[arg(long, value_parser = parse_dialect)]
    dialect: Option<Dialect>,
    /// The key that writes it, as env:NAME or file:PATH; the AWS environment's when left out and there is one.
    #[arg(long, value_name = "REFERENCE")]
    bucket_key_id: Option<String>,
    /// Its secret, likewise.
    #[arg(long, value_name = "REFERENCE")]
    bucket_secret: Option<String>,
}

fn parse_dialect(name: &str) -> Result<Dialect, String> {
    Dialect::deserialize(serde_json::Value::from(name)).map_err(|error| error.to_string())
}

/// Runs `brigade init`.
///
/// # Errors
/// When an answer is missing, or a file cannot be written.
pub(super) fn run(action: Action) -> anyhow::Result<()> {
    let (role, args) = match action {
        Action::Run(args) => return run_terms(args),
        Action::Miner(args) => (Role::Miner, args),
        Action::Validator(args) => (Role::Validator, args),
        Action::Aggregator(args) => (Role::Aggregator, args),
    };
    make(role, args.run, args.rest)
}

/// Runs `brigade join`.
///
/// # Errors
/// As [`run`].
pub(super) fn join(args: JoinArgs) -> anyhow::Result<()> {
    make(if args.validator { Role::Validator } else { Role::Miner }, Some(args.run), args.rest)
}

fn make(role: Role, run: Option<RunUrl>, rest: Rest) -> anyhow::Result<()> {
    let Rest { place, bucket, endpoint, region, prefix, dialect, allow_private_endpoints, .. } = rest;
    let own = Own {
        bucket,
        endpoint,
        region,
        prefix,
        dialect,
        keys: [rest.bucket_key_id, rest.bucket_secret],
        reader: [rest.reader_key_id, rest.reader_secret],
    };
    let run_keys = [rest.run_key_id, rest.run_secret];
    let participant = Participant { role, run, run_keys, own, allow_private_endpoints, recognise: by_asking };
    let made = participant.make(&place.dir, &mut *whoever(place.yes))?;
    let mut steps = Vec::new();
    if role == Role::Validator {
        let (id, seal_to) = (made.identity.id(), made.identity.seal_to());
        steps.push(format!(
            "the run's operator names you when it is created; if that is still to be done, send: id = \"{id}\", seal_to = \"{seal_to}\""
        ));
    }
    let settings = made.settings.display();
    steps.push(format!("brigade doctor --config {settings}"));
    steps.push(format!("brigade {} --config {settings}", role.name()));
    tell(&made, &steps)
}

/// Tokens of a vocabulary that is trained from a run's own text, unless its model has room for fewer.
const USUAL_VOCABULARY: usize = 32_000;

fn run_terms(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs { place, name, preset, bucket, endpoint, region, prefix, dialect, .. } = args;
    let keys = [args.bucket_key_id, args.bucket_secret];
    let terms = Terms { name, bucket, endpoint, region, prefix, dialect, recognise: by_asking, keys, preset };
    let made = terms.make(&place.dir, &mut *whoever(place.yes))?;
    let (settings, folder) = (made.settings.display(), place.dir.display());
    let vocabulary = made.vocabulary.unwrap_or(USUAL_VOCABULARY).min(USUAL_VOCABULARY);
    tell(
        &made,
        &[
            format!("name the validators in {settings}, and change what you want otherwise"),
            format!("brigade data prepare --config {settings} --input TEXT… --train-bpe {vocabulary}"),
            "    or --tokenizer FILE".to_owned(),
            format!("brigade run create --config {settings}"),
            "    prints the run's URL: give it to whoever is to join".to_owned(),
            format!("brigade init aggregator --run RUN_URL --dir {folder}"),
        ],
    )
}

/// What was written, and what comes next.
fn tell(made: &Made, steps: &[String]) -> anyhow::Result<()> {
    let mut text = format!("wrote {}\nid {}", made.settings.display(), made.identity.id());
    text += "\n\nnext:";
    if !made.variables.is_empty() {
        text += &format!("\n  set {}", made.variables.join(", "));
    }
    for step in steps {
        text += &format!("\n  {step}");
    }
    super::answer(text)
}
