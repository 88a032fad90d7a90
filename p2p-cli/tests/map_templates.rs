//! Command lines are made as GNU parallel makes them: both programs are asked, and say the same.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const VALUES: [&str; 24] = [
    "a",
    "dir/a.tar.gz",
    "/a",
    "/a/b/",
    "a/",
    ".",
    "..",
    ".bash",
    "a.b/c",
    "",
    "//a",
    "a//b.c",
    "///",
    "./a",
    "it's",
    "'",
    "''",
    "a b",
    " a ",
    "ü/é.ß",
    "{}",
    "{1} {.} {#}",
    "$HOME `x` \"q\" \\ !",
    "*?[a]~=&|;<>()\t#",
];
const PIECES: [&str; 31] = [
    "{}", "{.}", "{/}", "{//}", "{/.}", "{#}", "{1}", "{1.}", "{1/}", "{1//}", "{1/.}", "{2}", "{2/}", "{-1}", "{-2.}",
    "{3}", "{01}", "{0}", "{x}", "{..}", "{+}", "{", "}", "'", "\"", " ", "  ", "word", "-k", "$1", ".xz",
];

/// Runs a program with these words; what it prints.
fn printed(program: &str, words: &[&str], folder: &Path) -> Vec<u8> {
    let mut command = Command::new(program);
    // Parallel asks its parent for the shell otherwise, and its user for a citation.
    command.args(words).env("PARALLEL_SHELL", "/bin/sh").env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|fault| {
        panic!("{program} cannot be started ({fault}); this test needs the Debian package parallel")
    });
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn compare(words: &[&str], folder: &Path) {
    let mut theirs = vec!["--will-cite", "--dry-run", "-k"];
    theirs.extend(words);
    let mut ours = vec!["map", "--dry-run"];
    ours.extend(words);
    let (theirs, ours) = (printed("parallel", &theirs, folder), printed(env!("CARGO_BIN_EXE_p2p"), &ours, folder));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(theirs == ours, "{words:?}\n--- parallel\n{}\n--- p2p\n{}", text(&theirs), text(&ours));
}

#[test]
fn every_replacement_string_and_every_way_to_give_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("lines"), VALUES.join("\n")).expect("a file");
    fs::write(folder.join("two"), "x.y\nz\n").expect("a file");
    fs::write(folder.join("nul"), VALUES.map(|value| format!("{value}\n\0")).concat()).expect("a file");
    fs::write(folder.join("bytes"), b"\xff\xfe.x\n\x80/y\n").expect("a file");
    fs::write(folder.join("empty"), "").expect("a file");
    for words in [
        &["echo", "::::", "lines"][..],
        &["-a", "lines", "echo"],
        &["-0", "echo {}", "::::", "nul"],
        &["--null", "-a", "nul", "-a", "two", "echo"],
        &["echo {} {.} {/} {//} {/.} {#}", "::::", "lines"],
        &["echo {1} {2.} {-1} {-2/} {3} {}", "::::", "lines", "two"],
        &["echo", ":::", "a", "b c", "::::", "two", ":::", "1", "2"],
        &["echo {2}", "::::", "lines", ":::", "a", "b"],
        &["-a", "two", "echo", ":::", "a", "b"],
        &["echo", "::::", "bytes"],
        &["echo {.} {/} {//}", "::::", "bytes"],
        &["echo", "::::", "empty"],
        &["echo", ":::", "a", "::::", "empty"],
        &["echo", ":::", ":::", "a", "b"],
        &["echo", ":::"],
        &["echo", ":::", ":::"],
        &["echo {-4}x{-5}y{-3}", ":::", "a", ":::", "b"],
        &[":::", "echo a b", "x | y"],
        &["  two  words ", "x", "", "{}", "y", ":::", "a"],
        &["awk '{print $1}' {}", ":::", "a"],
        &["echo {#}", ":::", "a", "b"],
        &["echo", "-n", "--", "-k", ":::", "-x"],
    ] {
        compare(words, folder);
    }
}

#[test]
fn templates_at_random() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let letters = ["a", "b", ".", ".", "/", "/", " ", "'", "\"", "$", "\\", "ü", "-", "{", "}", "1", "#", "~"];
    for _ in 0..40 {
        let mut one = Vec::new();
        for _ in 0..40 {
            let value: String = (0..below(8)).map(|_| letters[below(letters.len())]).collect();
            one.push(value);
        }
        let other: Vec<&str> = (0..3).map(|_| VALUES[below(VALUES.len())]).collect();
        fs::write(folder.join("one"), one.join("\0")).expect("a file");
        fs::write(folder.join("other"), other.join("\0")).expect("a file");
        let template: String = (0..=below(7)).map(|_| PIECES[below(PIECES.len())]).collect();
        let template = format!("echo {template}");
        compare(&["-0", &template, "::::", "one"], folder);
        compare(&["-0", &template, "::::", "one", "other"], folder);
    }
}
