//! Attacks against shares of cheats, as a picture.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use super::table::{Cell, cells};
use super::{Row, name};

const LEFT: i32 = 170;
const TOP: i32 = 76;
const WIDTH: i32 = 150;
const HEIGHT: i32 = 24;

/// Loss ratios from which on a cell is red.
const WORST: f64 = 1.05;

/// Draws a cell for each attack and share of `rows`: coloured by the loss against that of the honest alone, with that ratio and the
/// cheats' share of the reward in it, the worst of all seeds.
///
/// # Errors
/// When there is nothing to draw, or the file cannot be written.
pub fn draw(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let cells: Vec<Cell<'_>> = cells(rows).into_iter().filter(|cell| cell.attack.is_some()).collect();
    let (mut attacks, mut shares) = (Vec::new(), Vec::new());
    for cell in &cells {
        if !attacks.contains(&cell.attack) {
            attacks.push(cell.attack);
        }
        if !shares.contains(&cell.fraction) {
            shares.push(cell.fraction);
        }
    }
    anyhow::ensure!(!cells.is_empty(), "there is no attack to draw");
    shares.sort_by(f64::total_cmp);
    let size = (LEFT + WIDTH * shares.len() as i32 + 20, TOP + HEIGHT * attacks.len() as i32 + 20);
    let drawn = (|| {
        let area = SVGBackend::new(path, (size.0 as u32, size.1 as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |text: &str, at: (i32, i32), size: i32| {
            area.draw_text(text, &("sans-serif", size).into_text_style(&area), at)
        };
        text("loss ÷ loss of the honest alone, and the cheats' share of the reward", (12, 12), 18)?;
        for (column, share) in shares.iter().enumerate() {
            text(&format!("{:.1} % cheat", share * 100.0), (LEFT + WIDTH * column as i32 + 8, TOP - 22), 15)?;
        }
        for (row, attack) in attacks.iter().enumerate() {
            text(&name(*attack), (12, TOP + HEIGHT * row as i32 + 4), 15)?;
        }
        for cell in &cells {
            let row = attacks.iter().position(|attack| *attack == cell.attack).unwrap_or_default();
            let column = shares.iter().position(|share| *share == cell.fraction).unwrap_or_default();
            let (x, y) = (LEFT + WIDTH * column as i32, TOP + HEIGHT * row as i32);
            let ratio = cell.worst(|row| row.loss_ratio);
            let frame = Rectangle::new([(x, y), (x + WIDTH - 2, y + HEIGHT - 2)], colour(ratio).filled());
            area.draw(&frame)?;
            let reward = 100.0 * cell.worst(|row| row.cheat_reward_share);
            text(&format!("{ratio:.3}   {reward:.1} %"), (x + 8, y + 4), 14)?;
        }
        area.present()
    })();
    drawn.with_context(|| format!("cannot draw {}", path.display()))
}

/// White where the cheats cost nothing, red where they cost [`WORST`] or more, grey where training diverged.
fn colour(ratio: f64) -> RGBColor {
    if ratio.is_nan() {
        return RGBColor(150, 150, 150);
    }
    let bad = ((ratio - 1.0) / (WORST - 1.0)).clamp(0.0, 1.0);
    let fade = |to: f64| (255.0 - (255.0 - to) * bad) as u8;
    RGBColor(fade(240.0), fade(110.0), fade(95.0))
}
