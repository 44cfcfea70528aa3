//! A Ceph RADOS gateway on loopback: a production S3 server that shares no code with ours.
//!
//! One monitor, one OSD that keeps its data in memory, and one gateway, all in a temporary folder, with the users that
//! the caller names. Needs the Debian packages `radosgw ceph-mon ceph-osd`. Only the standard library is used, so that
//! any test can include this file by its path.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What to say when the programs are missing.
const INSTALL: &str = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd";
/// How long each step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A user of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct CephUser<'a> {
    /// The user's id, as in `arn:aws:iam:::user/{uid}`.
    pub uid: &'a str,
    /// The access key id.
    pub access_key: &'a str,
    /// The secret access key.
    pub secret_key: &'a str,
}

/// A running gateway. Its processes end when this is dropped, and also when this process dies in any other way.
#[derive(Debug)]
pub struct Ceph {
    /// `http://127.0.0.1:{port}`.
    pub endpoint: String,
    // Dropped in order: the gateway first, the folder last.
    _processes: Vec<Guarded>,
}

impl Ceph {
    /// Starts everything and waits until the gateway answers.
    ///
    /// # Errors
    /// One line: what is missing and how to install it, or which step failed and the end of its log.
    pub fn start(users: &[CephUser<'_>]) -> Result<Self, String> {
        for program in ["ceph-mon", "ceph-osd", "ceph", "monmaptool", "radosgw", "radosgw-admin"] {
            if find(program).is_none() {
                return Err(format!("`{program}` is not installed; run: {INSTALL}"));
            }
        }
        let folder = new_folder().map_err(|error| format!("no temporary folder: {error}"))?;
        // First in, last out: it removes the folder when all others are gone.
        let mut processes = vec![Guarded::sweep(&folder)?];
        let [gateway, monitor_v2, monitor_v1] = free_ports()?;
        let monitors = format!("[v2:127.0.0.1:{monitor_v2},v1:127.0.0.1:{monitor_v1}]");
        let (cluster, osd) = (uuid()?, uuid()?);
        let conf = folder.join("ceph.conf");
        fs::write(&conf, configuration(&folder, &cluster, &monitors, gateway))
            .map_err(|error| error.to_string())?;
        let step = Step { folder: &folder, conf: &conf };

        let map = folder.join("monmap");
        let map = map.to_string_lossy();
        step.run(
            "monmaptool",
            &["--create", "--clobber", "--fsid", &cluster, "--addv", "a", &monitors, &map],
        )?;
        step.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &map])?;
        processes.insert(0, step.daemon("ceph-mon", &["-i", "a", "-f"])?);
        step.run("ceph", &["--connect-timeout", "120", "osd", "new", &osd])?;
        step.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd])?;
        processes.insert(0, step.daemon("ceph-osd", &["-i", "0", "-f"])?);
        for CephUser { uid, access_key, secret_key } in users {
            let [uid, name] = [format!("--uid={uid}"), format!("--display-name={uid}")];
            let [access, secret] =
                [format!("--access-key={access_key}"), format!("--secret-key={secret_key}")];
            step.run("radosgw-admin", &["user", "create", &uid, &name, &access, &secret])?;
        }
        processes.insert(0, step.daemon("radosgw", &["-f", "-n", "client.rgw"])?);
        step.await_gateway(gateway)?;
        Ok(Self { endpoint: format!("http://127.0.0.1:{gateway}"), _processes: processes })
    }
}

