//! What a full disk costs: one task, on the worker's side or on the client's, and never the next one.

mod cluster;
#[path = "../../p2p-executor/tests/support/small_disk.rs"]
mod small_disk;

use std::fs;
use std::path::Path;

use cluster::{Background, Cluster, Done, Running, tree};
use small_disk::{SmallDisk, small_disk};

/// More than the disk holds, less than a file may have; it streams.
const LARGE: usize = 3 * 1024 * 1024;
/// Travels inside an item.
const SMALL: usize = 20_000;

/// Leaves so little room that not even [`SMALL`] finds any. Dropping it frees the room.
struct Filler(std::path::PathBuf);

impl Filler {
    fn fill(disk: &SmallDisk) -> Self {
        let filler = Self(disk.path().join("filler"));
        let full = fs::write(&filler.0, vec![0; LARGE]).expect_err("the disk is small");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("the filler is there");
    }
}

#[track_caller]
fn says(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.code, Some(code), "{done}");
    for words in words {
        assert!(done.stderr.contains(words), "it did not say {words:?}: {done}");
    }
}

#[test]
fn a_worker_whose_disk_is_full_says_so_and_works_on() {
    let Some(disk) = small_disk(1) else { return };
    let cluster = Cluster::start();
    let mut command = cluster.command("bob", &["worker", "--slots", "1"]);
    command.env("TMPDIR", disk.path());
    let mut worker = Background::start("worker-bob", command, &cluster.work("bob"));
    worker.wait_for("at work for");
    let work = cluster.work("alice");
    fs::write(work.join("large"), vec![b'x'; LARGE]).expect("a file");
    fs::write(work.join("small"), vec![b'x'; SMALL]).expect("a file");
    let next_works = || {
        let done = cluster.run("alice", &["run", "--in", "small", "--", "wc", "-c", "small"]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), "20000 small\n"), "{done}");
        assert_eq!(folders(disk.path()), 0, "a task's folder is left on the worker's disk");
    };
    let full =
        ["bob@", "disk of this worker", "is full", "No space left", "free space there", "TMPDIR on a larger disk"];

    let done = cluster.run("alice", &["run", "--in", "large", "--", "echo", "ran"]);
    says(&done, 125, &full);
    says(&done, 125, &["the input file large"]);
    assert_eq!(done.stdout, "", "{done}");
    next_works();

    let filler = Filler::fill(&disk);
    says(&cluster.run("alice", &["run", "--in", "small", "--", "true"]), 125, &full);
    let done = cluster.run("alice", &["map", "--in", "{}", "wc -c {}", ":::", "small"]);
    says(&done, 1, &full[..4]);
    drop(filler);
    next_works();

    // The command itself is the one to say it: its words and its exit code are passed on.
    let script = format!("head -c {LARGE} /dev/zero > result");
    let done = cluster.run("alice", &["run", "--out", "result", "--", "sh", "-c", &script]);
    says(&done, 1, &["No space left on device"]);
    next_works();
}

#[test]
fn a_result_that_finds_no_room_here_leaves_no_part_of_it() {
    let Some(disk) = small_disk(1) else { return };
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let run = |words: &[&str]| {
        let mut command = cluster.command("alice", words);
        command.current_dir(disk.path());
        Running::start(command).done()
    };
    let left = || tree(disk.path()).into_keys().filter(|name| name != "filler").collect::<Vec<_>>();
    let full = ["this disk is full", "No space left", "free space there", "a larger disk"];
    let (large, small) = (format!("head -c {LARGE} /dev/zero > result"), format!("head -c {SMALL} /dev/zero > result"));

    let done = run(&["run", "--out", "result", "--", "sh", "-c", &large]);
    says(&done, 73, &full);
    let folder = disk.path().display().to_string();
    says(&done, 73, &["a file that comes back cannot be written into", &folder]);
    assert_eq!(left(), [""; 0], "{done}");
    let done = run(&["map", "--out", "result", &format!("{large} #"), ":::", "1"]);
    says(&done, 1, &full);
    assert_eq!(left(), [""; 0], "{done}");

    let filler = Filler::fill(&disk);
    let done = run(&["run", "--out", "result", "--", "sh", "-c", &small]);
    says(&done, 73, &full);
    says(&done, 73, &["result cannot be written"]);
    assert_eq!(left(), [""; 0], "{done}");
    let done = run(&["map", "--out", "result", &format!("{small} #"), ":::", "1"]);
    says(&done, 1, &full);
    assert_eq!(left(), [""; 0], "{done}");
    drop(filler);

    let done = run(&["run", "--out", "result", "--", "sh", "-c", &small]);
    assert_eq!(done.code, Some(0), "{done}");
    assert_eq!(left(), ["result"], "{done}");
}

#[test]
fn output_that_waits_for_its_turn_and_finds_no_room_fails_its_task_alone() {
    let Some(disk) = small_disk(1) else { return };
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let mut command = cluster.command("alice", &["map", "head -c {} /dev/zero | tr '\\0' x", ":::", "3000000", "3"]);
    command.env("TMPDIR", disk.path());
    let done = Running::start(command).done();
    says(&done, 1, &["3000000", "cannot be kept", "No space left", "set TMPDIR to a larger disk", "1 done, 1 failed"]);
    assert!(done.stdout.ends_with("xxx"), "{done}");
}

/// Folders of attempts; a worker keeps them in a folder of its own.
fn folders(base: &Path) -> usize {
    let below = |folder: &Path| fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    below(base).filter(|home| home.is_dir()).map(|home| below(&home).count()).sum()
}
