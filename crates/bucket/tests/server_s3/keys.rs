//! Keys that come and go while the server runs.

use brigade_bucket::server::{Action, Grant, KeysFile, ServerConfig};

use crate::support::{Running, config, get, key, put, refusal};

#[tokio::test]
async fn a_miner_joins_and_leaves() {
    let root = std::sync::Arc::new(crate::support::Root::Temporary(tempfile::tempdir().unwrap()));
    let keys_file = root.path().join("keys.toml");
    let config = ServerConfig { keys_file: Some(keys_file.clone()), ..config(root.path()) };
    let server = Running::over(root, config).await;
    let miner = server.sdk_as("MINER");
    let write = || miner.put_object().bucket("peer").key("u").body(b"update".to_vec().into()).send();
    assert_eq!(refusal(write().await), (403, "InvalidAccessKeyId".into()));

    let grants = vec![Grant::new("peer", [Action::Write, Action::Read])];
    KeysFile { keys: vec![key("MINER", grants)] }.write(&keys_file).unwrap();
    write().await.unwrap();
    assert_eq!(get(&miner, "peer", "u").await, b"update");

    // Fewer grants take hold without a restart; so does removal.
    KeysFile { keys: vec![key("MINER", vec![Grant::new("peer", [Action::Read])])] }
        .write(&keys_file)
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(refusal(write().await), (403, "AccessDenied".into()));
    KeysFile::default().write(&keys_file).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(refusal(write().await), (403, "InvalidAccessKeyId".into()));
}

#[tokio::test]
async fn keys_are_replaced_through_the_handle() {
    let server = Running::start().await;
    put(&server.sdk(), "run", "k", b"v".to_vec()).await;
    server.keys.replace(&[key("NEW", vec![Grant::new("run", [Action::Read])])]).unwrap();
    assert_eq!(get(&server.sdk_as("NEW"), "run", "k").await, b"v");
    assert_eq!(refusal(server.sdk().get_object().bucket("run").key("k").send().await).0, 403);
}
