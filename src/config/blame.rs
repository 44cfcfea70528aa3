//! Which setting an error of a bucket is about.
//!
//! An error of a bucket names the bucket; a person needs the line of the file.

use brigade_bucket::BucketError;

/// An error of the bucket of section `section` behind what to do about it.
pub fn blame(section: &str, error: BucketError) -> anyhow::Error {
    let (_, remedy) = explain(section, &error);
    anyhow::Error::from(error).context(format!("[{section}] does not work; {remedy}"))
}

/// What was looked at, and what to do, by an error of the bucket of section `section` (`run`, `bucket`, `bucket.reader`).
pub fn explain(section: &str, error: &BucketError) -> (&'static str, String) {
    let keys = format!("{section}.access_key_id and {section}.secret_access_key");
    // The reader's section holds keys only: where the bucket is stands in the one above it.
    let place = section.split('.').next().unwrap_or(section);
    match error {
        BucketError::WrongKeys { source, .. } if source.code.as_deref() == Some("SignatureDoesNotMatch") => (
            "keys",
            format!("{section}.secret_access_key is not the secret of {section}.access_key_id: correct it"),
        ),
        BucketError::WrongKeys { .. } => (
            "keys",
            format!("set {keys} to a pair that the store knows; both are taken as they are, blanks cut"),
        ),
        BucketError::NoKeys { .. } => ("keys", format!("set {keys}, or the AWS environment's")),
        BucketError::InvalidCredentials { .. } => ("keys", format!("correct {keys}")),
        BucketError::Denied { .. } if section != place => (
            "permissions",
            format!(
                "name another key in [{section}], or let its policy read {place}.bucket (bucket-layout.md §10)"
            ),
        ),
        BucketError::Denied { .. } => (
            "permissions",
            format!(
                "correct {place}.bucket, or allow it in the policy of the key of [{section}] (bucket-layout.md §10)"
            ),
        ),
        BucketError::NoSuchBucket { .. } => {
            ("bucket", format!("create it, or correct {place}.bucket, {place}.region or {place}.endpoint"))
        }
        BucketError::WrongRegion { .. } => ("region", format!("correct {place}.region")),
        BucketError::ClockSkew { .. } => {
            ("clock", "set this machine's clock, for example with `timedatectl set-ntp true`".to_owned())
        }
        BucketError::Unreachable { .. } => {
            ("endpoint", format!("correct {place}.endpoint, or mend the network or the proxy"))
        }
        BucketError::InvalidAddress { .. } | BucketError::Address(_) => {
            ("settings", format!("correct [{place}]"))
        }
        BucketError::ConditionIgnored { .. } => (
            "conditions",
            "use a store that honours conditional requests: Amazon S3, R2, MinIO, Ceph or `brigade serve`"
                .to_owned(),
        ),
        BucketError::Incompatible { .. } => (
            "compatibility",
            format!("correct {place}.dialect if it is another store's; else use another store"),
        ),
        BucketError::Throttled { .. } => {
            ("rate", "the store asks for fewer requests; wait, or ask for a higher limit".to_owned())
        }
        BucketError::Transient { .. } => {
            ("answers", "try again; if it stays, the store or what lies before it is broken".to_owned())
        }
        _ => ("answers", format!("check that [{place}] is an S3 bucket and {place}.dialect is its store's")),
    }
}
