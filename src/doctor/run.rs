//! The manifest, the participant's place in it, its data, its news.

use brigade_bucket::keys::{DataFile, RunKey};
use brigade_bucket::{Bucket, BucketError, names_private_host};
use brigade_protocol::{Exclusion, ShardId, Signed};

use super::{Examination, Patient, Stopped};
use crate::config::explain;
use crate::identity::Identity;
use crate::init::Role;
use crate::observe::newest_window;
use crate::run::{Run, checkpoint};
use crate::spelling::several;

/// Reads the manifest and checks it against `run_id` and its signature.
pub(super) async fn load(
    found: &mut Examination<'_>,
    patient: &Patient<'_>,
    bucket: Bucket,
) -> Result<Run, Stopped> {
    let settings = patient.settings;
    match Run::load(bucket, &settings.run_id, settings.poll()).await {
        Ok(run) => {
            let manifest = run.manifest();
            let said = format!(
                "`{}`, {:.1} M parameters, signed by {}",
                manifest.name,
                manifest.model.num_parameters() as f64 / 1e6,
                manifest.aggregator.id.short()
            );
            found.good("manifest", said);
            Ok(run)
        }
        Err(error) => {
            let (check, remedy) = mend(&error);
            Err(found.bad(check, format!("{error:#}"), remedy))
        }
    }
}

/// What a manifest that cannot be had is about, and what to do.
fn mend(error: &anyhow::Error) -> (&'static str, String) {
    if let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<BucketError>()) {
        return match error {
            BucketError::NotFound { .. } => (
                "manifest",
                "correct run.bucket or run.prefix, or ask the operator for the run's URL".to_owned(),
            ),
            error => explain("run", error),
        };
    }
    let said = format!("{error:#}");
    let newer = |text: &str| ("manifest", format!("{text}, and `brigade --version` tells which is here"));
    match error.downcast_ref::<brigade_protocol::Error>() {
        Some(brigade_protocol::Error::Manifest { field, .. }) if field == "version" => {
            newer("upgrade brigade on this machine: the run was created by a later one")
        }
        // No version of its own: a term that a later program of the same format has.
        Some(brigade_protocol::Error::Json { .. }) if said.contains("unknown field") => {
            newer("upgrade brigade on this machine if the run's operator has a later one")
        }
        _ if said.contains("run_id") => {
            ("run_id", "set run_id to the one that the operator gave out, or correct run.bucket".to_owned())
        }
        _ => (
            "manifest",
            "do not take part: this is not what the operator signed; tell the operator".to_owned(),
        ),
    }
}

/// What later sections need of what was found here.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What the participant is.
    pub(super) role: Option<Role>,
    /// Bytes of the run's tokens.
    pub(super) text_bytes: Option<u64>,
    /// The largest file of the newest checkpoint.
    pub(super) checkpoint: Option<File>,
}

/// An object that can be read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) key: String,
    pub(super) bytes: u64,
}

/// What the participant is, and whether the run knows it as that; then the run's data and news.
pub(super) async fn role(found: &mut Examination<'_>, patient: &Patient<'_>, run: Option<&Run>) -> Seen {
    let Some(run) = run else {
        let role = said(patient).or(patient.settings.bucket.is_none().then_some(Role::Aggregator));
        return Seen { role, ..Seen::default() };
    };
    let role = place(found, patient, run);
    let text_bytes = text(found, run).await;
    let checkpoint = newest_checkpoint(found, run).await;
    if let Some(role) = role
        && let Err(error) = news(found, run, patient.identity, role).await
    {
        found.unknown("windows", format!("{error:#}"));
    }
    Seen { role, text_bytes, checkpoint }
}

/// The role that the command line or the settings name.
fn said(patient: &Patient<'_>) -> Option<Role> {
    patient.options.role.or(patient.settings.role)
}

fn place(found: &mut Examination<'_>, patient: &Patient<'_>, run: &Run) -> Option<Role> {
    let Some(identity) = patient.identity else { return said(patient) };
    let (manifest, id) = (run.manifest(), identity.id());
    let entry = manifest.validator(&id);
    let inferred = match (patient.settings.bucket.is_some(), entry) {
        (false, _) => Role::Aggregator,
        (true, Some(_)) => Role::Validator,
        (true, None) => Role::Miner,
    };
    let role = said(patient).unwrap_or(inferred);
    match (role, entry) {
        (Role::Aggregator, _) if manifest.aggregator.id == id => found.good("role", "the run's aggregator"),
        (Role::Aggregator, _) => {
            let said = format!(
                "the run's aggregator is {}, this identity is {}",
                manifest.aggregator.id,
                id.short()
            );
            found.bad(
                "role",
                said,
                "set `identity` to the file that run.toml named when the run was created",
            );
        }
        (Role::Validator, Some(entry)) if entry.seal_to == identity.seal_to() => {
            found.good("role", format!("a validator with a stake of {}", entry.stake));
        }
        (Role::Validator, Some(_)) => {
            let said =
                "the manifest names another `seal_to` for this validator: it could not open peers' buckets";
            found.bad("role", said, "use the identity file that was made when the operator was told");
        }
        (Role::Validator, None) => {
            let said = format!("the manifest does not name {} as a validator", id.short());
            let remedy = "validators are fixed when a run is created: take part as a miner, or use the identity that was named";
            found.bad("role", said, remedy);
        }
        (Role::Miner, _) if entry.is_some() || manifest.aggregator.id == id => {
            let whose = if entry.is_some() { "a validator" } else { "the aggregator" };
            let remedy = "set `identity` to a file of the miner's own (`brigade identity new`)";
            found.bad("role", format!("{} is {whose} of this run, and no miner", id.short()), remedy);
        }
        (Role::Miner, _) => found.good("role", "a miner"),
    }
    if role == Role::Aggregator && !patient.settings.allow_private_endpoints {
        let address = patient.settings.run.address("run");
        if address.is_ok_and(|address| names_private_host(&address)) {
            found.warn(
                "private_endpoints",
                "the run's store has a private address, and buckets of others that have one are refused",
                "set allow_private_endpoints = true if all of the run is within one machine or network",
            );
        }
    }
    Some(role)
}

