//! What people look at, in a real terminal (tmux) and a real browser (Chromium, where one is installed).

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::PATIENCE;
use support::synthetic::Synthetic;

/// A terminal of its own, with a shell in it.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(width: u16, height: u16) -> Self {
        let terminal = Self { socket: format!("brigade-test-{}-{width}", std::process::id()) };
        let size = ["-x", &width.to_string(), "-y", &height.to_string()].map(str::to_owned);
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            &size[0],
            &size[1],
            &size[2],
            &size[3],
            "sh",
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(arguments).output();
        let output = output.expect("tmux; `make test-deps` installs it");
        String::from_utf8(output.stdout).unwrap()
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows all of `texts`, and returns it.
    fn expect(&self, texts: &[&str]) -> String {
        self.until(&format!("all of {texts:?}"), |screen| texts.iter().all(|text| screen.contains(text)))
    }

    /// Waits until the screen is as it should be, and returns it.
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what} on\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

fn watch(run: &Synthetic) -> String {
    format!("{} watch '{}' --anonymous --every 1; echo over-$?", env!("CARGO_BIN_EXE_brigade"), run.url)
}

#[test]
fn a_run_in_the_terminal() {
    let run = Synthetic::start(200, 10_000);
    let terminal = Terminal::open(150, 40);
    terminal.press(&[&watch(&run), "Enter"]);
    let screen = terminal.expect(&[
        "window 9999",
        "100 delivered, 100 training",
        "participants: 203",
        "loss, nats a token",
    ]);
    assert!(screen.contains("72.7 B parameters") && screen.contains("tokens a second"), "{screen}");
    // Back: what was closed shows who was late, with nothing of what a stranger wrote that a terminal would obey.
    terminal.press(&["Left"]);
    terminal.expect(&["past window 9998", "180 merged", "20 excluded", "closed after 19:40"]);
    terminal.press(&["s"]);
    let screen = terminal.expect(&["by state", "late: 3 s after the deadline  [2J 2J <img"]);
    assert!(screen.contains("✘ excluded"), "{screen}");
    // Faster than any store answers: all of them count.
    terminal.press(&["PageUp", "PageUp", "Left"]);
    terminal.expect(&["past window 9977"]);
    terminal.press(&["Home"]);
    terminal.expect(&["past window 0\n", "closed after 19:40"]);
    terminal.press(&["?"]);
    terminal.expect(&["PgUp PgDn", "Ctrl-C"]);
    terminal.press(&["Escape"]);
    // An Escape is itself how a terminal's other keys begin: one that follows before it was read is another key.
    terminal.until("without help", |screen| !screen.contains("PgUp PgDn"));
    terminal.press(&["End"]);
    terminal
        .until("at the newest", |screen| screen.contains("window 9999") && !screen.contains("past window"));
    run.advance();
    terminal.expect(&["window 10000", "(window 9999)"]);
    // The shell comes back as it was.
    terminal.press(&["q"]);
    let screen = terminal.expect(&["over-0"]);
    assert!(!screen.contains("participants"), "{screen}");
}

#[test]
fn a_small_terminal_and_an_interrupt() {
    let run = Synthetic::start(3, 2);
    let terminal = Terminal::open(80, 20);
    terminal.press(&[&watch(&run), "Enter"]);
    let screen = terminal.expect(&["window 1", "participants: 6"]);
    assert!(!screen.contains("loss, nats a token"), "no room for curves\n{screen}");
    terminal.press(&["C-c"]);
    terminal.expect(&["over-0"]);
}

const RUN_URL: &str = "s3://a-run?endpoint=http://127.0.0.1:9&dialect=embedded#0101010101010101010101010101010101010101010101010101010101010101";

#[test]
fn an_interrupt_at_a_question_is_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("new");
    let terminal = Terminal::open(100, 30);
    let secret = format!("miner --run '{RUN_URL}' --run-key-id env:HOME");
    for (given, question) in [
        ("run", "what the run is called"),
        ("run --name x", "the model's shape"),
        (secret.as_str(), "its secret"),
    ] {
        let command =
            format!("{} init {given} --dir '{}'", env!("CARGO_BIN_EXE_brigade"), settings.display());
        terminal.press(&[&format!("clear; {command}; echo over-$?; stty -a | grep -ow -e -echo"), "Enter"]);
        terminal.expect(&[question]);
        terminal.press(&["C-c"]);
        terminal.expect(&["over-130"]);
        std::thread::sleep(Duration::from_millis(200));
        let screen = terminal.screen();
        assert!(!screen.contains("error") && !settings.exists(), "{screen}");
        assert!(!screen.lines().any(|line| line == "-echo"), "what is typed is hidden\n{screen}");
        assert_eq!(
            terminal.tmux(&["display-message", "-p", "#{cursor_flag}"]).trim(),
            "1",
            "the cursor is gone"
        );
    }
}

/// `brigade dashboard` on a free port, and where it is.
fn dashboard(run: &Synthetic) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.args(["dashboard", &run.url, "--anonymous", "--listen", "127.0.0.1:0", "--every", "1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn chromium() -> Option<&'static str> {
    let works = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(works)
}

#[test]
fn a_run_in_the_browser() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: no Chromium is installed, so the page was not looked at");
        return;
    };
    let run = Synthetic::start(200, 10_000);
    let (mut server, address) = dashboard(&run);
    let profile = tempfile::tempdir().unwrap();
    let open = |page: &str, more: &[&str]| {
        let mut command = Command::new(browser);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--hide-scrollbars",
        ]);
        command
            .args(["--virtual-time-budget=4000", &format!("--user-data-dir={}", profile.path().display())]);
        let output = command.args(more).arg(format!("{address}{page}")).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{page}: {complaints:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let plain = |page: &str| {
        let page = open(page, &["--dump-dom"]).replace(['\u{a0}', '\u{202f}', '\u{2009}'], " ");
        page.replace("&nbsp;", " ")
    };
    let page = plain("");
    for text in ["synthetic", "Window 9 999", "Loss, nats per token", "delivered", "show all"] {
        assert!(page.to_lowercase().contains(&text.to_lowercase()), "`{text}` is not in the page:\n{page}");
    }
    let page = plain("#/window/9998");
    assert!(page.contains("late") && page.contains("3 s after the deadline"), "{page}");
    // What a stranger wrote is text, and nothing else.
    assert!(
        page.contains("&lt;img src=x") && !page.contains("<img") && !page.contains("<title>owned"),
        "{page}"
    );
    let page = plain(&format!("#/peer/{}", run.peer(3)));
    assert!(page.contains(&run.peer(3).to_string()) && page.contains("share of the reward"), "{page}");

    let shots = tempfile::tempdir().unwrap();
    for (name, size) in [("wide", "1400,1000"), ("phone", "390,844")] {
        let path = shots.path().join(format!("{name}.png"));
        open("", &[&format!("--window-size={size}"), &format!("--screenshot={}", path.display())]);
        let bytes = std::fs::read(&path).unwrap();
        // An empty page of that size has some 5 KB.
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{name}: {} bytes", bytes.len());
    }
    let _ = server.kill();
    let _ = server.wait();
}
