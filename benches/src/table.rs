//! The one table: a figure, its baseline, their ratio, the bound, and whether it holds.

use std::fmt;

use crate::stats::Pairs;

/// How a figure is written.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Microseconds.
    Micros,
    /// Seconds.
    Seconds,
    /// Megabytes a second.
    MegabytesPerS,
    /// Something a second.
    PerS,
    /// Percent of one core.
    CorePercent,
    /// Mebibytes of memory.
    Mebibytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Micros => format!("{value:.1} µs"),
            Self::Seconds if value < 1.0 => format!("{value:.3} s"),
            Self::Seconds => format!("{value:.2} s"),
            Self::MegabytesPerS => format!("{value:.0} MB/s"),
            Self::PerS if value < 100.0 => format!("{value:.2} /s"),
            Self::PerS => format!("{value:.0} /s"),
            Self::CorePercent => format!("{value:.3} %"),
            Self::Mebibytes => format!("{value:.1} MiB"),
        }
    }
}

/// What a figure must keep.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At most so many times the baseline.
    AtMostTimes(f64),
    /// At least so many times the baseline.
    AtLeastTimes(f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// It is shown for comparison.
    None,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    ours: String,
    baseline: String,
    ratio: Option<f64>,
    bound: String,
    holds: Option<bool>,
}

impl Row {
    /// A figure with its baseline, of which `name` says what it is.
    pub fn paired(what: &str, pairs: &Pairs, unit: Unit, name: &str, bound: Bound) -> Self {
        // Whoever doubts a median wants to see what it is of.
        eprintln!("{what}: {pairs:.6?}");
        let mut row = Self::alone(what, pairs.ours(), unit, Bound::None);
        row.baseline = format!("{name} {}", unit.show(pairs.baseline()));
        row.ratio = Some(pairs.ratio());
        row.judged(pairs.ours(), unit, bound)
    }

    /// A figure that has no baseline.
    pub fn alone(what: &str, value: f64, unit: Unit, bound: Bound) -> Self {
        let row = Self {
            what: what.to_owned(),
            ours: unit.show(value),
            baseline: String::new(),
            ratio: None,
            bound: String::new(),
            holds: None,
        };
        row.judged(value, unit, bound)
    }

    /// The same, with something beside it to which it has no meaningful ratio.
    #[must_use]
    pub fn beside(mut self, baseline: String) -> Self {
        self.baseline = baseline;
        self
    }

    /// The same, with words behind the figure.
    #[must_use]
    pub fn noted(mut self, words: &str) -> Self {
        self.ours = format!("{} ({words})", self.ours);
        self
    }

    /// A figure that could not be had, and why.
    pub fn missing(what: &str, why: &str) -> Self {
        let mut row = Self::alone(what, 0.0, Unit::PerS, Bound::None);
        row.ours = format!("not measured: {why}");
        row
    }

    fn judged(mut self, value: f64, unit: Unit, bound: Bound) -> Self {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        (self.bound, self.holds) = match bound {
            Bound::AtMostTimes(limit) => (format!("<= {limit:.2} x"), Some(ratio <= limit)),
            Bound::AtLeastTimes(limit) => (format!(">= {limit:.2} x"), Some(ratio >= limit)),
            Bound::AtMost(limit) => (format!("<= {}", unit.show(limit)), Some(value <= limit)),
            Bound::AtLeast(limit) => (format!(">= {}", unit.show(limit)), Some(value >= limit)),
            Bound::None => (String::new(), None),
        };
        self
    }

    fn cells(&self) -> [String; 6] {
        let verdict = match self.holds {
            Some(true) => "pass",
            Some(false) => "MISS",
            None => "",
        };
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        [self.what.clone(), self.ours.clone(), self.baseline.clone(), ratio, self.bound.clone(), verdict.to_owned()]
    }
}

/// All lines, as Markdown.
#[derive(Clone, Debug, Default)]
pub struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = ["figure", "here", "beside it", "ratio", "bound", ""].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(heading).chain(self.0.iter().map(Row::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for (nth, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if nth == 0 {
                for width in widths {
                    write!(f, "|{}", "-".repeat(width + 2))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_told() {
        let mut pairs = Pairs::default();
        pairs.push(40.0, 20.0);
        let table = Table(vec![
            Row::paired("a", &pairs, Unit::Micros, "raw", Bound::AtMostTimes(1.5)),
            Row::alone("b", 1.02, Unit::Seconds, Bound::AtMost(1.1)),
            Row::missing("c", "no program"),
        ]);
        let text = table.to_string();
        assert!(text.contains("| a ") && text.contains("2.00") && text.contains("MISS"), "{text}");
        assert!(text.contains("pass") && text.contains("not measured: no program"), "{text}");
    }
}
