//! One object at a time: what is put comes back, whole or in part, under any name, if the conditions hold.

use aws_sdk_s3::primitives::DateTime;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion,
};

use crate::support::{Running, get, noise, put, refusal};

#[tokio::test]
async fn what_is_put_comes_back_with_its_metadata() {
    let server = Running::start().await;
    let client = server.sdk();
    for (seed, length) in [0, 1, 100, 1 << 20, (1 << 20) + 1, 5_000_000].into_iter().enumerate() {
        let body = noise(seed as u64, length);
        put(&client, "run", "a/key", body.clone()).await;
        assert_eq!(get(&client, "run", "a/key").await, body, "{length} bytes");
    }
    client
        .put_object()
        .bucket("run")
        .key("meta")
        .content_type("application/json")
        .cache_control("no-store")
        .content_encoding("zstd")
        .content_language("en")
        .content_disposition("inline")
        .metadata("window", "17")
        .body(b"{}".to_vec().into())
        .send()
        .await
        .unwrap();
    let head = client.head_object().bucket("run").key("meta").send().await.unwrap();
    assert_eq!(head.content_type(), Some("application/json"));
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.content_encoding(), Some("zstd"));
    assert_eq!(head.content_language(), Some("en"));
    assert_eq!(head.content_disposition(), Some("inline"));
    assert_eq!(head.metadata().unwrap()["window"], "17");
    assert_eq!(head.content_length(), Some(2));
    // MD5 of "{}".
    assert_eq!(head.e_tag(), Some("\"99914b932bd37a50b983c5e7c90ae93b\""));
    assert!(head.last_modified().is_some());

    client.delete_object().bucket("run").key("meta").send().await.unwrap();
    assert_eq!(
        refusal(client.get_object().bucket("run").key("meta").send().await),
        (404, "NoSuchKey".into())
    );
    client.delete_object().bucket("run").key("meta").send().await.unwrap();
    assert_eq!(
        refusal(client.get_object().bucket("none").key("k").send().await),
        (404, "NoSuchBucket".into())
    );
    assert!(server.files("/tmp/0").is_empty(), "a temporary file was left behind");
}

#[tokio::test]
async fn any_key_is_a_name_and_none_is_a_path() {
    let server = Running::start().await;
    let client = server.sdk();
    let long = "k".repeat(1024);
    let names = [
        "a",
        "a/b",
        "a/b/c",
        "a/",
        "a//b",
        "A",
        "../../../etc/passwd",
        ".",
        "..",
        "sp ace/+plus%25 é.bin",
        "日本/😀",
        "tab\tand\nnewline",
        "quote'\"<&>",
        "*?|\\:",
        "~",
        "%00",
        "a%2Fb",
        "#frag?query=1",
        &long,
    ];
    for (seed, name) in names.iter().enumerate() {
        put(&client, "run", name, noise(seed as u64, 64)).await;
    }
    for (seed, name) in names.iter().enumerate() {
        assert_eq!(get(&client, "run", name).await, noise(seed as u64, 64), "{name:?}");
    }
    let listed = client.list_objects_v2().bucket("run").send().await.unwrap();
    let mut found: Vec<_> = listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect();
    let mut wanted: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    let outside: Vec<_> = server.files("passwd");
    assert!(outside.is_empty(), "{outside:?}");

    let too_long = "k".repeat(1025);
    let refused = client.put_object().bucket("run").key(too_long).body(vec![1].into()).send().await;
    assert_eq!(refusal(refused), (400, "KeyTooLongError".into()));
    // `a` beside `a/b`: removing one leaves the other.
    client.delete_object().bucket("run").key("a").send().await.unwrap();
    assert_eq!(get(&client, "run", "a/b").await, noise(1, 64));
}

#[tokio::test]
async fn ranges() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(9, 3_000_000);
    put(&client, "run", "r", body.clone()).await;
    put(&client, "run", "empty", vec![]).await;
    let range = async |range: &str| {
        let got = client.get_object().bucket("run").key("r").range(range).send().await.unwrap();
        let described = got.content_range().unwrap().to_owned();
        (got.body.collect().await.unwrap().to_vec(), described)
    };
    assert_eq!(range("bytes=0-0").await, (body[..1].to_vec(), "bytes 0-0/3000000".into()));
    assert_eq!(
        range("bytes=10-1999999").await,
        (body[10..2_000_000].to_vec(), "bytes 10-1999999/3000000".into())
    );
    assert_eq!(range("bytes=2999990-").await.0, body[2_999_990..]);
    assert_eq!(range("bytes=2999990-9999999").await.0, body[2_999_990..]);
    assert_eq!(range("bytes=-5").await.0, body[2_999_995..]);
    assert_eq!(range("bytes=-9999999").await.0, body);
    for bad in ["bytes=3000000-", "bytes=9999999-99999999", "bytes=-0"] {
        let refused = client.get_object().bucket("run").key("r").range(bad).send().await;
        assert_eq!(refusal(refused), (416, "InvalidRange".into()), "{bad}");
    }
    let refused = client.get_object().bucket("run").key("empty").range("bytes=0-0").send().await;
    assert_eq!(refusal(refused).0, 416);

    let store = server.store("run");
    let suffix = GetOptions { range: Some(GetRange::Suffix(7)), ..GetOptions::default() };
    let got = store.get_opts(&"r".into(), suffix).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), body[3_000_000 - 7..]);
    let many =
        store.get_ranges(&"r".into(), &[0..10, 1_000_000..1_500_000, 2_999_999..3_000_000]).await.unwrap();
    assert_eq!(many[1], body[1_000_000..1_500_000]);
}

