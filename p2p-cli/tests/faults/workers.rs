//! Workers that die, stop, come back or are told to leave: every task gets its outcome, once.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::PATIENCE;
use crate::stage::{NOISE, Stage};

/// After so long without a link, repeatable tasks start elsewhere (L-06); a connection that ends is noticed at once.
const ELSEWHERE: Duration = Duration::from_secs(6);
/// The same where the connection just falls silent.
const ELSEWHERE_AFTER_SILENCE: Duration = Duration::from_secs(20);

/// The first start waits for ever, every later one ends.
fn stuck_once(stage: &Stage) -> (crate::stage::Trace, String) {
    let starts = stage.trace("starts");
    let first = stage.cluster.work("alice").join("first");
    let append = starts.append("start");
    // Who makes the folder is the first one.
    let command =
        format!("if mkdir '{}'; then {append}; exec sleep 1000; fi 2>/dev/null; {append}; echo done", first.display());
    (starts, command)
}

#[test]
fn tasks_of_a_killed_worker_start_elsewhere_within_seconds() {
    let stage = Stage::start();
    let doomed = stage.worker("carol", 1);
    let (starts, script) = stuck_once(&stage);
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    starts.wait_for(1);
    let _other = stage.worker("bob", 1);
    let killed = Instant::now();
    doomed.process.kill();
    starts.wait_for_within(2, ELSEWHERE + NOISE);
    eprintln!("it started elsewhere after {:?}", killed.elapsed());
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    // One line says that the connection broke, and what becomes of the task. On a slow machine others say what was waited for.
    let told = done.stderr.lines().filter(|line| line.contains("carol@") && !line.contains("waiting: connecting"));
    let told: Vec<&str> = told.collect();
    assert!(told.len() == 1 && told[0].contains("broke") && told[0].contains("starts elsewhere"), "{done}");
}

#[test]
fn tasks_of_a_worker_that_falls_silent_start_elsewhere() {
    let stage = Stage::start();
    let doomed = stage.worker("carol", 1);
    let (starts, script) = stuck_once(&stage);
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    starts.wait_for(1);
    stage.proxy.hold();
    let held = Instant::now();
    // Its end does not get through either.
    doomed.process.kill();
    let _other = stage.worker("bob", 1);
    starts.wait_for_within(2, ELSEWHERE_AFTER_SILENCE + NOISE);
    eprintln!("it started elsewhere after {:?}", held.elapsed());
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
}

#[test]
fn workers_that_left_without_a_word_are_not_in_the_way_of_one_that_lives() {
    let stage = Stage::start();
    let doomed = stage.worker("carol", 1);
    let (starts, script) = stuck_once(&stage);
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    starts.wait_for(1);
    // The client has heard all of them, and none says that it goes.
    let others = ["bob", "bob", "carol", "carol"].map(|user| stage.worker(user, 1));
    let _alive = stage.worker("bob", 1);
    for other in others {
        other.process.kill();
    }
    let killed = Instant::now();
    doomed.process.kill();
    starts.wait_for_within(2, ELSEWHERE + NOISE);
    eprintln!("it started elsewhere after {:?}", killed.elapsed());
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
}

#[test]
fn a_client_without_any_worker_says_so_and_goes_on_when_one_comes() {
    let stage = Stage::start();
    let only = stage.worker("carol", 1);
    let (starts, script) = stuck_once(&stage);
    let mut client = stage.client("alice", &["run", "-n", "--wait", "2m", "--", "sh", "-c", &script]);
    starts.wait_for(1);
    let killed = Instant::now();
    only.process.kill();
    client.process.wait_for("waiting: ");
    assert!(killed.elapsed() < ELSEWHERE + NOISE, "{:?} passed in silence", killed.elapsed());
    let _next = stage.worker("bob", 1);
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    assert_eq!(starts.lines().len(), 2);
}

#[test]
fn a_worker_that_sleeps_longer_than_the_grace_doubles_nothing() {
    let stage = Stage::start();
    let sleeper = stage.worker("carol", 1);
    let (starts, go_on) = (stage.trace("starts"), stage.trace("go-on"));
    let script =
        format!("{}; if [ {{}} = wait ]; then {}; else sleep 4; fi; echo {{}}", starts.append("{}"), go_on.wait());
    let words = ["map", "--grace", "8s", "-k", &script, ":::", "result", "wait"];
    let mut client = stage.client("alice", &words);
    starts.wait_for(1);
    sleeper.process.signal(Signal::STOP);
    let other = stage.worker("bob", 2);
    // The second task starts on the other worker, and once the silence was noticed, so does the first one.
    starts.wait_for_within(3, ELSEWHERE_AFTER_SILENCE + NOISE);
    // Past the grace, and the result of the new attempt is there too.
    thread::sleep(Duration::from_secs(10));
    sleeper.process.signal(Signal::CONT);
    // Its late result comes, if it comes, while the client still listens.
    sleeper.wait_clean(PATIENCE);
    thread::sleep(Duration::from_secs(2));
    go_on.make();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "result\nwait\n"), "{done}");
    assert!(done.stderr.contains("p2p: 2 done, 0 failed"), "{done}");
    let mut started = starts.lines();
    started.sort_unstable();
    assert_eq!(started, ["result", "result", "wait"]);
    // The one who slept is as good as before.
    drop(other);
    let done = stage.run("alice", &["run", "-n", "--", "echo", "here"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "here\n"), "{done}");
}

