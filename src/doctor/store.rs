//! A bucket: its server, the keys to it, every kind of request.

use brigade_bucket::admin::Admin;
use brigade_bucket::keys::RunKey;
use brigade_bucket::{Bucket, BucketError, Dialect, ProbeStep};
use brigade_protocol::PeerId;
use bytes::Bytes;

use super::{Examination, Patient, Stopped};
use crate::config::{BucketSection, explain, hasty};
use crate::init::Role;
use crate::run::Run;
use crate::spelling::word;

/// The clock may be so far off before signatures are in danger (stores refuse at 15 minutes), in milliseconds.
const WORST_CLOCK: u64 = 300_000;
/// From here on it is worth a word: logs of several machines do not fit together any more.
const BAD_CLOCK: u64 = 10_000;

/// The server answers, it is the one that the settings speak of, the keys are good, and the clocks agree.
pub(super) async fn reach(
    found: &mut Examination<'_>,
    bucket: &Bucket,
    section: &str,
    settings: &BucketSection,
) -> Result<(), Stopped> {
    // The first answers tell the time and the server's kind, whatever else they say.
    let read = bucket.probe_read().await;
    clock(found, bucket)?;
    dialect(found, bucket, section, settings)?;
    if let Err(error) = read {
        return Err(failed(found, section, &error, "reading"));
    }
    found.good("read", format!("{} can be read", bucket.name()));
    Ok(())
}

fn clock(found: &mut Examination<'_>, bucket: &Bucket) -> Result<(), Stopped> {
    let Some(lead) = bucket.clock().local_lead() else { return Ok(()) };
    let seconds = lead as f64 / 1000.0;
    let way = if lead >= 0 { "ahead of" } else { "behind" };
    let said = format!("this machine's clock is {:.1} s {way} the store's", seconds.abs());
    let remedy = "set this machine's clock, for example with `timedatectl set-ntp true`";
    // A slow first answer leaves much of it open.
    let doubt = bucket.clock().uncertainty().map_or(0, |doubt| doubt.as_millis() as u64);
    match lead.unsigned_abs().saturating_sub(doubt) {
        WORST_CLOCK.. => return Err(found.bad("clock", said, remedy)),
        BAD_CLOCK.. => found.warn("clock", said, remedy),
        _ => found.good("clock", said),
    }
    Ok(())
}

fn dialect(
    found: &mut Examination<'_>,
    bucket: &Bucket,
    section: &str,
    settings: &BucketSection,
) -> Result<(), Stopped> {
    let set = word(&settings.dialect);
    match bucket.recognised() {
        Some(seen) if seen == settings.dialect => found.good("dialect", format!("the store is {set}")),
        Some(seen) => {
            let seen = word(&seen);
            return Err(found.bad(
                "dialect",
                format!("the store answers as {seen} does, the settings say {set}"),
                format!("set {section}.dialect = \"{seen}\""),
            ));
        }
        None if bucket.clock().now().is_some() => {
            found.unknown("dialect", format!("the store does not say what it is; it is taken for {set}"));
        }
        None => {}
    }
    Ok(())
}

/// Tells of an error, and stops the section.
fn failed(found: &mut Examination<'_>, section: &str, error: &BucketError, doing: &str) -> Stopped {
    let (check, remedy) = explain(section, error);
    found.bad(check, format!("{doing}: {error}"), remedy)
}

