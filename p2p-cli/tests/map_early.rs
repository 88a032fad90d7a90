//! When `p2p map` starts tasks, how often, and when it ends before all are done: `--halt`, `--retries`, `--delay`, `--timeout`.

mod cluster;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cluster::{Cluster, PATIENCE, Running, within};

/// Numbers, start times and exit codes of a log.
fn lines(log: &Path) -> Vec<(u64, f64, i32)> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let columns = text.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    columns
        .map(|columns| {
            let (number, started, exit) = (columns[0].parse(), columns[2].parse(), columns[6].parse());
            (number.expect("a number"), started.expect("a time"), exit.expect("an exit code"))
        })
        .collect()
}

fn numbers(log: &Path) -> Vec<u64> {
    lines(log).iter().map(|(number, ..)| *number).collect()
}

#[test]
fn a_halt_exits_as_that_of_parallel() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let work = cluster.work("alice");
    let ends = ["exit 3", "exit 0", "exit 5", "exit 0", "kill -9 $$", "exit 0"];
    let killed = ["exit 0", "kill -9 $$", "exit 0"];
    let cases: [(&str, &[&str]); 15] = [
        ("never", &ends),
        ("now,fail=1", &ends),
        ("soon,fail=1", &ends),
        ("soon,fail=3", &ends),
        ("now,fail=4", &ends),
        ("soon,success=1", &ends),
        ("now,success=4", &ends),
        ("now,done=2", &ends),
        ("soon,done=1", &ends),
        ("soon,fail=50%", &ends),
        ("51%", &ends),
        ("now,done=50%", &ends),
        ("2", &killed),
        ("-1", &killed),
        ("soon,fail=30%", &killed),
    ];
    for (halt, ends) in cases {
        let mut theirs = Command::new("parallel");
        theirs.args(["--will-cite", "-j1", "--halt", halt, ":::"]).args(ends).stdin(Stdio::null());
        theirs.env("PARALLEL_SHELL", "/bin/sh").env("HOME", &work).current_dir(&work);
        let theirs = theirs.output().expect("GNU parallel is needed by this test: install the Debian package parallel");
        let mut words = vec!["map", "--halt", halt, ":::"];
        words.extend(ends);
        let ours = cluster.run("alice", &words);
        assert_eq!(ours.code, theirs.status.code(), "{halt} of {ends:?}: {ours}");
        assert_eq!(
            ours.stderr.contains("p2p: --halt "),
            ours.stderr.contains("--resume could go on"),
            "{halt}: {ours}"
        );
    }
    for halt in ["fail=10%", "now", "soon,fail=0", "later,fail=1"] {
        let done = cluster.run("alice", &["map", "--halt", halt, "true", ":::", "1"]);
        assert_eq!(done.code, Some(2), "{done}");
    }
}

#[test]
fn now_kills_what_runs_and_soon_lets_it_finish() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    // The first one runs when the second one fails.
    let command = format!(
        "cd '{}'; [ {{}} != 1 ] || touch began; if [ {{}} = 2 ]; then until [ -e began ]; do sleep 0.05; done; exit 7; fi; \
         until [ -e go ]; do sleep 0.05; done; touch ended{{}}",
        work.display()
    );
    let mut words = vec!["map", "--joblog", "log", "--halt", "", &command, ":::"];
    let values: Vec<String> = (1..=30).map(|number| number.to_string()).collect();
    words.extend(values.iter().map(String::as_str));

    words[4] = "now,fail=1";
    let done = cluster.run("alice", &words);
    assert_eq!(done.code, Some(7), "{done}");
    assert!(done.stderr.contains("p2p: --halt now,fail=1: stopping "), "{done}");
    assert!(done.stderr.contains("p2p: to go on, ") && done.stderr.contains(" unfinished: "), "{done}");
    assert_eq!(numbers(&work.join("log")), [2], "{done}");
    assert!(!work.join("ended1").exists());

    words[4] = "soon,fail=1";
    for name in ["began", "log"] {
        fs::remove_file(work.join(name)).expect("it began");
    }
    let running = Running::start(cluster.command("alice", &words));
    within(PATIENCE, || (numbers(&work.join("log")) == [2]).then_some(())).expect("the second one fails");
    fs::write(work.join("go"), "").expect("a file");
    let done = running.done();
    assert_eq!(done.code, Some(7), "{done}");
    assert!(done.stderr.contains("p2p: --halt soon,fail=1: no more tasks start; waiting for "), "{done}");
    assert_eq!(numbers(&work.join("log")), [2, 1], "{done}");
    assert!(work.join("ended1").exists() && !work.join("ended3").exists(), "{done}");

    // The log says what is left.
    words.insert(1, "--resume");
    words[5] = "never";
    let done = cluster.run("alice", &words);
    assert_eq!(done.code, Some(0), "{done}");
    let mut all = numbers(&work.join("log"));
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=30), "{done}");
}