#[test]
fn once_means_once_whatever_breaks() {
    const TASKS: usize = 60;
    let stage = Stage::start();
    let (doomed, _other) = (stage.worker("carol", 2), stage.worker("bob", 2));
    let starts = stage.trace("starts");
    let script = format!("{}; sleep 0.2; echo {{}}", starts.append("{}"));
    let values: String = (1..=TASKS).map(|n| format!("{n}\n")).collect();
    std::fs::write(stage.cluster.work("alice").join("values"), values).expect("a file");
    let mut client = stage.client("alice", &["map", "--once", "--grace", "8s", &script, "::::", "values"]);
    for count in [10, 20, 30] {
        starts.wait_for(count);
        stage.proxy.cut();
    }
    starts.wait_for(34);
    doomed.process.kill();
    starts.wait_for(45);
    stage.proxy.cut();
    let done = client.done();
    let mut started = starts.lines();
    started.sort_unstable();
    let all = started.len();
    started.dedup();
    assert_eq!(started.len(), all, "something was started twice: {done}");
    // What ran on the killed worker is lost, and it had two slots.
    let printed = done.stdout.lines().count();
    let failed = usize::try_from(done.code.expect("it ends by itself")).expect("a count");
    assert!(failed <= 2 && printed + failed == TASKS, "{printed} printed: {done}");
    assert!(done.stderr.contains(&format!("p2p: {} done, {failed} failed", TASKS - failed)), "{done}");
}

#[test]
fn a_worker_told_to_leave_finishes_what_it_holds() {
    let stage = Stage::start();
    let mut leaving = stage.worker("carol", 1);
    let (starts, go_on) = (stage.trace("starts"), stage.trace("go-on"));
    let script = format!("{}; {}; echo {{}}", starts.append("{}"), go_on.wait());
    let words = ["map", "-k", &script, ":::", "1", "2", "3", "4", "5", "6"];
    let mut client = stage.client("alice", &words);
    starts.wait_for(1);
    leaving.process.signal(Signal::TERM);
    leaving.process.wait_for("still run");
    let other = stage.worker("bob", 1);
    go_on.make();
    assert_eq!(leaving.process.wait(), Some(0));
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "1\n2\n3\n4\n5\n6\n"), "{done}");
    assert_eq!(starts.lines().len(), 6, "something was started twice: {done}");
    leaving.wait_clean(PATIENCE);
    drop(other);
}

#[test]
fn a_worker_told_twice_hands_back_what_it_holds() {
    let stage = Stage::start();
    let mut leaving = stage.worker("carol", 1);
    let (starts, go_on) = (stage.trace("starts"), stage.trace("go-on"));
    let script = format!("{}; {}; echo {{}}", starts.append("{}"), go_on.wait());
    let words = ["map", "-k", &script, ":::", "1", "2", "3", "4", "5", "6"];
    let mut client = stage.client("alice", &words);
    starts.wait_for(1);
    leaving.process.signal(Signal::TERM);
    leaving.process.wait_for("still run");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.wait(), Some(0));
    leaving.wait_clean(Duration::ZERO);
    let _other = stage.worker("bob", 1);
    go_on.make();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "1\n2\n3\n4\n5\n6\n"), "{done}");
    // Only what ran when it was killed was started before.
    assert_eq!(starts.lines().len(), 7, "{:?}", starts.lines());
}

#[test]
fn a_worker_whose_time_is_over_finishes_what_runs() {
    let stage = Stage::start();
    let mut leaving = stage.worker_with("carol", 1, &["--duration", "3s"]);
    let (starts, go_on) = (stage.trace("starts"), stage.trace("go-on"));
    let script = format!("{}; {}; echo done", starts.append("start"), go_on.wait());
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    starts.wait_for(1);
    leaving.process.wait_for("still run");
    go_on.make();
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    assert_eq!(leaving.process.wait(), Some(0));
    assert_eq!(starts.lines().len(), 1);
    leaving.wait_clean(Duration::ZERO);
}
