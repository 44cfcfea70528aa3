//! What is shown, and what keys do to it.

use ratatui::crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::widgets::TableState;

use crate::observe::{Look, Overview, Row, Window};

/// What a key asks of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Look,
    Window(u64),
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

    /// Takes in a window of the past.
    pub(super) fn open(&mut self, found: anyhow::Result<Option<Window>>) {
        match found {
            Ok(window) => {
                let newest = self.newest();
                self.past = window.filter(|window| Some(window.window) != newest);
            }
            Err(error) => self.look = Some(Err(format!("{error:#}"))),
        }
    }

    fn newest(&self) -> Option<u64> {
        Some(self.overview.as_ref()?.newest.as_ref()?.window)
    }

    /// The window that is shown.
    fn window(&self) -> Option<&Window> {
        self.past.as_ref().or(self.overview.as_ref()?.newest.as_ref())
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
            KeyCode::Esc if self.past.is_none() => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => return Wish::Look,
            KeyCode::Up | KeyCode::Char('k') => self.table.select_previous(),
            KeyCode::Down | KeyCode::Char('j') => self.table.select_next(),
            KeyCode::Left => return self.leap(-1),
            KeyCode::Right => return self.leap(1),
            KeyCode::PageUp => return self.leap(-10),
            KeyCode::PageDown => return self.leap(10),
            KeyCode::Home => return Wish::Window(0),
            KeyCode::End | KeyCode::Esc => self.past = None,
            _ => {}
        }
        Wish::Nothing
    }

    fn leap(&mut self, by: i64) -> Wish {
        let (Some(newest), Some(shown)) = (self.newest(), self.window()) else { return Wish::Nothing };
        let wanted = shown.window.saturating_add_signed(by);
        if wanted >= newest {
            self.past = None;
            return Wish::Nothing;
        }
        Wish::Window(wanted)
    }
}
