//! What was acknowledged survives any end of the server; what was not is there whole or not at all.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, CompletedMultipartUpload, CompletedPart, ExpirationStatus,
    LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
};
use brigade_bucket::server::Server;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{
    Running, config, files, get, noise, put, read_answer, refusal, sdk, secret, signed_head,
};

#[tokio::test]
async fn everything_is_there_after_a_crash() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(1, 3_000_000);
    put(&client, "run", "large", body.clone()).await;
    for version in 0..5 {
        put(&client, "run", "often", vec![version; 100]).await;
    }
    put(&client, "run", "gone", b"x".to_vec()).await;
    client.delete_object().bucket("run").key("gone").send().await.unwrap();
    client
        .put_object()
        .bucket("run")
        .key("meta")
        .metadata("a", "b")
        .body(vec![].into())
        .send()
        .await
        .unwrap();
    client.create_bucket().bucket("third").send().await.unwrap();
    let rule = LifecycleRule::builder()
        .id("old windows")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("windows/").build())
        .expiration(LifecycleExpiration::builder().days(30).build())
        .build()
        .unwrap();
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    client
        .put_bucket_lifecycle_configuration()
        .bucket("run")
        .lifecycle_configuration(rules)
        .send()
        .await
        .unwrap();
    let whole = upload(&client, "whole", 2).await;
    complete(&client, "whole", &whole).await;
    let open = upload(&client, "open", 2).await;
    let before = client.head_object().bucket("run").key("often").send().await.unwrap();

    let server = server.crash_and_restart().await;
    let client = server.sdk();
    assert_eq!(get(&client, "run", "large").await, body);
    assert_eq!(get(&client, "run", "often").await, vec![4; 100]);
    assert_eq!(refusal(client.get_object().bucket("run").key("gone").send().await).0, 404);
    let after = client.head_object().bucket("run").key("often").send().await.unwrap();
    assert_eq!((after.e_tag(), after.last_modified()), (before.e_tag(), before.last_modified()));
    assert_eq!(
        client.head_object().bucket("run").key("meta").send().await.unwrap().metadata().unwrap()["a"],
        "b"
    );
    client.head_bucket().bucket("third").send().await.unwrap();
    let rules = client.get_bucket_lifecycle_configuration().bucket("run").send().await.unwrap();
    assert_eq!(rules.rules()[0].id(), Some("old windows"));
    assert_eq!(get(&client, "run", "whole").await, parts().concat());
    // The upload that was open goes on where it was.
    complete(&client, "open", &open).await;
    assert_eq!(get(&client, "run", "open").await, parts().concat());

    // And once more, after an orderly end.
    let root = Arc::clone(&server.root);
    server.stop().await;
    let server = Running::over(Arc::clone(&root), config(root.path())).await;
    assert_eq!(get(&server.sdk(), "run", "open").await, parts().concat());
    assert_eq!(get(&server.sdk(), "run", "large").await, body);
    put(&server.sdk(), "run", "often", b"again".to_vec()).await;
    assert_eq!(get(&server.sdk(), "run", "often").await, b"again");
}

fn parts() -> [Vec<u8>; 2] {
    [noise(7, 5 << 20), noise(8, 1000)]
}

async fn upload(client: &aws_sdk_s3::Client, key: &str, count: usize) -> (String, Vec<CompletedPart>) {
    let upload = client.create_multipart_upload().bucket("run").key(key).send().await.unwrap();
    let id = upload.upload_id().unwrap().to_owned();
    let mut done = Vec::new();
    for (number, body) in (1..).zip(parts()).take(count) {
        let part =
            client.upload_part().bucket("run").key(key).upload_id(&id).part_number(number).body(body.into());
        let part = part.send().await.unwrap();
        done.push(CompletedPart::builder().part_number(number).e_tag(part.e_tag().unwrap()).build());
    }
    (id, done)
}

async fn complete(client: &aws_sdk_s3::Client, key: &str, (id, parts): &(String, Vec<CompletedPart>)) {
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts.clone())).build();
    let complete =
        client.complete_multipart_upload().bucket("run").key(key).upload_id(id).multipart_upload(list);
    complete.send().await.unwrap();
}

