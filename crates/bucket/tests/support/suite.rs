//! What every real server must let the client do. Each function takes a site with two users and a bucket of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use brigade_bucket::admin::{Admin, Lifecycle};
use brigade_bucket::{
    Access, Bucket, BucketAddress, BucketError, BucketOptions, Creation, Credentials, Dialect, Fence, Pin,
    PollPolicy, RequestKind,
};
use brigade_protocol::{Digest, Timestamp};
use bytes::Bytes;
use futures::future::join_all;

/// Writers of one race.
const WRITERS: usize = 12;
/// Races one after the other.
const ROUNDS: usize = 20;

/// A server, the owner of its buckets, and another user.
#[derive(Clone, Debug)]
pub struct Site {
    pub endpoint: String,
    pub dialect: Dialect,
    pub owner: Credentials,
    pub other: Credentials,
}

impl Site {
    pub fn address(&self, bucket: &str) -> BucketAddress {
        BucketAddress {
            endpoint: Some(self.endpoint.clone()),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            prefix: String::new(),
            dialect: self.dialect,
        }
    }

    pub fn open(&self, bucket: &str) -> Bucket {
        Bucket::open(&self.address(bucket), self.owner.clone(), options()).unwrap()
    }

    pub fn open_as(&self, bucket: &str, access: impl Into<Access>) -> Bucket {
        Bucket::open(&self.address(bucket), access, options()).unwrap()
    }

    pub fn admin(&self, bucket: &str) -> Admin {
        Admin::open(&self.address(bucket), &self.owner, options()).unwrap()
    }

    /// A new bucket, opened by its owner.
    pub async fn make(&self, bucket: &str) -> Bucket {
        self.admin(bucket).create_bucket().await.unwrap();
        self.open(bucket)
    }
}

fn options() -> BucketOptions {
    // The smallest part that S3 takes.
    BucketOptions { part_size: 5 << 20, max_retries: 3, ..BucketOptions::default() }
}

fn bytes(size: usize, salt: u8) -> Bytes {
    (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ salt).collect::<Vec<_>>().into()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

pub async fn probe(site: &Site) {
    let bucket = site.make("probe-bucket").await;
    let probe = bucket.probe().await.unwrap();
    assert!(probe.local_lead_ms.unwrap().abs() < 2500, "{probe:?}");
    bucket.probe_read().await.unwrap();
    assert!(bucket.list("", 10).await.unwrap().is_empty(), "the probe left something behind");
    let drift = bucket.now().await.unwrap().0.abs_diff(now());
    assert!(drift < 2500, "{drift} ms");
}

pub async fn refusals(site: &Site) {
    let bucket = site.make("refusal-bucket").await;
    bucket.put("key", bytes(10, 0)).await.unwrap();
    let missing = site.open("no-such-bucket").probe().await.unwrap_err();
    assert!(matches!(missing, BucketError::NoSuchBucket { .. }), "{missing}");
    let missing = site.open("no-such-bucket").probe_read().await.unwrap_err();
    assert!(matches!(missing, BucketError::NoSuchBucket { .. }), "{missing}");
    let secret = Credentials::new(site.owner.access_key_id(), "wrongsecret", None).unwrap();
    let unknown = Credentials::new("NOBODY", "wrongsecret", None).unwrap();
    for keys in [secret, unknown] {
        let refused = site.open_as("refusal-bucket", keys.clone()).probe().await.unwrap_err();
        assert!(matches!(refused, BucketError::WrongKeys { .. }), "{refused}");
        assert!(!refused.to_string().contains("wrongsecret"));
        let refused = Admin::open(&site.address("x-bucket"), &keys, options()).unwrap().create_bucket().await;
        assert!(matches!(refused, Err(BucketError::WrongKeys { .. })), "{refused:?}");
    }
    let stranger = site.open_as("refusal-bucket", site.other.clone());
    for refused in [
        stranger.get("key", 10).await.map(|_| ()),
        stranger.put("key", bytes(1, 0)).await.map(|_| ()),
        stranger.list("", 10).await.map(|_| ()),
        stranger.delete("key").await,
        stranger.head("key").await.map(|_| ()),
        stranger.probe().await.map(|_| ()),
        site.open_as("refusal-bucket", Access::Anonymous).get("key", 10).await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(BucketError::Denied { .. })), "{refused:?}");
    }
}