/// No replicas, no authentication between the daemons, everything on loopback and in one folder.
fn configuration(folder: &Path, cluster: &str, monitors: &str, port: u16) -> String {
    let folder = folder.display();
    format!(
        "[global]\n\
         fsid = {cluster}\n\
         mon_host = {monitors}\n\
         public_addr = 127.0.0.1\n\
         cluster_addr = 127.0.0.1\n\
         auth_cluster_required = none\n\
         auth_service_required = none\n\
         auth_client_required = none\n\
         run_dir = {folder}\n\
         admin_socket = {folder}/$name.asok\n\
         log_file = {folder}/$name.log\n\
         mon_allow_pool_size_one = true\n\
         mon_max_pg_per_osd = 2000\n\
         mon_data_avail_crit = 1\n\
         mon_data_avail_warn = 1\n\
         osd_pool_default_size = 1\n\
         osd_pool_default_min_size = 1\n\
         osd_pool_default_pg_num = 4\n\
         osd_pool_default_pg_autoscale_mode = off\n\
         osd_crush_chooseleaf_type = 0\n\
         [mon]\n\
         mon_data = {folder}/mon\n\
         [osd]\n\
         osd_data = {folder}/osd\n\
         osd_objectstore = memstore\n\
         memstore_device_bytes = 2147483648\n\
         [client.rgw]\n\
         # Without these two the gateway asks the monitor for a key and waits for ever.\n\
         ms_mon_client_mode = crc\n\
         auth_client_required = none\n\
         # Without tcp_nodelay every small answer waits 40 ms.\n\
         rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1\n\
         rgw_data = {folder}/rgw\n"
    )
}

struct Step<'a> {
    folder: &'a Path,
    conf: &'a Path,
}

impl Step<'_> {
    /// Runs a program to its end, within [`PATIENCE`].
    fn run(&self, program: &str, args: &[&str]) -> Result<(), String> {
        let mut child =
            self.command(program, program, args)?.spawn().map_err(|e| format!("{program}: {e}"))?;
        let begun = Instant::now();
        loop {
            match child.try_wait().map_err(|error| format!("{program}: {error}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{program} ended with {status}: {}", self.tail(program))),
                None if begun.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{program} did not end: {}", self.tail(program)));
                }
                None => sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Starts a program under a shell that ends it when our end of its standard input closes: by our drop, or by our
    /// death, even a violent one.
    fn daemon(&self, program: &str, args: &[&str]) -> Result<Guarded, String> {
        let script = "\"$@\" </dev/null & daemon=$!; cat >/dev/null; kill -9 $daemon; wait $daemon";
        let guarded: Vec<&str> = ["-c", script, "sh", program].iter().chain(args).copied().collect();
        Guarded::spawn(self.command("sh", program, &guarded)?)
    }

    fn command(&self, program: &str, log: &str, args: &[&str]) -> Result<Command, String> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join(format!("{log}.out")));
        let log = log.map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(args).env("CEPH_CONF", self.conf).stdin(Stdio::null()).stdout(log).stderr(errors);
        Ok(command)
    }

    fn await_gateway(&self, port: u16) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if answers(port).unwrap_or(false) {
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        Err(format!("radosgw does not answer: {}", self.tail("radosgw")))
    }

    /// The last words of a program, on one line.
    fn tail(&self, program: &str) -> String {
        let text = fs::read_to_string(self.folder.join(format!("{program}.out"))).unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        words[words.len().saturating_sub(40)..].join(" ")
    }
}

/// A shell that waits for our end of its standard input to close.
#[derive(Debug)]
struct Guarded(Child);

impl Guarded {
    fn spawn(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).spawn().map(Self).map_err(|error| error.to_string())
    }

    fn sweep(folder: &Path) -> Result<Self, String> {
        let mut command = Command::new("sh");
        // The pause lets the daemons end first when all pipes close at once.
        command.args(["-c", "cat >/dev/null; sleep 0.5; rm -rf -- \"$1\"", "sh"]).arg(folder);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::spawn(command)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn answers(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head == b"HTTP/1.1 200")
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Three ports that nobody listens on. Another process may take one before we do; the loopback's range is large.
fn free_ports() -> Result<[u16; 3], String> {
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"));
    let listeners = [bind()?, bind()?, bind()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(|error| error.to_string())?.port();
    }
    Ok(ports)
}

/// A new folder with a short name: a Unix socket's path holds 107 bytes.
fn new_folder() -> std::io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("brigade-ceph-{}-{count}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => {
                for part in ["mon", "osd", "rgw"] {
                    fs::create_dir(folder.join(part))?;
                }
                return Ok(folder);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn uuid() -> Result<String, String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}
