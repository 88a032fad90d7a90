//! `p2p run` and `p2p status` on real processes: a hub, a host, workers.

mod cluster;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use cluster::{Background, CLUSTER, Cluster, PATIENCE, Running, within};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_command_answers_from_the_worker_with_its_exit_code() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let done = cluster.run("alice", &["run", "--", "uname", "-a"]);
    assert_eq!(done.code, Some(0), "{done}");
    let here = std::process::Command::new("uname").arg("-a").output().expect("uname runs here").stdout;
    assert_eq!(done.stdout.as_bytes(), here, "{done}");
    for code in [1, 7, 255] {
        let done = cluster.run("alice", &["run", "--", "sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(code), "out\n"), "{done}");
        assert!(done.stderr.contains("err\n"), "{done}");
    }
    let done = cluster.run("alice", &["run", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(done.code, Some(137), "{done}");
    // Everybody on the list may, the worker's owner too.
    for user in ["bob", "carol"] {
        let done = cluster.run(user, &["run", "--", "echo", user]);
        assert_eq!((done.code, done.stdout), (Some(0), format!("{user}\n")));
    }
}

#[test]
fn stdin_reaches_the_command_and_output_comes_while_it_runs() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let mut command =
        cluster.command("alice", &["run", "--", "sh", "-c", "echo first; read line; echo got $line; cat | wc -c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut stdin = child.stdin.take().expect("its stdin");
    let mut line = String::new();
    // The command waits for a line that is written only after its own first line was read here: output that came at the end would hang.
    stdout.read_line(&mut line).expect("its first line");
    assert_eq!(line, "first\n");
    stdin.write_all(b"hello\n").expect("it reads");
    line.clear();
    stdout.read_line(&mut line).expect("its second line");
    assert_eq!(line, "got hello\n");
    let many = vec![b'x'; 5_000_000];
    stdin.write_all(&many).expect("it reads much");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("its last line");
    assert_eq!(rest.trim(), "5000000");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn much_output_comes_whole_and_in_order() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let done = cluster.run("alice", &["run", "--", "seq", "1", "400000"]);
    assert_eq!(done.code, Some(0));
    assert!(
        done.stdout.lines().map(str::parse::<u32>).eq((1..=400_000).map(Ok)),
        "numbers are missing or out of order"
    );
}

#[test]
fn files_go_out_and_come_back() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let work = cluster.work("alice");
    let large: Vec<u8> = (0..9_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::create_dir(work.join("data")).expect("a folder");
    fs::write(work.join("data/large.bin"), &large).expect("a file");
    fs::write(work.join("small.txt"), "small").expect("a file");
    fs::write(
        work.join("tool"),
        "#!/bin/sh\nmkdir -p out/deep\ncat small.txt data/large.bin > out/both\necho x > out/deep/x.log\n",
    )
    .expect("a file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(work.join("tool"), executable).expect("rights");
    let words = [
        "run",
        "--in",
        "data/large.bin",
        "--in",
        "small.txt",
        "--in",
        "tool",
        "--out",
        "out/both",
        "--out",
        "out/**/*.log",
    ];
    let done = cluster.run("alice", &[&words[..], &["--", "./tool"]].concat());
    assert_eq!(done.code, Some(0), "{done}");
    let both = fs::read(work.join("out/both")).expect("it came back");
    assert!(both == [b"small".as_slice(), &large].concat(), "it came back changed");
    assert_eq!(fs::read_to_string(work.join("out/deep/x.log")).expect("it came back"), "x\n");
    let left = fs::read_dir(&work)
        .expect("a folder")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().contains(".part"));
    assert_eq!(left.count(), 0, "halves of files are left");
}

#[test]
fn folders_go_out_and_come_back_over_what_is_there() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let work = cluster.work("alice");
    fs::create_dir_all(work.join("in/sub/empty")).expect("a folder");
    fs::write(work.join("in/sub/large"), vec![7; 3_000_000]).expect("a file");
    fs::write(work.join("in/a b"), "small").expect("a file");
    std::os::unix::fs::symlink("sub/large", work.join("in/link")).expect("a link");
    fs::create_dir_all(work.join("out/sub")).expect("a folder");
    for name in ["out/kept", "out/a b", "out/sub/kept"] {
        fs::write(work.join(name), "mine").expect("a file");
    }
    let words = ["run", "--in", "in/", "--out", "out/", "--out", "fresh/", "--"];
    let line = "test -d in/sub/empty && cp -a in out && mkdir -p fresh/deep && wc -c < in/link > fresh/deep/size";
    let done = cluster.run("alice", &[&words[..], &["sh", "-c", line]].concat());
    assert_eq!(done.code, Some(0), "{done}");
    let read = |name: &str| fs::read_to_string(work.join(name)).expect("it is there");
    assert_eq!(
        (read("out/kept"), read("out/sub/kept"), read("out/a b")),
        ("mine".into(), "mine".into(), "small".into())
    );
    assert_eq!(read("fresh/deep/size").trim(), "3000000");
    assert_eq!(fs::read_link(work.join("out/link")).expect("a link"), std::path::Path::new("sub/large"));
    assert!(work.join("out/sub/empty").is_dir() && read("out/link").len() == 3_000_000);
    // A file does not take the place of a folder.
    fs::remove_file(work.join("in/a b")).expect("it was there");
    fs::remove_dir_all(work.join("out")).expect("it was there");
    fs::create_dir_all(work.join("out/link")).expect("a folder");
    let done = cluster.run("alice", &["run", "--in", "in/", "--out", "out/", "--", "cp", "-a", "in", "out"]);
    assert!(
        done.code != Some(0) && done.stderr.contains("out/link") && done.stderr.contains("a folder is there"),
        "{done}"
    );
    let left = fs::read_dir(&work)
        .expect("a folder")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().contains(".part"));
    assert_eq!(left.count(), 0, "halves of folders are left");
}

#[test]
fn an_interrupt_ends_the_remote_command_and_its_children() {
    let cluster = Cluster::start();
    let worker = cluster.worker("bob", 1);
    let marker = cluster.work("bob").join("running");
    let script = format!("sleep 1000 & echo $! > {0}.tmp; mv {0}.tmp {0}; echo ready; wait", marker.display());
    let running = Running::start(cluster.command("alice", &["run", "--", "sh", "-c", &script]));
    let pid = within(PATIENCE, || fs::read_to_string(&marker).ok()).expect("the command runs");
    let process = std::path::Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    running.signal(Signal::INT);
    let done = running.done();
    assert_eq!(done.code, Some(130), "{done}");
    within(PATIENCE, || (!process.exists()).then_some(())).expect("its child has gone too");
    drop(worker);
}

/// A command that prints without end into a pipe, of which only the first line has been read.
fn endless(cluster: &Cluster) -> (Child, BufReader<ChildStdout>) {
    let mut command = cluster.command("alice", &["run", "-n", "--", "yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("its first line");
    assert_eq!(line, "y\n");
    // Long enough for the pipe to be full.
    std::thread::sleep(Duration::from_millis(500));
    (child, stdout)
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("it runs");
}

fn code(child: &mut Child) -> Option<i32> {
    let ended = within(PATIENCE, || child.try_wait().expect("a process can be waited for"));
    ended.expect("it ends in time").code()
}

#[test]
fn an_interrupt_comes_through_endless_output() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let (mut child, mut stdout) = endless(&cluster);
    interrupt(&child);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("the rest of its output");
    assert_eq!(code(&mut child), Some(130));
}

#[test]
fn a_second_interrupt_ends_what_is_stuck_in_a_pipe_that_nobody_reads() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let (mut child, stdout) = endless(&cluster);
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("a process can be waited for").is_none(), "it did not wait for its reader");
    interrupt(&child);
    assert_eq!(code(&mut child), Some(130));
    drop(stdout);
    // The worker was told, and has its slot back at once: it does not wait for the grace of a client that it misses.
    let done = cluster.run("alice", &["run", "--", "true"]);
    assert!(done.code == Some(0) && done.took < Duration::from_secs(30), "{:?}: {done}", done.took);
}

#[test]
fn status_shows_host_workers_and_links() {
    let cluster = Cluster::start();
    let done = cluster.run("alice", &["status"]);
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stdout.contains("no worker is here"), "{done}");
    let _first = cluster.worker("bob", 2);
    let _second = cluster.worker("alice", 1);
    let marker = cluster.work("bob").join("running");
    let script = format!("touch {}; sleep 1000", marker.display());
    let running = Running::start(cluster.command("alice", &["run", "-n", "--", "sh", "-c", &script]));
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    let done = cluster.run("alice", &["status", "--json"]);
    assert_eq!(done.code, Some(0), "{done}");
    let said: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(said["cluster"], CLUSTER);
    assert_eq!(said["host"]["present"], true, "{said}");
    assert_eq!((&said["slots"], &said["busy"], &said["queued"]), (&3.into(), &1.into(), &0.into()), "{said}");
    let workers = said["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 2, "{said}");
    for worker in workers {
        assert_eq!(worker["link"], "direct", "{said}");
        assert!(worker["round_trip_ms"].as_f64().is_some_and(|trip| trip > 0.0), "{said}");
    }
    let done = cluster.run("alice", &["status"]);
    assert!(done.stdout.contains("is here") && done.stdout.contains("direct ("), "{done}");
    drop(running);
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_runs() {
    let cluster = Cluster::start();
    let mut worker = cluster.worker("bob", 1);
    let go_on = cluster.work("bob").join("go-on");
    let script = format!("echo ready; while [ ! -e {} ]; do sleep 0.05; done; echo done", go_on.display());
    let mut command = cluster.command("alice", &["run", "-n", "--", "sh", "-c", &script]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("its first line");
    worker.signal(Signal::TERM);
    worker.wait_for("1 still run");
    fs::write(&go_on, "").expect("a file");
    line.clear();
    stdout.read_line(&mut line).expect("its last line");
    assert_eq!(line, "done\n");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(worker.wait(), Some(0));
}

#[test]
fn a_worker_that_leaves_takes_its_folder_with_it() {
    let cluster = Cluster::start();
    let folder = cluster.folder().join("of-tasks");
    fs::create_dir(&folder).unwrap();
    let mut command = cluster.command("bob", &["worker", "--slots", "1"]);
    command.env("TMPDIR", &folder);
    let mut worker = Background::start("worker-bob", command, cluster.folder());
    worker.wait_for("at work for");
    assert_eq!(cluster.run("alice", &["run", "--", "true"]).code, Some(0));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait(), Some(0));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
