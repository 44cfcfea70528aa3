//! Who may do what, and how they prove who they are.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{CompletedMultipartUpload, Delete, ObjectIdentifier};
use brigade_bucket::server::{Action, Grant, KeyGrant};

use crate::support::{
    Running, admin, exchange, get, key, noise, put, read_answer, refusal, sdk, secret, signed_head,
};

const DENIED: (u16, &str) = (403, "AccessDenied");

fn denied() -> (u16, String) {
    (DENIED.0, DENIED.1.into())
}

fn readers_and_writers() -> Vec<KeyGrant> {
    vec![
        admin(),
        key("READER", vec![Grant::new("run", [Action::Read, Action::List])]),
        key("OWNER", vec![Grant::new("peer", [Action::All])]),
        key(
            "PART",
            vec![
                Grant::new("run", [Action::Read, Action::Write, Action::Delete, Action::List]).under("mine/"),
            ],
        ),
        key("NOBODY", vec![]),
    ]
}

#[tokio::test]
async fn strangers_are_refused() {
    let server = Running::start().await;
    let unknown = server.sdk_as("WHO").list_buckets().send().await;
    assert_eq!(refusal(unknown), (403, "InvalidAccessKeyId".into()));
    let wrong = sdk(&server.endpoint, "ADMIN", "not the secret").list_buckets().send().await;
    assert_eq!(refusal(wrong), (403, "SignatureDoesNotMatch".into()));

    let address = server.address();
    for (method, path) in
        [("GET", "/"), ("GET", "/run/x"), ("PUT", "/run/x"), ("DELETE", "/run"), ("POST", "/run?delete")]
    {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
        let (status, text) = exchange(address, request.as_bytes()).await;
        assert_eq!(status, 403, "{method} {path}: {text}");
    }
    // Version 2 signatures, in either place.
    let old = format!("GET /run/x HTTP/1.1\r\nhost: {address}\r\nauthorization: AWS ADMIN:c2ln\r\n\r\n");
    assert_eq!(exchange(address, old.as_bytes()).await.0, 400);
    let old = format!(
        "GET /run/x?AWSAccessKeyId=ADMIN&Expires=9999999999&Signature=c2ln HTTP/1.1\r\nhost: {address}\r\n\r\n"
    );
    assert_eq!(exchange(address, old.as_bytes()).await.0, 400);
    // A signature for another path does not open this one.
    let head = signed_head(address, "GET", "/run/y", "", &[], "UNSIGNED-PAYLOAD").replace("/run/y", "/run/x");
    let (status, text) = exchange(address, format!("{head}content-length: 0\r\n\r\n").as_bytes()).await;
    assert!(status == 403 && text.contains("SignatureDoesNotMatch"), "{text}");
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let server = Running::with(readers_and_writers()).await;
    let (all, reader) = (server.sdk(), server.sdk_as("READER"));
    put(&all, "run", "k", b"v".to_vec()).await;
    assert_eq!(get(&reader, "run", "k").await, b"v");
    assert_eq!(reader.list_objects_v2().bucket("run").send().await.unwrap().contents().len(), 1);
    reader.head_bucket().bucket("run").send().await.unwrap();

    let write = reader.put_object().bucket("run").key("k").body(b"w".to_vec().into()).send().await;
    assert_eq!(refusal(write), denied());
    // However large the body, the refusal gets through.
    let large = reader.put_object().bucket("run").key("k").body(noise(1, 8 << 20).into()).send().await;
    assert_eq!(refusal(large), denied());
    assert_eq!(refusal(reader.delete_object().bucket("run").key("k").send().await), denied());
    assert_eq!(refusal(reader.create_multipart_upload().bucket("run").key("m").send().await), denied());
    assert_eq!(
        refusal(reader.copy_object().bucket("run").key("c").copy_source("run/k").send().await),
        denied()
    );
    assert_eq!(refusal(reader.create_bucket().bucket("another").send().await), denied());
    assert_eq!(refusal(reader.delete_bucket().bucket("run").send().await), denied());
    assert_eq!(refusal(reader.delete_bucket_lifecycle().bucket("run").send().await), denied());
    assert_eq!(refusal(reader.get_object().bucket("peer").key("k").send().await), denied());
    assert_eq!(
        reader
            .head_bucket()
            .bucket("peer")
            .send()
            .await
            .unwrap_err()
            .raw_response()
            .unwrap()
            .status()
            .as_u16(),
        403
    );
    assert_eq!(get(&all, "run", "k").await, b"v");
}

#[tokio::test]
async fn a_prefix_bounds_everything() {
    let server = Running::with(readers_and_writers()).await;
    let (all, part) = (server.sdk(), server.sdk_as("PART"));
    put(&all, "run", "others/k", b"v".to_vec()).await;
    put(&part, "run", "mine/k", b"v".to_vec()).await;
    assert_eq!(refusal(part.get_object().bucket("run").key("others/k").send().await), denied());
    assert_eq!(
        refusal(part.put_object().bucket("run").key("mine").body(vec![1].into()).send().await),
        denied()
    );
    assert_eq!(refusal(part.list_objects_v2().bucket("run").send().await), denied());
    assert_eq!(refusal(part.list_objects_v2().bucket("run").prefix("min").send().await), denied());
    assert_eq!(refusal(part.list_objects().bucket("run").prefix("others/").send().await), denied());
    assert_eq!(refusal(part.list_multipart_uploads().bucket("run").send().await), denied());
    let listed = part.list_objects_v2().bucket("run").prefix("mine/").send().await.unwrap();
    assert_eq!(listed.contents().len(), 1);

    let name = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let both = Delete::builder().objects(name("mine/k")).objects(name("others/k")).build().unwrap();
    assert_eq!(refusal(part.delete_objects().bucket("run").delete(both).send().await), denied());
    assert_eq!(get(&all, "run", "mine/k").await, b"v");
    let own = Delete::builder().objects(name("mine/k")).build().unwrap();
    part.delete_objects().bucket("run").delete(own).send().await.unwrap();
    assert_eq!(refusal(all.get_object().bucket("run").key("mine/k").send().await).0, 404);
}

