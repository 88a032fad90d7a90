//! The committed table has the shape that the program writes; its figures are of the day when it was written.

use p2p_simulator::scale::{AXES, BEGIN, END, in_page};

#[test]
fn the_page_has_every_size_of_every_axis() {
    let page = include_str!("../../docs/scaling.md");
    let (_, rest) = page.split_once(BEGIN).expect("a first marker");
    let (table, _) = rest.split_once(END).expect("a second marker");
    for (axis, sizes) in AXES {
        let rows: Vec<&str> = table.lines().skip_while(|line| !line.starts_with(&format!("| {axis} |"))).collect();
        let columns = rows.first().unwrap_or_else(|| panic!("no table of {axis}")).matches('|').count();
        for (row, size) in rows[2..].iter().zip(sizes) {
            assert!(row.starts_with(&format!("| {size} |")), "{row} is not of {size} {axis}");
            assert_eq!(row.matches('|').count(), columns, "{row}");
        }
        assert!(rows[2 + sizes.len()].starts_with("| grows as |"), "what grows how is missing for {axis}");
    }
    assert!(in_page(page, "").is_some());
}
