//! What the pages list is what there is: exit codes and dependencies.

use std::collections::{BTreeMap, BTreeSet};

/// Number, and name with meaning.
type Codes = BTreeMap<u8, (String, String)>;

#[test]
fn every_exit_code_is_documented() {
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

#[test]
fn every_dependency_has_a_reason() {
    let page = include_str!("../../docs/decisions.md");
    let (_, table) = page.split_once("## Dependencies").expect("the page has a part about dependencies");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let given: BTreeSet<&str> = rows.filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();

    let manifests = [
        include_str!("../../Cargo.toml"),
        include_str!("../../fuzz/Cargo.toml"),
        include_str!("../../benches/Cargo.toml"),
    ];
    let taken: BTreeSet<&str> =
        manifests.into_iter().flat_map(named).filter(|name| !name.starts_with("p2p-")).collect();
    assert!(taken.len() > 10, "the dependencies are no longer found: {taken:?}");
    assert_eq!(given, taken);
}

/// The dependencies of a manifest that are named there with a version or a path.
fn named(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| inside && !name.contains('.')) {
            names.push(name);
        }
    }
    names
}
