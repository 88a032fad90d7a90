//! What tasks demand of workers, and whether they would wait: `--mem`, `--label`, `--cpus`, and what `p2p status` says of them.

mod cluster;

use cluster::{Cluster, PATIENCE, Running, within};

#[test]
fn tasks_go_where_what_they_need_is_and_status_says_where_that_is_nowhere() {
    let cluster = Cluster::start();
    let _gpu = cluster.worker_with("carol", 1, &["--label", "gpu", "--mem", "64MiB", "--weight", "bob=3"]);
    let _plain = cluster.worker_with("bob", 2, &["--mem", "1GiB"]);
    let worker_of = |options: &[&str]| {
        let words = [&["--json", "map"], options, &["true", ":::", "1"]].concat();
        let done = cluster.run("alice", &words);
        assert_eq!(done.code, Some(0), "{done}");
        let task: serde_json::Value = serde_json::from_str(done.stdout.trim()).expect("JSON");
        task["worker"].as_str().map(ToOwned::to_owned).expect("a worker")
    };
    for _ in 0..2 {
        assert!(worker_of(&["--label", "gpu"]).starts_with("carol@"));
        assert!(worker_of(&["--mem", "65MiB"]).starts_with("bob@"));
        assert!(worker_of(&["--cpus", "2", "--priority", "-3"]).starts_with("bob@"));
    }
    let done = cluster.run("alice", &["run", "--wait", "1s", "--label", "gpu", "--mem", "1TiB", "--", "true"]);
    assert_eq!(done.code, Some(69), "{done}");
    let words = "no worker here offers to run commands with 1048576 MiB of memory and the label gpu";
    assert!(done.stderr.contains(words), "{done}");
    let done = cluster.run("alice", &["status", "--label", "gpu", "--mem", "1TiB"]);
    assert!(done.stdout.contains(&format!("a command would wait: {words}")), "{done}");
    let done = cluster.run("alice", &["status"]);
    assert!(done.stdout.ends_with("a command would start at once\n"), "{done}");
    for wrong in
        [&["worker", "--weight", "bob=0"][..], &["worker", "--weight", "bob"], &["run", "--mem", "much", "--", "true"]]
    {
        assert_eq!(cluster.run("alice", wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn status_says_that_a_command_would_wait_for_a_slot() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let flag = cluster.work("alice").join("flag");
    let script = format!("touch '{}'; sleep 1000", flag.display());
    let running = Running::start(cluster.command("alice", &["run", "--", "sh", "-c", &script]));
    within(PATIENCE, || flag.exists().then_some(())).expect("it runs");
    let done = cluster.run("carol", &["status"]);
    assert!(done.stdout.ends_with("a command would wait: all 1 slots are busy\n"), "{done}");
    drop(running);
}
