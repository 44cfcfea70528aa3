//! The client against a Ceph gateway: an S3 that somebody else wrote and that people run in production.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "support/ceph.rs"]
mod ceph;
#[path = "support/suite.rs"]
mod suite;

use std::sync::OnceLock;

use brigade_bucket::admin::Grant;
use brigade_bucket::{BucketError, Credentials, Dialect};
use bytes::Bytes;
use ceph::{Ceph, CephUser};
use suite::Site;

/// One gateway for all tests of this file: it takes ten seconds to start.
fn site() -> Site {
    static CEPH: OnceLock<Ceph> = OnceLock::new();
    let users = [("owner", "OWNERKEY", "ownersecret"), ("other", "OTHERKEY", "othersecret")];
    let ceph = CEPH.get_or_init(|| {
        let users = users.map(|(uid, access_key, secret_key)| CephUser { uid, access_key, secret_key });
        Ceph::start(&users).unwrap_or_else(|problem| panic!("{problem}"))
    });
    let [owner, other] = users.map(|(_, id, secret)| Credentials::new(id, secret, None).unwrap());
    Site { endpoint: ceph.endpoint.clone(), dialect: Dialect::Ceph, owner, other }
}

macro_rules! against_ceph {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            suite::$name(&site()).await;
        }
    )*};
}

against_ceph!(probe, refusals, objects, lists, create_race, update_race, fences, waiting, administration);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files() {
    suite::files(&site(), tempfile::tempdir().unwrap().path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_lets_another_user_read_and_write_where_it_says() {
    let site = site();
    let owner = site.make("policy-bucket").await;
    owner.put("manifest.json", Bytes::from_static(b"terms")).await.unwrap();
    let reader = site.open_as("policy-bucket", site.other.clone());
    assert!(matches!(reader.get("manifest.json", 10).await, Err(BucketError::Denied { .. })));
    site.admin("policy-bucket").grant(&[Grant::read_ceph_user("other").and_write("lobby")]).await.unwrap();
    assert_eq!(reader.get("manifest.json", 10).await.unwrap().bytes, &b"terms"[..]);
    reader.probe_read().await.unwrap();
    assert!(reader.try_get("absent", 10).await.unwrap().is_none(), "a missing object is not a refusal");
    assert_eq!(reader.list("", 10).await.unwrap().len(), 1);
    assert!(reader.create("lobby/me.json", Bytes::from_static(b"hello")).await.unwrap().is_created());
    // On Ceph the object belongs to its writer; the bucket's owner must be able to read it all the same.
    assert_eq!(owner.get("lobby/me.json", 10).await.unwrap().bytes, &b"hello"[..]);
    reader.put("lobby/large.json", Bytes::from(vec![7; 6 << 20])).await.unwrap();
    assert_eq!(owner.get("lobby/large.json", 6 << 20).await.unwrap().meta.size, 6 << 20);
    let denied = [
        reader.put("manifest.json", Bytes::from_static(b"mine")).await.map(|_| ()),
        reader.create("windows/x", Bytes::new()).await.map(|_| ()),
        reader.delete("manifest.json").await,
    ];
    for denied in denied {
        assert!(matches!(denied, Err(BucketError::Denied { .. })), "{denied:?}");
    }
    assert_eq!(owner.get("manifest.json", 10).await.unwrap().bytes, &b"terms"[..]);
}
