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
    /// The receipt is mirrored as soon as it is seen, before the update is read: however slow its bucket, the run's clock then
    /// dates what the peer has promised, and not how long the update took.
    ///
    /// # Errors
    /// The inner result says why the update does not count; the outer one that our own store fails.
    pub(super) async fn collect(
        &self,
        open: &Signed<Open>,
        member: &Member,
    ) -> anyhow::Result<Result<Pinned, Exclusion>> {
        let peer = member.peer;
        let join = member.join.open_from::<Join>(&peer).map_err(anyhow::Error::from);
        let bucket =
            join.and_then(|join| lobby::open_bucket(&self.identity, &join.record, self.peer_options.clone()));
        let mut promise = self.promise(open, peer).await?;
        if let Some(promise) = &mut promise {
            if let Ok(bucket) = &bucket {
                self.date(bucket, open, promise).await;
            }
            if let Some(kept) = self.kept(open, promise).await? {
                return Ok(kept);
            }
        }
        let bucket = match bucket {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(Exclusion::new(peer, Reason::Unavailable, format!("{error:#}")))),
        };
        match self.fetch(&bucket, open, peer, promise).await? {
            Ok(fetched) => self.mirror(open, fetched).await,
            Err(exclusion) => Ok(Err(exclusion)),
        }
    }

    /// How long after the deadline the last update may still be on its way from its bucket.
    fn grace(&self) -> Duration {
        let most = max_update_bytes(self.run.layout(), &self.run.codec());
        GRACE + Duration::from_secs(most / SLOWEST_BYTES_PER_SECOND)
    }

    /// The receipt of `peer` that is mirrored already, by whichever aggregator.
    async fn promise(&self, open: &Signed<Open>, peer: PeerId) -> anyhow::Result<Option<Promise>> {
        let window = open.record.window;
        let key = RunKey::Receipt { window, peer }.to_string();
        let Some(object) = self.run.bucket().try_get(&key, Receipt::MAX_BYTES).await? else {
            return Ok(None);
        };
        let update_key = PeerKey::new(self.run.id(), window, PeerFile::Update).to_string();
        // It was mirrored because it was in time; when exactly it came is the peer's store's to say, and until that is asked nobody
        // was surely earlier.
        let received_at = open.record.opened_at;
        let receipt = self.run.expected(open, &update_key).check(peer, &object.bytes, received_at);
        let receipt = receipt.map_err(|exclusion| anyhow::anyhow!("{key}: {}", exclusion.detail))?;
        let (bytes, mirrored_at) = (object.bytes, object.meta.last_modified);
        Ok(Some(Promise { peer, receipt, bytes, received_at, mirrored_at }))
    }

    /// Asks a peer's store again when its mirrored receipt came, as an aggregator before this one has. If it has another one now, or
    /// none, the time is lost.
    async fn date(&self, bucket: &Bucket, open: &Signed<Open>, promise: &mut Promise) {
        let window = open.record.window;
        let key = PeerKey::new(self.run.id(), window, PeerFile::Receipt).to_string();
        let asked = tokio::time::timeout(GRACE, bucket.try_get(&key, Receipt::MAX_BYTES)).await;
        if let Ok(Ok(Some(object))) = asked
            && object.bytes == promise.bytes
        {
            promise.received_at = object.meta.last_modified.min(open.record.deadline);
        }
    }

    /// What `promise` promises, if an aggregator before this one has mirrored it.
    async fn kept(
        &self,
        open: &Signed<Open>,
        promise: &Promise,
    ) -> anyhow::Result<Option<Result<Pinned, Exclusion>>> {
        let (window, peer) = (open.record.window, promise.peer);
        if self.run.bucket().head(&RunKey::Update { window, peer }.to_string()).await?.is_none() {
            return Ok(None);
        }
        let update = match self.run.update(&open.record, &peer, &promise.receipt.record.update).await {
            Ok(update) => update?,
            Err(error) if is_another(&error) => return Ok(Some(Err(changed(peer)))),
            Err(error) => return Err(error),
        };
        Ok(Some(Ok(promise.pinned(String::new(), Digest(update.frame().content())))))
    }

    /// Looks for receipt and update until both are there or the deadline has passed.
    async fn fetch(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
        mut promise: Option<Promise>,
    ) -> anyhow::Result<Result<Fetched, Exclusion>> {
        let mut last = Exclusion::new(peer, Reason::Missing, "no receipt at the deadline");
        let now = self.now().await?;
        let patience = open.record.deadline.max(now).since(now) + self.grace();
        // One slow bucket must not hold up everybody else's window. Only what the peer's bucket is asked counts, not our own.
        let until = tokio::time::Instant::now() + patience;
        let is_slow = |_| Refusal::Now(Exclusion::new(peer, Reason::Unavailable, "its bucket is too slow"));
        loop {
            // The time is taken before the look: what was written before the deadline is seen.
            let is_last = self.now().await? > open.record.deadline.plus(SETTLE);
            let mut refusal = None;
            if promise.is_none() {
                let seen = tokio::time::timeout_at(until, self.look(bucket, open, peer)).await;
                match seen.unwrap_or_else(|elapsed| Err(is_slow(elapsed))) {
                    Ok(Some(seen)) => promise = Some(self.commit(open, peer, seen).await?),
                    Ok(None) => {}
                    Err(found) => refusal = Some(found),
                }
            }
            if let Some(promise) = &promise {
                let read = tokio::time::timeout_at(until, self.read(bucket, open, promise)).await;
                match read.unwrap_or_else(|elapsed| Err(is_slow(elapsed))) {
                    Ok((update, pinned)) => return Ok(Ok(Fetched { update, pinned })),
                    Err(found) => refusal = Some(found),
                }
            }
            match refusal {
                Some(Refusal::Now(exclusion)) => return Ok(Err(exclusion)),
                Some(Refusal::Perhaps(exclusion)) => last = exclusion,
                None => {}
            }
            if is_last {
                return Ok(Err(last));
            }
            self.pace.shutdown.or(tokio::time::sleep(self.pace.poll)).await?;
        }
    }

    /// One look for a peer's receipt, through the fast checks.
    async fn look(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        peer: PeerId,
    ) -> Result<Option<Seen>, Refusal> {
        let window = open.record.window;
        let key = |file| PeerKey::new(self.run.id(), window, file).to_string();
        let missing = |error| Refusal::Perhaps(Exclusion::new(peer, Reason::Missing, error));
        let receipt = bucket.try_get(&key(PeerFile::Receipt), Receipt::MAX_BYTES).await.map_err(missing)?;
        let Some(object) = receipt else { return Ok(None) };
        let received_at = object.meta.last_modified;
        let update_key = key(PeerFile::Update);
        let checked = self.run.expected(open, &update_key).check(peer, &object.bytes, received_at);
        let receipt = checked.map_err(Refusal::Now)?;
        Ok(Some(Seen { receipt, bytes: object.bytes, received_at }))
    }

    /// Mirrors a receipt, unless one of that peer is mirrored already: then it is that one which counts, whatever its bucket says now.
    async fn commit(&self, open: &Signed<Open>, peer: PeerId, seen: Seen) -> anyhow::Result<Promise> {
        let key = RunKey::Receipt { window: open.record.window, peer }.to_string();
        let gone = || format!("{key} is gone again");
        if let Creation::AlreadyExists = self.run.bucket().create(&key, seen.bytes.clone()).await? {
            let mut promise = self.promise(open, peer).await?.with_context(gone)?;
            if promise.bytes == seen.bytes {
                promise.received_at = seen.received_at;
            }
            return Ok(promise);
        }
        let mirrored_at = self.run.bucket().head(&key).await?.with_context(gone)?.last_modified;
        let Seen { receipt, bytes, received_at } = seen;
        Ok(Promise { peer, receipt, bytes, received_at, mirrored_at })
    }

    /// What `promise` promises, from its peer's bucket, through the decoder.
    async fn read(
        &self,
        bucket: &Bucket,
        open: &Signed<Open>,
        promise: &Promise,
    ) -> Result<(Bytes, Pinned), Refusal> {
        let (peer, promised) = (promise.peer, &promise.receipt.record.update);
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
        let (layout, codec, bytes) = (self.run.layout().clone(), self.run.codec(), update.clone());
        // On another thread: everybody's receipts are looked for on this one.
        let parsing = tokio::task::spawn_blocking(move || Update::parse(bytes, &layout, &codec, &binding));
        let malformed =
            |error: &dyn std::fmt::Display| Refusal::Now(Exclusion::new(peer, Reason::Malformed, error));
        let parsed = parsing.await.map_err(|error| malformed(&error))?.map_err(|error| malformed(&error))?;
        // Readers of a part of the update rely on it.
        expect_digest("the update's header", promised.frame, Digest(parsed.frame().digest()))
            .map_err(|error| Refusal::Now(Exclusion::new(peer, Reason::Unavailable, error)))?;
        let pinned = promise.pinned(etag, Digest(parsed.frame().content()));
        Ok((update, pinned))
    }

    /// Copies an update into the run's bucket. Refuses when another one of that peer is there: the peer has shown two faces.
    async fn mirror(
        &self,
        open: &Signed<Open>,
        fetched: Fetched,
    ) -> anyhow::Result<Result<Pinned, Exclusion>> {
        let Fetched { update, pinned } = fetched;
        let (window, peer, bucket) = (open.record.window, pinned.peer, self.run.bucket());
        let key = RunKey::Update { window, peer }.to_string();
        if let Creation::AlreadyExists = bucket.create(&key, update).await? {
            let pin = Pin { etag: None, sha256: pinned.update.sha256, size: pinned.update.size };
            match bucket.get_pinned(&key, &pin).await.map_err(anyhow::Error::from) {
                Ok(_) => {}
                Err(error) if is_another(&error) => return Ok(Err(changed(peer))),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(pinned))
    }
}

