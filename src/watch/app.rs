//! What is shown, and what keys do to it.

use ratatui::crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::widgets::TableState;

use crate::observe::{Look, Overview, Row, Window};

/// What a key asks of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Look,
    Quit,
}

/// By what the table is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Weight,
    State,
    Time,
    Size,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Weight => Self::State,
            Self::State => Self::Time,
            Self::Time => Self::Size,
            Self::Size => Self::Weight,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::State => "state",
            Self::Time => "time",
            Self::Size => "size",
        }
    }
}

/// Everything on the screen.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) overview: Option<Overview>,
    /// A window of the past; the newest when there is none.
    pub(super) past: Option<Window>,
    /// The window of the past that was asked for, ahead of [`past`](Self::past) while the store has not answered.
    pub(super) wanted: Option<u64>,
    /// What the last look cost, or why there was none.
    pub(super) look: Option<Result<Look, String>>,
    pub(super) order: Order,
    pub(super) table: TableState,
    pub(super) has_help: bool,
}

impl App {
    /// Takes in a look at the run.
    pub(super) fn see(&mut self, overview: Overview, look: anyhow::Result<Look>) {
        self.overview = Some(overview);
        self.look = Some(look.map_err(|error| format!("{error:#}")));
    }

    /// Takes in a window of the past. What was asked for before somebody went on is dropped: a slow store must not
    /// take people back to where they no longer want to be.
    pub(super) fn open(&mut self, number: u64, found: anyhow::Result<Option<Window>>) {
        if self.wanted != Some(number) {
            return;
        }
        match found {
            Ok(Some(window)) => {
                let newest = self.newest();
                self.past = Some(window).filter(|window| Some(window.window) != newest);
            }
            Ok(None) => self.look = Some(Err(format!("window {number} is not there any more"))),
            Err(error) => self.look = Some(Err(format!("{error:#}"))),
        }
        self.wanted = self.past.as_ref().map(|window| window.window);
    }

    fn leave_the_past(&mut self) {
        self.past = None;
        self.wanted = None;
    }

    fn newest(&self) -> Option<u64> {
        Some(self.overview.as_ref()?.newest.as_ref()?.window)
    }

    /// The rows of a window, in order.
    pub(super) fn rows(&self, window: Option<&Window>) -> Vec<Row> {
        let mut rows = window.map(|window| window.peers.clone()).unwrap_or_default();
        let least = f64::NEG_INFINITY;
        match self.order {
            Order::Weight => {
                rows.sort_by(|a, b| b.weight.unwrap_or(least).total_cmp(&a.weight.unwrap_or(least)))
            }
            Order::State => rows.sort_by_key(|row| std::cmp::Reverse(row.state)),
            Order::Time => {
                rows.sort_by(|a, b| b.seconds.unwrap_or(least).total_cmp(&a.seconds.unwrap_or(least)))
            }
            Order::Size => rows.sort_by_key(|row| std::cmp::Reverse(row.bytes)),
        }
        rows
    }

    /// What a key does.
    pub(super) fn press(&mut self, event: &Event) -> Wish {
        let Event::Key(key) = event else { return Wish::Nothing };
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Wish::Quit,
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if self.has_help => self.has_help = false,
            KeyCode::Esc if self.wanted.is_none() => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => return Wish::Look,
            KeyCode::Up | KeyCode::Char('k') => self.table.select_previous(),
            KeyCode::Down | KeyCode::Char('j') => self.table.select_next(),
            KeyCode::Left => self.leap(-1),
            KeyCode::Right => self.leap(1),
            KeyCode::PageUp => self.leap(-10),
            KeyCode::PageDown => self.leap(10),
            KeyCode::Home => self.wanted = Some(0),
            KeyCode::End | KeyCode::Esc => self.leave_the_past(),
            _ => {}
        }
        Wish::Nothing
    }

    /// Counts from what was asked for last, so that keys pressed faster than a store answers all count.
    fn leap(&mut self, by: i64) {
        let Some(newest) = self.newest() else { return };
        let wanted = self.wanted.unwrap_or(newest).saturating_add_signed(by);
        if wanted >= newest { self.leave_the_past() } else { self.wanted = Some(wanted) }
    }
}

#[cfg(test)]
mod tests {
    use brigade_protocol::Digest;
    use ratatui::crossterm::event::KeyEvent;

    use super::*;
    use crate::observe::{Cost, Phase};

    fn window(number: u64) -> Window {
        Window {
            window: number,
            phase: Phase::Closed,
            opened_at: 0,
            deadline: 1,
            cut_at: Some(2),
            closed_at: Some(3),
            start_state_root: String::new(),
            state_root: None,
            delta_bytes: None,
            validators: Vec::new(),
            peers: Vec::new(),
        }
    }

    fn app(newest: u64) -> App {
        let overview = Overview {
            name: String::from("test"),
            run: Digest::of(b"test"),
            parameters: 1,
            total_windows: None,
            tokens_per_window: 1,
            window_limit_seconds: 1,
            is_over: false,
            now: None,
            newest: Some(window(newest)),
            last_closed: None,
            history: Vec::new(),
            cost: Cost::default(),
        };
        App { overview: Some(overview), ..App::default() }
    }

    fn press(app: &mut App, key: KeyCode) -> Wish {
        app.press(&Event::Key(KeyEvent::from(key)))
    }

    #[test]
    fn keys_pressed_before_a_store_answers_all_count() {
        let mut app = app(100);
        for key in [KeyCode::Left, KeyCode::PageUp, KeyCode::Left, KeyCode::Right] {
            assert_eq!(press(&mut app, key), Wish::Nothing);
        }
        assert_eq!((app.wanted, &app.past), (Some(89), &None));
        // An answer to an earlier key is not what is wanted any more.
        app.open(99, Ok(Some(window(99))));
        assert_eq!(app.past, None);
        app.open(89, Ok(Some(window(89))));
        assert_eq!(app.past, Some(window(89)));
    }

    #[test]
    fn a_late_answer_takes_nobody_back() {
        for away in [KeyCode::End, KeyCode::Esc] {
            let mut app = app(100);
            press(&mut app, KeyCode::Home);
            assert_eq!(press(&mut app, away), Wish::Nothing);
            app.open(0, Ok(Some(window(0))));
            assert_eq!((app.wanted, &app.past), (None, &None));
            // From the newest window, Escape leaves.
            assert_eq!(press(&mut app, KeyCode::Esc), Wish::Quit);
        }
    }

    #[test]
    fn what_cannot_be_read_leaves_what_was_shown() {
        let mut app = app(100);
        press(&mut app, KeyCode::Left);
        app.open(99, Ok(Some(window(99))));
        press(&mut app, KeyCode::Home);
        app.open(0, Err(anyhow::anyhow!("no line")));
        assert_eq!((app.wanted, &app.past), (Some(99), &Some(window(99))));
        assert!(matches!(&app.look, Some(Err(why)) if why == "no line"));
        press(&mut app, KeyCode::Home);
        app.open(0, Ok(None));
        assert_eq!((app.wanted, &app.past), (Some(99), &Some(window(99))));
        assert!(matches!(&app.look, Some(Err(why)) if why == "window 0 is not there any more"));
        // Forward over the edge is the newest again.
        press(&mut app, KeyCode::PageDown);
        assert_eq!((app.wanted, &app.past), (None, &None));
    }
}
