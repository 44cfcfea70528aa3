//! The client against the embedded server, over HTTP.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "support/suite.rs"]
mod suite;

use brigade_bucket::server::{Action, Grant, KeyGrant, Server, ServerConfig};
use brigade_bucket::{Credentials, Dialect};
use suite::Site;

/// A server of its own for each test; it stops with the test's runtime.
async fn site(folder: &tempfile::TempDir) -> Site {
    let key = |id: &str, secret: &str, bucket: &str| KeyGrant {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        grants: vec![Grant::new(bucket, [Action::All])],
    };
    let keys = vec![key("OWNER", "ownersecret", "*"), key("OTHER", "othersecret", "other*")];
    let server = Server::bind(ServerConfig { keys, ..ServerConfig::new(folder.path()) }).await.unwrap();
    let endpoint = server.endpoint();
    tokio::spawn(server.run(std::future::pending()));
    let keys = |id, secret| Credentials::new(id, secret, None).unwrap();
    let (owner, other) = (keys("OWNER", "ownersecret"), keys("OTHER", "othersecret"));
    Site { endpoint, dialect: Dialect::Embedded, owner, other }
}

macro_rules! against_embedded {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            suite::$name(&site(&folder).await).await;
        }
    )*};
}

against_embedded!(probe, refusals, objects, lists, create_race, update_race, fences, waiting, administration);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    suite::files(&site(&folder).await, scratch.path()).await;
}
