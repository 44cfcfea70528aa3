//! The participants as processes: the very commands that users run.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::events::Event;

/// How long a child may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a child that died is started again.
const RESTARTS: u32 = 3;

/// Lines of a child's log that are kept to explain its death.
const LAST_LINES: usize = 3;

/// What a child is told to run.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Who it is: `aggregator`, `miner-0`, …
    pub(super) name: String,
    /// Arguments of this very program.
    pub(super) args: Vec<String>,
    /// Where its log and its events are kept.
    pub(super) folder: PathBuf,
}

/// What is heard from a child.
#[derive(Debug)]
pub(super) enum Heard {
    /// An event from its standard output.
    Event(Event),
    /// It is gone; its last words.
    Ended { ok: bool, last_words: String },
}

/// Running children. They end when this is dropped, also when the parent is killed: their standard input ends.
#[derive(Debug)]
pub(super) struct Children {
    program: PathBuf,
    running: Vec<(Spec, u32, Running)>,
    heard: mpsc::UnboundedSender<(String, Heard)>,
}

#[derive(Debug)]
struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Children {
    pub(super) fn new() -> anyhow::Result<(Self, mpsc::UnboundedReceiver<(String, Heard)>)> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let (heard, inbox) = mpsc::unbounded_channel();
        Ok((Self { program, running: Vec::new(), heard }, inbox))
    }

    /// Starts a child.
    ///
    /// # Errors
    /// When the program or the child's log cannot be opened.
    pub(super) fn start(&mut self, spec: Spec) -> anyhow::Result<()> {
        let running = launch(&self.program, &spec, self.heard.clone())?;
        self.running.push((spec, 0, running));
        Ok(())
    }

    /// Starts a dead child again, unless it has died too often. Says whether it did.
    ///
    /// # Errors
    /// As [`Children::start`].
    pub(super) fn restart(&mut self, name: &str) -> anyhow::Result<bool> {
        let Some((spec, restarts, running)) = self.running.iter_mut().find(|(spec, ..)| spec.name == name)
        else {
            return Ok(false);
        };
        if *restarts >= RESTARTS {
            return Ok(false);
        }
        *restarts += 1;
        *running = launch(&self.program, spec, self.heard.clone())?;
        Ok(true)
    }

    /// Asks all children to stop, the last started first, and waits until they have.
    pub(super) async fn stop(mut self) {
        while let Some((_, _, Running { stop, ended })) = self.running.pop() {
            let _ = stop.send(());
            let _ = ended.await;
        }
    }
}

fn launch(
    program: &Path,
    spec: &Spec,
    heard: mpsc::UnboundedSender<(String, Heard)>,
) -> anyhow::Result<Running> {
    std::fs::create_dir_all(&spec.folder)?;
    let mut command = Command::new(program);
    // The demo's participants have their own settings; the environment's are somebody's for a run of theirs.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BRIGADE_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(&spec.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // All participants share this machine's cores: a thread that waits must not burn one.
        .env("OMP_WAIT_POLICY", "PASSIVE")
        // A group of its own: Ctrl-C reaches us alone, and we stop the children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", spec.name))?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let name = spec.name.clone();
    let events = listen(&mut child, spec, heard.clone())?;
    let last_words = keep_log(&mut child, &spec.folder.join("log.txt"))?;
    let ended = tokio::spawn(async move {
        let ok = see_off(child, stopped).await;
        // What was said before the end must be heard before it.
        let _ = events.await;
        let last_words = last_words.await.unwrap_or_default();
        let _ = heard.send((name, Heard::Ended { ok, last_words }));
    });
    Ok(Running { stop, ended })
}

/// Waits for the end of a child, or asks for it: first by ending its standard input, at last by force.
async fn see_off(mut child: Child, stopped: tokio::sync::oneshot::Receiver<()>) -> bool {
    let input = child.stdin.take();
    tokio::select! {
        status = child.wait() => return status.is_ok_and(|status| status.success()),
        _ = stopped => drop(input),
    }
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => status.is_ok_and(|status| status.success()),
        Err(_) => {
            let _ = child.kill().await;
            false
        }
    }
}

/// Passes on the events of a child and appends them to `events.jsonl`.
fn listen(
    child: &mut Child,
    spec: &Spec,
    heard: mpsc::UnboundedSender<(String, Heard)>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let output = child.stdout.take().context("a child without output")?;
    let path = spec.folder.join("events.jsonl");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let mut file =
        tokio::fs::File::from_std(file.with_context(|| format!("cannot write {}", path.display()))?);
    let name = spec.name.clone();
    Ok(tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
            if !matches!(event, Event::Step { .. }) {
                let _ = file.write_all(format!("{line}\n").as_bytes()).await;
                let _ = file.flush().await;
            }
            let _ = heard.send((name.clone(), Heard::Event(event)));
        }
    }))
}

/// Appends a child's standard error to its log; ends with its last lines.
fn keep_log(child: &mut Child, path: &Path) -> anyhow::Result<tokio::task::JoinHandle<String>> {
    let errors = child.stderr.take().context("a child without a log")?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file =
        tokio::fs::File::from_std(file.with_context(|| format!("cannot write {}", path.display()))?);
    Ok(tokio::spawn(async move {
        let mut lines = BufReader::new(errors).lines();
        let mut last = VecDeque::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = file.write_all(format!("{line}\n").as_bytes()).await;
            last.push_back(line);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        let _ = file.flush().await;
        last.iter()
            .rev()
            .find(|line: &&String| line.starts_with("error: "))
            .or(last.back())
            .cloned()
            .unwrap_or_default()
    }))
}

/// The events that a participant told in earlier starts.
pub(super) fn earlier_events(folder: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
