//! Copies, whole and as parts.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};

use crate::support::{Running, get, noise, put, refusal};

#[tokio::test]
async fn a_copy_takes_bytes_and_metadata() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(1, 3_000_000);
    let source = client.put_object().bucket("run").key("a b/é+").content_type("text/x").metadata("n", "1");
    let etag = source.body(body.clone().into()).send().await.unwrap().e_tag().unwrap().to_owned();
    let copied = client
        .copy_object()
        .bucket("peer")
        .key("copy")
        .copy_source("run/a%20b/%C3%A9%2B")
        .send()
        .await
        .unwrap();
    assert_eq!(copied.copy_object_result().unwrap().e_tag(), Some(etag.as_str()));
    assert_eq!(get(&client, "peer", "copy").await, body);
    let head = client.head_object().bucket("peer").key("copy").send().await.unwrap();
    assert_eq!((head.content_type(), head.metadata().unwrap()["n"].as_str()), (Some("text/x"), "1"));

    let replaced = client.copy_object().bucket("peer").key("copy").copy_source("peer/copy");
    assert_eq!(refusal(replaced.clone().send().await), (400, "InvalidRequest".into()));
    let replaced =
        replaced.metadata_directive(MetadataDirective::Replace).content_type("text/y").metadata("n", "2");
    replaced.send().await.unwrap();
    let head = client.head_object().bucket("peer").key("copy").send().await.unwrap();
    assert_eq!((head.content_type(), head.metadata().unwrap()["n"].as_str()), (Some("text/y"), "2"));
    assert_eq!(get(&client, "peer", "copy").await, body);
    let missing = client.copy_object().bucket("peer").key("x").copy_source("run/none").send().await;
    assert_eq!(refusal(missing), (404, "NoSuchKey".into()));
}

#[tokio::test]
async fn conditions_on_both_ends() {
    let server = Running::start().await;
    let client = server.sdk();
    let etag = put(&client, "run", "from", b"v".to_vec()).await;
    let copy = || client.copy_object().bucket("run").key("to").copy_source("run/from");
    assert_eq!(refusal(copy().copy_source_if_match("\"other\"").send().await).0, 412);
    assert_eq!(refusal(copy().copy_source_if_none_match(&etag).send().await).0, 412);
    copy().copy_source_if_match(&etag).send().await.unwrap();
    let once = copy().customize().mutate_request(|request| {
        request.headers_mut().insert("if-none-match", "*");
    });
    assert_eq!(refusal(once.send().await).0, 412);
}

#[tokio::test]
async fn parts_can_be_copied() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(2, 11 << 20);
    put(&client, "run", "from", body.clone()).await;
    let upload = client.create_multipart_upload().bucket("peer").key("to").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let middle = 6 << 20;
    let mut parts = Vec::new();
    for (number, range) in
        [(1, format!("bytes=0-{}", middle - 1)), (2, format!("bytes={middle}-{}", body.len() - 1))]
    {
        let part = client.upload_part_copy().bucket("peer").key("to").upload_id(id).part_number(number);
        let part = part.copy_source("run/from").copy_source_range(range).send().await.unwrap();
        let etag = part.copy_part_result().unwrap().e_tag().unwrap();
        parts.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
    }
    let bad = client.upload_part_copy().bucket("peer").key("to").upload_id(id).part_number(3);
    assert_eq!(refusal(bad.copy_source("run/from").copy_source_range("bytes=99999999-").send().await).0, 416);
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = client.complete_multipart_upload().bucket("peer").key("to").upload_id(id);
    complete.multipart_upload(list).send().await.unwrap();
    assert_eq!(get(&client, "peer", "to").await, body);

    // A copy of an object in parts is an object in one piece.
    client.copy_object().bucket("run").key("again").copy_source("peer/to").send().await.unwrap();
    client.delete_object().bucket("peer").key("to").send().await.unwrap();
    assert_eq!(get(&client, "run", "again").await, body);
    let head = client.head_object().bucket("run").key("again").send().await.unwrap();
    assert!(!head.e_tag().unwrap().contains('-'));
}
