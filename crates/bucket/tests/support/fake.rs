//! A small S3 that misbehaves on request: it speaks just enough HTTP to show a client every trap.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with the next request that is not a HEAD.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers without doing anything.
    Answer(u16, String),
    /// Answers with these bytes, then keeps the connection open in silence.
    Raw(Vec<u8>),
    /// Does what is asked, and answers 500.
    CommitThen500,
    /// Does what is asked, and never answers.
    CommitThenHang,
    /// Does what is asked, and closes the connection.
    CommitThenClose,
    /// Lets another writer win, and answers 409.
    RivalThen409,
}

/// Which promises the server breaks throughout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    pub ignores_if_none_match: bool,
    pub ignores_if_match: bool,
    pub ignores_if_match_on_get: bool,
    pub drops_metadata: bool,
    pub wants_bare_etags: bool,
}

#[derive(Clone, Debug)]
struct Stored {
    body: Vec<u8>,
    etag: u64,
    token: Option<String>,
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Stored>,
    faults: VecDeque<Fault>,
    log: Vec<Request>,
    etags: u64,
    lies: Lies,
    date: Option<String>,
}

/// The server; it stops with the runtime.
#[derive(Clone)]
pub struct Fake {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub async fn start(lies: Lies, faults: impl IntoIterator<Item = Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = State { lies, faults: faults.into_iter().collect(), ..State::default() };
        let fake = Self { endpoint, state: Arc::new(Mutex::new(state)) };
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        fake
    }

    /// The requests so far, as `METHOD target`.
    pub fn log(&self) -> Vec<String> {
        self.requests().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    pub fn body(&self, key: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().objects.get(&format!("/bucket/{key}")).map(|stored| stored.body.clone())
    }

    pub fn inject(&self, fault: Fault) {
        self.state.lock().unwrap().faults.push_back(fault);
    }

    /// The same, said to be elsewhere.
    pub fn at(self, endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), ..self }
    }

    pub fn set_date(&self, date: &str) {
        self.state.lock().unwrap().date = Some(date.to_owned());
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read_request(&mut stream).await {
            let reply = self.answer(&request);
            let (bytes, then) = reply;
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            match then {
                Then::Go => {}
                Then::Close => return,
                Then::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
            }
        }
    }

    fn answer(&self, request: &Request) -> (Vec<u8>, Then) {
        let mut state = self.state.lock().unwrap();
        state.log.push(request.clone());
        let head = request.method == "HEAD";
        let fault = if head { None } else { state.faults.pop_front() };
        let date = state.date.clone();
        let date = date.as_deref();
        match fault {
            None => (state.act(request).bytes(head, date), Then::Go),
            Some(Fault::Answer(status, body)) => (Reply::new(status, body).bytes(head, date), Then::Go),
            Some(Fault::Raw(bytes)) => (bytes, Then::Hang),
            Some(Fault::CommitThen500) => {
                state.act(request);
                (Reply::new(500, error("InternalError", "try again")).bytes(head, date), Then::Go)
            }
            Some(Fault::CommitThenHang) => {
                state.act(request);
                (Vec::new(), Then::Hang)
            }
            Some(Fault::CommitThenClose) => {
                state.act(request);
                (Vec::new(), Then::Close)
            }
            Some(Fault::RivalThen409) => {
                let rival = Stored { body: b"rival".to_vec(), etag: 999, token: Some("rival".into()) };
                state.objects.insert(path(request), rival);
                (
                    Reply::new(409, error("ConditionalRequestConflict", "in flight")).bytes(head, date),
                    Then::Go,
                )
            }
        }
    }
}

enum Then {
    Go,
    Close,
    Hang,
}

impl State {
    fn act(&mut self, request: &Request) -> Reply {
        let (path, lies) = (path(request), self.lies);
        let header = |name: &str| request.headers.get(name).cloned();
        let found = self.objects.get(&path).cloned();
        let spelled = |stored: &Stored| {
            if lies.wants_bare_etags {
                format!("{:032x}", stored.etag)
            } else {
                format!("\"{:032x}\"", stored.etag)
            }
        };
        let matches = header("if-match").is_none_or(|etag| found.as_ref().map(spelled) == Some(etag));
        match request.method.as_str() {
            "PUT" => {
                if header("if-none-match").is_some() && found.is_some() && !lies.ignores_if_none_match {
                    return Reply::new(412, error("PreconditionFailed", "exists"));
                }
                if !matches && !lies.ignores_if_match {
                    return Reply::new(412, error("PreconditionFailed", "changed"));
                }
                self.etags += 1;
                let token = header("x-amz-meta-brigade-write").filter(|_| !lies.drops_metadata);
                let stored = Stored { body: request.body.clone(), etag: self.etags, token };
                self.objects.insert(path, stored.clone());
                Reply { etag: Some(stored.etag), ..Reply::new(200, String::new()) }
            }
            "GET" | "HEAD" => match found {
                None => Reply::new(404, error("NoSuchKey", "no such key")),
                Some(_) if !matches && !lies.ignores_if_match_on_get => {
                    Reply::new(412, error("PreconditionFailed", "changed"))
                }
                Some(stored) => Reply::object(&stored, header("range").as_deref()),
            },
            "DELETE" => {
                self.objects.remove(&path);
                Reply::new(204, String::new())
            }
            _ => Reply::new(501, error("NotImplemented", "no")),
        }
    }
}

struct Reply {
    status: u16,
    etag: Option<u64>,
    token: Option<String>,
    range: Option<String>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, body: String) -> Self {
        Self { status, etag: None, token: None, range: None, body: body.into_bytes() }
    }

    fn object(stored: &Stored, range: Option<&str>) -> Self {
        let whole = Self {
            etag: Some(stored.etag),
            token: stored.token.clone(),
            body: stored.body.clone(),
            ..Self::new(200, String::new())
        };
        let Some((from, to)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
            return whole;
        };
        let size = stored.body.len();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse::<usize>().unwrap().min(size - 1));
        let body = stored.body[from..=to].to_vec();
        Self { status: 206, range: Some(format!("bytes {from}-{to}/{size}")), body, ..whole }
    }

    fn bytes(self, head: bool, date: Option<&str>) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", self.status, self.body.len());
        if let Some(etag) = self.etag {
            text += &format!("ETag: \"{etag:032x}\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        }
        for (name, value) in [
            ("x-amz-meta-brigade-write", self.token.as_deref()),
            ("Content-Range", self.range.as_deref()),
            ("Date", date),
        ] {
            text += &value.map(|value| format!("{name}: {value}\r\n")).unwrap_or_default();
        }
        let mut bytes = (text + "\r\n").into_bytes();
        if !head && self.status != 204 {
            bytes.extend(self.body);
        }
        bytes
    }
}

/// An S3 error body.
pub fn error(code: &str, message: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
}

fn path(request: &Request) -> String {
    request.target.split('?').next().unwrap().to_owned()
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines.first()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}
