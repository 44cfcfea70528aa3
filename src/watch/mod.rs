//! A run in the terminal.
//!
//! | module | role |
//! | --- | --- |
//! | `app` | what is shown, and what keys do to it |
//! | `screen` | the drawing |
//! | `chart` | curves in characters |
//! | `table` | the participants |
//! | `words` | numbers as people read them |

mod app;
mod chart;
mod screen;
mod table;
mod words;

use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::observe::Observer;
use crate::shutdown::Shutdown;
use app::{App, Wish};

/// Requests that a look may spend on the past.
pub const BUDGET: usize = 48;

/// Shows the run until somebody has seen enough.
///
/// # Errors
/// When there is no terminal.
pub async fn run(observer: Observer, every: Duration, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let outcome = follow(&mut terminal, observer, every, shutdown).await;
    // Also after an error: the shell that comes back is not to be a mess.
    ratatui::try_restore()?;
    outcome
}

async fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    mut observer: Observer,
    every: Duration,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut app = App::default();
    let mut keys = keys();
    let mut looks = interval_at(Instant::now(), every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clock = interval_at(Instant::now(), Duration::from_millis(500));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut app))?;
        let wish = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            key = keys.recv() => match key {
                Some(event) => app.press(&event),
                None => return Ok(()),
            },
            _ = looks.tick() => Wish::Look,
            _ = clock.tick() => Wish::Nothing,
        };
        match wish {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            Wish::Look => {
                let looked = observer.look(BUDGET).await;
                app.see(observer.overview(), looked);
            }
            Wish::Window(window) => {
                let found = observer.window(window).await;
                app.open(found);
            }
        }
    }
}

/// What is typed. A thread, because reading a terminal blocks; it ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let counts = match &event {
                Event::Key(key) => key.kind != KeyEventKind::Release,
                Event::Resize(..) => true,
                _ => false,
            };
            if counts && sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