/// The same; what the store itself does wrong bears the name of what was tried.
fn broken(
    found: &mut Examination<'_>,
    section: &str,
    error: &BucketError,
    (check, doing): (&'static str, &str),
) -> Stopped {
    let (cause, remedy) = explain(section, error);
    let is_the_stores = matches!(cause, "answers" | "compatibility" | "conditions");
    found.bad(if is_the_stores { check } else { cause }, format!("{doing}: {error}"), remedy)
}

/// Everything that the owner of a bucket does with it.
pub(super) async fn promises(
    found: &mut Examination<'_>,
    bucket: &Bucket,
    section: &str,
) -> Result<(), Stopped> {
    let mut steps: Vec<ProbeStep> = Vec::new();
    let probed = bucket.probe_by_steps(&mut |step| steps.push(step)).await;
    let reached = steps.len() - usize::from(probed.is_err() && !steps.is_empty());
    for step in &steps[..reached] {
        found.good(check_of(*step), promise(*step));
    }
    if let Err(error) = probed {
        let step = steps.last().map_or(("put", "writing"), |step| (check_of(*step), deed(*step)));
        return Err(broken(found, section, &error, step));
    }
    let key = bucket.probe_key();
    let more = parts(found, bucket, section, &key).await;
    // Whatever went wrong is told already; what is left under probe/ does no harm.
    let _ = bucket.delete(&key).await;
    more
}

/// Uploads in parts, reads of parts, lists.
async fn parts(
    found: &mut Examination<'_>,
    bucket: &Bucket,
    section: &str,
    key: &str,
) -> Result<(), Stopped> {
    /// The smallest part but for the last that S3 takes, so that there are two.
    const PART: usize = 5 << 20;
    let body: Bytes = (0..PART + 999).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    if let Err(error) = bucket.put_in_parts(key, body.clone(), PART).await {
        return Err(broken(found, section, &error, ("multipart", "uploading in parts")));
    }
    found.good("multipart", "an object goes up in parts");
    if let Err(error) = bucket.check_range(key, &body).await {
        return Err(broken(found, section, &error, ("range", "reading a part of an object")));
    }
    found.good("range", "a part of an object can be read alone");
    if let Err(error) = bucket.check_listed(key).await {
        return Err(broken(found, section, &error, ("list", "listing")));
    }
    found.good("list", "what is written is listed");
    Ok(())
}

fn check_of(step: ProbeStep) -> &'static str {
    match step {
        ProbeStep::Create => "put",
        ProbeStep::Metadata => "metadata",
        ProbeStep::CreateAgain => "create_once",
        ProbeStep::StaleUpdate | ProbeStep::Update => "compare_and_swap",
        ProbeStep::Read => "get",
        ProbeStep::StaleRead => "get_if_match",
        ProbeStep::Delete => "delete",
    }
}

fn promise(step: ProbeStep) -> &'static str {
    match step {
        ProbeStep::Create => "an object can be written",
        ProbeStep::Metadata => "its metadata comes back",
        ProbeStep::CreateAgain => "creating it a second time fails, as it must",
        ProbeStep::StaleUpdate => "a write over a version that is not there fails, as it must",
        ProbeStep::Update => "a write over the version that is there succeeds",
        ProbeStep::Read => "the last version is read",
        ProbeStep::StaleRead => "a read of the version before fails, as it must",
        ProbeStep::Delete => "an object can be deleted under probe/",
    }
}

fn deed(step: ProbeStep) -> &'static str {
    match step {
        ProbeStep::Create => "writing an object",
        ProbeStep::Metadata => "reading an object's metadata",
        ProbeStep::CreateAgain => "creating an object a second time",
        ProbeStep::StaleUpdate => "writing over a version that is not there",
        ProbeStep::Update => "writing over the version that is there",
        ProbeStep::Read => "reading an object",
        ProbeStep::StaleRead => "reading a version that is not there",
        ProbeStep::Delete => "deleting an object under probe/",
    }
}

/// The key that others get: it reads what the owner writes, and writes nothing.
pub(super) async fn reader(
    found: &mut Examination<'_>,
    patient: &Patient<'_>,
    own: &Bucket,
) -> Result<(), Stopped> {
    const SECTION: &str = "bucket.reader";
    let opened = patient.settings.reader().and_then(|reader| {
        let address = patient.settings.own()?.address("bucket")?;
        Ok((Admin::open(&address, &reader, hasty())?, Bucket::open(&address, reader, hasty())?))
    });
    let (admin, bucket) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return Err(found.bad("settings", format!("{error:#}"), "correct it in [bucket.reader]"));
        }
    };
    if let Err(error) = bucket.probe_read().await {
        return Err(failed(found, SECTION, &error, "reading"));
    }
    let key = own.probe_key();
    let told = match own.put(&key, Bytes::from_static(b"for readers")).await {
        Ok(_) => reads_and_no_more(found, &bucket, &admin, &key).await,
        Err(error) => Err(failed(found, "bucket", &error, "writing")),
    };
    let _ = own.delete(&key).await;
    told
}

async fn reads_and_no_more(
    found: &mut Examination<'_>,
    bucket: &Bucket,
    admin: &Admin,
    key: &str,
) -> Result<(), Stopped> {
    const SECTION: &str = "bucket.reader";
    if let Err(error) = bucket.get(key, 64).await {
        return Err(failed(found, SECTION, &error, "reading what the owner wrote"));
    }
    found.good("read", "others can read what you write");
    let remedy = "give others a key that reads and does nothing else: they all get this one";
    match admin.may_write(key).await {
        Ok(false) => found.good("read_only", "it cannot write, as it must"),
        Ok(true) => {
            return Err(found.bad(
                "read_only",
                "the key in [bucket.reader] can write to your bucket",
                remedy,
            ));
        }
        Err(error) => return Err(failed(found, SECTION, &error, "trying to write")),
    }
    Ok(())
}

