//! A run as large as one likes that nobody has trained: a server that makes each record when it is asked for.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use brigade_bucket::keys::RunKey;
use brigade_protocol::gauntlet::{Gauntlet, Standing};
use brigade_protocol::{
    Close, Compression, Cutoff, Digest, Envelope, Exclusion, FilePin, Improvement, Join, Manifest, Member,
    ModelConfig, Official, Open, Outer, PeerId, PeerScore, Pinned, Reason, Record, Role, Roster, Scores,
    Scoring, Share, SigningKey, Timestamp, Training, Validator, Verdict, Windows,
};

/// What a stranger would have a terminal, a browser or a spreadsheet do.
pub const HOSTILE: &str =
    "3 s after the deadline \u{1b}[2J\u{9b}2J\u{202e}<img src=x onerror=document.title='owned'>,\"=cmd()\"";

/// When the first window opened, in milliseconds since the Unix epoch.
const BEGUN: u64 = 1_790_000_000_000;
/// From one window's opening to the next one's.
const WINDOW_MS: u64 = 1_200_000;

pub struct Synthetic {
    pub url: String,
    state: Arc<State>,
}

struct State {
    peers: Vec<PeerId>,
    validators: Vec<SigningKey>,
    manifest: (Digest, Vec<u8>),
    roster: (Digest, Vec<u8>),
    /// Windows that are open or closed; the last one is open.
    windows: AtomicU64,
    requests: AtomicU64,
    /// What was made is kept: the server's work is not what is measured.
    made: Mutex<HashMap<String, Option<Arc<Vec<u8>>>>>,
}

impl Synthetic {
    /// A run of `peers` miners that is in its window `windows − 1`, with three validators.
    pub fn start(peers: usize, windows: u64) -> Self {
        let key = |number: usize| SigningKey::from_seed(&Digest::of(number.to_le_bytes()).0);
        let mut ids: Vec<PeerId> = (0..peers).map(|number| key(number + 100).peer_id()).collect();
        ids.sort_unstable();
        let validators: Vec<SigningKey> = (1..4).map(key).collect();
        let roster = roster(&ids, &validators);
        let state = State {
            manifest: manifest(&validators),
            roster: (Digest::of(&roster), roster),
            peers: ids,
            validators,
            windows: AtomicU64::new(windows),
            requests: AtomicU64::new(0),
            made: Mutex::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http%3A%2F%2F{}", listener.local_addr().unwrap());
        let url = format!("s3://run?endpoint={endpoint}&dialect=minio#{}", state.manifest.0);
        let state = Arc::new(state);
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                std::thread::spawn(move || state.serve(&client));
            }
        });
        Self { url, state }
    }

    /// Closes the window that is open, and opens the next one.
    pub fn advance(&self) {
        let open = self.state.windows.fetch_add(1, Ordering::SeqCst) - 1;
        let mut made = self.state.made.lock().unwrap();
        for key in [RunKey::Cutoff(open), RunKey::Verdict(open), RunKey::Close(open), RunKey::Open(open + 1)]
        {
            made.remove(&key.to_string());
        }
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    pub fn peer(&self, number: usize) -> PeerId {
        self.state.peers[number]
    }
}

fn aggregator() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn sign<R: Record>(record: R, key: &SigningKey) -> Vec<u8> {
    Envelope::sign(record, key).unwrap().0.to_bytes()
}

fn manifest(validators: &[SigningKey]) -> (Digest, Vec<u8>) {
    let seal_to = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned();
    let validator = |key: &SigningKey| Validator { id: key.peer_id(), seal_to: seal_to.clone(), stake: 1 };
    let manifest = Manifest {
        version: brigade_protocol::FORMAT_VERSION,
        name: "synthetic".into(),
        created_at: Timestamp(BEGUN),
        aggregator: Official { id: aggregator().peer_id(), seal_to: seal_to.clone() },
        validators: validators.iter().map(validator).collect(),
        model: ModelConfig::preset("covenant-72b").unwrap(),
        dataset: Digest::default(),
        training: Training::default(),
        compression: Compression::default(),
        outer: Outer::default(),
        windows: Windows::default(),
        scoring: Scoring::default(),
        gauntlet: Gauntlet::default(),
        initial_state_root: Digest::default(),
    };
    let (envelope, signed) = Envelope::sign(manifest, &aggregator()).unwrap();
    (signed.run(), envelope.to_bytes())
}

