//! The first requests of a role, and of whoever prepares a run: what is set wrong is to show at once, and by its setting's name.
//!
//! They are made in haste, without the patience that a role has later: who has just started it still looks. What only time can mend is
//! waited for all the same.

use std::path::Path;

use brigade_bucket::{Bucket, BucketError, BucketOptions, Dialect};

use crate::config::{BucketSection, ConfigError, Participant, blame, hasty};
use crate::run::Run;
use crate::spelling::word;

/// The participant's own bucket: it keeps its promises, and others can read it and not write.
///
/// # Errors
/// Names the setting.
#[cfg(feature = "torch")]
pub(super) async fn own(settings: &Participant) -> anyhow::Result<Bucket> {
    let own = settings.open_own()?;
    reach(&settings.open_own_with(hasty())?, &own, "bucket", settings.own()?, Trial::Own).await?;
    check_reader(settings, &own).await?;
    Ok(own)
}

/// The run, in a bucket that can be read; one that only an aggregator writes also keeps its promises.
///
/// # Errors
/// Names the setting.
pub(super) async fn run(settings: &Participant, is_aggregator: bool) -> anyhow::Result<Run> {
    let bucket = settings.open_run()?;
    let trial = if is_aggregator { Trial::Own } else { Trial::Read };
    reach(&settings.open_run_with(hasty())?, &bucket, "run", &settings.run, trial).await?;
    Run::load(bucket, &settings.run_id, settings.poll()).await
}

/// A bucket that its owner writes, by its section `name` of a file in `folder`: it keeps its promises.
///
/// # Errors
/// Names the setting.
pub(crate) async fn writable(section: &BucketSection, name: &str, folder: &Path) -> anyhow::Result<Bucket> {
    let bucket = section.open(name, folder, BucketOptions::default())?;
    reach(&section.open(name, folder, hasty())?, &bucket, name, section, Trial::Own).await?;
    Ok(bucket)
}

/// A bucket that is only filled: it takes an object. It need keep no promises, nor let anything be deleted.
///
/// # Errors
/// When it takes none.
pub(crate) async fn takes_objects(hasty: &Bucket, patient: &Bucket) -> brigade_bucket::Result<()> {
    tried(hasty, patient, Trial::Fill).await
}

/// What a bucket must be good for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    Read,
    Fill,
    /// To be its owner's, and to keep its promises.
    Own,
}

/// Tries a bucket, and finds out whether it is another store's than the settings say.
async fn reach(
    hasty: &Bucket,
    patient: &Bucket,
    section: &str,
    settings: &BucketSection,
    trial: Trial,
) -> anyhow::Result<()> {
    let tried = tried(hasty, patient, trial).await;
    check_dialect(hasty, section, settings, tried.is_ok())?;
    tried.map_err(|error| blame(section, error))
}

/// Tries a bucket in haste, and patiently where that may help.
async fn tried(hasty: &Bucket, patient: &Bucket, trial: Trial) -> brigade_bucket::Result<()> {
    match probe(hasty, trial).await {
        Err(error) if passes(&error) => probe(patient, trial).await,
        tried => tried,
    }
}

async fn probe(bucket: &Bucket, trial: Trial) -> brigade_bucket::Result<()> {
    match trial {
        Trial::Read => bucket.probe_read().await,
        Trial::Own => bucket.probe().await.map(|_| ()),
        Trial::Fill => {
            let key = bucket.probe_key();
            bucket.put(&key, bytes::Bytes::from_static(b"is it taken?")).await?;
            // Who may only fill it leaves this behind.
            let _ = bucket.delete(&key).await;
            Ok(())
        }
    }
}

/// Whether waiting may help: the store is there, and busy. R2 for one takes a write a second of a key.
fn passes(error: &BucketError) -> bool {
    error.is_transient() && !matches!(error, BucketError::Unreachable { .. })
}

/// A store that is another than the settings say explains why it does not work, and works until it meets what only one of them does. Ceph's ways
/// are its own; of the others', while they work, a word is enough.
fn check_dialect(
    bucket: &Bucket,
    section: &str,
    settings: &BucketSection,
    works: bool,
) -> Result<(), ConfigError> {
    let Some(seen) = bucket.recognised().filter(|seen| *seen != settings.dialect) else { return Ok(()) };
    let (set, answers) = (word(&settings.dialect), word(&seen));
    let reason = format!("is \"{set}\", but the store answers as {answers} does");
    if !works || [seen, settings.dialect].contains(&Dialect::Ceph) {
        return Err(ConfigError::Invalid { field: format!("{section}.dialect"), reason });
    }
    tracing::warn!("{section}.dialect {reason}");
    Ok(())
}

/// The key that others get reads what the owner writes, and writes nothing: everybody whom it is sealed to could do it.
#[cfg(feature = "torch")]
async fn check_reader(settings: &Participant, own: &Bucket) -> anyhow::Result<()> {
    use brigade_bucket::admin::Admin;

    const SECTION: &str = "bucket.reader";
    let (address, keys) = (settings.own()?.address("bucket")?, settings.reader()?);
    let admin = Admin::open(&address, &keys, hasty())?;
    let reader = Bucket::open(&address, keys, hasty())?;
    let key = own.probe_key();
    own.put(&key, bytes::Bytes::from_static(b"for readers")).await.map_err(|error| blame("bucket", error))?;
    let read = reader.get(&key, 64).await;
    let may_write = admin.may_write(&key).await;
    let deleted = own.delete(&key).await;
    match read {
        Err(error) if !passes(&error) => return Err(blame(SECTION, error)),
        _ => {}
    }
    deleted.map_err(|error| blame("bucket", error))?;
    match may_write {
        Ok(true) => Err(ConfigError::Invalid {
            field: SECTION.into(),
            reason: "this key can write; all who read your bucket get it, so make one that reads and does nothing else".into(),
        }
        .into()),
        Ok(false) => Ok(()),
        // It reads, which is what the run needs of it.
        Err(error) => {
            tracing::warn!("cannot find out whether the key in [{SECTION}] can write: {error}");
            Ok(())
        }
    }
}
