//! The client against the embedded server, over HTTP.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "support/suite.rs"]
mod suite;

use brigade_bucket::server::{Action, Grant, KeyGrant, Server, ServerConfig};
use brigade_bucket::{Access, Bucket, BucketError, BucketOptions, Credentials, Dialect};
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

/// The variable that tells this test's second process where the server is.
const CHILD: &str = "BRIGADE_TEST_ENVIRONMENT_CHILD";

/// Environment variables belong to a process, so the test starts itself again with the ones that it is about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_gives_keys_and_nothing_else() {
    if let Ok(endpoint) = std::env::var(CHILD) {
        let nobody = Credentials::new("NOBODY", "nothing", None).unwrap();
        let site = Site { endpoint, dialect: Dialect::Embedded, owner: nobody.clone(), other: nobody };
        let probed = site.open_as("env-bucket", Access::Environment).probe().await;
        match std::env::var("AWS_ACCESS_KEY_ID") {
            Ok(_) => drop(probed.unwrap()),
            Err(_) => assert!(matches!(probed, Err(BucketError::NoKeys { .. })), "{probed:?}"),
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = site(&folder).await;
    site.make("env-bucket").await;
    let again = || {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "the_environment_gives_keys_and_nothing_else"]).env(CHILD, &site.endpoint);
        child
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_SESSION_TOKEN");
        // None of these may be followed.
        child.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
        child.env("AWS_REGION", "mars-1").env("AWS_SKIP_SIGNATURE", "true").env("AWS_BUCKET", "elsewhere");
        child
    };
    let keyed =
        again().env("AWS_ACCESS_KEY_ID", "OWNER").env("AWS_SECRET_ACCESS_KEY", "ownersecret").output().await;
    let keyed = keyed.unwrap();
    assert!(keyed.status.success(), "{}", String::from_utf8_lossy(&keyed.stdout));
    // A metadata service that is not there.
    let bare = again().env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1").output().await.unwrap();
    assert!(bare.status.success(), "{}", String::from_utf8_lossy(&bare.stdout));
}

/// Plain HTTP needs no certificates, and a machine may have none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_certificates_still_speaks_http() {
    if let Ok(endpoint) = std::env::var(CHILD) {
        let keys = Credentials::new("OWNER", "ownersecret", None).unwrap();
        let site = Site { endpoint, dialect: Dialect::Embedded, owner: keys.clone(), other: keys };
        site.open("bare-bucket").probe().await.unwrap();
        let https = Site { endpoint: "https://s3.example.org".into(), ..site };
        let address = https.address("bare-bucket");
        let refused = Bucket::open(&address, https.owner, BucketOptions::default()).unwrap_err().to_string();
        assert!(refused.contains("ca-certificates"), "{refused}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = site(&folder).await;
    site.make("bare-bucket").await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_machine_without_certificates_still_speaks_http"]).env(CHILD, &site.endpoint);
    child.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nonexistent");
    let child = child.output().await.unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}