/// Without what is missing here nobody can follow the run.
pub(super) const TELL: &str = "tell the operator: the run cannot be followed without it";

/// The index and the first bytes of a shard. Returns the bytes of all tokens.
async fn text(found: &mut Examination<'_>, run: &Run) -> Option<u64> {
    let index = match run.dataset().await {
        Ok(index) => index,
        Err(error) => {
            found.bad("data", format!("{error:#}"), TELL);
            return None;
        }
    };
    let bytes: u64 = index.train.iter().map(|shard| shard.bytes).sum();
    let key = RunKey::Data(DataFile::Shard(ShardId::train(0))).to_string();
    match run.bucket().get_range(&key, 0..64, None).await {
        Ok(_) => {
            let shards = several(index.train.len() as u64, "shard");
            found.good("data", format!("{shards}, {:.1} MB of tokens", bytes as f64 / 1e6));
        }
        Err(error) => drop(found.bad("data", error.to_string(), TELL)),
    }
    Some(bytes)
}

/// The newest checkpoint's record. Returns its largest file, which is not read here.
async fn newest_checkpoint(found: &mut Examination<'_>, run: &Run) -> Option<File> {
    match checkpoint::latest(run).await {
        Ok(Signed { record, .. }) => {
            found.good("checkpoint", format!("the newest is that before window {}", record.window));
            let largest = record.files.iter().max_by_key(|pin| pin.size)?;
            Some(File { key: checkpoint::key(&record, largest).ok()?, bytes: largest.size })
        }
        Err(error) => {
            found.bad("checkpoint", format!("{error:#}"), TELL);
            None
        }
    }
}

/// Where the run is, and how it went for this participant last time.
async fn news(
    found: &mut Examination<'_>,
    run: &Run,
    identity: Option<&Identity>,
    role: Role,
) -> anyhow::Result<()> {
    let Some(newest) = newest_window(run, 0).await? else {
        found.good("windows", "none is open yet");
        return Ok(());
    };
    let manifest = run.manifest();
    if manifest.windows.is_over(newest + 1) && run.close(newest).await?.is_some() {
        let remedy = match role {
            Role::Aggregator => "nothing is left to do; what it trained is got with `brigade run download`",
            _ => "join another run",
        };
        found.warn("windows", format!("the run is over after {} windows", newest + 1), remedy);
        return Ok(());
    }
    found.good("windows", format!("window {newest} is the newest"));
    let (Some(identity), Role::Miner) = (identity, role) else { return Ok(()) };
    let id = identity.id();
    let Some(open) = run.open(newest).await? else { return Ok(()) };
    let roster = run.roster(&open.record.roster).await?;
    match roster.member(&id) {
        Some(member) if member.active => found.good("roster", "windows wait for you"),
        Some(member) => found.warn(
            "roster",
            format!("windows do not wait for you any more: {} were missed in a row", member.missed),
            "start `brigade miner`: it asks to be waited for again",
        ),
        None if roster.active_miners().count() >= manifest.windows.max_peers as usize => {
            found.warn("roster", "the run is full", "wait until somebody leaves, or join another run");
        }
        None => found.unknown("roster", "you are not in it yet; a miner asks when it starts"),
    }
    let Some(before) = newest.checked_sub(1) else { return Ok(()) };
    let Some(close) = run.close(before).await? else { return Ok(()) };
    if let Some(Exclusion { reason, detail, .. }) =
        close.record.excluded.iter().find(|entry| entry.peer == id)
    {
        found.warn(
            "last_update",
            format!("your update of window {before} was not merged ({reason:?}): {detail}"),
            "docs/troubleshooting.md says what each reason means",
        );
    } else if close.record.accepted.iter().any(|share| share.peer == id) {
        found.good("last_update", format!("your update of window {before} was merged"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use brigade_protocol::{Envelope, Manifest, Record, SigningKey};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Later {
        version: u32,
        new_term: bool,
    }

    impl Record for Later {
        const TYPE: &'static str = Manifest::TYPE;
        const MAX_BYTES: u64 = Manifest::MAX_BYTES;
    }

    #[test]
    fn who_meets_a_later_run_is_told_to_upgrade_and_not_to_suspect_anybody() {
        for version in [1, 2] {
            let later = Later { version, new_term: true };
            let (envelope, _) = Envelope::sign(later, &SigningKey::from_seed(&[1; 32])).unwrap();
            let (check, remedy) = mend(&envelope.open::<Manifest>().unwrap_err().into());
            assert_eq!(check, "manifest");
            assert!(remedy.contains("upgrade brigade"), "version {version}: {remedy}");
        }
        let (_, remedy) = mend(&anyhow::anyhow!("the signature does not hold"));
        assert!(remedy.contains("do not take part"), "{remedy}");
    }
}