#[tokio::test]
async fn conditional_reads() {
    let server = Running::start().await;
    let client = server.sdk();
    let etag = put(&client, "run", "c", b"one".to_vec()).await;
    let bare = etag.trim_matches('"').to_owned();
    let head = client.head_object().bucket("run").key("c").send().await.unwrap();
    let modified = head.last_modified().unwrap().secs();
    let get = || client.get_object().bucket("run").key("c");

    for right in [etag.as_str(), &bare, "*"] {
        get().if_match(right).send().await.unwrap();
    }
    assert_eq!(refusal(get().if_match("\"other\"").send().await), (412, "PreconditionFailed".into()));
    get().if_none_match("\"other\"").send().await.unwrap();
    for same in [etag.as_str(), &bare, "*"] {
        assert_eq!(refusal(get().if_none_match(same).send().await).0, 304);
        let head = client.head_object().bucket("run").key("c").if_none_match(same).send().await;
        assert_eq!(refusal(head).0, 304);
    }
    assert_eq!(refusal(get().if_modified_since(DateTime::from_secs(modified)).send().await).0, 304);
    get().if_modified_since(DateTime::from_secs(modified - 1)).send().await.unwrap();
    get().if_unmodified_since(DateTime::from_secs(modified)).send().await.unwrap();
    assert_eq!(refusal(get().if_unmodified_since(DateTime::from_secs(modified - 1)).send().await).0, 412);
}

#[tokio::test]
async fn conditional_writes() {
    let server = Running::start().await;
    let client = server.sdk();
    let put = |body: &str| client.put_object().bucket("run").key("w").body(body.as_bytes().to_vec().into());
    assert_eq!(refusal(put("x").if_match("\"e\"").send().await), (404, "NoSuchKey".into()));
    let first = put("one").if_none_match("*").send().await.unwrap();
    assert_eq!(refusal(put("two").if_none_match("*").send().await), (412, "PreconditionFailed".into()));
    assert_eq!(refusal(put("two").if_match("\"stale\"").send().await), (412, "PreconditionFailed".into()));
    let second = put("two").if_match(first.e_tag().unwrap()).send().await.unwrap();
    assert_eq!(refusal(put("three").if_match(first.e_tag().unwrap()).send().await).0, 412);
    put("three").if_match(second.e_tag().unwrap().trim_matches('"')).send().await.unwrap();
    assert_eq!(get(&client, "run", "w").await, b"three");
    let stale = client.delete_object().bucket("run").key("w").if_match("\"stale\"").send().await;
    assert_eq!(refusal(stale).0, 412);
    assert_eq!(get(&client, "run", "w").await, b"three");
}

#[tokio::test]
async fn the_other_client_creates_and_updates() {
    let server = Running::start().await;
    let store = server.store("run");
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let made = store.put_opts(&"o".into(), "one".into(), create.clone()).await.unwrap();
    let error = store.put_opts(&"o".into(), "two".into(), create).await.unwrap_err();
    assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
    let update = |e_tag| PutOptions {
        mode: PutMode::Update(UpdateVersion { e_tag, version: None }),
        ..PutOptions::default()
    };
    store.put_opts(&"o".into(), "two".into(), update(made.e_tag.clone())).await.unwrap();
    let error = store.put_opts(&"o".into(), "three".into(), update(made.e_tag)).await.unwrap_err();
    assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
    assert_eq!(store.get(&"o".into()).await.unwrap().bytes().await.unwrap(), "two");
    store.rename(&"o".into(), &"p".into()).await.unwrap();
    assert!(matches!(store.head(&"o".into()).await.unwrap_err(), object_store::Error::NotFound { .. }));
    assert_eq!(store.head(&"p".into()).await.unwrap().size, 3);
}

#[tokio::test]
async fn times_never_fall_and_answers_are_dated() {
    let server = Running::start().await;
    let client = server.sdk();
    let mut last = DateTime::from_secs(0);
    for turn in 0..5 {
        put(&client, "run", &format!("t{turn}"), vec![turn]).await;
        let head = client.head_object().bucket("run").key(format!("t{turn}")).send().await.unwrap();
        assert!(*head.last_modified().unwrap() >= last);
        last = *head.last_modified().unwrap();
    }
    let (status, text) = crate::support::exchange(
        server.address(),
        (crate::support::signed_head(server.address(), "HEAD", "/run/t1", "", &[], "UNSIGNED-PAYLOAD")
            + "content-length: 0\r\nconnection: close\r\n\r\n")
            .as_bytes(),
    )
    .await;
    assert_eq!(status, 200, "{text}");
    assert!(text.to_lowercase().contains("\r\ndate: "), "{text}");
}
