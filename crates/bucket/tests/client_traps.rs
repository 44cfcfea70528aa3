//! The client against a server that misbehaves.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "support/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use brigade_bucket::{
    Access, Bucket, BucketAddress, BucketError, BucketOptions, Creation, Credentials, Dialect, RequestKind,
};
use bytes::Bytes;
use fake::{Fake, Fault, Lies, error};

fn open(fake: &Fake, dialect: Dialect) -> Bucket {
    let address = BucketAddress {
        endpoint: Some(fake.endpoint.clone()),
        region: "us-east-1".into(),
        bucket: "bucket".into(),
        prefix: String::new(),
        dialect,
    };
    let keys = Credentials::new("AKIAEXAMPLE", "verysecretkey", Some("verysecrettoken".into())).unwrap();
    let options = BucketOptions {
        response_timeout: Duration::from_millis(700),
        slowest_rate: 1 << 20,
        max_retries: 2,
        max_backoff: Duration::from_millis(20),
        ..BucketOptions::default()
    };
    Bucket::open(&address, Access::Keys(keys), options).unwrap()
}

async fn with(faults: impl IntoIterator<Item = Fault>) -> (Fake, Bucket) {
    let fake = Fake::start(Lies::default(), faults).await;
    let bucket = open(&fake, Dialect::Minio);
    (fake, bucket)
}

fn count(fake: &Fake, method: &str) -> usize {
    fake.log().iter().filter(|line| line.starts_with(method)).count()
}

const BODY: Bytes = Bytes::from_static(b"ours");

#[tokio::test]
async fn a_conflict_without_a_winner_is_tried_again() {
    let conflict = || Fault::Answer(409, error("ConditionalRequestConflict", "in flight"));
    let (fake, bucket) = with([conflict(), conflict()]).await;
    assert!(bucket.create("key", BODY).await.unwrap().is_created());
    assert_eq!((count(&fake, "PUT"), fake.body("key").unwrap()), (3, b"ours".to_vec()));
}

#[tokio::test]
async fn a_conflict_with_a_winner_is_lost() {
    let (fake, bucket) = with([Fault::RivalThen409]).await;
    assert_eq!(bucket.create("key", BODY).await.unwrap(), Creation::AlreadyExists);
    assert_eq!((count(&fake, "PUT"), fake.body("key").unwrap()), (1, b"rival".to_vec()));
}

#[tokio::test]
async fn an_endless_conflict_is_an_error() {
    let conflicts = vec![Fault::Answer(409, error("ConditionalRequestConflict", "in flight")); 100];
    let (_, bucket) = with(conflicts).await;
    let failed = bucket.create("key", BODY).await.unwrap_err();
    assert!(failed.is_transient(), "{failed}");
}

#[tokio::test]
async fn a_winner_that_hears_nothing_still_knows_that_it_won() {
    for fault in [Fault::CommitThen500, Fault::CommitThenHang, Fault::CommitThenClose] {
        let (fake, bucket) = with([fault.clone()]).await;
        let created = bucket.create("key", BODY).await.unwrap();
        assert!(created.is_created(), "{fault:?}");
        let Creation::Created(stored) = created else { unreachable!() };
        assert_eq!(stored.etag, bucket.head("key").await.unwrap().unwrap().etag);
        assert_eq!(
            bucket.create("key", BODY).await.unwrap(),
            Creation::AlreadyExists,
            "the same bytes, another writer"
        );
        assert_eq!(fake.body("key").unwrap(), b"ours");
    }
}

#[tokio::test]
async fn a_lost_create_is_written_again() {
    let lost = Fault::Answer(500, error("InternalError", "lost"));
    let (fake, bucket) = with([lost.clone(), lost.clone(), lost.clone(), lost]).await;
    assert!(bucket.create("key", BODY).await.unwrap().is_created());
    assert_eq!(fake.body("key").unwrap(), b"ours");
}

#[tokio::test]
async fn an_update_knows_its_own_write() {
    for fault in [Fault::CommitThen500, Fault::CommitThenHang, Fault::CommitThenClose] {
        let (fake, bucket) = with([]).await;
        let first = bucket.put("key", BODY).await.unwrap();
        fake.inject(fault.clone());
        let second = bucket.update("key", Bytes::from_static(b"second"), &first.etag).await.unwrap();
        assert_eq!(second.etag, bucket.head("key").await.unwrap().unwrap().etag, "{fault:?}");
        let stale = bucket.update("key", Bytes::from_static(b"third"), &first.etag).await;
        assert!(matches!(stale, Err(BucketError::Changed { .. })));
        assert_eq!(fake.body("key").unwrap(), b"second");
    }
}

