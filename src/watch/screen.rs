//! The drawing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Gauge, Paragraph};

use super::app::App;
use super::{chart, table, words};
use crate::observe::{Overview, Phase, State, Window};
use crate::spelling::several;
use crate::terminal::plain;

/// Below this many lines there is no room for curves.
const ROOM_FOR_CURVES: u16 = 24;

pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    // Taken out and put back: it is large, and drawn twice a second.
    let Some(overview) = app.overview.take() else {
        return frame.render_widget(Paragraph::new("reading the run…"), frame.area());
    };
    lay_out(frame, &overview, app);
    app.overview = Some(overview);
    if app.has_help {
        help(frame);
    }
}

fn lay_out(frame: &mut Frame<'_>, overview: &Overview, app: &mut App) {
    let window = app.past.clone().or_else(|| overview.newest.clone());
    let curves = if frame.area().height < ROOM_FOR_CURVES { 0 } else { frame.area().height / 3 };
    let [head, gauge, middle, peers, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(curves),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(overview, window.as_ref(), app)), head);
    progress(frame, gauge, overview, window.as_ref());
    if curves > 0 {
        charts(frame, middle, overview, app);
    }
    table::draw(frame, peers, app, window.as_ref());
    frame.render_widget(Paragraph::new(footer(overview, app, foot.width)), foot);
}

fn title(overview: &Overview, window: Option<&Window>, app: &App) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let total = overview.total_windows.map(|total| format!(" of {total}")).unwrap_or_default();
    let mut first = vec![
        Span::styled(plain(&overview.name), bold),
        Span::raw(format!(
            "  run {}  {} parameters  ",
            overview.run.short(),
            words::parameters(overview.parameters)
        )),
    ];
    let Some(window) = window else {
        first.push(Span::raw("no window is open yet"));
        return vec![Line::from(first)];
    };
    let total = if overview.is_over { format!("{total}, the run is over") } else { total };
    let place = if app.past.is_some() { "past window" } else { "window" };
    first.push(Span::styled(format!("{place} {}{total}", window.window), bold));
    if let Some(wanted) = app.wanted.filter(|wanted| *wanted != window.window) {
        first.push(Span::raw(format!("  reading window {wanted}…")));
    }
    vec![Line::from(first), Line::from(news(overview, window))]
}

/// What a glance is to tell: how many, how fast, how good.
fn news(overview: &Overview, window: &Window) -> String {
    let those = |state: State| window.peers.iter().filter(|row| row.state == state).count();
    let waiting = those(State::Training);
    let mut parts = match window.phase {
        Phase::Train => vec![format!("{} delivered, {waiting} training", those(State::Delivered))],
        Phase::Score => vec![format!("{} pinned, being scored", those(State::Pinned))],
        Phase::Merge | Phase::Closed => vec![format!("{} merged", those(State::Merged))],
    };
    match those(State::Excluded) {
        0 => {}
        excluded => parts.push(format!("{excluded} excluded")),
    }
    let line = overview.history.iter().rev().find(|line| line.window <= window.window);
    if let Some(line) = line {
        if let Some(loss) = line.loss {
            parts.push(format!("loss {loss:.4} (window {})", line.window));
        }
        if let Some(rate) = line.tokens_per_second {
            parts.push(format!("{} tokens/s", words::count(rate)));
        }
        parts.push(format!(
            "{} up, {} down",
            words::bytes(line.update_bytes),
            words::bytes(line.delta_bytes)
        ));
    }
    parts.join("   ")
}

fn progress(frame: &mut Frame<'_>, area: Rect, overview: &Overview, window: Option<&Window>) {
    let Some(window) = window else { return };
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1000.0;
    let (ratio, label) = match (window.phase, overview.now, window.closed_at) {
        (Phase::Closed, _, Some(closed)) => {
            (1.0, format!("closed after {}", words::span(seconds(window.opened_at, closed))))
        }
        (Phase::Train, Some(now), _) => {
            let whole = seconds(window.opened_at, window.deadline).max(1.0);
            let left = seconds(now, window.deadline);
            (1.0 - left / whole, format!("train, {} to the deadline", words::span(left)))
        }
        (Phase::Score, ..) => (1.0, "cut off; validators score".to_owned()),
        (Phase::Merge, ..) => (1.0, "judged; being merged".to_owned()),
        _ => (0.0, String::new()),
    };
    let gauge =
        Gauge::default().gauge_style(Style::new().fg(Color::Blue)).label(label).ratio(ratio.clamp(0.0, 1.0));
    frame.render_widget(gauge, area);
}

fn charts(frame: &mut Frame<'_>, area: Rect, overview: &Overview, app: &App) {
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Fill(1)]).areas(area);
    let points = |of: fn(&crate::observe::Summary) -> Option<f64>| -> Vec<(f64, f64)> {
        overview.history.iter().filter_map(|line| Some((line.window as f64, of(line)?))).collect()
    };
    let mark = app.past.as_ref().map(|window| window.window as f64);
    let losses = points(|line| line.loss);
    chart::curve(frame, left, " loss, nats a token ", Color::Green, &losses, mark);
    let rates = points(|line| line.tokens_per_second);
    chart::curve(frame, right, " tokens a second ", Color::Cyan, &rates, mark);
}

fn footer(overview: &Overview, app: &App, width: u16) -> Line<'static> {
    let keys = "q quit  ←→ windows  ↑↓ peers  s sort  ? help";
    match &app.look {
        Some(Err(error)) => Line::styled(plain(error), Style::new().fg(Color::Red)),
        Some(Ok(look)) => {
            let missing =
                if look.missing > 0 { format!(", {} lines to read", look.missing) } else { String::new() };
            let cost = format!(
                "{}, {} at this look; {} in all{missing}",
                several(look.requests, "request"),
                words::bytes(look.bytes),
                words::bytes(overview.cost.bytes)
            );
            let whole = format!("{keys}   {cost}");
            let text = if whole.chars().count() <= usize::from(width) { whole } else { keys.to_owned() };
            Line::styled(text, Style::new().fg(Color::DarkGray))
        }
        None => Line::from(keys),
    }
}

fn help(frame: &mut Frame<'_>) {
    let text = [
        "← →        the window before, the next one",
        "PgUp PgDn  ten windows",
        "Home End   the first window, the newest",
        "↑ ↓        through the participants",
        "s          order by weight, state, time of the receipt, size",
        "r          look now",
        "Esc        back to the newest window; then: end",
        "q Ctrl-C   end",
        "",
        "loss is that of the global model at a window's start, as miners state",
        "it on their own sequences: the median of those that were merged.",
    ];
    let [area] = Layout::vertical([Constraint::Length(text.len() as u16 + 2)])
        .flex(ratatui::layout::Flex::Center)
        .areas(frame.area());
    let [area] = Layout::horizontal([Constraint::Length(74)]).flex(ratatui::layout::Flex::Center).areas(area);
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = text.iter().map(|line| Line::from(*line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}
