//! Uploads in parts.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
};
use futures::future::join_all;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::support::{Running, get, noise, put, refusal};

const PART: usize = 5 << 20;

async fn begin(client: &Client, key: &str) -> String {
    let upload = client.create_multipart_upload().bucket("run").key(key).send().await.unwrap();
    upload.upload_id().unwrap().to_owned()
}

async fn part(client: &Client, key: &str, id: &str, number: i32, body: Vec<u8>) -> CompletedPart {
    let part =
        client.upload_part().bucket("run").key(key).upload_id(id).part_number(number).body(body.into());
    let part = part.send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .e_tag(part.e_tag().unwrap())
        .set_checksum_crc32(part.checksum_crc32().map(str::to_owned))
        .build()
}

fn complete(
    client: &Client,
    key: &str,
    id: &str,
    parts: Vec<CompletedPart>,
) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder {
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    client.complete_multipart_upload().bucket("run").key(key).upload_id(id).multipart_upload(list)
}

#[tokio::test]
async fn parts_become_one_object() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(1, 2 * PART + 1000);
    let id = begin(&client, "m").await;
    // Out of order, and one of them twice.
    let third = part(&client, "m", &id, 9, body[2 * PART..].to_vec()).await;
    part(&client, "m", &id, 1, noise(9, PART)).await;
    let first = part(&client, "m", &id, 1, body[..PART].to_vec()).await;
    let second = part(&client, "m", &id, 4, body[PART..2 * PART].to_vec()).await;
    part(&client, "m", &id, 5, b"not wanted".to_vec()).await;

    let listed = client.list_parts().bucket("run").key("m").upload_id(&id).send().await.unwrap();
    let numbers: Vec<_> = listed.parts().iter().map(|part| part.part_number().unwrap()).collect();
    assert_eq!(numbers, [1, 4, 5, 9]);
    let page = client.list_parts().bucket("run").key("m").upload_id(&id).max_parts(2).send().await.unwrap();
    assert_eq!((page.is_truncated(), page.next_part_number_marker()), (Some(true), Some("4")));
    let open = client.list_multipart_uploads().bucket("run").send().await.unwrap();
    assert_eq!(open.uploads().len(), 1);
    assert_eq!(refusal(client.head_object().bucket("run").key("m").send().await).0, 404);

    let done =
        complete(&client, "m", &id, vec![first.clone(), second.clone(), third.clone()]).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-3\""), "{:?}", done.e_tag());
    assert_eq!(get(&client, "run", "m").await, body);
    let across =
        client.get_object().bucket("run").key("m").range(format!("bytes={}-{}", PART - 3, 2 * PART + 5));
    let across = across.send().await.unwrap().body.collect().await.unwrap().to_vec();
    assert_eq!(across, body[PART - 3..=2 * PART + 5]);
    let numbered = client.get_object().bucket("run").key("m").part_number(2).send().await.unwrap();
    assert_eq!(numbered.parts_count(), Some(3));
    assert_eq!(numbered.body.collect().await.unwrap().to_vec(), body[PART..2 * PART]);

    assert!(client.list_multipart_uploads().bucket("run").send().await.unwrap().uploads().is_empty());
    assert_eq!(server.files("/uploads/").len(), 3, "parts that were not wanted are gone");
    // A client whose answer was lost asks again.
    let again = complete(&client, "m", &id, vec![first, second, third]).send().await.unwrap();
    assert_eq!(again.e_tag(), done.e_tag());

    put(&client, "run", "m", b"replaced".to_vec()).await;
    for _ in 0..100 {
        if server.files("/uploads/").is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(server.files("/uploads/").is_empty(), "the parts of a replaced object are gone");
    assert_eq!(get(&client, "run", "m").await, b"replaced");
}

