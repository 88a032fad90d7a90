//! The table of `docs/scaling.md`.

use std::fmt::Write as _;

use super::{AXES, Row};

/// What stands before the table in its page.
pub const BEGIN: &str = "<!-- scale: begin -->";
/// What stands behind it.
pub const END: &str = "<!-- scale: end -->";

/// How a figure of a row is called, and where it is.
type Column = (&'static str, fn(&Row) -> f64);

const COLUMNS: [Column; 7] = [
    ("board lines/s", |row| row.lines_per_s),
    ("board lines/task", |row| row.lines_per_task),
    ("link items/task", |row| row.items_per_task),
    ("machine steps/task", |row| row.steps_per_task),
    ("client, bytes", |row| row.client_bytes as f64),
    ("worker, bytes", |row| row.worker_bytes as f64),
    ("host, bytes", |row| row.host_bytes as f64),
];

/// The rows as a table for each axis, with a last row that says how each column grows.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for (axis, _) in AXES {
        let of_axis: Vec<&Row> = rows.iter().filter(|row| row.axis == axis).collect();
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "| {axis} | {} |", names.join(" | "));
        let _ = writeln!(text, "|---{}|", "|---".repeat(COLUMNS.len()));
        for row in &of_axis {
            let figures: Vec<String> = COLUMNS.iter().map(|(_, figure)| short(figure(row))).collect();
            let _ = writeln!(text, "| {} | {} |", row.size, figures.join(" | "));
        }
        if let [first, .., last] = of_axis.as_slice() {
            let laws: Vec<String> = COLUMNS.iter().map(|(_, figure)| law(first, last, *figure)).collect();
            let _ = writeln!(text, "| grows as | {} |", laws.join(" | "));
        }
        text.push('\n');
    }
    text
}

/// `page` with this table between its markers; `None` where it has none.
pub fn in_page(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}{END}{after}"))
}

fn short(figure: f64) -> String {
    match figure {
        _ if figure >= 100.0 => format!("{figure:.0}"),
        _ if figure >= 1.0 => format!("{figure:.1}"),
        _ => format!("{figure:.4}"),
    }
}

/// The power of the size with which a figure grows from the first row to the last one.
fn law(first: &Row, last: &Row, figure: fn(&Row) -> f64) -> String {
    let (low, high) = (figure(first), figure(last));
    if low <= 0.0 || high <= 0.0 {
        return "-".to_owned();
    }
    let power = (high / low).ln() / (last.size as f64 / first.size as f64).ln();
    match power {
        _ if power.abs() < 0.1 => "constant".to_owned(),
        _ => format!("n^{power:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(size: u64, lines_per_s: f64) -> Row {
        let (lines_per_task, items_per_task, steps_per_task) = (0.0, 3.0, 2.0 * size as f64);
        let (client_bytes, worker_bytes, host_bytes) = (100, 100, 100);
        Row {
            axis: "workers",
            size,
            lines_per_s,
            lines_per_task,
            items_per_task,
            steps_per_task,
            client_bytes,
            worker_bytes,
            host_bytes,
        }
    }

    #[test]
    fn the_last_row_says_what_grows_how() {
        let text = table(&[row(10, 10.0), row(1000, 10.0)]);
        assert!(text.contains("| 1000 | 10.0 | 0.0000 | 3.0 | 2000 | 100 | 100 | 100 |"), "{text}");
        assert!(text.contains("| grows as | constant | - | constant | n^1.0 | constant |"), "{text}");
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = in_page(&page, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(in_page(&new, "new\n"), Some(new.clone()));
        assert_eq!(in_page("no markers", "new"), None);
    }
}