/// Whether an object is there, and another one than was asked for.
fn is_another(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<BucketError>();
    matches!(error, Some(BucketError::SizeMismatch { .. } | BucketError::DigestMismatch { .. }))
}

/// Of a peer of whom another update is mirrored than its receipt promises.
fn changed(peer: PeerId) -> Exclusion {
    Exclusion::new(peer, Reason::Unavailable, "another update of it is mirrored than its receipt promises")
}

/// Why a look at a peer's bucket brought nothing that counts.
enum Refusal {
    /// Nothing that the peer does later can mend it.
    Now(Exclusion),
    /// A later look may find it.
    Perhaps(Exclusion),
}

/// A receipt in its peer's bucket that passed the checks.
struct Seen {
    receipt: Signed<Receipt>,
    bytes: Bytes,
    received_at: Timestamp,
}

/// A receipt that is mirrored: nothing else of that peer can count in its window.
struct Promise {
    peer: PeerId,
    receipt: Signed<Receipt>,
    bytes: Bytes,
    received_at: Timestamp,
    mirrored_at: Timestamp,
}

/// An update that passed the decoder.
struct Fetched {
    update: Bytes,
    pinned: Pinned,
}

impl Promise {
    fn pinned(&self, etag: String, content: Digest) -> Pinned {
        Pinned {
            peer: self.peer,
            update: self.receipt.record.update.clone(),
            etag,
            receipt: self.receipt.digest,
            received_at: self.received_at,
            mirrored_at: self.mirrored_at,
            content,
            start_losses: self.receipt.record.start_losses.clone(),
        }
    }
}
