//! What the pages list is what there is: exit codes, dependencies and bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

/// A row of docs/bounds.md.
struct Bound<'a> {
    /// The file that its heading names.
    file: &'a str,
    name: &'a str,
    value: &'a str,
    test: &'a str,
}

#[test]
fn every_bound_is_listed_with_its_value_and_its_test() {
    let page = include_str!("../../docs/bounds.md");
    let bounds = bounds(page);
    let files: BTreeSet<&str> = bounds.iter().map(|bound| bound.file).collect();
    for file in files {
        let of_file = bounds.iter().filter(|bound| bound.file == file);
        let listed: BTreeMap<_, _> =
            of_file.map(|bound| (bound.name.to_owned(), bound.value.replace(' ', ""))).collect();
        let mut there = constants(&source(file));
        if !file.ends_with("limits.rs") {
            // Not every constant there is a bound.
            there.retain(|name, _| listed.contains_key(name));
        }
        assert_eq!(listed, there, "docs/bounds.md and {file}");
    }
    for all in ["p2p-proto/src/limits.rs", "p2p-hub/src/limits.rs"] {
        assert!(bounds.iter().filter(|bound| bound.file == all).count() > 20, "{all} is not listed");
    }
    for Bound { name, test, .. } in bounds {
        if test.strip_prefix("none: ").is_some_and(|why| !why.is_empty()) {
            continue;
        }
        for test in test.split(", ") {
            is_a_test(name, test);
        }
    }
}

#[test]
fn every_row_of_the_threat_table_is_shown_by_tests() {
    shown_by_tests(include_str!("../../docs/security.md"), "| who tries what |", 4, 20);
}

#[test]
fn all_that_is_odd_about_picos_pipe_is_shown_by_tests() {
    shown_by_tests(include_str!("../../docs/pico.md"), "| the server |", 3, 10);
}

/// The last of the columns names tests, in at least so many rows.
fn shown_by_tests(page: &str, header: &str, columns: usize, least: usize) {
    let tables = page.split(header).skip(1);
    let rows: Vec<&str> =
        tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|'))).collect();
    assert!(rows.len() > least, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), columns, "{row}");
        for test in cells[columns - 1].split(", ") {
            is_a_test(cells[0], test);
        }
    }
}

/// ``"`file::function`"`` names a test.
fn is_a_test(name: &str, test: &str) {
    let (file, function) = test.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("{name}: {test}"));
    assert!(tests(&source(file), function), "{name}: {function} in {file} is no test");
}

/// Whether the function is a test, or one on several servers, or a property.
fn tests(source: &str, function: &str) -> bool {
    let Some(at) = source.find(&format!("fn {function}(")) else { return false };
    let above: Vec<&str> = source[..at].rsplit('\n').skip(1).map(str::trim).collect();
    let attributes = above.iter().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    let before = attributes.clone().any(|line| *line == "#[test]");
    let lists = source.split("on_both!(").skip(1).filter_map(|rest| rest.split_once(");"));
    let listed = lists.flat_map(|(list, _)| list.split(',')).any(|name| name.trim() == function);
    // The block ends at the brace that is as far in as its beginning.
    let property = source[..at].rfind("proptest! {").is_some_and(|block| {
        let inside = &source[block..at];
        let indent = source[..block].rsplit('\n').next().unwrap_or_default();
        indent.trim().is_empty() && !inside.contains(&format!("\n{indent}}}"))
    });
    before || listed || property
}

#[test]
fn what_only_stands_beside_tests_is_none() {
    let source = "
macro_rules! on_both {
    ($($name:ident),*) => {};
}

on_both!(
    on_servers,
);

fn on_servers() {}

fn helper() {}

#[test]
#[ignore = \"slow\"]
fn plain() {
    helper();
}

mod properties {
    fn before() {}

    proptest! {
        fn property(x in 0..9) {
            if x > 1 {}
        }
    }

    fn after() {}
}
";
    for function in ["on_servers", "plain", "property"] {
        assert!(tests(source, function), "{function}");
    }
    for function in ["helper", "before", "after", "nothing"] {
        assert!(!tests(source, function), "{function}");
    }
}

/// The rows ``| `NAME` | `value` | what | at the limit | test |`` below headings that name a file.
fn bounds(page: &str) -> Vec<Bound<'_>> {
    let mut file = None;
    let mut bounds = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            file = heading.strip_prefix('`').and_then(|path| path.strip_suffix('`'));
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let (Some(file), &[name, value, _, _, test]) = (file, &cells[..])
            && name.starts_with('`')
        {
            bounds.push(Bound { file, name: name.trim_matches('`'), value: value.trim_matches('`'), test });
        }
    }
    bounds
}

/// The constants of a source, with their values as the page writes them, without blanks: `Duration::from_secs(5)` is `5s`.
fn constants(source: &str) -> BTreeMap<String, String> {
    let mut constants = BTreeMap::new();
    for declaration in source.split("const ").skip(1) {
        let Some((name, rest)) = declaration.split_once(": ") else { continue };
        let Some((value, _)) = rest.split_once(" = ").and_then(|(_, value)| value.split_once(";\n")) else { continue };
        let mut value: String = value.split_whitespace().collect();
        for (call, unit) in [("Duration::from_secs(", "s"), ("Duration::from_millis(", "ms")] {
            while let Some((before, rest)) = value.split_once(call) {
                let (number, after) = rest.split_once(')').expect("a call ends");
                value = format!("{before}{number}{unit}{after}");
            }
        }
        constants.insert(name.to_owned(), value);
    }
    constants
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}
