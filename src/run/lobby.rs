//! Asking to take part, and opening the read keys that others sealed.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use brigade_bucket::keys::RunKey;
use brigade_bucket::{Bucket, BucketAddress, BucketOptions, Credentials, names_private_host};
use brigade_protocol::{Envelope, Join, Role};
use bytes::Bytes;

use super::Run;
use crate::identity::{Identity, seal};

/// Leaves the wish to take part in the lobby, with the bucket's read key sealed to those who must read it.
///
/// # Errors
/// When the lobby cannot be written, or the manifest names a recipient that is none.
pub async fn ask(
    run: &Run,
    identity: &Identity,
    role: Role,
    bucket: &BucketAddress,
    reader: &Credentials,
) -> anyhow::Result<()> {
    let plain = serde_json::to_vec(reader)?;
    let join = Join {
        run: run.id(),
        role,
        bucket: bucket.clone(),
        sealed_credentials: BASE64.encode(seal(&plain, run.manifest().seal_to())?),
        joined_at: run.bucket().now().await?,
    };
    let (envelope, _) = Envelope::sign(join, identity.signing())?;
    let key = RunKey::Lobby(identity.id()).to_string();
    run.bucket().put(&key, Bytes::from(envelope.to_bytes())).await.context("cannot write to the lobby")?;
    Ok(())
}

/// Opens the bucket of a wish with the key that was sealed to `identity`.
///
/// # Errors
/// When the record, the sealed key or the address is unusable; the member's fault, not ours.
pub fn open_bucket(identity: &Identity, join: &Join, options: BucketOptions) -> anyhow::Result<Bucket> {
    let sealed = BASE64.decode(&join.sealed_credentials).context("the sealed key is no base64")?;
    let credentials: Credentials = serde_json::from_slice(&identity.open(&sealed)?)
        // serde's message might quote the secret.
        .map_err(|_| anyhow::anyhow!("what was sealed is no key pair"))?;
    let (is_guarded, is_private) = (options.public_only, names_private_host(&join.bucket));
    let bucket = Bucket::open(&join.bucket, credentials, options).map_err(anyhow::Error::from);
    match is_guarded && is_private {
        true => {
            bucket.context("set allow_private_endpoints = true if the run is within one machine or network")
        }
        false => bucket,
    }
}
