//! Links that break while tasks run: what goes on afterwards is the same task, and nothing of it is missing or there twice.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{PATIENCE, Running, within};
use crate::proxy::Who;
use crate::stage::{NOISE, Stage};

/// A link counts as broken once nothing came for so long (L-05).
const SILENCE: Duration = Duration::from_secs(15);

/// Prints the numbers up to `count`, some 25 a second, and leaves with code 7.
fn counting(count: usize, started: &str) -> String {
    format!("{started}; n=0; while [ $n -lt {count} ]; do n=$((n+1)); echo $n; sleep 0.04; done; exit 7")
}

fn numbers(count: usize) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

#[test]
fn live_output_goes_on_where_it_was_cut() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = counting(150, &starts.append("start"));
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    for lines in [20, 50, 51, 90] {
        client.wait_for_lines(lines);
        stage.proxy.cut();
    }
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), numbers(150).as_str()), "{done}");
    assert_eq!(starts.lines().len(), 1);
    worker.wait_clean(PATIENCE);
}

#[test]
fn a_link_that_finds_no_way_for_ten_seconds_goes_on_then() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = counting(100, &starts.append("start"));
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    client.wait_for_lines(20);
    stage.proxy.refuse();
    thread::sleep(Duration::from_secs(10));
    assert!(client.printed().lines().count() < 100, "the connection was not cut");
    stage.proxy.allow();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), numbers(100).as_str()), "{done}");
    assert_eq!(starts.lines().len(), 1);
    worker.wait_clean(PATIENCE);
}

#[test]
fn a_half_open_connection_is_noticed_and_replaced() {
    let stage = Stage::start();
    let _worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = counting(100, &starts.append("start"));
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    client.wait_for_lines(20);
    stage.proxy.hold();
    let held = Instant::now();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), numbers(100).as_str()), "{done}");
    assert_eq!(starts.lines().len(), 1);
    // A silence, and what connecting anew may take.
    assert!(held.elapsed() < SILENCE + NOISE + NOISE, "{:?}: {done}", held.elapsed());
}

#[test]
fn stdin_goes_on_where_it_was_cut() {
    let stage = Stage::start();
    let _worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = format!("{}; cat", starts.append("start"));
    let mut running = Running::start(stage.command("alice", &["--relay-only", "run", "--", "sh", "-c", &script]));
    starts.wait_for(1);
    let sent = numbers(400_000);
    for piece in sent.as_bytes().chunks(sent.len() / 8 + 1) {
        running.write(piece);
        stage.proxy.cut();
    }
    let done = running.done();
    assert!(
        done.code == Some(0) && done.stdout == sent,
        "{} bytes of {}: {}",
        done.stdout.len(),
        sent.len(),
        done.stderr
    );
    assert_eq!(starts.lines().len(), 1);
}

#[test]
fn large_files_arrive_whole_over_a_link_that_breaks() {
    const BYTES: usize = 40 * 1024 * 1024;
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let work = stage.cluster.work("alice");
    let noise: Vec<u8> =
        (0..BYTES as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(7).to_be_bytes()).collect();
    fs::write(work.join("large"), &noise).expect("a file");
    let starts = stage.trace("starts");
    let script = format!("{}; cat large > copy; rm large", starts.append("start"));
    let words = ["run", "-n", "--in", "large", "--out", "copy", "--", "sh", "-c", &script];
    let mut client = stage.client("alice", &words);
    // What is under way passes the proxy once towards the relay: twice on the way in, twice on the way out.
    for mebibytes in [7, 23, 38, 47, 61, 78] {
        let reached = || (client.process.is_over() || stage.proxy.passed() >= mebibytes << 20).then_some(());
        within(PATIENCE, reached).expect("the file travels");
        stage.proxy.cut();
    }
    let done = client.done();
    assert_eq!(done.code, Some(0), "{done}");
    assert!(fs::read(work.join("copy")).expect("it came back") == noise, "it came back changed");
    assert_eq!(starts.lines().len(), 1);
    worker.wait_clean(PATIENCE);
}

#[test]
fn short_tasks_run_once_each_while_their_link_breaks_again_and_again() {
    const TASKS: usize = 400;
    let stage = Stage::start();
    let _worker = stage.worker("bob", 2);
    let runs = stage.trace("runs");
    let command = format!("{}; sleep 0.02; echo {{}}", runs.append("{}"));
    let last = TASKS.to_string();
    let input = stage.cluster.work("alice").join("values");
    fs::write(&input, numbers(TASKS)).expect("a file");
    let mut client = stage.client("alice", &["map", "-k", &command, "::::", "values"]);
    let mut seed = 1_u64;
    while !client.process.is_over() && runs.lines().last().is_none_or(|line| *line != last) {
        // Uneven, so that the cuts fall between different items.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis(150 + (seed >> 33) % 400));
        stage.proxy.cut();
    }
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), numbers(TASKS).as_str()), "{}", done.stderr);
    let mut ran: Vec<usize> = runs.lines().iter().map(|line| line.parse().expect("a number")).collect();
    ran.sort_unstable();
    assert_eq!(ran, (1..=TASKS).collect::<Vec<_>>());
}

/// Prints more than the other side says in all, and then waits until it may end.
fn talkative(starts: &str, go: &str) -> String {
    format!("{starts}; seq 20000; {go}")
}

#[test]
fn an_end_that_was_said_and_not_heard_is_said_again() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let (starts, go, ends) = (stage.trace("starts"), stage.trace("go"), stage.trace("ends"));
    let script = format!("{}; {}; exit 7", talkative(&starts.append("start"), &go.wait()), ends.append("end"));
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    client.wait_for_lines(20_000);
    // What the worker says from here on gets as far as the proxy.
    stage.proxy.mute(Who::SaidMost);
    let said = stage.proxy.said();
    go.make();
    ends.wait_for(1);
    within(PATIENCE, || (stage.proxy.said() > said).then_some(())).expect("the worker says that it ended");
    assert!(!client.process.is_over(), "the end got through");
    stage.proxy.cut();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), numbers(20_000).as_str()), "{}", done.stderr);
    assert_eq!((starts.lines().len(), ends.lines().len()), (1, 1));
    worker.wait_clean(PATIENCE);
}

#[test]
fn an_end_that_was_heard_and_not_acknowledged_counts_once() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let (starts, go, last) = (stage.trace("starts"), stage.trace("go"), stage.trace("last"));
    let first = talkative(&starts.append("{}"), &go.wait());
    let script = format!("if [ {{}} = first ]; then {first}; else {}; {}; fi", starts.append("{}"), last.wait());
    let mut client = stage.client("alice", &["map", "--joblog", "log", &script, ":::", "first", "last"]);
    starts.wait_for(1);
    within(PATIENCE, || (stage.proxy.said() > 20_000).then_some(())).expect("the first one talks");
    // No acknowledgement of the client's gets to the worker from here on.
    stage.proxy.mute(Who::SaidLeast);
    go.make();
    client.wait_for_lines(20_000);
    stage.proxy.cut();
    last.make();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), numbers(20_000).as_str()), "{}", done.stderr);
    assert_eq!(starts.lines(), ["first", "last"]);
    let log = fs::read_to_string(stage.cluster.work("alice").join("log")).expect("a log");
    assert_eq!(log.lines().count(), 3, "{log}");
    worker.wait_clean(PATIENCE);
}