/// Every state that a crash can leave on the disk, made by hand.
#[tokio::test]
async fn remains_are_swept_and_damage_is_set_aside() {
    let server = Running::start().await;
    let client = server.sdk();
    put(&client, "run", "good", b"good".to_vec()).await;
    put(&client, "run", "torn", b"torn body".to_vec()).await;
    put(&client, "run", "twice", b"older".to_vec()).await;
    let older = files(server.root.path(), "/objects/");
    let older: Vec<_> = older.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    put(&client, "run", "twice", b"newer".to_vec()).await;
    let done = upload(&client, "whole", 2).await;
    complete(&client, "whole", &done).await;
    let root = Arc::clone(&server.root);
    server.stop().await;

    // A body that was on its way in.
    std::fs::write(root.path().join("tmp/00000000000000ff"), noise(1, 5000)).unwrap();
    // The old version of a key whose removal had not reached the disk.
    let (bytes, path) = older.iter().find(|(bytes, _)| bytes.starts_with(b"older")).unwrap();
    std::fs::write(path, bytes).unwrap();
    // A record torn in the middle.
    let (bytes, path) = older.iter().find(|(bytes, _)| bytes.starts_with(b"torn body")).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 20]).unwrap();
    // An object's file under another key's name.
    let (bytes, path) = older.iter().find(|(bytes, _)| bytes.starts_with(b"good")).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let foreign = path.with_file_name(format!("{}{}", "00".repeat(32), &name[64..]));
    std::fs::write(&foreign, bytes).unwrap();
    // An upload that was completed but not yet closed, one without its record, and a stray file.
    let uploads = root.path().join("buckets/run/uploads");
    std::fs::create_dir(uploads.join("0123456789abcdef0123456789abcdef")).unwrap();
    std::fs::write(uploads.join("0123456789abcdef0123456789abcdef/00001-0000000000000001-000000000001"), "x")
        .unwrap();
    std::fs::write(uploads.join(&done.0).join("upload"), "anything").unwrap();
    std::fs::write(uploads.join(&done.0).join("00009-0000000000000001-000000000001"), "unused").unwrap();
    std::fs::write(path.with_file_name("README"), "hello").unwrap();

    let server = Running::over(Arc::clone(&root), config(root.path())).await;
    let client = server.sdk();
    assert_eq!(get(&client, "run", "good").await, b"good");
    assert_eq!(get(&client, "run", "twice").await, b"newer");
    assert_eq!(get(&client, "run", "whole").await, parts().concat());
    assert_eq!(refusal(client.get_object().bucket("run").key("torn").send().await).0, 404);
    assert_eq!(client.list_objects_v2().bucket("run").send().await.unwrap().contents().len(), 3);
    assert!(client.list_multipart_uploads().bucket("run").send().await.unwrap().uploads().is_empty());
    assert!(files(root.path(), "/tmp/0").is_empty());
    assert_eq!(files(root.path(), "/objects/").len(), 3);
    assert_eq!(files(root.path(), "/uploads/").len(), 2);
    assert_eq!(files(root.path(), "/damaged/").len(), 3, "the torn, the foreign and the stray one");
    put(&client, "run", "torn", b"whole again".to_vec()).await;
    assert_eq!(get(&client, "run", "torn").await, b"whole again");
}

/// Not a test: the server process that [`a_killed_process_keeps_its_word`] starts and kills. Without the variable
/// that test sets, there is nothing to serve.
#[test]
fn server_process() {
    let Ok(root) = std::env::var("BRIGADE_TEST_SERVER_ROOT") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind(config(std::path::Path::new(&root))).await.unwrap();
        eprintln!("endpoint {}", server.endpoint());
        server.run(std::future::pending()).await;
    });
}

fn spawn_process(root: &std::path::Path) -> (std::process::Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::server_process", "--nocapture"])
        .env("BRIGADE_TEST_SERVER_ROOT", root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let endpoint =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("endpoint ").map(str::to_owned));
    (child, endpoint.expect("the server process did not start"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_keeps_its_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut promised: Vec<(String, u64, usize)> = Vec::new();
    for round in 0..4u64 {
        let (mut child, endpoint) = spawn_process(folder.path());
        let client = sdk(&endpoint, "ADMIN", &secret("ADMIN"));
        for (key, seed, length) in &promised {
            assert_eq!(get(&client, "run", key).await, noise(*seed, *length), "{key}, round {round}");
        }
        let writers = (0..4u64).map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for turn in 0.. {
                    let seed = round * 1_000_000 + writer * 10_000 + turn;
                    let length = if turn % 5 == 0 { 2_000_000 } else { 300 };
                    let key = format!("{round}/{writer}/{turn}");
                    let put = client.put_object().bucket("run").key(&key).if_none_match("*");
                    match put.body(noise(seed, length).into()).send().await {
                        Ok(_) => kept.push((key, seed, length)),
                        Err(_) => break,
                    }
                }
                kept
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::time::sleep(Duration::from_millis(700 + 130 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for writer in writers {
            promised.extend(writer.await.unwrap());
        }
    }
    assert!(promised.len() > 20, "{} writes prove nothing", promised.len());
    let (mut child, endpoint) = spawn_process(folder.path());
    let client = sdk(&endpoint, "ADMIN", &secret("ADMIN"));
    // Those that nobody was promised are whole all the same.
    let mut pages = client.list_objects_v2().bucket("run").into_paginator().send();
    let mut listed = 0;
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let key = object.key().unwrap();
            let numbers: Vec<u64> = key.split('/').map(|part| part.parse().unwrap()).collect();
            let seed = numbers[0] * 1_000_000 + numbers[1] * 10_000 + numbers[2];
            let length = object.size().unwrap() as usize;
            assert_eq!(get(&client, "run", key).await, noise(seed, length), "{key}");
            assert!(length == 300 || length == 2_000_000);
            listed += 1;
        }
    }
    assert!(listed >= promised.len());
    assert!(files(folder.path(), "/damaged/").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn an_orderly_end_lets_a_request_finish() {
    let server = Running::start().await;
    let (root, address) = (Arc::clone(&server.root), server.address().to_owned());
    let body = noise(5, 3_000_000);
    let head = signed_head(&address, "PUT", "/run/late", "", &[], "UNSIGNED-PAYLOAD");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    stream.write_all(&body[..1_000_000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(TcpStream::connect(&address).await.is_err(), "no new connection is accepted");
    assert!(!stopping.is_finished());
    stream.write_all(&body[1_000_000..]).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.0, 200);
    stopping.await.unwrap();
    let server = Running::over(Arc::clone(&root), config(root.path())).await;
    assert_eq!(get(&server.sdk(), "run", "late").await, body);
}
