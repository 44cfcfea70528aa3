//! Which run to look at, and with which keys.

use std::path::Path;
use std::time::Duration;

use brigade_bucket::{Access, Bucket, BucketOptions, Credentials, Dialect};

use crate::config::{Participant, SecretRef};
use crate::run::Run;
use crate::run::url::RunUrl;

/// Where a run is, and what opens it.
#[derive(Debug)]
pub struct Target {
    bucket: Bucket,
    url: RunUrl,
}

/// What opens the bucket of a run's URL.
#[derive(Clone, Debug)]
pub enum Keys {
    /// A key pair, by reference.
    Pair(SecretRef, SecretRef),
    /// `RUN_KEY_ID` and `RUN_SECRET` where they are set, else what the AWS environment offers.
    Environment,
    /// None: the bucket is public.
    None,
}

impl Target {
    /// The run of a participant, with its keys.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn of_participant(path: &Path) -> anyhow::Result<Self> {
        let settings = Participant::read(path)?;
        let url = RunUrl { bucket: settings.run.address("run")?, id: settings.run_id };
        Ok(Self { bucket: settings.open_run_with(options())?, url })
    }

    /// The run of a URL.
    ///
    /// # Errors
    /// When a secret cannot be found.
    pub fn of_url(url: &RunUrl, keys: &Keys) -> anyhow::Result<Self> {
        let here = Path::new("");
        let pair = |id: &SecretRef, secret: &SecretRef| {
            anyhow::Ok(Access::Keys(Credentials::new(
                id.resolve("--key-id", here)?,
                secret.resolve("--secret", here)?,
                None,
            )?))
        };
        let is_set = |name: &str| std::env::var_os(name).is_some();
        let access = match keys {
            Keys::Pair(id, secret) => pair(id, secret)?,
            Keys::Environment if is_set("RUN_KEY_ID") && is_set("RUN_SECRET") => {
                pair(&SecretRef::env("RUN_KEY_ID"), &SecretRef::env("RUN_SECRET"))?
            }
            Keys::Environment => {
                let is_aws = [
                    "AWS_ACCESS_KEY_ID",
                    "AWS_PROFILE",
                    "AWS_WEB_IDENTITY_TOKEN_FILE",
                    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                ];
                // Another store knows nothing of a machine's role.
                let may_be_role = url.bucket.dialect == Dialect::Aws || is_aws.into_iter().any(is_set);
                anyhow::ensure!(
                    may_be_role,
                    "no key to read the run with: set RUN_KEY_ID and RUN_SECRET, give --key-id and --secret, or say --anonymous"
                );
                Access::Environment
            }
            Keys::None => Access::Anonymous,
        };
        Ok(Self { bucket: Bucket::open(&url.bucket, access, options())?, url: url.clone() })
    }

    /// The run's URL.
    pub fn url(&self) -> &RunUrl {
        &self.url
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// When the bucket cannot be read, or holds another run.
    pub async fn load(&self) -> anyhow::Result<Run> {
        Run::load(self.bucket.clone(), &self.url.id, Duration::from_secs(2)).await
    }
}

/// Somebody looks: an error is to be seen soon, and the next look comes anyway.
fn options() -> BucketOptions {
    BucketOptions {
        max_retries: 2,
        retry_timeout: Duration::from_secs(10),
        max_backoff: Duration::from_secs(1),
        ..BucketOptions::default()
    }
}
