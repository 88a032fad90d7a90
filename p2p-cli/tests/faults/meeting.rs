//! Host and hub are there for meeting: who has met needs neither, and both come back unnoticed.

use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{NOISE, Stage};

/// After the host or the hub is back, everything works again within this time.
const BACK: Duration = Duration::from_secs(10);

/// Runs one task through `harm` and `repair`, and then a new client's.
fn unaffected(harm: impl Fn(&mut Stage), repair: impl Fn(&mut Stage)) {
    let mut stage = Stage::start();
    let _worker = stage.worker("bob", 2);
    let go_on = stage.trace("go-on");
    let script = format!("n=0; until {}; do n=$((n+1)); echo $n; sleep 0.1; done; echo done", go_on.exists());
    let mut client = stage.client("alice", &["run", "-n", "--", "sh", "-c", &script]);
    client.wait_for_lines(5);
    harm(&mut stage);
    // It prints on, long after whoever missed something would have noticed.
    let lines = client.printed().lines().count();
    client.wait_for_lines(lines + 30);
    repair(&mut stage);
    let back = Instant::now();
    let done = loop {
        let done = stage.run("alice", &["run", "-n", "--", "echo", "new"]);
        if done.code == Some(0) || back.elapsed() > BACK + NOISE {
            break done;
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "new\n"), "{done}");
    assert!(back.elapsed() < BACK + NOISE, "{:?}: {done}", back.elapsed());
    eprintln!("everything is back after {:?}", back.elapsed());
    go_on.make();
    let done = client.done();
    assert_eq!(done.code, Some(0), "{done}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let (last, numbers) = lines.split_last().expect("lines");
    assert_eq!(*last, "done");
    assert!(numbers.iter().map(|line| line.parse().ok()).eq((1..=numbers.len()).map(Some)), "{done}");
}

#[test]
fn a_killed_host_is_not_missed_by_what_runs() {
    unaffected(|stage| stage.cluster.kill_host(), |stage| stage.cluster.start_host());
}

#[test]
fn a_killed_hub_is_not_missed_by_what_runs() {
    unaffected(|stage| stage.cluster.stop_hub(), |stage| stage.cluster.start_hub());
}
