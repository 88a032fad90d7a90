//! Scripts rely on docs/exit-codes.md: its table says what the program does.

use std::collections::BTreeMap;

/// Number, and name with meaning.
type Codes = BTreeMap<u8, (String, String)>;

#[test]
fn the_page_and_the_program_agree() {
    let page = documented(include_str!("../../docs/exit-codes.md"));
    let program = defined(include_str!("../src/trouble.rs"));
    assert!(program.len() > 5, "the codes are no longer found in trouble.rs: {program:?}");
    assert_eq!(page, program);
}

/// The rows `| 65 | Input | meaning |`.
fn documented(page: &str) -> Codes {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [code, name, meaning] = cells[..] else { return None };
        Some((code.parse().ok()?, (name.to_owned(), meaning.to_owned())))
    });
    rows.collect()
}

/// The variants `Input = 65,` of `enum Code`, each below the line `/// meaning`.
fn defined(source: &str) -> Codes {
    let (_, rest) = source.split_once("pub enum Code {").expect("trouble.rs defines the codes");
    let (body, _) = rest.split_once('}').expect("the enum ends");
    let lines: Vec<&str> = body.lines().map(str::trim).collect();
    let variants = lines.windows(2).filter_map(|pair| {
        let meaning = pair[0].strip_prefix("/// ")?;
        let (name, code) = pair[1].strip_suffix(',')?.split_once(" = ")?;
        Some((code.parse().ok()?, (name.to_owned(), meaning.to_owned())))
    });
    variants.collect()
}