fn roster(peers: &[PeerId], validators: &[SigningKey]) -> Vec<u8> {
    let member = |peer: PeerId, role: Role| {
        let join = Join {
            run: Digest::default(),
            role,
            bucket: brigade_protocol::BucketAddress {
                endpoint: None,
                region: "us-east-1".into(),
                bucket: format!("peer-{}", peer.short()),
                prefix: String::new(),
                dialect: brigade_protocol::Dialect::Aws,
            },
            sealed_credentials: "c2VhbGVk".repeat(80),
            joined_at: Timestamp(BEGUN),
        };
        let (join, signed) = Envelope::sign(join, &aggregator()).unwrap();
        Member { peer, role, join, join_digest: signed.digest, missed: 0, active: true }
    };
    let validators = validators.iter().map(|key| member(key.peer_id(), Role::Validator));
    let mut members: Vec<Member> =
        peers.iter().map(|peer| member(*peer, Role::Miner)).chain(validators).collect();
    members.sort_by_key(|member| member.peer);
    serde_json::to_vec(&Roster { members }).unwrap()
}

impl State {
    fn serve(&self, client: &TcpStream) {
        let mut input = BufReader::new(client);
        loop {
            let mut head = String::new();
            loop {
                let before = head.len();
                match input.read_line(&mut head) {
                    Ok(0) | Err(_) => return,
                    Ok(_) if head[before..].trim_end().is_empty() => break,
                    Ok(_) => {}
                }
            }
            self.requests.fetch_add(1, Ordering::SeqCst);
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let body = match target.split_once("?list-type=2") {
                Some(_) => Some(Arc::new(self.list(target))),
                None => self.object(target.strip_prefix("/run/").unwrap_or_default()),
            };
            let (status, body) = match body {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", Arc::new(b"<Error><Code>NoSuchKey</Code></Error>".to_vec())),
            };
            let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
            let mut answer = format!(
                "HTTP/1.1 {status}\r\ndate: {date}\r\netag: \"0123\"\r\nlast-modified: {date}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            if method == "GET" {
                answer.extend_from_slice(&body);
            }
            let mut output = client;
            if output.write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// Every second peer has delivered in the open window.
    fn list(&self, target: &str) -> Vec<u8> {
        let window = self.windows.load(Ordering::SeqCst) - 1;
        let prefix = RunKey::Receipt { window, peer: PeerId([0; 32]) }.to_string();
        let prefix = prefix.rsplit_once('/').unwrap().0;
        let mut text = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        if target.contains(&prefix.replace('/', "%2F")) {
            for peer in self.peers.iter().step_by(2) {
                text += &format!(
                    "<Contents><Key>{prefix}/{peer}.json</Key><LastModified>2026-09-01T00:00:00Z</LastModified><ETag>\"1\"</ETag><Size>9</Size></Contents>"
                );
            }
        }
        (text + "</ListBucketResult>").into_bytes()
    }

    fn object(&self, key: &str) -> Option<Arc<Vec<u8>>> {
        if let Some(known) = self.made.lock().unwrap().get(key) {
            return known.clone();
        }
        let body = self.make(key.parse().ok()?).map(Arc::new);
        self.made.lock().unwrap().insert(key.to_owned(), body.clone());
        body
    }

    fn make(&self, key: RunKey) -> Option<Vec<u8>> {
        let windows = self.windows.load(Ordering::SeqCst);
        match key {
            RunKey::Manifest => Some(self.manifest.1.clone()),
            RunKey::Roster(digest) if digest == self.roster.0 => Some(self.roster.1.clone()),
            RunKey::Open(window) if window < windows => Some(sign(self.open(window), &aggregator())),
            RunKey::Cutoff(window) if window + 1 < windows => Some(sign(self.cutoff(window), &aggregator())),
            RunKey::Verdict(window) if window + 1 < windows => {
                Some(sign(self.verdict(window), &aggregator()))
            }
            RunKey::Close(window) if window + 1 < windows => Some(sign(self.close(window), &aggregator())),
            _ => None,
        }
    }

    fn run(&self) -> Digest {
        self.manifest.0
    }

    fn open(&self, window: u64) -> Open {
        let opened_at = BEGUN + window * WINDOW_MS;
        Open {
            run: self.run(),
            window,
            epoch: 1,
            previous_close: None,
            seed: Digest::of(window.to_le_bytes()),
            opened_at: Timestamp(opened_at),
            deadline: Timestamp(opened_at + WINDOW_MS),
            roster: self.roster.0,
            state_root: Digest::default(),
        }
    }

    /// Of every window another tenth is late.
    fn is_late(window: u64, number: usize) -> bool {
        number as u64 % 10 == window % 10
    }

    fn in_time(&self, window: u64) -> impl Iterator<Item = (usize, PeerId)> {
        let all = self.peers.iter().copied().enumerate();
        all.filter(move |(number, _)| !Self::is_late(window, *number))
    }

    fn excluded(&self, window: u64) -> Vec<Exclusion> {
        let all = self.peers.iter().enumerate().filter(|(number, _)| Self::is_late(window, *number));
        all.map(|(_, peer)| Exclusion { peer: *peer, reason: Reason::Late, detail: HOSTILE.into() }).collect()
    }

    fn cutoff(&self, window: u64) -> Cutoff {
        let opened_at = BEGUN + window * WINDOW_MS;
        let pinned = self.in_time(window).map(|(number, peer)| Pinned {
            peer,
            update: FilePin {
                key: format!("{}/windows/{window:010}/update.bin", self.run()),
                size: 1_200_000_000 + number as u64,
                sha256: Digest::of(b"update"),
                frame: Digest::of(b"frame"),
            },
            etag: "0123456789abcdef0123456789abcdef-72".into(),
            receipt: Digest::of(b"receipt"),
            received_at: Timestamp(opened_at + 900_000 + number as u64 * 1000),
            mirrored_at: Timestamp(opened_at + 901_000 + number as u64 * 1000),
            content: Digest::of(b"content"),
            start_losses: vec![2.0 + 8.0 / (1.0 + window as f32 / 50.0); 4],
        });
        Cutoff {
            run: self.run(),
            window,
            epoch: 1,
            open: Digest::default(),
            cut_at: Timestamp(opened_at + WINDOW_MS - 100_000),
            pinned: pinned.collect(),
            excluded: self.excluded(window),
        }
    }

    fn shares(&self, window: u64) -> Vec<Share> {
        let share = |(_, peer)| Share { peer, weight: 0.005, norm: 1.5, coefficient: 0.005 };
        self.in_time(window).map(share).collect()
    }

    fn verdict(&self, window: u64) -> Verdict {
        let improvement = Some(Improvement { mean: 0.01, standard_error: 0.002, sequences: 8 });
        let score = |(_, peer)| PeerScore {
            peer,
            fault: None,
            assigned: improvement,
            unassigned: improvement,
            merit: improvement,
            trace: improvement,
            start_gap: Some(0.001),
            passes: 44,
        };
        let scores = |key: &SigningKey| {
            let scores = Scores {
                run: self.run(),
                window,
                cutoff: Digest::default(),
                scores: self.in_time(window).map(score).collect(),
                seconds: 61.0,
            };
            Envelope::sign(scores, key).unwrap().0
        };
        let standing = |peer: &PeerId| Standing {
            credit: 8.0,
            windows: u32::try_from(window).unwrap(),
            is_scored: true,
            weight: 1.0 / self.peers.len() as f64,
            contents: vec![Digest::of(b"content"); 4],
            ..Standing::new(*peer)
        };
        Verdict {
            run: self.run(),
            window,
            epoch: 1,
            cutoff: Digest::default(),
            scores: self.validators.iter().map(scores).collect(),
            shares: self.shares(window),
            excluded: Vec::new(),
            standings: self.peers.iter().map(standing).collect(),
        }
    }

    fn close(&self, window: u64) -> Close {
        Close {
            run: self.run(),
            window,
            epoch: 1,
            open: Digest::default(),
            cutoff: Digest::default(),
            verdict: Digest::default(),
            delta: Some(FilePin {
                key: RunKey::Delta(window).to_string(),
                size: 9_000_000_000,
                sha256: Digest::default(),
                frame: Digest::default(),
            }),
            accepted: self.shares(window),
            excluded: self.excluded(window),
            start_state_root: Digest::default(),
            state_root: Digest::default(),
            error_feedback_root: Digest::default(),
            closed_at: Timestamp(BEGUN + (window + 1) * WINDOW_MS - 20_000),
        }
    }
}
