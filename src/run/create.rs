//! The first objects of a run: θ of window 0, then the manifest, whose existence is the run's.

use std::path::Path;

use anyhow::Context as _;
use brigade_bucket::keys::{DataFile, RunKey};
use brigade_bucket::{Bucket, Creation};
use brigade_codec::Layout;
use brigade_protocol::{
    DatasetIndex, Digest, Envelope, FORMAT_VERSION, MAX_INDEX_BYTES, Manifest, Official, Parameters, Signed,
    Validator,
};
use bytes::Bytes;

use super::checkpoint::Contents;
use super::codec;
use super::start::Start;
use crate::config::RunSettings;
use crate::data::Progress;
use crate::identity::Identity;
use crate::plan::{self, Link};

/// The largest tokenizer that is read, in bytes.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Creates a run in `bucket`, where `data/` must be already. `beside` is the folder of the settings file.
///
/// # Errors
/// When the settings contradict each other, the data, or the folder that the model comes from; when a run is there already, or
/// the store fails.
pub async fn create(
    bucket: &Bucket,
    settings: &RunSettings,
    beside: &Path,
    identity: &Identity,
    progress: Progress,
) -> anyhow::Result<Signed<Manifest>> {
    let key = RunKey::Manifest.to_string();
    anyhow::ensure!(bucket.head(&key).await?.is_none(), "the bucket {} holds a run already", bucket.name());
    let data = |file| RunKey::Data(file).to_string();
    let index = bucket
        .get(&data(DataFile::Index), MAX_INDEX_BYTES)
        .await
        .context("the run's bucket has no data; write it with `brigade data prepare`")?;
    let dataset = DatasetIndex::from_json(&index.bytes)?;
    let tokenizer = bucket.get(&data(DataFile::Tokenizer), MAX_TOKENIZER_BYTES).await?;
    let start = Start::open(settings, beside)?;
    let mut manifest = Manifest {
        version: FORMAT_VERSION,
        name: settings.name.clone(),
        created_at: bucket.now().await?,
        aggregator: Official { id: identity.id(), seal_to: identity.seal_to() },
        validators: settings
            .validators
            .iter()
            .map(|entry| Validator { id: entry.id, seal_to: entry.seal_to.clone(), stake: entry.stake })
            .collect(),
        model: start.model().clone(),
        dataset: Digest::of(&index.bytes),
        training: settings.training.clone(),
        compression: settings.compression.clone(),
        outer: settings.outer.clone(),
        windows: settings.windows.clone(),
        scoring: settings.scoring.clone(),
        gauntlet: settings.gauntlet.clone(),
        initial_state_root: Digest([0; 32]),
    };
    manifest.validate()?;
    expect_writable(&manifest)?;
    anyhow::ensure!(
        dataset.vocab_size as usize <= manifest.model.vocab_size,
        "model.vocab_size is {}, the tokenizer has {} tokens",
        manifest.model.vocab_size,
        dataset.vocab_size
    );
    start.check_tokenizer(&tokenizer.bytes)?;
    // Reading them may take long, so that everything else is checked by now.
    let theta = start.theta(progress).await?;
    manifest.initial_state_root = theta.root();
    let model = manifest.model.clone();
    let (envelope, signed) = Envelope::sign(manifest, identity.signing())?;
    let contents = Contents {
        run: signed.run(),
        window: 0,
        model: &model,
        theta: &theta,
        error_feedback: &Parameters::zeros(&model),
        tokenizer: &tokenizer.bytes,
        end_of_document: dataset.end_of_document,
    };
    contents.publish(bucket, identity.signing()).await?;
    match bucket.create(&key, Bytes::from(envelope.to_bytes())).await? {
        Creation::Created(_) => Ok(signed),
        Creation::AlreadyExists => anyhow::bail!("the bucket {} holds a run already", bucket.name()),
    }
}

/// A run whose store refuses an update's copy or the delta would never close a window: both are written once, and so in one request.
fn expect_writable(manifest: &Manifest) -> anyhow::Result<()> {
    let tensors = manifest.model.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape));
    let codec = codec(&manifest.compression);
    let update = brigade_codec::max_update_bytes(&Layout::new(tensors)?, &codec);
    anyhow::ensure!(
        update as f64 <= plan::ONE_PUT_BYTES,
        "an update could have {:.1} GB, more than the 5 GiB that stores take at once; set compression.top_k or \
         compression.bits lower",
        update as f64 / 1e9
    );
    let link = Link::of(manifest, manifest.windows.max_peers.into());
    let Some(most) = plan::largest_delta(manifest.model.num_parameters() as f64, &link) else {
        return Ok(());
    };
    anyhow::bail!(
        "the delta of {} miners would be larger than the 5 GiB that stores take at once; set outer.delta_top_k to at most \
         {most}, or windows.max_peers lower",
        link.peers
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use brigade_protocol::ModelConfig;

    use super::*;
    use crate::plan::exchange_bytes;

    #[test]
    fn what_a_store_refuses_is_refused_before() {
        let parameters = |preset| ModelConfig::preset(preset).unwrap().num_parameters() as f64;
        let link = Link { up: 1.0, down: 1.0, peers: 256, top_k: 64, bits: 1, delta_bits: 2, delta_top_k: 0 };
        assert_eq!(plan::largest_delta(parameters("8b"), &link), None);
        let most = plan::largest_delta(parameters("covenant-72b"), &link).unwrap();
        let bytes = |delta_top_k| exchange_bytes(parameters("covenant-72b"), &Link { delta_top_k, ..link }).1;
        assert!(bytes(most) <= 5.0 * 1024.0_f64.powi(3) && bytes(most + 32) > 5.0 * 1024.0_f64.powi(3));
        assert_eq!(plan::largest_delta(parameters("covenant-72b"), &Link { delta_top_k: 256, ..link }), None);
    }
}