#[tokio::test]
async fn copying_needs_a_grant_on_the_source() {
    let server = Running::with(readers_and_writers()).await;
    let (all, owner) = (server.sdk(), server.sdk_as("OWNER"));
    put(&all, "run", "secret", b"s".to_vec()).await;
    put(&all, "peer", "own", b"o".to_vec()).await;
    let copy = |source: &str| owner.copy_object().bucket("peer").key("copy").copy_source(source);
    copy("peer/own").send().await.unwrap();
    for spelling in ["run/secret", "/run/secret", "run%2Fsecret", "run/secret?versionId=null", "%72un/secret"]
    {
        let refused = refusal(copy(spelling).send().await);
        assert!(refused.0 == 403 || refused.0 == 400, "{spelling}: {refused:?}");
    }
    assert_eq!(refusal(copy("run/secret").send().await), denied());

    let upload = owner.create_multipart_upload().bucket("peer").key("m").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = |source: &str| {
        owner.upload_part_copy().bucket("peer").key("m").upload_id(id).part_number(1).copy_source(source)
    };
    assert_eq!(refusal(part("run/secret").send().await), denied());
    part("peer/own").send().await.unwrap();
    // Somebody else's upload cannot be touched either.
    let stranger = server.sdk_as("READER");
    let complete = stranger.complete_multipart_upload().bucket("peer").key("m").upload_id(id);
    let complete = complete.multipart_upload(CompletedMultipartUpload::builder().build()).send().await;
    assert_eq!(refusal(complete), denied());
    let abort = stranger.abort_multipart_upload().bucket("peer").key("m").upload_id(id).send().await;
    assert_eq!(refusal(abort), denied());
    assert_eq!(refusal(stranger.list_parts().bucket("peer").key("m").upload_id(id).send().await), denied());
}

#[tokio::test]
async fn buckets_are_shown_to_those_with_a_grant() {
    let server = Running::with(readers_and_writers()).await;
    let names = async |client: Client| {
        let listed = client.list_buckets().send().await.unwrap();
        listed.buckets().iter().map(|bucket| bucket.name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(server.sdk()).await, ["peer", "run"]);
    assert_eq!(names(server.sdk_as("READER")).await, ["run"]);
    assert_eq!(names(server.sdk_as("OWNER")).await, ["peer"]);
    assert!(names(server.sdk_as("NOBODY")).await.is_empty());
}

#[tokio::test]
async fn presigned_requests() {
    let server = Running::with(readers_and_writers()).await;
    let soon = || PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let send = async |method: &str, url: &str, body: &str| {
        let path = url.strip_prefix(&server.endpoint).unwrap();
        let address = server.address();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}");
        exchange(address, request.as_bytes()).await
    };
    let url = server.sdk().put_object().bucket("run").key("p").presigned(soon()).await.unwrap();
    let (status, text) = send("PUT", url.uri(), "hello").await;
    assert_eq!(status, 200, "{text}");
    let url = server.sdk_as("READER").get_object().bucket("run").key("p").presigned(soon()).await.unwrap();
    let (status, text) = send("GET", url.uri(), "").await;
    assert!(status == 200 && text.ends_with("hello"), "{text}");

    let tampered = url.uri().replace("/run/p", "/run/q");
    assert_eq!(send("GET", &tampered, "").await.0, 403);
    assert_eq!(send("PUT", url.uri(), "hello").await.0, 403);
    let forged = server.sdk_as("READER").put_object().bucket("run").key("p").presigned(soon()).await.unwrap();
    assert_eq!(send("PUT", forged.uri(), "evil").await.0, 403);
    let past = std::time::SystemTime::now() - Duration::from_secs(120);
    let stale =
        PresigningConfig::builder().start_time(past).expires_in(Duration::from_secs(60)).build().unwrap();
    let url = server.sdk().get_object().bucket("run").key("p").presigned(stale).await.unwrap();
    assert_eq!(send("GET", url.uri(), "").await.0, 403);
    assert_eq!(get(&server.sdk(), "run", "p").await, b"hello");
}

#[tokio::test]
async fn an_old_signature_does_not_open_anything() {
    let server = Running::start().await;
    let address = server.address();
    let head = signed_head(address, "GET", "/run", "", &[], "UNSIGNED-PAYLOAD");
    let today = chrono::Utc::now().format("%Y%m%d").to_string();
    let stale = head.replace(&today, "20200101");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{stale}content-length: 0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (status, text) = read_answer(&mut stream).await;
    assert!(status == 403 && text.contains("RequestTimeTooSkewed"), "{text}");
    assert!(!text.contains(&secret("ADMIN")));
}
