//! Curves as a picture.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

/// One line of the picture.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    /// Windows passed, and the value then.
    pub(super) points: Vec<(f64, f64)>,
    /// Drawn red and dashed.
    pub(super) is_cheat: bool,
}

/// Draws `curves` of a value that `unit` names as SVG.
///
/// # Errors
/// When there is nothing to draw, or the file cannot be written.
pub(super) fn draw(path: &Path, title: &str, unit: &str, curves: &[Curve]) -> anyhow::Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points).copied();
    let (mut low, mut high, mut last) = (f64::INFINITY, f64::NEG_INFINITY, 1.0_f64);
    for (window, value) in points() {
        (low, high, last) = (low.min(value), high.max(value), last.max(window));
    }
    anyhow::ensure!(low.is_finite(), "there is nothing to draw");
    let margin = ((high - low) * 0.05).max(1e-3);
    // The palette begins with a red, which is the cheats' where there are any.
    let first = usize::from(curves.iter().any(|curve| curve.is_cheat));
    let drawn = (|| {
        let area = SVGBackend::new(path, (900, 520)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last, low - margin..high + margin)
            .map_err(|error| error.to_string())?;
        chart
            .configure_mesh()
            .x_desc("windows")
            .y_desc(unit)
            .light_line_style(WHITE)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 16))
            .draw()
            .map_err(|error| error.to_string())?;
        for (number, curve) in curves.iter().enumerate() {
            let points = curve.points.iter().copied();
            let colour =
                if curve.is_cheat { RED.to_rgba() } else { Palette99::pick(first + number).to_rgba() };
            let colour = colour.stroke_width(2);
            let drawn = if curve.is_cheat {
                chart.draw_series(DashedLineSeries::new(points, 6, 4, colour))
            } else {
                chart.draw_series(LineSeries::new(points, colour))
            };
            drawn
                .map_err(|error| error.to_string())?
                .label(&*curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 15))
            .draw()
            .map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())
    })();
    drawn
        .map_err(|error: String| anyhow::anyhow!(error))
        .with_context(|| format!("cannot draw {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_every_curve() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        let curve =
            |name: &str| Curve { name: name.into(), points: vec![(1.0, 3.0), (2.0, 2.5)], is_cheat: false };
        let curves = [curve("Brigade"), curve("dense DiLoCo")];
        draw(&path, "Held-out loss", "nats a token", &curves).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("Brigade") && svg.contains("dense DiLoCo") && svg.contains("polyline"));
        assert!(svg.contains("nats a token"));
        assert!(draw(&path, "nothing", "", &[]).is_err());
    }

    #[test]
    fn cheats_are_red_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.svg");
        let curve = |name: &str, points: &[(f64, f64)], is_cheat| Curve {
            name: name.into(),
            points: points.to_vec(),
            is_cheat,
        };
        let honest = curve("miner-0", &[(1.0, 40.0), (2.0, 50.0)], false);
        let red = |curves: &[Curve]| {
            draw(&path, "Weights", "weight (%)", curves).unwrap();
            std::fs::read_to_string(&path).unwrap().matches("#FF0000").count()
        };
        assert_eq!(red(std::slice::from_ref(&honest)), 0);
        assert!(red(&[honest.clone(), curve("miner-1", &[(1.0, 20.0), (2.0, 0.0)], true)]) > 2);
        // One window is enough.
        assert!(red(&[curve("miner-1", &[(1.0, 0.0)], true)]) > 0);
    }
}
