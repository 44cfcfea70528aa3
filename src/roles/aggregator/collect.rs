//! One peer's update: from its receipt to a checked copy in the run's bucket.

use std::time::Duration;

use anyhow::Context as _;
use brigade_bucket::keys::{PeerFile, PeerKey, RunKey};
use brigade_bucket::{Bucket, BucketError, Creation, Pin};
use brigade_codec::{Update, max_update_bytes};
use brigade_protocol::checks::expect_digest;
use brigade_protocol::{
    Digest, Exclusion, Join, Member, Open, PeerId, Pinned, Reason, Receipt, Record as _, Signed, Timestamp,
};
use bytes::Bytes;

use super::Aggregator;
use crate::run::lobby;

/// A store may be slow to show what was written in time.
const SETTLE: Duration = Duration::from_secs(2);

/// What a bucket may take beyond the transfer itself.
const GRACE: Duration = Duration::from_secs(60);

/// The slowest bucket that is still waited for after the deadline.
const SLOWEST_BYTES_PER_SECOND: u64 = 4 << 20;

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
        if let Some(pinned) = self.mirrored(open, peer).await? {
            return Ok(Ok(pinned));
        }
        let join = member.join.open_from::<Join>(&peer).map_err(anyhow::Error::from);
        let bucket =
            join.and_then(|join| lobby::open_bucket(&self.identity, &join.record, self.peer_options.clone()));
        let bucket = match bucket {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(Exclusion::new(peer, Reason::Unavailable, format!("{error:#}")))),
        };
        let now = self.now().await?;
        let patience = open.record.deadline.max(now).since(now) + self.grace();
        match tokio::time::timeout(patience, self.fetch(&bucket, open, peer)).await {
            Ok(Ok(Ok(fetched))) => self.mirror(open, peer, fetched).await,
            Ok(Ok(Err(exclusion))) => Ok(Err(exclusion)),
            Ok(Err(error)) => Err(error),
            // One slow bucket must not hold up everybody else's window.
            Err(_) => Ok(Err(Exclusion::new(peer, Reason::Unavailable, "its bucket is too slow"))),
        }
    }

    /// How long after the deadline the last update may still be on its way from its bucket.
    fn grace(&self) -> Duration {
        let most = max_update_bytes(self.run.layout(), &self.run.codec());
        GRACE + Duration::from_secs(most / SLOWEST_BYTES_PER_SECOND)
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
        let receipt = self.run.expected(open, &update_key).check(peer, &object.bytes, received_at);
        let receipt = receipt.map_err(|exclusion| anyhow::anyhow!("{key}: {}", exclusion.detail))?;
        let update = self.run.update(&open.record, &peer, &receipt.record.update).await??;
        Ok(Some(Pinned {
            peer,
            update: receipt.record.update,
            etag: String::new(),
            receipt: receipt.digest,
            received_at,
            mirrored_at: object.meta.last_modified,
            content: Digest(update.frame().content()),
            start_losses: receipt.record.start_losses.clone(),
        }))
    }

    /// Looks for receipt and update until both are there or the deadline has passed.
    async fn fetch(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
    ) -> anyhow::Result<Result<Fetched, Exclusion>> {
        let mut last = Exclusion::new(peer, Reason::Missing, "no receipt at the deadline");
        loop {
            // The time is taken before the look: what was written before the deadline is seen.
            let is_last = self.now().await? > open.record.deadline.plus(SETTLE);
            match self.look(bucket, open, peer).await {
                Ok(Some(fetched)) => return Ok(Ok(fetched)),
                Ok(None) => {}
                Err(Refusal::Now(exclusion)) => return Ok(Err(exclusion)),
                Err(Refusal::Perhaps(exclusion)) => last = exclusion,
            }
            if is_last {
                return Ok(Err(last));
            }
            self.pace.shutdown.or(tokio::time::sleep(self.pace.poll)).await?;
        }
    }

    /// One look at a peer's bucket: the receipt through the fast checks, the update through the decoder.
    async fn look(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
    ) -> Result<Option<Fetched>, Refusal> {
        let window = open.record.window;
        let key = |file| PeerKey::new(self.run.id(), window, file).to_string();
        let missing = |error| Refusal::Perhaps(Exclusion::new(peer, Reason::Missing, error));
        let receipt = bucket.try_get(&key(PeerFile::Receipt), Receipt::MAX_BYTES).await.map_err(missing)?;
        let Some(object) = receipt else { return Ok(None) };
        let received_at = object.meta.last_modified;
        let update_key = key(PeerFile::Update);
        let checked = self.run.expected(open, &update_key).check(peer, &object.bytes, received_at);
        let receipt = checked.map_err(Refusal::Now)?;
        let promised = &receipt.record.update;
        let unavailable = |error: BucketError| {
            let exclusion = Exclusion::new(peer, Reason::Unavailable, &error);
            if error.is_transient() { Refusal::Perhaps(exclusion) } else { Refusal::Now(exclusion) }
        };
        let meta = bucket.head(&promised.key).await.map_err(unavailable)?;
        let absent =
            || Refusal::Now(Exclusion::new(peer, Reason::Unavailable, "the receipt names no object"));
        let etag = meta.ok_or_else(absent)?.etag;
        let pin = Pin { etag: Some(etag.clone()), sha256: promised.sha256, size: promised.size };
        let update = bucket.get_pinned(&promised.key, &pin).await.map_err(unavailable)?;
        let binding = self.run.binding(&open.record, &peer);
        let (layout, codec, bytes) = (self.run.layout(), self.run.codec(), update.clone());
        let parsed = tokio::task::block_in_place(|| Update::parse(bytes, layout, &codec, &binding))
            .map_err(|error| Refusal::Now(Exclusion::new(peer, Reason::Malformed, error)))?;
        // Readers of a part of the update rely on it.
        expect_digest("the update's header", promised.frame, Digest(parsed.frame().digest()))
            .map_err(|error| Refusal::Now(Exclusion::new(peer, Reason::Unavailable, error)))?;
        let content = Digest(parsed.frame().content());
        Ok(Some(Fetched { receipt, receipt_bytes: object.bytes, received_at, update, etag, content }))
    }

    /// Copies update and receipt into the run's bucket. Refuses when another update of that peer is there: the peer has
    /// shown two faces.
    async fn mirror(
        &self,
        open: &Signed<Open>,
        peer: PeerId,
        fetched: Fetched,
    ) -> anyhow::Result<Result<Pinned, Exclusion>> {
        let window = open.record.window;
        let bucket = self.run.bucket();
        let key = RunKey::Update { window, peer }.to_string();
        if let Creation::AlreadyExists = bucket.create(&key, fetched.update.clone()).await? {
            let promised = &fetched.receipt.record.update;
            let pin = Pin { etag: None, sha256: promised.sha256, size: promised.size };
            match bucket.get_pinned(&key, &pin).await {
                Ok(_) => {}
                Err(BucketError::SizeMismatch { .. } | BucketError::DigestMismatch { .. }) => {
                    let detail = "the update changed after it was first read";
                    return Ok(Err(Exclusion::new(peer, Reason::Unavailable, detail)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let receipt = RunKey::Receipt { window, peer }.to_string();
        if let Creation::AlreadyExists = bucket.create(&receipt, fetched.receipt_bytes.clone()).await? {
            // Another aggregator was faster, perhaps with another receipt; what is mirrored is what counts.
            if let Some(mirrored) = self.mirrored(open, peer).await? {
                return Ok(Ok(mirrored));
            }
        }
        let meta = bucket.head(&receipt).await?;
        let mirrored_at = meta.with_context(|| format!("{receipt} is gone again"))?.last_modified;
        Ok(Ok(fetched.pinned(peer, mirrored_at)))
    }
}

/// Why a look at a peer's bucket brought nothing that counts.
enum Refusal {
    /// Nothing that the peer does later can mend it.
    Now(Exclusion),
    /// A later look may find it.
    Perhaps(Exclusion),
}

/// A receipt that passed the checks, and an update that passed the decoder.
struct Fetched {
    receipt: Signed<Receipt>,
    receipt_bytes: Bytes,
    received_at: Timestamp,
    update: Bytes,
    etag: String,
    content: Digest,
}

impl Fetched {
    fn pinned(&self, peer: PeerId, mirrored_at: Timestamp) -> Pinned {
        Pinned {
            peer,
            update: self.receipt.record.update.clone(),
            etag: self.etag.clone(),
            receipt: self.receipt.digest,
            received_at: self.received_at,
            mirrored_at,
            content: self.content,
            start_losses: self.receipt.record.start_losses.clone(),
        }
    }
}