#[test]
fn what_fails_is_tried_again() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    let run = |parallel: bool, retries: &str, needed: u32| {
        let runs = tempfile::tempdir_in(&work).expect("a folder");
        let command = format!(
            "cd '{}'; echo x >> {{}}; echo try $(wc -l < {{}}) of {{}}; [ $(wc -l < {{}}) -ge {needed} ]",
            runs.path().display()
        );
        let words = ["-k", "--joblog", "log", "--retries", retries, &command, ":::", "a", "b"];
        let done = if parallel {
            let mut command = Command::new("parallel");
            command.arg("--will-cite").args(words).env("HOME", &work).current_dir(&work);
            Running::start(command).done()
        } else {
            cluster.run("alice", &[&["map"][..], &words].concat())
        };
        let counts = ["a", "b"].map(|name| fs::read_to_string(runs.path().join(name)).expect("it ran").lines().count());
        let mut log: Vec<_> = lines(&work.join("log")).into_iter().map(|(number, _, exit)| (number, exit)).collect();
        log.sort_unstable();
        (done.code, done.stdout, counts, log)
    };
    for (retries, needed) in [("3", 3), ("3", 1), ("2", 3), ("1", 2), ("0", 7)] {
        assert_eq!(run(false, retries, needed), run(true, retries, needed), "--retries {retries}");
    }
    let done = cluster.run("alice", &["map", "--retries", "3", "--in", "{}", "cat", ":::", "missing"]);
    assert_eq!(done.code, Some(1), "{done}");
    let done = cluster.run("alice", &["map", "--retries", "3", "--once", "true", ":::", "1"]);
    assert_eq!(done.code, Some(2), "{done}");
}

#[test]
fn a_delay_is_between_two_starts() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let log = cluster.work("alice").join("log");
    // Some end before the next one starts, some have to wait for a slot.
    let done = cluster
        .run("alice", &["map", "--delay", "0.3", "--joblog", "log", "sleep", ":::", "0", "0", "1.5", "1.5", "0", "0"]);
    assert_eq!(done.code, Some(0), "{done}");
    let mut starts: Vec<f64> = lines(&log).into_iter().map(|(_, started, _)| started).collect();
    starts.sort_by(f64::total_cmp);
    assert_eq!(starts.len(), 6);
    // The clock of the log is not the one that measures the delay.
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] > 0.28), "{starts:?}");
    let done = cluster.run("alice", &["map", "--delay", "1ms", "--retries", "3", "--in", "{}", "cat", ":::", "a", "b"]);
    assert_eq!(done.code, Some(2), "what cannot be submitted is no reason to wait for ever: {done}");
}

#[test]
fn times_are_those_of_parallel_or_are_refused() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    for limit in ["1", "1s", "0.02m", "500ms"] {
        let done = cluster.run("alice", &["map", "--timeout", limit, "sleep", ":::", "1000"]);
        assert_eq!(done.code, Some(1), "{done}");
        assert!(done.stderr.contains("killed: it ran longer than --timeout"), "{done}");
    }
    assert_eq!(cluster.run("alice", &["map", "--timeout", "0", "true", ":::", "1"]).code, Some(0), "0 is none");
    for (option, time, words) in
        [("--timeout", "200%", "a percentage"), ("--timeout", "x", "30s"), ("--delay", "1auto", "by itself")]
    {
        let done = cluster.run("alice", &["map", option, time, "true", ":::", "1"]);
        assert_eq!(done.code, Some(2), "{done}");
        assert!(done.stderr.contains(words), "{done}");
    }
}