pub async fn objects(site: &Site) {
    let bucket = site.make("object-bucket").await;
    // A little over two parts: the last one is short.
    for size in [0, 1, 5 << 20, (10 << 20) + 3] {
        let body = bytes(size, 7);
        let stored = bucket.put("a/object", body.clone()).await.unwrap();
        assert!(!stored.etag.is_empty(), "{size}");
        let meta = bucket.head("a/object").await.unwrap().unwrap();
        assert_eq!((meta.size, &meta.etag), (size as u64, &stored.etag));
        assert!(meta.last_modified.0.abs_diff(now()) < 60_000);
        let pin = Pin { etag: Some(stored.etag.clone()), sha256: Digest::of(&body), size: size as u64 };
        assert!(bucket.get_pinned("a/object", &pin).await.unwrap() == body, "{size}");
        if size > 3 {
            let part =
                bucket.get_range("a/object", size as u64 - 3..size as u64, Some(&stored.etag)).await.unwrap();
            assert_eq!(part, body.slice(size - 3..));
            let small = bucket.get("a/object", size as u64 - 1).await;
            assert!(matches!(small, Err(BucketError::TooLarge { .. })), "{small:?}");
            let past = bucket.get_range("a/object", size as u64 - 3..size as u64 + 1, None).await;
            assert!(matches!(past, Err(BucketError::SizeMismatch { .. })), "{past:?}");
        }
        bucket.put("a/object", bytes(size + 1, 8)).await.unwrap();
        let swapped = bucket.get_pinned("a/object", &pin).await;
        assert!(matches!(swapped, Err(BucketError::Changed { .. })), "{swapped:?}");
        let gone = Pin { etag: None, ..pin };
        assert!(matches!(bucket.get_pinned("a/object", &gone).await, Err(BucketError::SizeMismatch { .. })));
    }
    let traffic = bucket.counters().snapshot();
    assert!(traffic.bytes_up > 30 << 20 && traffic.bytes_down > 15 << 20, "{traffic:?}");
    assert!(traffic.count(RequestKind::Multipart) >= 4 && traffic.failures == 0, "{traffic:?}");
}

pub async fn lists(site: &Site) {
    let bucket = site.make("list-bucket").await;
    let inner = BucketAddress { prefix: "in/side".into(), ..site.address("list-bucket") };
    let inner = Bucket::open(&inner, site.owner.clone(), options()).unwrap();
    let keys: Vec<String> = (0..25).map(|i| format!("log/{i:010}.json")).collect();
    join_all(keys.iter().map(|key| inner.put(key, bytes(3, 1))))
        .await
        .into_iter()
        .for_each(|put| drop(put.unwrap()));
    inner.put("logs", bytes(1, 0)).await.unwrap();
    bucket.put("log/outside", bytes(1, 0)).await.unwrap();
    let listed =
        |list: Vec<brigade_bucket::ObjectMeta>| list.into_iter().map(|meta| meta.key).collect::<Vec<_>>();
    let all = inner.list("log", 25).await.unwrap();
    let head = inner.head(&keys[0]).await.unwrap().unwrap();
    assert_eq!((&all[0].etag, all[0].size), (&head.etag, 3));
    assert_eq!(listed(all), keys);
    assert!(matches!(inner.list("log", 24).await, Err(BucketError::TooMany { .. })));
    assert_eq!(listed(inner.list_after("log", Some(&keys[9]), 5).await.unwrap()), keys[10..15]);
    assert_eq!(inner.list("", 100).await.unwrap().len(), 26);
    assert_eq!(bucket.list("in", 100).await.unwrap().len(), 26);
    inner.delete(&keys[0]).await.unwrap();
    inner.delete(&keys[0]).await.unwrap();
    assert!(inner.try_get(&keys[0], 10).await.unwrap().is_none());
    assert_eq!(bucket.list("", 100).await.unwrap().len(), 26);
}

/// Of twelve writers with connections of their own, exactly one creates each object, and its bytes stay.
pub async fn create_race(site: &Site) {
    site.make("race-bucket").await;
    let writers: Vec<Bucket> = (0..WRITERS).map(|_| site.open("race-bucket")).collect();
    for round in 0..ROUNDS {
        let key = format!("race/{round:010}.json");
        let race = writers.iter().enumerate().map(|(i, writer)| {
            let (writer, key) = (writer.clone(), key.clone());
            tokio::spawn(async move { writer.create(&key, bytes(1000 + i, i as u8)).await.unwrap() })
        });
        let creations: Vec<Creation> = join_all(race).await.into_iter().map(Result::unwrap).collect();
        let won: Vec<usize> = (0..WRITERS).filter(|&i| creations[i].is_created()).collect();
        assert_eq!(won.len(), 1, "round {round}: {creations:?}");
        let object = writers[0].get(&key, 10_000).await.unwrap();
        assert!(object.bytes == bytes(1000 + won[0], won[0] as u8), "round {round}");
        assert_eq!(creations[won[0]], Creation::Created(brigade_bucket::Stored { etag: object.meta.etag }));
    }
}

