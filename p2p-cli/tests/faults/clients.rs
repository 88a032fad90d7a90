//! Clients that die, or are interrupted while the connection is away: they end at once, and their workers keep nothing of them.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::within;
use crate::stage::{NOISE, Stage};

const GRACE: Duration = Duration::from_secs(8);

#[test]
fn tasks_of_a_killed_client_end_after_the_grace() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 2);
    let starts = stage.trace("starts");
    let script = format!("{}; sleep 1000 & sleep 1000", starts.append("start"));
    let client = stage.client("alice", &["map", "--grace", "8s", &script, ":::", "1", "2", "3", "4"]);
    starts.wait_for(2);
    assert_eq!(stage.busy(), 2);
    client.process.kill();
    worker.wait_clean(GRACE + NOISE);
    let free = within(NOISE, || (stage.busy() == 0).then_some(()));
    free.expect("its slots are free");
    assert_eq!(starts.lines().len(), 2, "tasks of a client that is gone were started");
    let done = stage.run("carol", &["run", "-n", "--cpus", "2", "--", "echo", "mine"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "mine\n"), "{done}");
}

#[test]
fn a_client_that_sleeps_longer_than_the_grace_begins_again() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 2);
    let starts = stage.trace("starts");
    let first = stage.cluster.work("alice").join("first");
    // The first two that start wait for ever.
    let script = format!(
        "{}; if mkdir '{first}'1 || mkdir '{first}'2; then exec sleep 1000; fi 2>/dev/null; echo {{}}",
        starts.append("{}"),
        first = first.display()
    );
    for (how, code, printed) in [("-k", 0, "1\n2\n"), ("--once", 2, "")] {
        let mut client = stage.client("alice", &["map", "--grace", "4s", how, &script, ":::", "1", "2"]);
        starts.wait_for(2);
        client.process.signal(Signal::STOP);
        stage.proxy.cut();
        worker.wait_clean(Duration::from_secs(4) + NOISE);
        client.process.signal(Signal::CONT);
        let done = client.done();
        assert_eq!((done.code, done.stdout.as_str()), (Some(code), printed), "{done}");
        assert_eq!(starts.lines().len(), 4 - usize::try_from(code).expect("a count"), "{done}");
        starts.forget();
        for number in [1, 2] {
            std::fs::remove_dir(format!("{}{number}", first.display())).expect("a folder");
        }
    }
}

#[test]
fn an_interrupt_ends_a_client_whose_connection_is_away() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = format!("{}; sleep 1000", starts.append("start"));
    for command in [
        &["run", "-n", "--grace", "8s", "--", "sh", "-c", &script][..],
        &["map", "--grace", "8s", &script, ":::", "1", "2"],
    ] {
        let before = starts.lines().len();
        let mut client = stage.client("alice", command);
        starts.wait_for(before + 1);
        stage.proxy.refuse();
        // The interrupt falls into the time without a connection, not into the cut.
        std::thread::sleep(Duration::from_millis(500));
        client.process.signal(Signal::INT);
        let interrupted = Instant::now();
        let done = client.done();
        assert_eq!(done.code, Some(130), "{done}");
        assert!(interrupted.elapsed() < NOISE, "it took {:?}: {done}", interrupted.elapsed());
        worker.wait_clean(GRACE + NOISE);
        stage.proxy.allow();
    }
}