#[tokio::test]
async fn what_s3_refuses() {
    let server = Running::start().await;
    let client = server.sdk();
    let id = begin(&client, "m").await;
    let one = part(&client, "m", &id, 1, noise(1, PART)).await;
    let two = part(&client, "m", &id, 2, b"small".to_vec()).await;
    let three = part(&client, "m", &id, 3, b"end".to_vec()).await;
    let refused = async |parts: Vec<CompletedPart>| refusal(complete(&client, "m", &id, parts).send().await);
    assert_eq!(refused(vec![two.clone(), one.clone()]).await, (400, "InvalidPartOrder".into()));
    assert_eq!(refused(vec![one.clone(), one.clone()]).await, (400, "InvalidPartOrder".into()));
    assert_eq!(refused(vec![one.clone(), two.clone(), three.clone()]).await, (400, "EntityTooSmall".into()));
    let wrong = CompletedPart::builder().part_number(1).e_tag("\"0123456789abcdef0123456789abcdef\"").build();
    assert_eq!(refused(vec![wrong]).await, (400, "InvalidPart".into()));
    let never = CompletedPart::builder().part_number(7).e_tag(one.e_tag().unwrap()).build();
    assert_eq!(refused(vec![one.clone(), never]).await, (400, "InvalidPart".into()));
    assert_eq!(refused(vec![]).await.0, 400);
    let size = complete(&client, "m", &id, vec![one.clone(), two.clone()]).mpu_object_size(5).send().await;
    assert_eq!(refusal(size).0, 400);
    for number in [0, 10_001] {
        let bad = client
            .upload_part()
            .bucket("run")
            .key("m")
            .upload_id(&id)
            .part_number(number)
            .body(vec![1].into());
        assert_eq!(refusal(bad.send().await).0, 400, "{number}");
    }
    // The identifier belongs to one key.
    let other =
        client.upload_part().bucket("run").key("n").upload_id(&id).part_number(1).body(vec![1].into());
    assert_eq!(refusal(other.send().await), (404, "NoSuchUpload".into()));
    let bad =
        client.upload_part().bucket("run").key("m").upload_id("../../x").part_number(1).body(vec![1].into());
    assert_eq!(refusal(bad.send().await), (404, "NoSuchUpload".into()));
    let bad = client
        .upload_part()
        .bucket("run")
        .key("m")
        .upload_id(&id)
        .part_number(1)
        .content_md5("1B2M2Y8AsgTpgAmY7PhCfg==");
    assert_eq!(refusal(bad.body(vec![1].into()).send().await), (400, "BadDigest".into()));

    // After all that, the parts are as they were.
    complete(&client, "m", &id, vec![one, three]).send().await.unwrap();
    let id = begin(&client, "gone").await;
    let one = part(&client, "gone", &id, 1, b"x".to_vec()).await;
    client.abort_multipart_upload().bucket("run").key("gone").upload_id(&id).send().await.unwrap();
    let late = complete(&client, "gone", &id, vec![one]).send().await;
    assert_eq!(refusal(late), (404, "NoSuchUpload".into()));
    assert!(server.files("gone").is_empty() && server.files(&id).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_completions_one_creates_the_object() {
    let server = Running::start().await;
    let client = server.sdk();
    for round in 0..5 {
        let key = format!("once/{round}");
        let uploads = join_all((0..6u8).map(|writer| {
            let (client, key) = (client.clone(), key.clone());
            async move {
                let id = begin(&client, &key).await;
                let one = part(&client, &key, &id, 1, vec![writer; 1000]).await;
                (id, one)
            }
        }))
        .await;
        let tries = uploads
            .iter()
            .map(|(id, one)| complete(&client, &key, id, vec![one.clone()]).if_none_match("*").send());
        let results = join_all(tries).await;
        let won: Vec<_> = (0..6).filter(|writer| results[*writer].is_ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        for lost in results.into_iter().filter(Result::is_err) {
            assert_eq!(refusal(lost), (412, "PreconditionFailed".into()));
        }
        assert_eq!(get(&client, "run", &key).await, vec![won[0] as u8; 1000]);
        // The same upload completed by many at once is completed once, and all are told so.
        let id = begin(&client, "same").await;
        let one = part(&client, "same", &id, 1, vec![round; 500]).await;
        let all = join_all((0..6).map(|_| complete(&client, "same", &id, vec![one.clone()]).send())).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(get(&client, "run", "same").await, vec![round; 500]);
    }
}

#[tokio::test]
async fn checksums_of_assembled_objects() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(3, PART + 777);
    for (kind, algorithm) in [
        (ChecksumType::Composite, ChecksumAlgorithm::Crc32),
        (ChecksumType::FullObject, ChecksumAlgorithm::Crc32),
        (ChecksumType::FullObject, ChecksumAlgorithm::Crc64Nvme),
        (ChecksumType::Composite, ChecksumAlgorithm::Sha256),
    ] {
        let upload =
            client.create_multipart_upload().bucket("run").key("c").checksum_algorithm(algorithm.clone());
        let upload = upload.checksum_type(kind.clone()).send().await.unwrap();
        let id = upload.upload_id().unwrap();
        let mut parts = Vec::new();
        for (number, bytes) in [(1, &body[..PART]), (2, &body[PART..])] {
            let part = client.upload_part().bucket("run").key("c").upload_id(id).part_number(number);
            let part =
                part.checksum_algorithm(algorithm.clone()).body(bytes.to_vec().into()).send().await.unwrap();
            parts.push(CompletedPart::builder().part_number(number).e_tag(part.e_tag().unwrap()).build());
        }
        let done = complete(&client, "c", id, parts).send().await.unwrap();
        assert_eq!(done.checksum_type(), Some(&kind), "{algorithm:?}");
        let got = client
            .get_object()
            .bucket("run")
            .key("c")
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        assert_eq!(got.checksum_type(), Some(&kind));
        // Over the whole object, the client compares it as it reads.
        assert_eq!(got.body.collect().await.unwrap().to_vec(), body);
    }
}

#[tokio::test]
async fn the_other_client_streams_in_parts_and_reads_what_was_removed_meanwhile() {
    let server = Running::start().await;
    let store = server.store("run");
    let body = noise(4, 3 * PART);
    let mut upload = store.put_multipart(&"s".into()).await.unwrap();
    for chunk in body.chunks(PART) {
        upload.put_part(PutPayload::from(chunk.to_vec())).await.unwrap();
    }
    upload.complete().await.unwrap();
    let reading = store.get(&"s".into()).await.unwrap();
    store.delete(&"s".into()).await.unwrap();
    assert_eq!(reading.bytes().await.unwrap(), body, "a reader keeps what it began to read");
    for _ in 0..100 {
        if server.files("/uploads/").is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the parts of a deleted object stay: {:?}", server.files("/uploads/"));
}
