//! Curves in characters.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

/// Draws one curve over windows, with the place of `mark` on it.
pub(super) fn curve(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    colour: Color,
    points: &[(f64, f64)],
    mark: Option<f64>,
) {
    let block = Block::bordered().title(title.to_owned());
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return frame.render_widget(Paragraph::new("no closed window yet").block(block), area);
    };
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (_, value) in points {
        (low, high) = (low.min(*value), high.max(*value));
    }
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    let (low, high) = (low - margin, high + margin);
    let (from, to) = (first.0, last.0.max(first.0 + 1.0));
    let marked: Vec<(f64, f64)> = mark
        .filter(|mark| (from..=to).contains(mark))
        .map(|mark| (0..=20).map(|step| (mark, low + (high - low) * f64::from(step) / 20.0)).collect())
        .unwrap_or_default();
    let line = |points, colour| {
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(colour))
            .data(points)
    };
    let number = |value: f64| Line::from(short(value));
    let chart = Chart::new(vec![line(&marked, Color::DarkGray), line(points, colour)])
        .block(block)
        .legend_position(None)
        .x_axis(Axis::default().bounds([from, to]).labels(windows(from, to).map(number)))
        .y_axis(Axis::default().bounds([low, high]).labels([number(low), number(high)]));
    frame.render_widget(chart, area);
}

fn short(value: f64) -> String {
    if value.abs() >= 1000.0 {
        super::words::count(value)
    } else if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// Windows that stand below the curve: first, last, and the one between if there is one.
fn windows(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let middle = f64::midpoint(from, to);
    [from, middle, to].into_iter().filter(|window| window.fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_and_windows_whole() {
        let texts = [0.25, 4.125, 46.875, 261.152, 12_345.0].map(short);
        assert_eq!(texts, ["0.250", "4.125", "46.9", "261", "12.3 k"]);
        assert_eq!(windows(0.0, 1.0).collect::<Vec<_>>(), [0.0, 1.0]);
        assert_eq!(windows(0.0, 10.0).collect::<Vec<_>>(), [0.0, 5.0, 10.0]);
    }
}
