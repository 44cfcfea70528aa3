//! Many writers, one key.

use std::sync::Arc;

use aws_sdk_s3::Client;
use futures::future::join_all;

use crate::support::{Running, get, put};

const WRITERS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twelve_creators_exactly_one_wins() {
    let server = Running::start().await;
    let clients: Vec<_> = (0..WRITERS).map(|_| server.sdk()).collect();
    for round in 0..30 {
        let key = format!("once/{round}");
        let tries = clients.iter().enumerate().map(|(writer, client)| {
            let body = vec![writer as u8; 1000];
            client.put_object().bucket("run").key(&key).if_none_match("*").body(body.into()).send()
        });
        let won: Vec<_> = join_all(tries)
            .await
            .into_iter()
            .enumerate()
            .filter_map(|(writer, result)| match result {
                Ok(_) => Some(writer),
                Err(error) => {
                    let status = error.raw_response().unwrap().status().as_u16();
                    assert_eq!(status, 412, "{error:?}");
                    None
                }
            })
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        assert_eq!(get(&clients[0], "run", &key).await, vec![won[0] as u8; 1000]);
    }
}

async fn increment(client: Client, times: usize) {
    let mut done = 0;
    while done < times {
        let got = client.get_object().bucket("run").key("counter").send().await.unwrap();
        let etag = got.e_tag().unwrap().to_owned();
        let count: u64 =
            String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap().parse().unwrap();
        let next = (count + 1).to_string().into_bytes();
        let put =
            client.put_object().bucket("run").key("counter").if_match(etag).body(next.into()).send().await;
        match put {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(error.raw_response().unwrap().status().as_u16(), 412, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_counters_lose_no_count() {
    let server = Running::start().await;
    put(&server.sdk(), "run", "counter", b"0".to_vec()).await;
    let turns = 8;
    join_all((0..WRITERS).map(|_| tokio::spawn(increment(server.sdk(), turns))))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    assert_eq!(get(&server.sdk(), "run", "counter").await, (WRITERS * turns).to_string().into_bytes());
}

/// A reader sees one version or the other, whole, however often the key is replaced, removed and made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_see_half_of_anything() {
    let server = Running::start().await;
    let client = server.sdk();
    let length = 2_500_000;
    put(&client, "run", "flip", vec![0; length]).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, stop) = (server.sdk(), Arc::clone(&stop));
        async move {
            for version in 1..=40u8 {
                if version % 8 == 0 {
                    client.delete_object().bucket("run").key("flip").send().await.unwrap();
                }
                put(&client, "run", "flip", vec![version; length]).await;
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let (mut reads, mut seen) = (0, std::collections::HashSet::new());
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        match client.get_object().bucket("run").key("flip").send().await {
            Ok(got) => {
                let body = got.body.collect().await.unwrap().to_vec();
                assert_eq!(body.len(), length);
                assert!(body.iter().all(|byte| *byte == body[0]), "two versions in one body");
                seen.insert(body[0]);
                reads += 1;
            }
            Err(error) => assert_eq!(error.raw_response().unwrap().status().as_u16(), 404, "{error:?}"),
        }
    }
    writer.await.unwrap();
    assert!(reads > 5 && seen.len() > 2, "{reads} reads of {} versions prove nothing", seen.len());
}