/// Eight writers count to eighty together by compare-and-swap.
pub async fn update_race(site: &Site) {
    let bucket = site.make("counter-bucket").await;
    bucket.create("counter", Bytes::from_static(b"0")).await.unwrap();
    let race = (0..8).map(|_| {
        let bucket = site.open("counter-bucket");
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let object = bucket.get("counter", 20).await.unwrap();
                    let count: u32 = std::str::from_utf8(&object.bytes).unwrap().parse().unwrap();
                    match bucket.update("counter", (count + 1).to_string().into(), &object.meta.etag).await {
                        Ok(_) => break,
                        Err(BucketError::Changed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    join_all(race).await.into_iter().for_each(|task| task.unwrap());
    assert_eq!(bucket.get("counter", 20).await.unwrap().bytes, &b"80"[..]);
    let missing = bucket.update("absent", bytes(1, 0), "0123456789abcdef0123456789abcdef").await;
    assert!(matches!(missing, Err(BucketError::Changed { .. })), "{missing:?}");
}

pub async fn fences(site: &Site) {
    let bucket = site.make("fence-bucket").await;
    let race = (0..6).map(|i| {
        let bucket = site.open("fence-bucket");
        tokio::spawn(
            async move { Fence::acquire(&bucket, &format!("racer {i}"), Timestamp(1)).await.unwrap() },
        )
    });
    let fences: Vec<Fence> = join_all(race).await.into_iter().map(Result::unwrap).collect();
    let epochs: BTreeSet<u64> = fences.iter().map(Fence::epoch).collect();
    assert_eq!(epochs, (1..=6).collect());
    for fence in &fences {
        assert_eq!(fence.check().await.is_ok(), fence.epoch() == 6);
    }
    let last = Fence::acquire(&bucket, "last", Timestamp(2)).await.unwrap();
    assert_eq!(last.epoch(), 7);
}

pub async fn waiting(site: &Site) {
    let bucket = site.make("wait-bucket").await;
    let writer = site.open("wait-bucket");
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        writer.create("windows/0000000001/open.json", bytes(10, 3)).await.unwrap();
    });
    let poll = PollPolicy::every(Duration::from_millis(30));
    let object =
        bucket.wait_for("windows/0000000001/open.json", 10, &poll, std::future::pending()).await.unwrap();
    assert_eq!(object.unwrap().bytes, bytes(10, 3));
    late.await.unwrap();
    let polls = bucket.counters().snapshot().count(RequestKind::Get);
    assert!(polls >= 2, "{polls}");
}

pub async fn files(site: &Site, folder: &Path) {
    let bucket = site.make("file-bucket").await;
    let (from, to) = (folder.join("from"), folder.join("to"));
    std::fs::write(&from, bytes((11 << 20) + 5, 9)).unwrap();
    let pin = bucket.put_file("checkpoint", &from).await.unwrap();
    bucket.get_file("checkpoint", &pin, &to).await.unwrap();
    assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
    let swapped = bucket.put_file("checkpoint", &to).await.unwrap();
    assert_eq!((swapped.size, swapped.sha256), (pin.size, pin.sha256));

    // Several writers of one large object: one wins, and its bytes stay.
    let names: Vec<_> = (0..3_u8).map(|i| folder.join(format!("large-{i}"))).collect();
    for (i, name) in names.iter().enumerate() {
        std::fs::write(name, bytes((11 << 20) + 5, i as u8)).unwrap();
    }
    let admin = site.admin("file-bucket");
    let created = join_all(names.iter().map(|name| async {
        // A writer that completes at the same moment as another is told to come again.
        loop {
            match admin.create_large("large", name).await {
                Err(BucketError::Conflict { .. }) => {}
                settled => return settled.unwrap(),
            }
        }
    }));
    let created = created.await;
    let won: Vec<usize> = (0..3).filter(|&i| created[i].is_created()).collect();
    assert_eq!(won.len(), 1, "{created:?}");
    let object = bucket.get("large", 20 << 20).await.unwrap();
    assert!(object.bytes == std::fs::read(&names[won[0]]).unwrap());
    assert_eq!(admin.create_large("large", &names[0]).await.unwrap(), Creation::AlreadyExists);
}

pub async fn administration(site: &Site) {
    let admin = site.admin("admin-bucket");
    admin.create_bucket().await.unwrap();
    admin.create_bucket().await.unwrap();
    let taken =
        Admin::open(&site.address("admin-bucket"), &site.other, options()).unwrap().create_bucket().await;
    assert!(taken.is_err(), "{taken:?}");
    let expire = vec![("windows/".to_owned(), 30), ("probe/".to_owned(), 1)];
    admin.set_lifecycle(&Lifecycle { abort_multipart_days: 2, expire }).await.unwrap();
    let bucket = site.open("admin-bucket");
    join_all((0..12).map(|i| bucket.put(["a", "b"][i % 2], bytes(1, 0)))).await;
    for i in 0..12 {
        bucket.put(&format!("deep/{i}/x"), bytes(1, 0)).await.unwrap();
    }
    assert_eq!(admin.delete_under("deep/").await.unwrap(), 12);
    assert_eq!(bucket.list("", 10).await.unwrap().len(), 2);
    admin.delete_bucket().await.unwrap();
    let gone = bucket.probe_read().await;
    assert!(matches!(gone, Err(BucketError::NoSuchBucket { .. })), "{gone:?}");
}
