//! `p2p demo` from its command line to its picture.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn demo(folder: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    command.args(["demo", "--width", "300", "--height", "200", "--tile-side", "50", "--steps", "200"]);
    command.env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    command
}

#[test]
fn the_picture_is_computed_by_both_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let done = demo(folder.path()).output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    for words in ["alice@", "bob@", "direct (", "wall time", "time on one slot", "speed-up", "mandelbrot.png"] {
        assert!(said.contains(words), "it did not say {words:?}: {said}");
    }
    let file = std::fs::File::open(folder.path().join("mandelbrot.png")).expect("a picture");
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("pixels");
    assert_eq!((info.width, info.height), (300, 200));
    let colours: std::collections::BTreeSet<&[u8]> = pixels.chunks_exact(3).collect();
    assert!(colours.len() > 100, "the picture has only {} colours", colours.len());
    let black = pixels.chunks_exact(3).filter(|pixel| *pixel == [0, 0, 0]).count();
    assert!(black > 0 && black < 300 * 200 / 2, "{black} pixels are inside the set");
}

#[test]
fn a_kept_cluster_can_be_used_by_hand_and_ends_with_an_interrupt() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = demo(folder.path());
    let mut child = command.arg("--keep").stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let mut variables = Vec::new();
    let status = loop {
        let line = lines.next().expect("it says how to use the cluster").expect("a line");
        if let Some((name, value)) = line.trim().strip_prefix("export ").and_then(|words| words.split_once('=')) {
            variables.push((name.to_owned(), value.to_owned()));
        }
        if line.ends_with(" status") {
            break line;
        }
    };
    let shell = Command::new("sh").arg("-c").arg(status.trim()).envs(variables).output().expect("a shell");
    let said = String::from_utf8_lossy(&shell.stdout).into_owned();
    assert!(shell.status.success() && said.contains("alice@") && said.contains("bob@"), "{said}");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("it can be interrupted");
    assert!(child.wait().expect("it ends").success());
}
