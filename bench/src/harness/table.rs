//! The table: one line per figure, one column per system, the bound and whether it is met.

use std::fmt::{self, Write as _};

/// The columns, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The bare relay, or the bare server where edges only connect.
    Relay,
    /// The gateway under the native load, or that in geminio.
    Gateway,
    /// The gateway under the SDK.
    Sdk,
    /// nats-server.
    Nats,
    /// mosquitto.
    Mosquitto,
    /// The gateway under Go clients.
    GoClients,
    /// What the Go system was found to take, with Go clients.
    Go,
}

/// Whether a bound holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Met,
    /// It does not.
    NotMet,
    /// There is nothing to compare with: the other system, or the figure, is missing.
    NotCompared,
    /// There is none.
    Printed,
}

/// What came of the lines with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Lines whose bounds all hold.
    pub met: usize,
    /// Lines of which one does not.
    pub not_met: usize,
    /// Lines of which one could not be looked at, though no other fails.
    pub not_compared: usize,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    figure: String,
    cells: [String; Column::ALL.len()],
    bounds: Vec<String>,
    verdict: Verdict,
}

/// All lines with what there is to say about them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    lines: Vec<Line>,
    notes: Vec<String>,
}

// === impl Column ===

impl Column {
    const ALL: [Self; 7] =
        [Self::Relay, Self::Gateway, Self::Sdk, Self::Nats, Self::Mosquitto, Self::GoClients, Self::Go];

    const fn title(self) -> &'static str {
        match self {
            Self::Relay => "bare relay",
            Self::Gateway => "gateway",
            Self::Sdk => "SDK",
            Self::Nats => "nats-server",
            Self::Mosquitto => "mosquitto",
            Self::GoClients => "gateway, Go clients",
            Self::Go => "Go system",
        }
    }
}

// === impl Line ===

impl Line {
    /// A line without cells and bounds.
    #[must_use]
    pub fn new(figure: impl Into<String>) -> Self {
        Self {
            figure: figure.into(),
            cells: Default::default(),
            bounds: Vec::new(),
            verdict: Verdict::Printed,
        }
    }

    /// Fills a cell.
    #[must_use]
    pub fn cell(mut self, column: Column, text: impl Into<String>) -> Self {
        if let Some(at) = Column::ALL.iter().position(|c| *c == column) {
            self.cells[at] = text.into();
        }
        self
    }

    /// At most `factor` times `reference`. Without figures nothing is compared, and the line says so.
    #[must_use]
    pub fn at_most(self, found: Option<f64>, factor: f64, reference: Option<f64>, what: &str) -> Self {
        let ratio = ratio(found, reference);
        self.bound(ratio.map(|r| r <= factor), &format!("≤ {} × {what}", short(factor)), ratio)
    }

    /// At least `factor` times `reference`.
    #[must_use]
    pub fn at_least(self, found: Option<f64>, factor: f64, reference: Option<f64>, what: &str) -> Self {
        let ratio = ratio(found, reference);
        self.bound(ratio.map(|r| r >= factor), &format!("≥ {} × {what}", short(factor)), ratio)
    }

    /// A bound whose outcome is known.
    #[must_use]
    pub fn must(self, met: Option<bool>, bound: &str) -> Self {
        self.bound(met, bound, None)
    }

    fn bound(mut self, met: Option<bool>, bound: &str, ratio: Option<f64>) -> Self {
        let found = ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
        self.bounds.push(format!("{bound}{found}"));
        self.verdict = match (self.verdict, met) {
            (Verdict::NotMet, _) | (_, Some(false)) => Verdict::NotMet,
            // One that could not be looked at may be the one that fails.
            (Verdict::NotCompared, _) | (_, None) => Verdict::NotCompared,
            (_, Some(true)) => Verdict::Met,
        };
        self
    }

    /// Whether all bounds hold.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }
}

fn ratio(found: Option<f64>, reference: Option<f64>) -> Option<f64> {
    Some(found? / reference.filter(|r| *r > 0.0)?)
}

/// A factor without a tail of zeros.
fn short(factor: f64) -> String {
    if (factor.round() - factor).abs() < 1e-9 { format!("{factor:.0}") } else { format!("{factor}") }
}

// === impl Score ===

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bounds met", self.met, self.met + self.not_met + self.not_compared)?;
        if self.not_compared > 0 {
            write!(f, ", {} not compared", self.not_compared)?;
        }
        Ok(())
    }
}

// === impl Table ===

impl Table {
    /// Adds lines.
    pub fn push(&mut self, lines: Vec<Line>) {
        self.lines.extend(lines);
    }

