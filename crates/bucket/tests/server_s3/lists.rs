//! Listings: complete, ordered, in pages.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore as _;

use crate::support::{Running, put, refusal};

async fn fill(client: &Client, keys: impl IntoIterator<Item = String>) {
    stream::iter(keys)
        .for_each_concurrent(16, |key| async move { drop(put(client, "run", &key, b"x".to_vec()).await) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_five_hundred_keys() {
    let root = std::sync::Arc::new(crate::support::Root::Temporary(tempfile::tempdir().unwrap()));
    // What this test is about is not durability.
    let config = brigade_bucket::server::ServerConfig { fsync: false, ..crate::support::config(root.path()) };
    let server = Running::over(root, config).await;
    let client = server.sdk();
    let wanted: Vec<_> = (0..2500).map(|number| format!("w/{number:04}/u")).collect();
    fill(&client, wanted.clone()).await;

    let mut found = Vec::new();
    let mut pages = client.list_objects_v2().bucket("run").into_paginator().send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        sizes.push(page.contents().len());
        for object in page.contents() {
            assert_eq!(object.size(), Some(1));
            assert_eq!(object.e_tag(), Some("\"9dd4e461268c8034f5c8564e155c67a6\""));
            assert!(object.last_modified().is_some());
            found.push(object.key().unwrap().to_owned());
        }
    }
    assert_eq!(found, wanted);
    assert_eq!(sizes, [1000, 1000, 500]);

    // Version 1, by markers.
    let (mut found, mut marker) = (Vec::new(), None::<String>);
    loop {
        let page = client.list_objects().bucket("run").max_keys(700).set_marker(marker).send().await.unwrap();
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        if page.is_truncated() != Some(true) {
            break;
        }
        marker = Some(page.next_marker().unwrap().to_owned());
    }
    assert_eq!(found, wanted);

    // Rolled up to windows, by the other client.
    let store = server.store("run");
    let rolled = store.list_with_delimiter(Some(&"w".into())).await.unwrap();
    assert_eq!((rolled.common_prefixes.len(), rolled.objects.len()), (2500, 0));
    let listed: Vec<_> = store.list_with_offset(None, &"w/2490/u".into()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 9);
}

#[tokio::test]
async fn delimiters_starts_and_limits() {
    let server = Running::start().await;
    let client = server.sdk();
    let keys = ["a", "b/1", "b/2", "b0", "c/1/x", "c/2/y", "c0"];
    fill(&client, keys.map(str::to_owned)).await;
    let names =
        async |request: aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder| {
            let page = request.send().await.unwrap();
            let keys: Vec<_> =
                page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect();
            let prefixes: Vec<_> =
                page.common_prefixes().iter().map(|prefix| prefix.prefix().unwrap().to_owned()).collect();
            (keys, prefixes)
        };
    let list = || client.list_objects_v2().bucket("run");
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(list().delimiter("/")).await, (strings(&["a", "b0", "c0"]), strings(&["b/", "c/"])));
    assert_eq!(names(list().delimiter("/").prefix("c/")).await, (vec![], strings(&["c/1/", "c/2/"])));
    assert_eq!(names(list().prefix("b/")).await, (strings(&["b/1", "b/2"]), vec![]));
    assert_eq!(names(list().start_after("b/2")).await.0, strings(&["b0", "c/1/x", "c/2/y", "c0"]));
    assert_eq!(names(list().start_after("b/2").prefix("b")).await.0, strings(&["b0"]));
    assert_eq!(names(list().prefix("nothing")).await, (vec![], vec![]));

    let none = list().max_keys(0).send().await.unwrap();
    assert_eq!((none.key_count(), none.is_truncated()), (Some(0), Some(false)));
    for limit in 1..8 {
        let mut pages = list().delimiter("/").max_keys(limit).into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.unwrap();
            assert!(page.key_count().unwrap() <= limit);
            all.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
            all.extend(page.common_prefixes().iter().map(|prefix| prefix.prefix().unwrap().to_owned()));
        }
        all.sort();
        assert_eq!(all, ["a", "b/", "b0", "c/", "c0"]);
    }
    // Version 1 goes on after a common prefix without repeating it.
    let first = client.list_objects().bucket("run").delimiter("/").max_keys(2).send().await.unwrap();
    assert_eq!(first.next_marker(), Some("b/"));
    let second = client.list_objects().bucket("run").delimiter("/").marker("b/").send().await.unwrap();
    assert_eq!(second.contents()[0].key(), Some("b0"));
    assert_eq!(second.common_prefixes().len(), 1);
}

#[tokio::test]
async fn odd_names_and_odd_requests() {
    let server = Running::start().await;
    let client = server.sdk();
    put(&client, "run", "sp ace/é&<\u{1}", b"x".to_vec()).await;
    let page = client.list_objects_v2().bucket("run").encoding_type(EncodingType::Url).send().await.unwrap();
    assert_eq!(page.contents()[0].key(), Some("sp%20ace/%C3%A9%26%3C%01"));
    for token in ["", "x", "kzz", "kff", "p", &"k00".repeat(10_000)] {
        let result = client.list_objects_v2().bucket("run").continuation_token(token).send().await;
        if let Err(error) = result {
            let status = error.raw_response().unwrap().status().as_u16();
            assert!((400..500).contains(&status), "{token}: {error:?}");
        }
    }
    assert_eq!(refusal(client.list_objects_v2().bucket("run").max_keys(-1).send().await).0, 400);
    assert_eq!(refusal(client.list_objects_v2().bucket("none").send().await), (404, "NoSuchBucket".into()));
}

#[tokio::test]
async fn buckets_come_and_go() {
    let server = Running::start().await;
    let client = server.sdk();
    client.create_bucket().bucket("fresh").send().await.unwrap();
    client.head_bucket().bucket("fresh").send().await.unwrap();
    assert_eq!(
        refusal(client.create_bucket().bucket("fresh").send().await),
        (409, "BucketAlreadyOwnedByYou".into())
    );
    assert_eq!(refusal(client.create_bucket().bucket("UPPER").send().await).0, 400);
    client.get_bucket_location().bucket("fresh").send().await.unwrap();
    let put = client.put_object().bucket("fresh").key("k").body(vec![1].into()).send().await;
    put.unwrap();
    assert_eq!(refusal(client.delete_bucket().bucket("fresh").send().await), (409, "BucketNotEmpty".into()));
    client.delete_object().bucket("fresh").key("k").send().await.unwrap();
    client.delete_bucket().bucket("fresh").send().await.unwrap();
    assert_eq!(refusal(client.delete_bucket().bucket("fresh").send().await), (404, "NoSuchBucket".into()));
    assert!(server.files("buckets/fresh").is_empty());
    client.create_bucket().bucket("fresh").send().await.unwrap();
    assert!(client.list_objects_v2().bucket("fresh").send().await.unwrap().contents().is_empty());
}