#[tokio::test]
async fn a_probe_finds_every_lie() {
    let honest = Lies::default();
    let probe = |lies: Lies| async move {
        let fake = Fake::start(lies, []).await;
        let result = open(&fake, Dialect::Minio).probe().await;
        assert!(fake.log().last().unwrap().starts_with("DELETE"), "nothing is left behind");
        result
    };
    probe(honest).await.unwrap();
    let ignored = |result: Result<_, BucketError>, what: &str| match result {
        Err(BucketError::ConditionIgnored { condition, .. }) => assert_eq!(condition, what),
        other => panic!("{what}: {other:?}"),
    };
    ignored(probe(Lies { ignores_if_none_match: true, ..honest }).await, "If-None-Match: *");
    ignored(probe(Lies { ignores_if_match: true, ..honest }).await, "If-Match");
    ignored(probe(Lies { ignores_if_match_on_get: true, ..honest }).await, "If-Match (on GET)");
    let dropped = probe(Lies { drops_metadata: true, ..honest }).await.unwrap_err();
    assert!(dropped.to_string().contains("drops object metadata"), "{dropped}");
    let quotes = probe(Lies { wants_bare_etags: true, ..honest }).await.unwrap_err();
    assert!(quotes.to_string().contains("dialect to `ceph`"), "{quotes}");
    let fake = Fake::start(Lies { wants_bare_etags: true, ..honest }, []).await;
    open(&fake, Dialect::Ceph).probe().await.unwrap();
}

