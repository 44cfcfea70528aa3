//! From an empty folder to a run that waits for its participants. What is there already is left alone.

use std::time::Duration;

use brigade_bucket::keys::RunKey;
use object_store::path::Path as Key;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;
use toml::{Table, Value};

use super::cast::Cast;
use super::children::{Children, Heard, Spec};
use super::place::{Memory, Place};
use super::{Options, plan};
use crate::config::{self, RunSettings};
use crate::data::{self, ObjectSink, PrepareOptions, Progress, TokenizerChoice};
use crate::run::create;
use crate::shutdown::Shutdown;

/// Everybody but the store, in the order in which they are started.
pub(super) fn participants(cast: &Cast) -> Vec<String> {
    let officials = ["aggregator".to_owned(), "validator".to_owned()];
    officials.into_iter().chain(cast.miners().iter().cloned()).collect()
}

/// Starts the store and makes sure that the run is in it.
pub(super) async fn prepare(
    options: &Options,
    cast: &Cast,
    place: &Place,
    children: &mut Children,
    inbox: &mut UnboundedReceiver<(String, Heard)>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let remembered = place.memory()?;
    if let Some(memory) = &remembered {
        let asked = (options.windows, options.miners, &options.model, &options.attacks);
        let cheats: String = memory.attacks.iter().map(|part| format!(" --attack {part}")).collect();
        anyhow::ensure!(
            asked == (memory.windows, memory.miners, &memory.model, &memory.attacks),
            "{} holds a run of {} windows with {} miners and model {}{cheats}; ask for the same to resume it, or name another \
             --dir",
            options.dir.display(),
            memory.windows,
            memory.miners,
            memory.model
        );
    }
    let names = participants(cast);
    place.prepare_store(&names[1..])?;
    let args = vec![
        "serve".into(),
        "--stop-with-stdin".into(),
        "--config".into(),
        place.path("server.toml").display().to_string(),
    ];
    children.start(Spec { name: "store".into(), args, folder: place.path("store-log") })?;
    shutdown.or(wait_for_store(place, inbox)).await??;
    if remembered.is_none() {
        shutdown.or(create_run(options, place, &names)).await??;
    }
    Ok(())
}

/// Waits until the store answers, or says why it will not.
async fn wait_for_store(place: &Place, inbox: &mut UnboundedReceiver<(String, Heard)>) -> anyhow::Result<()> {
    let address = place.endpoint()?;
    let address = address.trim_start_matches("http://").to_owned();
    loop {
        if let Ok((_, Heard::Ended { last_words, .. })) = inbox.try_recv() {
            anyhow::bail!("the store does not start: {}", last_words.trim_start_matches("error: "));
        }
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn create_run(options: &Options, place: &Place, names: &[String]) -> anyhow::Result<()> {
    let vocabulary = prepare_data(options, place).await?;
    let settings = terms(options, place, vocabulary)?;
    place.write_run(&settings)?;
    let settings: RunSettings = config::read(&place.path("run.toml"))?;
    let bucket = place.run_bucket()?;
    let identity = place.identity("aggregator")?;
    let manifest = create::create(&bucket, &settings, &place.path(""), &identity, Progress::hidden()).await?;
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    for name in names {
        place.identity(name)?;
        let share = (threads / options.miners.max(1) as usize).max(1);
        place.write_config(name, &manifest.run(), if name == "validator" { threads } else { share })?;
    }
    let memory = Memory {
        run_id: manifest.run(),
        windows: options.windows,
        miners: options.miners,
        model: options.model.clone(),
        attacks: options.attacks.clone(),
    };
    place.remember(&memory)
}

/// Turns text into shards in the run's bucket; returns the size of the vocabulary.
async fn prepare_data(options: &Options, place: &Place) -> anyhow::Result<u32> {
    let inputs = if options.data.is_empty() { plan::rust_source()? } else { options.data.clone() };
    let prepare = PrepareOptions {
        heldout_fraction: plan::HELDOUT,
        max_bytes: Some(plan::CORPUS_BYTES),
        shard_tokens: 1 << 18,
        replace: true,
        ..PrepareOptions::new(inputs, TokenizerChoice::Train { vocab_size: plan::VOCABULARY })
    };
    let store = place.run_bucket()?.object_store();
    let sink = ObjectSink::new(store, "run", Key::from(RunKey::DATA), tokio::runtime::Handle::current());
    let progress = Progress::terminal();
    let prepared = tokio::task::spawn_blocking(move || data::prepare(&prepare, &sink, progress)).await??;
    Ok(prepared.index.vocab_size)
}

/// The terms as an operator would write them in `run.toml`.
fn terms(options: &Options, place: &Place, vocabulary: u32) -> anyhow::Result<Table> {
    let terms = plan::terms(&options.model, options.miners, options.windows)
        .under_attack(&options.model, &options.attacks);
    let validator = place.identity("validator")?;
    place.identity("aggregator")?;
    let mut entry = Table::new();
    entry.insert("id".into(), validator.id().to_string().into());
    entry.insert("seal_to".into(), validator.seal_to().into());
    let mut table = Table::new();
    table.insert("name".into(), "demo".into());
    table.insert("identity".into(), "aggregator/identity.json".into());
    table.insert("bucket".into(), place.run_table()?.into());
    table.insert("validators".into(), Value::Array(vec![entry.into()]));
    table.insert("model".into(), section(&plan::model(&options.model, vocabulary)?)?);
    table.insert("training".into(), section(&terms.training)?);
    table.insert("compression".into(), section(&terms.compression)?);
    table.insert("outer".into(), section(&terms.outer)?);
    table.insert("windows".into(), section(&terms.windows)?);
    table.insert("scoring".into(), section(&terms.scoring)?);
    Ok(table)
}

fn section(settings: &impl Serialize) -> anyhow::Result<Value> {
    Ok(Value::try_from(settings)?)
}
