//! The stores that the tests run against: the embedded server, Ceph's RADOS gateway, and moto.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use brigade_bucket::admin::{Admin, Grant};
use brigade_bucket::{BucketAddress, BucketOptions, Credentials, Dialect};

use super::PATIENCE;
use super::ceph::{Ceph as Gateway, CephUser};
use super::moto::Moto;

/// A store with a bucket for the run and one for every participant, and keys as in production.
pub enum Store {
    Embedded(Embedded),
    Ceph(Ceph),
    Moto(Moto),
}

/// An access key and its secret.
#[derive(Clone)]
pub struct Pair {
    pub id: String,
    pub secret: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let id: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { id: format!("KEY{}", id.to_uppercase()), secret: format!("secret-of-{name}-0123456789") }
    }
}

/// Who may do what: every participant writes its own bucket and the lobby and reads the run; its reader reads its
/// bucket; the observer reads everything.
fn key_names(names: &[String]) -> Vec<String> {
    let readers = names.iter().map(|name| format!("{name}-reader"));
    names.iter().cloned().chain(readers).chain(["aggregator".into(), "observer".into()]).collect()
}

impl Store {
    pub fn embedded() -> Self {
        Self::Embedded(Embedded::default())
    }

    pub fn moto() -> Self {
        Self::Moto(Moto::default())
    }

    pub fn ceph() -> Self {
        Self::Ceph(Ceph::default())
    }

    /// Starts the store, and makes buckets and keys for `names`.
    pub fn open(&mut self, dir: &Path, names: &[String]) {
        match self {
            Self::Embedded(store) => store.open(dir, names),
            Self::Ceph(store) => store.open(names),
            Self::Moto(store) => store.open(names),
        }
    }

    pub fn endpoint(&self) -> &str {
        match self {
            Self::Embedded(store) => &store.endpoint,
            Self::Ceph(store) => &store.endpoint,
            Self::Moto(store) => &store.endpoint,
        }
    }

    pub fn pair(&self, name: &str) -> &Pair {
        match self {
            Self::Embedded(store) => &store.keys[name],
            Self::Ceph(store) => &store.keys[name],
            Self::Moto(store) => &store.keys[name],
        }
    }

    /// `[bucket]` as a settings file spells it, without the head.
    pub fn bucket_toml(&self, bucket: &str, key: &str) -> String {
        let dialect = match self {
            Self::Embedded(_) => "embedded",
            Self::Ceph(_) => "ceph",
            Self::Moto(_) => "minio",
        };
        format!(
            "endpoint = \"{}\"\nbucket = \"{bucket}\"\ndialect = \"{dialect}\"\n{}",
            self.endpoint(),
            self.key_toml(key)
        )
    }

    pub fn key_toml(&self, key: &str) -> String {
        let Pair { id, secret } = self.pair(key);
        format!("access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\n")
    }
}

/// `brigade serve` in a process of its own.
#[derive(Default)]
pub struct Embedded {
    endpoint: String,
    keys: BTreeMap<String, Pair>,
    config: PathBuf,
    process: Option<Child>,
}

impl Embedded {
    fn open(&mut self, dir: &Path, names: &[String]) {
        self.keys = key_names(names).into_iter().map(|name| (name.clone(), Pair::new(&name))).collect();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.endpoint = format!("http://127.0.0.1:{port}");
        let buckets: Vec<_> = names.iter().map(|name| format!("\"peer-{name}\"")).collect();
        let mut text = format!(
            "root = \"store\"\nlisten = \"127.0.0.1:{port}\"\nfsync = false\nbuckets = [\"run\", {}]\n",
            buckets.join(", ")
        );
        for (name, Pair { id, secret }) in &self.keys {
            let grants = match name.as_str() {
                "aggregator" => r#"{ bucket = "run", actions = ["*"] }"#.to_owned(),
                "observer" => r#"{ bucket = "*", actions = ["read", "list"] }"#.to_owned(),
                reader if reader.ends_with("-reader") => {
                    let bucket = reader.trim_end_matches("-reader");
                    format!(r#"{{ bucket = "peer-{bucket}", actions = ["read", "list"] }}"#)
                }
                peer => format!(
                    r#"{{ bucket = "peer-{peer}", actions = ["*"] }}, {{ bucket = "run", actions = ["read", "list"] }}, {{ bucket = "run", prefix = "lobby/", actions = ["write"] }}"#
                ),
            };
            write!(
                text,
                "[[keys]]\naccess_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\ngrants = [{grants}]\n"
            )
            .unwrap();
        }
        self.config = dir.join("server.toml");
        std::fs::write(&self.config, text).unwrap();
        self.start();
    }

    /// Starts the server, again on the same port after [`Embedded::kill`].
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.config.with_extension("log"));
        let process = Command::new(env!("CARGO_BIN_EXE_brigade"))
            .args(["serve", "--stop-with-stdin", "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.process = Some(process.unwrap());
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        let started = std::time::Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < PATIENCE, "the store does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ceph's gateway with a user for every key: owners by policy let others read, as on a cloud provider.
#[derive(Default)]
pub struct Ceph {
    endpoint: String,
    keys: BTreeMap<String, Pair>,
    gateway: Option<Gateway>,
}

impl Ceph {
    fn open(&mut self, names: &[String]) {
        self.keys = key_names(names).into_iter().map(|name| (name.clone(), Pair::new(&name))).collect();
        let users: Vec<CephUser<'_>> = self
            .keys
            .iter()
            .map(|(name, pair)| CephUser { uid: name, access_key: &pair.id, secret_key: &pair.secret })
            .collect();
        let gateway = Gateway::start(&users).unwrap_or_else(|problem| panic!("{problem}"));
        self.endpoint.clone_from(&gateway.endpoint);
        self.gateway = Some(gateway);
        let mut lobby: Vec<Grant> =
            names.iter().map(|name| Grant::read_ceph_user(name).and_write("lobby")).collect();
        lobby.push(Grant::read_ceph_user("observer"));
        self.make("run", "aggregator", &lobby);
        for name in names {
            let readers =
                [Grant::read_ceph_user(&format!("{name}-reader")), Grant::read_ceph_user("observer")];
            self.make(&format!("peer-{name}"), name, &readers);
        }
    }

    fn make(&self, bucket: &str, owner: &str, grants: &[Grant]) {
        let address = BucketAddress {
            endpoint: Some(self.endpoint.clone()),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            prefix: String::new(),
            dialect: Dialect::Ceph,
        };
        let Pair { id, secret } = &self.keys[owner];
        let credentials = Credentials::new(id, secret, None).unwrap();
        let admin = Admin::open(&address, &credentials, BucketOptions::default()).unwrap();
        // The test itself runs on a runtime, which must not be blocked on: another thread has one of its own.
        std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    admin.create_bucket().await.unwrap();
                    admin.grant(grants).await.unwrap();
                });
            });
            making.join().unwrap();
        });
    }
}