#[tokio::test]
async fn refusals_have_names_and_show_no_secret() {
    let cases = [
        (403, error("SignatureDoesNotMatch", "you sent verysecrettoken\r\nand more"), "check key id, secret"),
        (403, error("InvalidAccessKeyId", "who?"), "check key id, secret"),
        (403, error("AccessDenied", "no"), "policy must allow"),
        (403, error("RequestTimeTooSkewed", "late"), "NTP"),
        (404, error("NoSuchBucket", "none"), "create it"),
        (301, error("PermanentRedirect", "elsewhere"), "correct the region"),
        (400, error("InvalidRequest", "bad"), "refuses `key`"),
    ];
    for (status, body, remedy) in cases {
        let (fake, bucket) = with([Fault::Answer(status, body)]).await;
        let refused = bucket.get("key", 10).await.unwrap_err();
        let shown = format!("{refused} {refused:?}");
        assert!(shown.contains(remedy), "{shown}");
        assert!(!shown.contains("verysecret") && !refused.to_string().contains('\n'), "{shown}");
        assert_eq!(fake.log().len(), 1, "a refusal is final");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Fake::start(Lies::default(), []).await;
    let redirect =
        format!("HTTP/1.1 307 X\r\nLocation: {}/bucket/key\r\nContent-Length: 0\r\n\r\n", target.endpoint);
    let (_, bucket) = with([Fault::Raw(redirect.into_bytes())]).await;
    assert!(matches!(bucket.get("key", 10).await, Err(BucketError::WrongRegion { .. })));
    assert!(target.log().is_empty());
}

#[tokio::test]
async fn a_large_object_is_refused_before_its_body() {
    let head = "HTTP/1.1 200 X\r\nContent-Length: 10000000000\r\nETag: \"a\"\r\n\r\nfirst bytes";
    let (_, bucket) = with([Fault::Raw(head.into())]).await;
    let begun = Instant::now();
    let refused = bucket.get("key", 1000).await.unwrap_err();
    assert!(matches!(refused, BucketError::TooLarge { limit: 1000, size: 10_000_000_000, .. }), "{refused}");
    assert!(begun.elapsed() < Duration::from_millis(600));
}

#[tokio::test]
async fn a_body_that_stops_is_taken_up_where_it_stopped() {
    let (fake, bucket) = with([]).await;
    bucket.put("key", Bytes::from_static(b"first bytes and last")).await.unwrap();
    let etag = "0".repeat(31) + "1";
    let head = format!("HTTP/1.1 200 X\r\nContent-Length: 20\r\nETag: \"{etag}\"\r\n\r\nfirst bytes");
    fake.inject(Fault::Raw(head.into()));
    let begun = Instant::now();
    assert_eq!(bucket.get("key", 1000).await.unwrap().bytes, &b"first bytes and last"[..]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(fake.requests().last().unwrap().headers["range"], "bytes=11-19");
}

#[tokio::test]
async fn a_body_that_always_stops_is_a_timeout() {
    let first = "HTTP/1.1 200 X\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\nfirst bytes";
    let more =
        "HTTP/1.1 206 X\r\nContent-Length: 989\r\nContent-Range: bytes 11-999/1000\r\nETag: \"a\"\r\n\r\n";
    let faults = [first, more, more, more, more, more].map(|text| Fault::Raw(text.into()));
    let (fake, bucket) = with(faults).await;
    let begun = Instant::now();
    let stalled = bucket.get("key", 1000).await.unwrap_err();
    assert!(stalled.is_transient(), "{stalled}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(fake.log().len(), 3, "two retries");
}

#[tokio::test]
async fn hostile_responses_neither_panic_nor_fill_memory() {
    let hostile = [
        "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
        "HTTP/1.1 200 X\r\nContent-Length: 5\r\nLast-Modified: yesterday\r\n\r\nhello".into(),
        "HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\nhello".into(),
        "HTTP/1.1 200 X\r\nContent-Length: 5\r\nETag: \"\u{e9}\"\r\nx-amz-meta-a: \u{e9}\r\n\r\nhello".into(),
        "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n".into(),
        "nonsense\r\n\r\n".into(),
        format!("HTTP/1.1 403 X\r\nContent-Length: 100000000\r\n\r\n{}", "x".repeat(1 << 20)),
    ];
    for response in hostile {
        let shown: String = response.chars().take(60).collect();
        let (_, bucket) = with([Fault::Raw(response.into_bytes())]).await;
        let result = bucket.get("key", 10).await;
        assert!(result.is_err(), "{shown:?}: {result:?}");
        let received = bucket.counters().snapshot().bytes_down;
        assert!(received < 256 << 10, "{shown:?}: {received}");
    }
}

#[tokio::test]
async fn an_endless_list_is_cut() {
    let entry = "<Contents><Key>a/b</Key><Size>1</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>";
    let page = format!(
        "<ListBucketResult>{}<NextContinuationToken>again</NextContinuationToken></ListBucketResult>",
        entry.repeat(1000)
    );
    let (fake, bucket) = with(vec![Fault::Answer(200, page); 50]).await;
    assert!(matches!(bucket.list("a", 2500).await, Err(BucketError::TooMany { limit: 2500, .. })));
    assert!(count(&fake, "GET") <= 4, "{:?}", fake.log());
    let outside = "<ListBucketResult><Contents><Key>z/b</Key><Size>1</Size>\
        <LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>";
    let (_, bucket) = with([Fault::Answer(200, outside.into())]).await;
    assert!(matches!(bucket.list("a", 10).await, Err(BucketError::Malformed { .. })));
}

#[tokio::test]
async fn throttling_is_waited_out_and_counted() {
    let busy = || Fault::Answer(503, error("SlowDown", "reduce your request rate"));
    let (_, bucket) = with([busy(), busy()]).await;
    bucket.put("key", Bytes::from_static(b"0123456789")).await.unwrap();
    let traffic = bucket.counters().snapshot();
    assert_eq!((traffic.count(RequestKind::Put), traffic.bytes_up, traffic.failures), (3, 30, 2));
    bucket.get("key", 10).await.unwrap();
    let more = bucket.counters().snapshot();
    assert_eq!((more.count(RequestKind::Get), more.bytes_down - traffic.bytes_down), (1, 10));

    let (_, bucket) = with([busy(), busy(), busy()]).await;
    let throttled = bucket.put("key", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(throttled, BucketError::Throttled { .. }), "{throttled}");
}

#[tokio::test]
async fn nobody_there() {
    let gone = Fake::start(Lies::default(), []).await.at("http://127.0.0.1:1");
    let refused = open(&gone, Dialect::Minio).probe().await.unwrap_err();
    assert!(matches!(&refused, BucketError::Unreachable { .. }), "{refused}");
    assert!(
        refused.to_string().contains("http://127.0.0.1:1") && refused.to_string().contains("refused"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_clock_is_the_servers() {
    let (fake, bucket) = with([]).await;
    assert_eq!(bucket.clock().now(), None);
    fake.set_date("Sun, 06 Nov 1994 08:49:37 GMT");
    let now = bucket.now().await.unwrap();
    assert!((784_111_777_000..784_111_779_000).contains(&now.0), "{now}");
    assert!(bucket.clock().uncertainty().unwrap() < Duration::from_secs(1));
    assert!(bucket.clock().local_lead().unwrap() > 0);
}

#[tokio::test]
async fn secrets_stay_out_of_requests() {
    let (fake, bucket) = with([]).await;
    bucket.put("key", BODY).await.unwrap();
    let request = &fake.requests()[0];
    assert!(request.headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/"));
    assert!(!format!("{request:?}").contains("verysecretkey"));
    assert!(!format!("{bucket:?}").contains("verysecret"));
}
