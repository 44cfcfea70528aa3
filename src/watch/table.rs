//! The participants.

use brigade_protocol::Role;
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;
use ratatui::widgets::{Block, Cell, Row as Line, Table};

use super::app::App;
use super::words;
use crate::observe::{Row, State, Window};
use crate::spelling::word;
use crate::terminal::plain;

/// Columns, with their widths, and whether they are there in a narrow terminal too; what remains is for why an update was excluded.
const COLUMNS: [(&str, u16, bool); 9] = [
    ("peer", 8, true),
    ("role", 10, true),
    ("state", 11, true),
    ("weight", 8, true),
    ("rating", 6, false),
    ("credit", 6, false),
    ("receipt", 7, true),
    ("size", 8, false),
    ("loss", 6, false),
];

/// Below this width the reason comes before the figures.
const NARROW: u16 = 110;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, window: Option<&Window>) {
    let rows = app.rows(window);
    let title = format!(" participants: {}, by {} ", rows.len(), app.order.name());
    let is_shown = |at: usize| COLUMNS.get(at).is_none_or(|(.., always)| *always || area.width >= NARROW);
    let columns = || COLUMNS.iter().enumerate().filter(|(at, _)| is_shown(*at)).map(|(_, column)| column);
    let head = columns().map(|(name, ..)| *name).chain(["why not"]);
    let head = Line::new(head).style(Style::new().add_modifier(Modifier::BOLD));
    let widths = columns().map(|(_, width, _)| Constraint::Length(*width)).chain([Constraint::Fill(1)]);
    let table = Table::new(rows.iter().map(|row| line(row, is_shown)), widths)
        .header(head)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    frame.render_stateful_widget(table, area, &mut app.table);
}

fn line(row: &Row, is_shown: impl Fn(usize) -> bool) -> Line<'static> {
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "–".to_owned(),
    };
    let (sign, colour) = sign(row.state);
    let role = match row.role {
        Role::Miner if row.active => "miner",
        Role::Miner => "miner, off",
        Role::Validator => "validator",
    };
    let why = match (row.reason, &row.detail) {
        (Some(reason), Some(detail)) => format!("{}: {}", spaced(&reason), plain(detail)),
        _ if row.missed > 0 => format!("{} windows missed in a row", row.missed),
        _ => String::new(),
    };
    let weight = row.weight.map(|weight| weight * 100.0);
    let cells = [
        Cell::from(row.peer.short().to_string()),
        Cell::from(role),
        Cell::from(Span::styled(format!("{sign} {}", state(row)), Style::new().fg(colour))),
        Cell::from(weight.map_or("–".to_owned(), |weight| format!("{weight:.2} %"))),
        Cell::from(number(row.rating, 1)),
        Cell::from(number(row.credit, 1)),
        Cell::from(row.seconds.map_or("–".to_owned(), words::span)),
        Cell::from(row.bytes.map_or("–".to_owned(), words::bytes)),
        Cell::from(number(row.loss, 3)),
        Cell::from(why),
    ];
    Line::new(cells.into_iter().enumerate().filter(|(at, _)| is_shown(*at)).map(|(_, cell)| cell))
}

fn sign(state: State) -> (&'static str, Color) {
    match state {
        State::Merged => ("✔", Color::Green),
        State::Pinned => ("●", Color::Cyan),
        State::Delivered => ("●", Color::Blue),
        State::Training => ("…", Color::Reset),
        State::Excluded => ("✘", Color::Red),
        State::Heard => ("✔", Color::Reset),
        State::Absent => ("–", Color::DarkGray),
    }
}

/// What became of a participant. A validator is not absent before its turn.
fn state(row: &Row) -> String {
    match (row.role, row.state) {
        (Role::Validator, State::Absent) => "not heard".to_owned(),
        _ => spaced(&row.state),
    }
}

/// The word of a value, for people.
fn spaced(value: &impl serde::Serialize) -> String {
    word(value).replace('_', " ")
}
