//! Moto: an emulator of Amazon's S3 that enforces IAM policies.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::PATIENCE;
use super::stores::Pair;

/// A moto server in a process of its own.
#[derive(Default)]
pub struct Moto {
    pub endpoint: String,
    pub keys: BTreeMap<String, Pair>,
    process: Option<Child>,
}

/// The Python that has moto and boto3.
pub fn python() -> Command {
    let python = std::env::var("BRIGADE_TEST_PYTHON").expect("BRIGADE_TEST_PYTHON; `make test` sets it");
    let mut command = Command::new(python);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

impl Moto {
    /// Starts a server that asks nobody for permission.
    pub fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = python();
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            keys: BTreeMap::new(),
            process: Some(process),
        };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "moto does not start");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        moto
    }

    /// Makes buckets and keys for `names`, and enforces their permissions from then on.
    pub fn open(&mut self, names: &[String]) {
        *self = Self::start();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/moto_accounts.py");
        let output = python().arg(script).arg(&self.endpoint).args(names).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let keys: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_slice(&output.stdout).unwrap();
        let pair =
            |pair: &BTreeMap<String, String>| Pair { id: pair["id"].clone(), secret: pair["secret"].clone() };
        self.keys = keys.iter().map(|(name, keys)| (name.clone(), pair(keys))).collect();
    }

    /// From now on the server asks for permission, or does not.
    pub fn enforce(&self, does: bool) {
        let count = if does { "0" } else { "999999" };
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "POST /moto-api/reset-auth HTTP/1.1\r\nhost: {address}\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{count}",
            count.len()
        );
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
