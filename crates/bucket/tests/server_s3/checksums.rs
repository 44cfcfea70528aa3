//! A body that is not what its sender says it is changes nothing.

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Running, exchange, get, noise, put, refusal, sha256, signed_head};

const OLD: &[u8] = b"the old object";

async fn with_old_object() -> Running {
    let server = Running::start().await;
    put(&server.sdk(), "run", "k", OLD.to_vec()).await;
    server
}

async fn nothing_changed(server: &Running) {
    assert_eq!(get(&server.sdk(), "run", "k").await, OLD);
    assert!(server.files("/tmp/0").is_empty(), "a temporary file was left behind");
    assert_eq!(server.files("/objects/").len(), 1);
}

/// Makes a request say something false of its body.
type Break = fn(PutObjectFluentBuilder) -> PutObjectFluentBuilder;

#[tokio::test]
async fn wrong_checksums_in_headers() {
    let server = with_old_object().await;
    let client = server.sdk();
    let wrong: [(&str, Break); 6] = [
        ("md5", |put| put.content_md5("1B2M2Y8AsgTpgAmY7PhCfg==")),
        ("crc32", |put| put.checksum_crc32("AAAAAA==")),
        ("crc32c", |put| put.checksum_crc32_c("AAAAAA==")),
        ("crc64nvme", |put| put.checksum_crc64_nvme("AAAAAAAAAAA=")),
        ("sha1", |put| put.checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        ("sha256", |put| put.checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
    ];
    for (name, break_it) in wrong {
        for length in [100, 3_000_000] {
            let body = noise(1, length);
            let put = break_it(client.put_object().bucket("run").key("k").body(body.into())).send().await;
            assert_eq!(refusal(put), (400, "BadDigest".into()), "{name}, {length} bytes");
        }
        nothing_changed(&server).await;
    }
    let put =
        client.put_object().bucket("run").key("k").content_md5("nonsense").body(vec![1].into()).send().await;
    assert_eq!(refusal(put).0, 400);
    nothing_changed(&server).await;
}

#[tokio::test]
async fn right_checksums_of_every_kind_are_kept_and_given_back() {
    let server = Running::start().await;
    let client = server.sdk();
    let body = noise(5, 2_000_000);
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let put = client.put_object().bucket("run").key("k").checksum_algorithm(algorithm.clone());
        put.body(body.clone().into()).send().await.unwrap();
        let got = client
            .get_object()
            .bucket("run")
            .key("k")
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        assert_eq!(got.checksum_type(), Some(&ChecksumType::FullObject));
        let value = match algorithm {
            ChecksumAlgorithm::Crc32 => got.checksum_crc32(),
            ChecksumAlgorithm::Crc32C => got.checksum_crc32_c(),
            ChecksumAlgorithm::Crc64Nvme => got.checksum_crc64_nvme(),
            ChecksumAlgorithm::Sha1 => got.checksum_sha1(),
            _ => got.checksum_sha256(),
        };
        assert!(value.is_some(), "{algorithm:?}");
        // The client compares what it reads with the checksum.
        assert_eq!(got.body.collect().await.unwrap().to_vec(), body);
    }
    // Overwritten without one, the object does not keep the old checksum.
    let address = server.address();
    let head = signed_head(address, "PUT", "/run/k", "", &[], &sha256(b"plain"));
    assert_eq!(exchange(address, format!("{head}content-length: 5\r\n\r\nplain").as_bytes()).await.0, 200);
    let head = client
        .head_object()
        .bucket("run")
        .key("k")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert!(head.checksum_sha256().is_none() && head.checksum_crc32().is_none());
    assert_eq!(get(&client, "run", "k").await, b"plain");
}

#[tokio::test]
async fn the_signed_payload_hash_holds() {
    let server = with_old_object().await;
    let address = server.address();
    let head = signed_head(address, "PUT", "/run/k", "", &[], &sha256(b"right"));
    let (status, text) = exchange(address, format!("{head}content-length: 5\r\n\r\nwrong").as_bytes()).await;
    assert!(status == 400 && text.contains("XAmzContentSHA256Mismatch"), "{text}");
    nothing_changed(&server).await;
}

/// A chunked body whose checksum follows it, as the SDKs send streams.
fn trailed(address: &str, body: &str, trailer: &str) -> String {
    let length = body.len().to_string();
    let headers = [
        ("x-amz-decoded-content-length", length.as_str()),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("content-encoding", "aws-chunked"),
    ];
    let head = signed_head(address, "PUT", "/run/k", "", &headers, "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let framed = format!("{:x}\r\n{body}\r\n0\r\n{trailer}\r\n", body.len());
    format!("{head}content-length: {}\r\n\r\n{framed}", framed.len())
}

#[tokio::test]
async fn checksums_in_trailers() {
    let server = with_old_object().await;
    let address = server.address();
    // CRC-32 of "123456789" is cbf43926.
    for (trailer, what) in
        [("x-amz-checksum-crc32:AAAAAA==\r\n", "wrong"), ("", "missing"), ("x-other:1\r\n", "another")]
    {
        let (status, text) = exchange(address, trailed(address, "123456789", trailer).as_bytes()).await;
        assert_eq!(status, 400, "{what}: {text}");
        nothing_changed(&server).await;
    }
    let good = trailed(address, "123456789", "x-amz-checksum-crc32:y/Q5Jg==\r\n");
    let (status, text) = exchange(address, good.as_bytes()).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(get(&server.sdk(), "run", "k").await, b"123456789");
    let head = server.sdk().head_object().bucket("run").key("k").send().await.unwrap();
    assert_eq!(head.content_encoding(), None);
}

#[tokio::test]
async fn torn_and_lying_bodies() {
    let server = with_old_object().await;
    let address = server.address();
    // The client goes away in the middle.
    let head = signed_head(address, "PUT", "/run/k", "", &[], "UNSIGNED-PAYLOAD");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let half = [format!("{head}content-length: 4000000\r\n\r\n").into_bytes(), noise(3, 2_000_000)].concat();
    stream.write_all(&half).await.unwrap();
    for there in [true, false] {
        let wait = async {
            while server.files("/tmp/0").is_empty() == there {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    nothing_changed(&server).await;
    // A frame that says less, or more, than there is.
    for (declared, body) in [
        ("9", "4\r\n1234\r\n0\r\n\r\n"),
        ("3", "9\r\n123456789\r\n0\r\n\r\n"),
        ("4", "zz\r\n1234\r\n0\r\n\r\n"),
    ] {
        let headers = [("x-amz-decoded-content-length", declared), ("x-amz-trailer", "x-amz-meta-x")];
        let head = signed_head(address, "PUT", "/run/k", "", &headers, "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let (status, text) = exchange(address, request.as_bytes()).await;
        assert_eq!(status, 400, "{declared} {body:?}: {text}");
        nothing_changed(&server).await;
    }
}
