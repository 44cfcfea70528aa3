//! Clients that break the rules, and a disk that fails.

use std::sync::Arc;
use std::time::Duration;

use brigade_bucket::server::{Server, ServerConfig, ServerError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Root, Running, config, exchange, get, noise, put, refusal, sha256, signed_head};

#[tokio::test]
async fn sizes_are_bounded_before_they_are_believed() {
    let root = Arc::new(Root::Temporary(tempfile::tempdir().unwrap()));
    let config = ServerConfig { max_object_bytes: 1_000_000, ..config(root.path()) };
    let server = Running::over(root, config).await;
    let (client, address) = (server.sdk(), server.address());
    put(&client, "run", "fits", noise(1, 1_000_000)).await;
    let large = client.put_object().bucket("run").key("large").body(noise(1, 1_000_001).into()).send().await;
    assert_eq!(refusal(large), (400, "EntityTooLarge".into()));
    // Announced only, and without an end.
    let head = signed_head(address, "PUT", "/run/large", "", &[], "UNSIGNED-PAYLOAD");
    let (status, text) =
        exchange(address, format!("{head}content-length: 99999999999999\r\n\r\n").as_bytes()).await;
    assert!(status == 400 && text.contains("EntityTooLarge"), "{text}");
    let frame = format!("{:x}\r\n{}\r\n", 500_000, "x".repeat(500_000));
    let head = signed_head(address, "PUT", "/run/large", "", &[], &sha256(b"x"));
    let (status, _) = exchange(
        address,
        format!("{head}transfer-encoding: chunked\r\n\r\n{frame}{frame}{frame}").as_bytes(),
    )
    .await;
    assert!((400..500).contains(&status), "{status}");
    let lying = [("x-amz-decoded-content-length", "10"), ("x-amz-trailer", "x-amz-meta-x")];
    let head = signed_head(address, "PUT", "/run/large", "", &lying, "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let framed = format!("7a120\r\n{}\r\n0\r\n\r\n", "x".repeat(500_000));
    let more = format!("{head}content-length: {}\r\n\r\n{framed}", framed.len());
    assert!((400..500).contains(&exchange(address, more.as_bytes()).await.0));
    assert_eq!(refusal(client.head_object().bucket("run").key("large").send().await).0, 404);

    let xml = "<Delete>".to_owned() + &"<Object><Key>k</Key></Object>".repeat(200_000) + "</Delete>";
    let head = signed_head(address, "POST", "/run", "delete=", &[], &sha256(xml.as_bytes()));
    let request = format!("{head}content-length: {}\r\n\r\n{xml}", xml.len());
    let (status, text) = exchange(address, request.as_bytes()).await;
    assert!((400..500).contains(&status), "{status} {text}");
    let fat =
        client.put_object().bucket("run").key("fat").metadata("m", "v".repeat(3000)).body(vec![1].into());
    assert_eq!(refusal(fat.send().await).0, 400);
}

#[tokio::test]
async fn nonsense_is_refused_and_the_server_goes_on() {
    let server = Running::start().await;
    let (client, address) = (server.sdk(), server.address());
    put(&client, "run", "k", b"v".to_vec()).await;
    let deep = "<a>".repeat(100_000);
    let billion = "<?xml version=\"1.0\"?><!DOCTYPE d [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Delete><Object><Key>&b;</Key></Object></Delete>";
    for body in
        ["", "<", "not xml", "<Delete></Delete>", "<Wrong/>", &deep, billion, "<Delete><Object><Key>k</Key>"]
    {
        let head = signed_head(address, "POST", "/run", "delete=", &[], &sha256(body.as_bytes()));
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let (status, text) = exchange(address, request.as_bytes()).await;
        assert!((400..500).contains(&status), "{body:.40}: {text}");
    }
    let raw: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%zz%ff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /run/%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PUT /run/k HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for bytes in raw {
        let (status, text) = exchange(address, bytes).await;
        assert!(status == 0 || (400..500).contains(&status), "{}: {text}", String::from_utf8_lossy(bytes));
    }
    let heads = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-h: y\r\n".repeat(5000));
    assert_eq!(exchange(address, heads.as_bytes()).await.0, 431);
    // A form: refused before its file is read into memory.
    let form = "POST /run HTTP/1.1\r\nhost: x\r\ncontent-type: Multipart/Form-Data; boundary=b\r\ncontent-length: 999999999\r\n\r\n--b";
    let (status, text) = exchange(address, form.as_bytes()).await;
    assert_eq!(status, 501, "{text}");
    for query in ["acl=", "policy=", "replication=", "tagging="] {
        let head = signed_head(address, "GET", "/run", query, &[], "UNSIGNED-PAYLOAD");
        let (status, text) = exchange(address, format!("{head}content-length: 0\r\n\r\n").as_bytes()).await;
        assert_eq!(status, 501, "{query}: {text}");
    }
    let tagged = client.put_object().bucket("run").key("k").tagging("a=b").body(vec![1].into()).send().await;
    assert_eq!(refusal(tagged).0, 501, "what is not kept must not be accepted in silence");
    assert_eq!(get(&client, "run", "k").await, b"v");
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_the_others() {
    let server = Running::start().await;
    let (client, address) = (server.sdk(), server.address());
    let large = noise(1, 20 << 20);
    put(&client, "run", "large", large.clone()).await;
    let mut slow = Vec::new();
    for number in 0..150 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = match number % 3 {
            0 => "PUT /run/slow HTTP/1.1\r\nhost:".to_owned(),
            1 => {
                let head = signed_head(address, "PUT", "/run/slow", "", &[], "UNSIGNED-PAYLOAD");
                format!("{head}content-length: 5000000\r\n\r\nhalf a bo")
            }
            // Asks for much and reads nothing.
            _ => {
                signed_head(address, "GET", "/run/large", "", &[], "UNSIGNED-PAYLOAD")
                    + "content-length: 0\r\n\r\n"
            }
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let work = async {
        for turn in 0..20u8 {
            put(&client, "run", &format!("quick{turn}"), vec![turn; 1000]).await;
        }
        assert_eq!(get(&client, "run", "large").await, large);
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("the slow ones are in the way");
    drop(slow);
}

#[tokio::test]
async fn a_failing_disk_loses_nothing_that_was_there() {
    let server = Running::start().await;
    let client = server.sdk();
    put(&client, "run", "k", b"old".to_vec()).await;
    let (tmp, away) = (server.root.path().join("tmp"), server.root.path().join("away"));
    std::fs::rename(&tmp, &away).unwrap();
    for body in [noise(1, 100), noise(1, 4_000_000)] {
        let refused = client.put_object().bucket("run").key("k").body(body.into()).send().await;
        assert_eq!(refusal(refused), (500, "InternalError".into()));
    }
    assert_eq!(get(&client, "run", "k").await, b"old");
    std::fs::rename(&away, &tmp).unwrap();
    put(&client, "run", "k", b"new".to_vec()).await;
    assert_eq!(get(&client, "run", "k").await, b"new");

    // A file that shrank under the server: the client gets an error or a broken connection, never a short body.
    put(&client, "run", "large", noise(2, 6 << 20)).await;
    let file =
        server.files("/objects/").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let cut = [&bytes[..2 << 20], &bytes[6 << 20..]].concat();
    std::fs::write(&file, cut).unwrap();
    let whole = match client.get_object().bucket("run").key("large").send().await {
        Ok(got) => got.body.collect().await.map(|body| body.to_vec().len()).ok(),
        Err(_) => None,
    };
    assert_eq!(whole, None);
    assert_eq!(get(&client, "run", "k").await, b"new");
}

#[tokio::test]
async fn what_stands_in_the_way_of_starting_is_named() {
    let server = Running::start().await;
    let address = server.address().parse().unwrap();
    let other = tempfile::tempdir().unwrap();
    let taken = Server::bind(ServerConfig { listen: address, ..config(other.path()) }).await.unwrap_err();
    assert!(matches!(taken, ServerError::AddressInUse { .. }));
    assert!(taken.to_string().contains(server.address()) && taken.to_string().contains("listen"), "{taken}");
    let same = Server::bind(config(server.root.path())).await.unwrap_err();
    assert!(matches!(same, ServerError::RootInUse { .. }), "{same}");

    std::fs::write(other.path().join("layout.json"), "{\"layout\":99}").unwrap();
    let newer = Server::bind(config(other.path())).await.unwrap_err();
    assert!(matches!(newer, ServerError::Layout { found: 99, .. }), "{newer}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let blocked = Server::bind(config(file.path())).await.unwrap_err();
    assert!(matches!(blocked, ServerError::Disk { .. }), "{blocked}");
    let folder = tempfile::tempdir().unwrap();
    let bad =
        Server::bind(ServerConfig { buckets: vec!["Not A Bucket".into()], ..config(folder.path()) }).await;
    assert!(bad.unwrap_err().to_string().contains("Not A Bucket"));
}
