//! One peer's update: from its receipt to a checked copy in the run's bucket.

use std::time::Duration;

use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_bucket::{Bucket, BucketError, Creation, Pin};
use brigade_codec::{Update, max_update_bytes};
use brigade_protocol::checks::Expected;
use brigade_protocol::{
    Exclusion, Member, Open, PeerId, Pinned, Reason, Receipt, Record as _, Signed, Timestamp,
};
use bytes::Bytes;

use super::Aggregator;
use crate::run::lobby;

/// A store may be slow to show what was written in time.
const GRACE: Duration = Duration::from_secs(2);

impl Aggregator {
    /// Waits for `member`'s receipt until the deadline, then checks and mirrors what it promises.
    ///
    /// # Errors
    /// The inner result says why the update does not count; the outer one that our own store fails.
    pub(super) async fn collect(
        &self,
        open: &Signed<Open>,
        member: &Member,
    ) -> anyhow::Result<Result<Pinned, Exclusion>> {
        let peer = member.peer;
        let window = open.record.window;
        if let Some(pinned) = self.mirrored(open, peer).await? {
            return Ok(Ok(pinned));
        }
        let bucket = match lobby::open_bucket(&self.identity, member, self.peer_options.clone()) {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(Exclusion::new(peer, Reason::Unavailable, format!("{error:#}")))),
        };
        let found = match self.receipt(&bucket, open, peer).await? {
            Ok(found) => found,
            Err(exclusion) => return Ok(Err(exclusion)),
        };
        let update = match self.update(&bucket, open, peer, &found.receipt).await {
            Ok(update) => update,
            Err(exclusion) => return Ok(Err(exclusion)),
        };
        self.mirror(window, peer, &update.bytes, &found).await.map(|mirrored| {
            mirrored.then(|| pinned(peer, &found, update.etag)).ok_or_else(|| {
                Exclusion::new(peer, Reason::Unavailable, "the update changed after it was first read")
            })
        })
    }

    fn expected<'a>(&self, open: &'a Signed<Open>, key: &'a str) -> Expected<'a> {
        let max_update_bytes = max_update_bytes(self.run.layout(), &self.run.codec());
        Expected { open, update_key: key, max_update_bytes }
    }

    /// What an aggregator before this one has mirrored already.
    async fn mirrored(&self, open: &Signed<Open>, peer: PeerId) -> anyhow::Result<Option<Pinned>> {
        let window = open.record.window;
        let key = RunKey::Receipt { window, peer }.to_string();
        let Some(object) = self.run.bucket().try_get(&key, Receipt::MAX_BYTES).await? else {
            return Ok(None);
        };
        let update_key = PeerKey::new(self.run.id(), window, PeerFile::Update).to_string();
        // It was mirrored because it was in time; when exactly it came is the peer's store's to say, not ours.
        let received_at = object.meta.last_modified.min(open.record.deadline);
        let receipt = self.expected(open, &update_key).check(peer, &object.bytes, received_at);
        let receipt = receipt.map_err(|exclusion| anyhow::anyhow!("{key}: {}", exclusion.detail))?;
        let found = Found { receipt, bytes: object.bytes, received_at };
        Ok(Some(pinned(peer, &found, String::new())))
    }

    /// Looks for the receipt until it is there or the deadline has passed.
    async fn receipt(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
    ) -> anyhow::Result<Result<Found, Exclusion>> {
        let window = open.record.window;
        let key = PeerKey::new(self.run.id(), window, PeerFile::Receipt).to_string();
        let update_key = PeerKey::new(self.run.id(), window, PeerFile::Update).to_string();
        let mut missing = Exclusion::new(peer, Reason::Missing, "no receipt at the deadline");
        loop {
            // The time is taken before the look: what was written before the deadline is seen.
            let is_last = self.now().await? > open.record.deadline.plus(GRACE);
            match bucket.try_get(&key, Receipt::MAX_BYTES).await {
                Ok(Some(object)) => {
                    let received_at = object.meta.last_modified;
                    let checked = self.expected(open, &update_key).check(peer, &object.bytes, received_at);
                    return Ok(checked.map(|receipt| Found { receipt, bytes: object.bytes, received_at }));
                }
                Ok(None) => {}
                Err(error) => missing.detail = Exclusion::new(peer, missing.reason, &error).detail,
            }
            if is_last {
                return Ok(Err(missing));
            }
            self.shutdown.or(tokio::time::sleep(self.poll)).await?;
        }
    }

    /// Fetches the update that the receipt promises and puts it through the decoder.
    async fn update(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
        receipt: &Signed<Receipt>,
    ) -> Result<Fetched, Exclusion> {
        let promised = &receipt.record.update;
        let unavailable = |error: BucketError| Exclusion::new(peer, Reason::Unavailable, error);
        let meta = bucket.head(&promised.key).await.map_err(unavailable)?;
        let etag = meta
            .ok_or_else(|| Exclusion::new(peer, Reason::Unavailable, "the receipt names no object"))?
            .etag;
        let pin = Pin { etag: Some(etag.clone()), sha256: promised.sha256, size: promised.size };
        let bytes = bucket.get_pinned(&promised.key, &pin).await.map_err(unavailable)?;
        let binding = self.run.binding(&open.record, &peer);
        Update::parse(bytes.clone(), self.run.layout(), &self.run.codec(), &binding)
            .map_err(|error| Exclusion::new(peer, Reason::Malformed, error))?;
        Ok(Fetched { bytes, etag })
    }

    /// Copies update and receipt into the run's bucket. Says no when another update of that peer is there: the
    /// peer has shown two faces.
    async fn mirror(&self, window: u64, peer: PeerId, update: &Bytes, found: &Found) -> anyhow::Result<bool> {
        let bucket = self.run.bucket();
        let key = RunKey::Update { window, peer }.to_string();
        if let Creation::AlreadyExists = bucket.create(&key, update.clone()).await? {
            let promised = &found.receipt.record.update;
            let pin = Pin { etag: None, sha256: promised.sha256, size: promised.size };
            if bucket.get_pinned(&key, &pin).await.is_err() {
                return Ok(false);
            }
        }
        bucket.create(&RunKey::Receipt { window, peer }.to_string(), found.bytes.clone()).await?;
        Ok(true)
    }
}

/// A receipt that passed the checks.
struct Found {
    receipt: Signed<Receipt>,
    bytes: Bytes,
    received_at: Timestamp,
}

/// An update that passed the decoder.
struct Fetched {
    bytes: Bytes,
    etag: String,
}

fn pinned(peer: PeerId, found: &Found, etag: String) -> Pinned {
    Pinned {
        peer,
        update: found.receipt.record.update.clone(),
        etag,
        receipt: found.receipt.digest,
        received_at: found.received_at,
    }
}
