//! The first requests of a role: what is set wrong is to show at once, and by its setting's name.
//!
//! They are made in haste, without the patience that a role has later: who has just started it still looks.

use brigade_bucket::Bucket;

use crate::config::{BucketSection, ConfigError, Participant, blame, hasty};
use crate::run::Run;

/// The participant's own bucket: it keeps its promises, and others can read it and not write.
///
/// # Errors
/// Names the setting.
#[cfg(feature = "torch")]
pub(super) async fn own(settings: &Participant) -> anyhow::Result<Bucket> {
    let bucket = settings.open_own_with(hasty())?;
    bucket.probe().await.map_err(|error| blame("bucket", error))?;
    check_dialect(&bucket, "bucket", settings.own()?)?;
    check_reader(settings, &bucket).await?;
    settings.open_own()
}

/// The run, in a bucket that can be read; one that only an aggregator writes also keeps its promises.
///
/// # Errors
/// Names the setting.
pub(super) async fn run(settings: &Participant, is_aggregator: bool) -> anyhow::Result<Run> {
    let bucket = settings.open_run_with(hasty())?;
    let tried = if is_aggregator { bucket.probe().await.map(|_| ()) } else { bucket.probe_read().await };
    tried.map_err(|error| blame("run", error))?;
    check_dialect(&bucket, "run", &settings.run)?;
    Run::load(settings.open_run()?, &settings.run_id, settings.poll()).await
}

/// A store that is another than the settings say works until it meets what only one of them does.
fn check_dialect(bucket: &Bucket, section: &str, settings: &BucketSection) -> Result<(), ConfigError> {
    let name = |dialect| serde_json::to_value(dialect).map(|name| name.to_string()).unwrap_or_default();
    match bucket.recognised() {
        Some(seen) if seen != settings.dialect => Err(ConfigError::Invalid {
            field: format!("{section}.dialect"),
            reason: format!("is {}, but the store answers as {} does", name(settings.dialect), name(seen)),
        }),
        _ => Ok(()),
    }
}

/// The key that others get reads what the owner writes, and writes nothing: everybody whom it is sealed to could do it.
#[cfg(feature = "torch")]
async fn check_reader(settings: &Participant, own: &Bucket) -> anyhow::Result<()> {
    const SECTION: &str = "bucket.reader";
    let reader = Bucket::open(&settings.own()?.address("bucket")?, settings.reader()?, hasty())?;
    let key = own.probe_key();
    own.put(&key, bytes::Bytes::from_static(b"for readers")).await.map_err(|error| blame("bucket", error))?;
    let read = reader.get(&key, 64).await;
    let may_write = reader.may_write(&key).await;
    own.delete(&key).await.map_err(|error| blame("bucket", error))?;
    read.map_err(|error| blame(SECTION, error))?;
    match may_write {
        Ok(false) => Ok(()),
        Ok(true) => Err(ConfigError::Invalid {
            field: SECTION.into(),
            reason: "this key can write; all who read your bucket get it, so make one that reads and does nothing else".into(),
        }
        .into()),
        Err(error) => Err(blame(SECTION, error).context("trying to write with the readers' key")),
    }
}
