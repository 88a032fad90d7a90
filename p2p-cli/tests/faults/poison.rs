//! Tasks that bring their workers down are found out; friends who close their lids are not blamed for it.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::PATIENCE;
use crate::stage::Stage;

/// A shell whose parent is the worker.
const POISON: &str = "kill -9 $PPID; sleep 1000";

#[test]
fn a_command_that_kills_its_worker_three_times_is_given_up() {
    let stage = Stage::start();
    let mut workers = ["bob", "bob", "carol", "carol"].map(|user| stage.worker(user, 1));
    let done = stage.run("alice", &["run", "-n", "--grace", "8s", "--", "sh", "-c", POISON]);
    assert_eq!(done.code, Some(74), "{done}");
    for word in ["3 workers", "bob@", "carol@"] {
        assert!(done.stderr.contains(word), "{word}: {done}");
    }
    assert_eq!(workers.iter_mut().filter_map(|worker| worker.process.is_over().then_some(())).count(), 3);
}

#[test]
fn other_tasks_of_the_killed_workers_succeed() {
    let stage = Stage::start();
    let _workers = ["bob", "bob", "carol", "carol"].map(|user| stage.worker(user, 2));
    let command = format!("if [ {{}} = 5 ]; then {POISON}; fi; sleep 1; echo {{}}");
    let numbers: Vec<String> = (1..=30).map(|n| n.to_string()).collect();
    let mut words = vec!["map", "-k", "--grace", "8s", &command, ":::"];
    words.extend(numbers.iter().map(String::as_str));
    let done = stage.run("alice", &words);
    assert_eq!(done.code, Some(1), "{done}");
    assert!(done.stderr.contains("p2p: failed: 5") && done.stderr.contains("3 workers"), "{done}");
    let good: String = numbers.iter().filter(|n| *n != "5").map(|n| format!("{n}\n")).collect();
    assert_eq!(done.stdout, good, "{done}");
}

#[test]
fn a_lid_that_is_closed_again_and_again_is_not_the_tasks_fault() {
    let stage = Stage::start();
    let worker = stage.worker("bob", 1);
    let starts = stage.trace("starts");
    let script = format!("{}; sleep 3; echo done", starts.append("start"));
    let mut client = stage.client("alice", &["run", "-n", "--grace", "4s", "--wait", "2m", "--", "sh", "-c", &script]);
    for count in 1..=3 {
        starts.wait_for(count);
        worker.process.signal(Signal::STOP);
        stage.proxy.cut();
        // Past the grace.
        thread::sleep(Duration::from_secs(6));
        worker.process.signal(Signal::CONT);
    }
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    worker.wait_clean(PATIENCE);
}
