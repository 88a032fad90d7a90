//! What the README shows is what a reader gets: its commands run here as they stand, each terminal in a shell of its own.

mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{Background, Done, Running, tree};

const README: &str = include_str!("../../README.md");
/// The board's address in the README; one with a free port takes its place.
const BOARD: &str = "127.0.0.1:2222";

#[test]
fn the_two_commands_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project's folder");
    let commands = blocks("command");
    assert_eq!(commands, ["scripts/demo\n", "scripts/test\n"]);
    for command in commands {
        assert!(is_executable(&root.join(command.trim())), "{command}");
    }
    let checked = fs::read_to_string(root.join(".ci/run")).expect("the file that checks every change");
    assert!(checked.contains("scripts/test"), "every change is checked by the second command");
}

#[test]
fn every_command_is_tried() {
    // What is in R is tried by r/future.p2p/tests/testthat/test-pages.R.
    let known =
        ["sh command", "sh everywhere", "sh once", "sh hub", "sh host", "sh worker", "sh use", "rust", "text", "r"];
    for opening in README.lines().filter_map(|line| line.strip_prefix("```")).step_by(2) {
        assert!(known.contains(&opening), "nobody tries the block that begins with ```{opening}");
    }
}

#[test]
fn by_hand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut terminals =
        Terminals { folder: folder.path().to_owned(), board: "127.0.0.1:0".to_owned(), board_key: String::new() };
    let once = terminals.run("once");
    assert_eq!(once.code, Some(0), "{once}");

    let mut hub = Background::start("hub", terminals.command("hub"), folder.path());
    hub.wait_for("its key is ");
    let log = hub.log();
    let word = |prefix: &str| {
        let word = log.split([' ', ',', '\n']).find_map(|word| word.strip_prefix(prefix));
        word.unwrap_or_else(|| panic!("the hub does not say {prefix}...: {log}"))
    };
    terminals.board = word("ssh://").to_owned();
    // Nobody sits here to answer the question at the first contact.
    terminals.board_key = format!("SHA256:{}", word("SHA256:"));
    let mut host = Background::start("host", terminals.command("host"), folder.path());
    host.wait_for("is open for");
    let mut worker = Background::start("worker", terminals.command("worker"), folder.path());
    worker.wait_for("at work for");

    let used = terminals.run("use");
    assert_eq!(used.code, Some(0), "{used}");
    let here = Command::new("uname").arg("-a").output().expect("uname is everywhere");
    let here = String::from_utf8(here.stdout).expect("uname writes text");
    for expected in [here.as_str(), "HELLO\n", "3 squared is 9\n"] {
        assert!(used.stdout.contains(expected), "{expected:?} is missing: {used}");
    }
    assert_eq!(used.stdout.matches(" licences/GPL-3\n").count(), 1, "what the log has is not run again: {used}");
    assert!(used.stderr.contains("p2p: 2 tasks are in the --joblog and are not run again"), "{used}");
    let place = folder.path().join("try");
    let sorted = fs::read_to_string(place.join("sorted/users")).expect("the file came back");
    assert!(sorted.starts_with("bob "), "{sorted}");
    let all = tree(&place.join("licences"));
    let texts: Vec<_> = all.iter().filter(|(name, _)| !name.ends_with(".xz")).collect();
    assert!(!texts.is_empty());
    for (name, text) in texts {
        let packed = place.join("licences").join(format!("{name}.xz"));
        let unpacked = Command::new("xz").arg("-dc").arg(&packed).output();
        let unpacked = unpacked.expect("the README's example needs xz: install the Debian package xz-utils");
        assert!(unpacked.stdout == *text, "{}", packed.display());
    }
}

/// Shells as the README's reader has them.
struct Terminals {
    folder: PathBuf,
    board: String,
    board_key: String,
}

impl Terminals {
    fn run(&self, block: &str) -> Done {
        let script = self.script(block);
        Running::start(self.shell(&script)).done()
    }

    /// What goes on until it is interrupted takes the shell's place, so that a signal reaches it.
    fn command(&self, block: &str) -> Command {
        let script = format!("exec 1>&2\n{}", self.script(block).replace("\np2p ", "\nexec p2p "));
        self.shell(&script)
    }

    /// What the README says for every terminal, then what it says for this one.
    fn script(&self, block: &str) -> String {
        blocks("everywhere").concat() + &blocks(block).concat().replace(BOARD, &self.board)
    }

    fn shell(&self, script: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_p2p")).parent().expect("a program is in a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(&self.folder).env_clear();
        command.env("PATH", path).env("HOME", &self.folder);
        command.env("P2P_RELAY", "none").env("P2P_BOARD_KEY", &self.board_key);
        command
    }
}

/// What is in the blocks ```` ```sh NAME ````.
fn blocks(name: &str) -> Vec<String> {
    let opening = format!("```sh {name}\n");
    let found: Vec<String> =
        README.split(&opening).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect();
    assert!(!found.is_empty(), "the README has no block {name}");
    found
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.permissions().mode() & 0o111 != 0)
}
