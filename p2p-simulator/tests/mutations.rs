//! The deliberate faults of `mutations/` still fit the code that they are put into; whether each is caught, `mutations/run.sh` tells.

use std::fs;
use std::path::Path;

#[test]
fn each_fault_fits_the_code() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's folder");
    let mut faults = 0;
    for entry in fs::read_dir(project.join("p2p-simulator/mutations")).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let patch = fs::read_to_string(&path).expect("a patch");
        let (_, changes) = patch.split_once("\n--- a/").expect("a file that it changes");
        let (file, hunks) = changes.split_once('\n').expect("its hunks");
        let code = fs::read_to_string(project.join(file))
            .unwrap_or_else(|error| panic!("{}: {file}: {error}", path.display()));
        for hunk in hunks.split("\n@@ ").skip(1) {
            let before: Vec<&str> =
                hunk.lines().skip(1).filter(|line| !line.starts_with('+')).filter_map(|line| line.get(1..)).collect();
            assert!(before.len() > 3, "{}: a hunk without lines", path.display());
            assert!(code.contains(&before.join("\n")), "{} does not fit {file} any more", path.display());
        }
        faults += 1;
    }
    assert!(faults > 0, "no faults");
    let page = fs::read_to_string(project.join("docs/simulation.md")).expect("the page");
    assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), faults, "the page's table has each");
}
