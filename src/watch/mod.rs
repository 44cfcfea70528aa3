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

use crate::observe::{Look, Observer, Overview, Window};
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
    observer: Observer,
    every: Duration,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut app = App::default();
    let mut keys = keys();
    let (asked, mut seen) = looker(observer);
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
            Some(news) = seen.recv() => {
                match news {
                    News::Look(overview, look) => app.see(*overview, look),
                    News::Window(found) => app.open(found.map(|window| window.map(|window| *window))),
                }
                Wish::Nothing
            }
            _ = looks.tick() => Wish::Look,
            _ = clock.tick() => Wish::Nothing,
        };
        match wish {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            // Where a look still goes on, the next one may wait for its turn; of more than a few nobody wants all.
            wish => drop(asked.try_send(wish)),
        }
    }
}

/// What the observer has to say.
enum News {
    Look(Box<Overview>, anyhow::Result<Look>),
    Window(anyhow::Result<Option<Box<Window>>>),
}

/// An observer in a task of its own: a store that does not answer must not keep anybody from leaving.
fn looker(mut observer: Observer) -> (mpsc::Sender<Wish>, mpsc::Receiver<News>) {
    let (asked, mut wishes) = mpsc::channel(2);
    let (told, seen) = mpsc::channel(2);
    tokio::spawn(async move {
        while let Some(wish) = wishes.recv().await {
            let news = match wish {
                Wish::Window(window) => {
                    News::Window(observer.window(window).await.map(|window| window.map(Box::new)))
                }
                _ => {
                    let look = observer.look(BUDGET).await;
                    News::Look(Box::new(observer.overview()), look)
                }
            };
            if told.send(news).await.is_err() {
                return;
            }
        }
    });
    (asked, seen)
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
