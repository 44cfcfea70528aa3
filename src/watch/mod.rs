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
use tokio::sync::{mpsc, watch};
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
    let (asked, mut seen) = Asked::of(observer);
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
                    News::Window(number, found) => {
                        app.open(number, found.map(|window| window.map(|window| *window)));
                    }
                }
                Wish::Nothing
            }
            _ = looks.tick() => Wish::Look,
            _ = clock.tick() => Wish::Nothing,
        };
        match wish {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            Wish::Look => asked.look(),
        }
        asked.window(app.wanted);
    }
}

/// What the observer has to say.
enum News {
    Look(Box<Overview>, anyhow::Result<Look>),
    Window(u64, anyhow::Result<Option<Box<Window>>>),
}

/// What is asked of an observer in a task of its own: a store that does not answer must not keep anybody from leaving.
struct Asked {
    looks: mpsc::Sender<()>,
    /// Only the last window that was asked for is read: keys come faster than answers.
    window: watch::Sender<Option<u64>>,
}

impl Asked {
    fn of(mut observer: Observer) -> (Self, mpsc::Receiver<News>) {
        let (looks, mut look) = mpsc::channel(1);
        let (window, mut wanted) = watch::channel(None);
        let (told, seen) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                let news = tokio::select! {
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let Some(number) = *wanted.borrow_and_update() else { continue };
                        // A store that does not answer keeps nobody from another window.
                        tokio::select! {
                            found = observer.window(number) => {
                                News::Window(number, found.map(|window| window.map(Box::new)))
                            }
                            _ = wanted.changed() => {
                                wanted.mark_changed();
                                continue;
                            }
                        }
                    }
                    Some(()) = look.recv() => {
                        let look = observer.look(BUDGET).await;
                        News::Look(Box::new(observer.overview()), look)
                    }
                };
                if told.send(news).await.is_err() {
                    return;
                }
            }
        });
        (Self { looks, window }, seen)
    }

    /// Where a look still goes on, the next one waits for its turn; of more than one nobody wants all.
    fn look(&self) {
        let _ = self.looks.try_send(());
    }

    fn window(&self, wanted: Option<u64>) {
        self.window.send_if_modified(|last| std::mem::replace(last, wanted) != wanted);
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
