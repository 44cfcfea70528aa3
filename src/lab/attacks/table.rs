//! The table of `brigade lab attacks`.

use super::attack::Attack;
use super::{Row, SEPARATED_BY, name};

/// Area under the ROC curve from which on the honest and the idle are told apart.
const TOLD: f64 = 0.99;

/// Sequences that Templar's validator runs through the model for a peer.
const TEMPLAR: u32 = 24;

/// Rows that differ in nothing but the seed.
pub(super) struct Cell<'a> {
    pub(super) attack: Option<Attack>,
    pub(super) fraction: f64,
    rows: Vec<&'a Row>,
}

impl Cell<'_> {
    /// The largest of all seeds. No number is larger than any.
    pub(super) fn worst(&self, of: impl Fn(&Row) -> f64) -> f64 {
        let larger = |a: f64, b: f64| if a.is_nan() || b <= a { a } else { b };
        self.rows.iter().map(|row| of(row)).fold(f64::NEG_INFINITY, larger)
    }

    fn mean(&self, of: impl Fn(&Row) -> f64) -> f64 {
        self.rows.iter().map(|row| of(row)).sum::<f64>() / self.rows.len() as f64
    }

    /// Windows until no cheat has weight: infinite if that never happens.
    pub(super) fn windows_to_zero(&self) -> f64 {
        self.worst(|row| row.windows_to_zero_weight.map_or(f64::INFINITY, |windows| windows as f64))
    }

    /// How many sequences it takes to tell who does one inner step.
    fn told(&self) -> String {
        let auc = |n: &usize| self.mean(|row| row.separation.get(n).copied().unwrap_or(f64::NAN));
        let by = |n: &usize| format!("{:.3} by {n}", auc(n));
        let enough = SEPARATED_BY.iter().find(|n| auc(n) >= TOLD);
        format!(
            "\nhonest against one inner step, at a share of {:.3}: area under the ROC curve {} sequences; {TOLD} takes {} \
             (Templar measures {TEMPLAR} for everybody: three passes of eight)",
            self.fraction,
            SEPARATED_BY.iter().map(by).collect::<Vec<_>>().join(", "),
            enough.map_or_else(|| "more".to_owned(), ToString::to_string),
        )
    }

    fn reasons(&self) -> String {
        let mut reasons: Vec<&str> =
            self.rows.iter().flat_map(|row| row.reasons.keys().map(String::as_str)).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons.join(", ")
    }
}

/// `rows` by attack and share, in the order in which they first come.
pub(super) fn cells(rows: &[Row]) -> Vec<Cell<'_>> {
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for row in rows {
        let is_same = |cell: &&mut Cell<'_>| cell.attack == row.attack && cell.fraction == row.fraction;
        match cells.iter_mut().find(is_same) {
            Some(cell) => cell.rows.push(row),
            None => cells.push(Cell { attack: row.attack, fraction: row.fraction, rows: vec![row] }),
        }
    }
    cells
}

/// A line for each attack and share, over all seeds: mean and worst of them. Below it, what telling a one-step worker costs.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        "| attack | share | loss ÷ honest alone, mean (worst) | windows to weight 0 | reward share | honest excluded | excluded for |"
            .to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    let cells = cells(rows);
    for cell in &cells {
        let zero = cell.windows_to_zero();
        lines.push(format!(
            "| {} | {:.3} | {:.4} ({:.4}) | {} | {:.1} % | {:.0} of {:.0} | {} |",
            name(cell.attack),
            cell.fraction,
            cell.mean(|row| row.loss_ratio),
            cell.worst(|row| row.loss_ratio),
            if zero.is_finite() { format!("{zero:.0}") } else { "never".to_owned() },
            100.0 * cell.worst(|row| row.cheat_reward_share),
            cell.mean(|row| row.honest_excluded as f64) * cell.rows.len() as f64,
            cell.mean(|row| row.honest_updates as f64) * cell.rows.len() as f64,
            cell.reasons(),
        ));
    }
    lines.extend(cells.iter().filter(|cell| cell.attack == Some(Attack::PartialWork)).map(Cell::told));
    let passes = rows.iter().map(|row| row.passes).sum::<f64>() / rows.len().max(1) as f64;
    lines.push(format!("\nsequences through the model for a peer and a window, all figures: {passes:.0}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_the_worst() {
        let row = |loss_ratio, zero| Row {
            attack: Some(Attack::Zeros),
            fraction: 0.25,
            rule: "mean".into(),
            seed: 0,
            loss: 1.0,
            losses: Vec::new(),
            loss_ratio,
            windows_to_zero_weight: zero,
            honest_excluded: 0,
            honest_updates: 10,
            cheat_reward_share: 0.0,
            passes: 1.0,
            separation: Default::default(),
            reasons: Default::default(),
            blamed: Vec::new(),
        };
        let rows = [row(1.5, Some(2)), row(f64::NAN, None), row(1.2, Some(1))];
        let cells = cells(&rows);
        assert_eq!(cells.len(), 1);
        assert!(cells[0].worst(|row| row.loss_ratio).is_nan() && cells[0].windows_to_zero().is_infinite());
        assert!(
            table(&rows).contains("| zeros | 0.250 | NaN (NaN) | never | 0.0 % | 0 of 30 |"),
            "{}",
            table(&rows)
        );
        assert_eq!(self::cells(&rows[..1])[0].worst(|row| row.loss_ratio), 1.5);
    }
}