    /// Adds a sentence below the table; its lines become one.
    pub fn note(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.notes.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    /// What came of the bounds.
    #[must_use]
    pub fn score(&self) -> Score {
        let count = |verdict| self.lines.iter().filter(|line| line.verdict == verdict).count();
        Score {
            met: count(Verdict::Met),
            not_met: count(Verdict::NotMet),
            not_compared: count(Verdict::NotCompared),
        }
    }

    /// The table in Markdown, columns padded so that it reads as plain text too.
    #[must_use]
    pub fn render(&self) -> String {
        let mut rows = vec![header()];
        rows.extend(self.lines.iter().map(Line::row));
        // A column that nobody filled says nothing.
        let kept: Vec<usize> =
            (0..rows[0].len()).filter(|at| rows[1..].iter().any(|row| !row[*at].is_empty())).collect();
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = kept.iter().map(|at| width(*at)).collect();
        let mut text = String::new();
        for (n, row) in rows.iter().enumerate() {
            let cells: Vec<String> =
                kept.iter().zip(&widths).map(|(at, width)| pad(&row[*at], *width)).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
            if n == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                text.push_str(&format!("| {} |\n", rule.join(" | ")));
            }
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            // Writing to a String cannot fail.
            writeln!(text, "- {note}").unwrap_or_default();
        }
        text
    }
}

fn header() -> Vec<String> {
    let mut row = vec!["figure".to_owned()];
    row.extend(Column::ALL.iter().map(|column| column.title().to_owned()));
    row.extend(["must reach (found)".to_owned(), "result".to_owned()]);
    row
}

impl Line {
    fn row(&self) -> Vec<String> {
        let mut row = vec![self.figure.clone()];
        row.extend(self.cells.iter().map(|cell| if cell.is_empty() { String::new() } else { cell.clone() }));
        row.push(self.bounds.join("; "));
        row.push(match self.verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::NotMet => "NOT MET".to_owned(),
            Verdict::NotCompared => "not compared".to_owned(),
            Verdict::Printed => String::new(),
        });
        row
    }
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.chars().count())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_judged_together() {
        let met = Line::new("a").at_most(Some(1.9), 2.0, Some(1.0), "relay");
        assert_eq!(met.verdict(), Verdict::Met);
        let worse = met.clone().at_least(Some(0.6), 0.7, Some(1.0), "relay");
        assert_eq!(worse.verdict(), Verdict::NotMet);
        assert_eq!(worse.at_most(Some(1.0), 2.0, Some(1.0), "x").verdict(), Verdict::NotMet);
        assert_eq!(Line::new("b").verdict(), Verdict::Printed);
        assert_eq!(Line::new("c").must(Some(false), "flat").verdict(), Verdict::NotMet);
    }

    #[test]
    fn what_has_nothing_to_be_compared_with_is_not_met() {
        let met = Line::new("a").at_most(Some(1.9), 2.0, Some(1.0), "relay");
        let missing = met.clone().at_most(Some(1.9), 0.4, None, "nats-server");
        assert_eq!(missing.verdict(), Verdict::NotCompared);
        assert_eq!(missing.row().last().map(String::as_str), Some("not compared"));
        let later = missing.clone().at_least(Some(1.0), 0.7, Some(1.0), "relay");
        assert_eq!(later.verdict(), Verdict::NotCompared, "a later bound makes up for nothing");
        let worse = missing.clone().at_least(Some(0.6), 0.7, Some(1.0), "relay");
        assert_eq!(worse.verdict(), Verdict::NotMet, "what fails fails");
        assert_eq!(Line::new("b").at_most(Some(1.0), 2.0, Some(0.0), "x").verdict(), Verdict::NotCompared);
        assert_eq!(Line::new("c").must(None, "flat").verdict(), Verdict::NotCompared);
        let mut table = Table::default();
        table.push(vec![met, missing, worse, Line::new("d")]);
        assert_eq!(table.score(), Score { met: 1, not_met: 1, not_compared: 1 });
        assert_eq!(table.score().to_string(), "1 of 3 bounds met, 1 not compared");
    }

    #[test]
    fn every_column_is_shown() {
        let line = Column::ALL.iter().fold(Line::new("x"), |line, column| line.cell(*column, column.title()));
        let (header, row) = (header(), line.row());
        assert_eq!(header[1..=Column::ALL.len()], row[1..=Column::ALL.len()]);
        assert_eq!(Line::new("x").cell(Column::GoClients, "1").cell(Column::Go, "2").row()[6..8], ["1", "2"]);
    }

    #[test]
    fn the_table_lines_up_and_leaves_empty_columns_out() {
        let mut table = Table::default();
        table.push(vec![
            Line::new("CPU per call").cell(Column::Relay, "1.0 µs").cell(Column::Gateway, "1.5 µs").at_most(
                Some(1.5),
                2.0,
                Some(1.0),
                "relay",
            ),
            Line::new("rate").cell(Column::Gateway, "9"),
        ]);
        table.note("steal\n 0.1 %");
        let text = table.render();
        let expected = "\
| figure       | bare relay | gateway | must reach (found) | result |
| ------------ | ---------- | ------- | ------------------ | ------ |
| CPU per call | 1.0 µs     | 1.5 µs  | ≤ 2 × relay (1.50) | met    |
| rate         |            | 9       |                    |        |

- steal 0.1 %
";
        assert_eq!(text, expected);
        assert_eq!(table.score().to_string(), "1 of 1 bounds met");
    }
}
