//! Each measurement works, with sizes so small that its figures mean nothing. What needs the program `p2p` is left to `run.sh`.

use std::path::Path;

use benches::{functions, links};

const PROGRAM: &str = env!("CARGO_BIN_EXE_benches");

#[test]
fn links_can_be_measured() {
    let rows = links::measure(Path::new(PROGRAM), links::Sizes::SMOKE).unwrap();
    assert_eq!(rows.len(), 2);
}

#[test]
fn functions_can_be_measured() {
    let rows = functions::measure(Path::new(PROGRAM), functions::Sizes::SMOKE).unwrap();
    assert_eq!(rows.len(), 4);
}
