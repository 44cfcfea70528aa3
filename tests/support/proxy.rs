//! A proxy before a store that breaks its promises: it changes what the store answers, or slows it down.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What the proxy does to what passes through.
pub struct Fault {
    /// Changes an answer; the request's head, method and target first, is beside it.
    pub change: fn(&str, &mut Answer),
    /// Bytes a second that pass, both ways.
    pub rate: Option<u64>,
}

impl Default for Fault {
    fn default() -> Self {
        Self { change: |_, _| {}, rate: None }
    }
}

/// An answer on its way back.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn replace(&mut self, status: u16, body: &str) {
        self.status = status;
        self.body = body.as_bytes().to_vec();
        self.set("etag", "\"0123456789abcdef0123456789abcdef\"");
        self.set("content-length", &body.len().to_string());
    }
}

/// Starts a proxy before `endpoint` and returns its own. It ends with the process.
pub fn start(endpoint: &str, fault: Fault) -> String {
    let upstream = endpoint.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = format!("http://{}", listener.local_addr().unwrap());
    let fault = Arc::new(fault);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (upstream, fault) = (upstream.clone(), Arc::clone(&fault));
            std::thread::spawn(move || {
                let server = TcpStream::connect(upstream)?;
                serve(&client, &server, &fault)
            });
        }
    });
    own
}

fn serve(client: &TcpStream, server: &TcpStream, fault: &Fault) -> std::io::Result<()> {
    let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(server));
    while let Some((head, body)) = message(&mut from_client, false)? {
        let mut out = server;
        pass(&mut out, head.as_bytes(), None)?;
        pass(&mut out, &body, fault.rate)?;
        let has_no_body = head.starts_with("HEAD ");
        let Some((answer, body)) = message(&mut from_server, has_no_body)? else { return Ok(()) };
        let mut lines = answer.trim_end().lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut answer = Answer { status: status.unwrap(), headers, body };
        (fault.change)(&head, &mut answer);
        let mut head = format!("HTTP/1.1 {} -\r\n", answer.status);
        answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let mut out = client;
        pass(&mut out, format!("{head}\r\n").as_bytes(), None)?;
        pass(&mut out, &answer.body, fault.rate)?;
    }
    Ok(())
}

/// A head with the empty line after it, and the body that it announces.
fn message(
    from: &mut BufReader<&TcpStream>,
    has_no_body: bool,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head[before..].trim_end().is_empty() {
            break;
        }
    }
    let mut length = head.lines().filter_map(|line| line.split_once(": "));
    let length = length.rfind(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; if has_no_body { 0 } else { length }];
    from.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

fn pass(out: &mut &TcpStream, bytes: &[u8], rate: Option<u64>) -> std::io::Result<()> {
    let Some(rate) = rate else { return out.write_all(bytes) };
    for piece in bytes.chunks(16 << 10) {
        std::thread::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64));
        out.write_all(piece)?;
    }
    Ok(())
}