/// What a participant may write in the run's bucket: its wish to take part, and nothing else. An aggregator: everything.
pub(super) async fn lobby(found: &mut Examination<'_>, patient: &Patient<'_>, run: &Run, role: Role) {
    found.section = "run's bucket";
    let bucket = run.bucket();
    if role == Role::Aggregator {
        if promises(found, bucket, "run").await.is_ok() {
            lifecycle(found, patient, true).await;
        }
        return;
    }
    let Some(identity) = patient.identity else { return };
    let Ok(Some(admin)) = patient.settings.admin(&patient.settings.run, "run") else {
        return found.unknown("lobby", "what the environment's keys may write is not tried");
    };
    let key = RunKey::Lobby(identity.id()).to_string();
    match admin.may_write(&key).await {
        Ok(true) => found.good("lobby", "you may ask to take part"),
        Ok(false) => {
            // As a policy must name it.
            let prefix = Some(&patient.settings.run.prefix).filter(|prefix| !prefix.is_empty());
            let place = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
            let said = format!("the key in [run] may not write {place}{key}");
            let remedy = "ask the operator to let your key write that object: without it nobody is admitted";
            found.bad("lobby", said, remedy);
            return;
        }
        Err(error) => {
            failed(found, "run", &error, "asking whether the lobby can be written");
            return;
        }
    }
    if let Err(error) = least_privilege(found, &admin, &bucket.probe_key()).await {
        failed(found, "run", &error, "asking what else can be written");
    }
}

/// Whether the key writes what others rely on: a window that nobody will ever open, a probe, somebody else's wish.
async fn least_privilege(
    found: &mut Examination<'_>,
    admin: &Admin,
    probe: &str,
) -> brigade_bucket::Result<()> {
    let window = RunKey::Open(u64::MAX).to_string();
    if admin.may_write(&window).await? || admin.may_write(probe).await? {
        found.warn(
            "least_privilege",
            "the key in [run] may write more than the lobby",
            "tell the operator: whoever has such a key can damage the run",
        );
    } else if admin.may_write(&RunKey::Lobby(PeerId([0; 32])).to_string()).await? {
        found.good("least_privilege", "your key writes the lobby, others' places too, and nothing else");
    } else {
        found.good("least_privilege", "your key writes your place in the lobby and nothing else");
    }
    Ok(())
}

/// What the bucket forgets by itself. Only some keys may see that.
pub(super) async fn lifecycle(found: &mut Examination<'_>, patient: &Patient<'_>, is_run: bool) {
    let settings = patient.settings;
    let (section, name) = if is_run { (Ok(&settings.run), "run") } else { (settings.own(), "bucket") };
    let Ok(section) = section else { return };
    if section.dialect == Dialect::Embedded {
        return found.unknown("lifecycle", "`brigade serve` has no lifecycle rules");
    }
    if section.dialect == Dialect::Minio {
        return found.unknown(
            "lifecycle",
            "MinIO clears parts of uploads away by itself, and tells half of its rules",
        );
    }
    let Ok(Some(admin)) = patient.settings.admin(section, name) else {
        return found.unknown("lifecycle", "the rules are not looked at with the environment's keys");
    };
    let rules = match admin.lifecycle().await {
        Ok(rules) => rules,
        Err(BucketError::Denied { .. }) => {
            return found.unknown("lifecycle", "this key may not see the bucket's lifecycle rules");
        }
        Err(_) => return found.unknown("lifecycle", "the store does not tell its lifecycle rules"),
    };
    let own = if section.prefix.is_empty() { String::new() } else { format!("{}/", section.prefix) };
    // A rule's prefix is plain text: it may end in the middle of a name.
    let is_ours = |prefix: &str| own.starts_with(prefix) || prefix.starts_with(&own);
    let is_probes = |prefix: &str| prefix.strip_prefix(&own).is_some_and(|rest| rest.starts_with("probe"));
    for (prefix, days) in rules.expire.iter().filter(|(prefix, _)| is_ours(prefix)) {
        if is_run && !is_probes(prefix) {
            let said = format!("objects under `{prefix}` are deleted after {days} days: the run needs them");
            found.bad("lifecycle", said, "take that rule away, or the run cannot be followed or audited");
            return;
        }
    }
    if rules.abort_multipart_days > 0 {
        let days = rules.abort_multipart_days;
        found.good("lifecycle", format!("parts of uploads that were broken off go after {days} days"));
    } else {
        let said = "nothing deletes the parts of uploads that were broken off; they cost money";
        found.warn("lifecycle", said, "add a rule that aborts incomplete multipart uploads after a day");
    }
}
