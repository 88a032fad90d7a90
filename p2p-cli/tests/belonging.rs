//! Who belongs, and for how long: admission by login or by hand, removal while links run, keys that are lost (T-02, T-03).

mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Background, CLUSTER, Cluster, Done, PATIENCE, Running, within};

/// Alice as host with these options. Returns once the cluster is open.
fn host(cluster: &Cluster, options: &[&str]) -> Background {
    let words: Vec<&str> = ["host", "--duration", "20m"].iter().chain(options).copied().collect();
    let mut host = Background::start("host", cluster.command("alice", &words), cluster.folder());
    host.wait_for("is open for");
    host
}

/// A worker that need not get in.
fn hopeful(cluster: &Cluster, user: &str, options: &[&str]) -> Background {
    let words: Vec<&str> = ["worker", "--slots", "1", "--duration", "20m"].iter().chain(options).copied().collect();
    Background::start(&format!("worker-{user}"), cluster.command(user, &words), cluster.folder())
}

/// Writes this list for alice's host.
fn list(cluster: &Cluster, names: &str) -> String {
    let file = cluster.work("alice").join("friends");
    fs::write(&file, names).expect("the file of users");
    file.display().to_string()
}

fn fingerprint(cluster: &Cluster, user: &str) -> String {
    let done = cluster.run(user, &["id", "--offline", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&done.stdout).expect("p2p id shows JSON");
    shown["key"].as_str().expect("a key").to_owned()
}

fn words(cluster: &Cluster, user: &str) -> String {
    let done = cluster.run(user, &["id", "--offline", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&done.stdout).expect("p2p id shows JSON");
    shown["words"].as_str().expect("words").to_owned()
}

/// A command that says when it runs, and ends by itself only long after the test.
fn endless(marker: &Path) -> String {
    format!("touch {}; sleep 600", marker.display())
}

fn says(done: &Done, words: &[&str]) {
    for words in words {
        assert!(done.stderr.contains(words) || done.stdout.contains(words), "nothing about {words:?}: {done}");
    }
}

#[test]
fn every_machine_gets_in_by_the_login_of_its_user() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let mut command = cluster.command("bob", &["run", "--", "true"]);
    command.env("P2P_HOME", cluster.work("bob").join("other-machine"));
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(0), "{done}");
    let members = cluster.run("alice", &["members", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&members.stdout).expect("members as JSON");
    assert_eq!(shown["members"]["bob"].as_array().map(Vec::len), Some(2), "{members}");
}

#[test]
fn a_member_who_claims_to_be_another_one_gets_nothing() {
    let cluster = Cluster::start();
    let carol = cluster.run("carol", &["run", "--board-user", "bob", "--wait", "25s", "--", "true"]);
    assert_eq!(carol.code, Some(68), "{carol}");
    says(&carol, &["did not show", "p2p approve"]);
    assert!(!cluster.host_log().contains("entered"), "{}", cluster.host_log());
    // Bob himself, at the same time or later, is not kept out by that.
    let _worker = cluster.worker("bob", 1);
    assert!(!cluster.run("alice", &["members"]).stdout.contains("carol"));
}

#[test]
fn a_client_who_is_taken_off_the_list_loses_his_links() {
    let cluster = Cluster::without_host();
    let file = list(&cluster, "bob\ncarol\n");
    let mut host = host(&cluster, &["--users-file", &file]);
    let _worker = cluster.worker("bob", 1);
    let marker = cluster.work("bob").join("running");
    let command = cluster.command("carol", &["run", "-n", "--", "sh", "-c", &endless(&marker)]);
    let mut running = Background::start("running", command, cluster.folder());
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    let struck_off = Instant::now();
    list(&cluster, "bob\n");
    host.wait_for("of carol is removed");
    running.wait_for("has removed this machine: its links end");
    assert!(struck_off.elapsed() < Duration::from_secs(5), "after {:?}", struck_off.elapsed());
    assert!(running.wait() != Some(0), "{}", running.log());
    // And she does not come back.
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(68), "{done}");
    // Until she is on the list again.
    list(&cluster, "bob, carol # again");
    host.wait_for("is open for you and bob, carol");
    let done = within(PATIENCE, || {
        let done = cluster.run("carol", &["run", "--", "echo", "again"]);
        (done.code == Some(0)).then_some(done)
    });
    assert_eq!(done.expect("she is let in again").stdout, "again\n");
}

#[test]
fn a_worker_who_is_taken_off_the_list_loses_his_links() {
    let cluster = Cluster::without_host();
    let file = list(&cluster, "bob\ncarol\n");
    let mut host = host(&cluster, &["--users-file", &file]);
    let mut worker = cluster.worker("bob", 1);
    let marker = cluster.work("bob").join("running");
    let running =
        Running::start(cluster.command("carol", &["run", "-n", "--once", "--", "sh", "-c", &endless(&marker)]));
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    let struck_off = Instant::now();
    list(&cluster, "carol\n");
    host.wait_for("of bob is removed");
    let done = running.done();
    assert!(struck_off.elapsed() < Duration::from_secs(5), "after {:?}", struck_off.elapsed());
    assert_eq!(done.code, Some(74), "{done}");
    worker.wait_for("has removed this machine");
}

#[test]
fn whoever_wants_to_compare_words_lets_nobody_in_before() {
    let cluster = Cluster::without_host();
    let mut host = host(&cluster, &["--users", "bob,carol", "--admit", "ask"]);
    let mut worker = hopeful(&cluster, "bob", &[]);
    worker.wait_for("has to approve this machine's key");
    host.wait_for("a machine of bob wants in");
    let (key, said) = (fingerprint(&cluster, "bob"), words(&cluster, "bob"));
    assert!(host.log().contains(&said) && host.log().contains(&key), "{}", host.log());
    says(&cluster.run("alice", &["members"]), &[&key, "waits"]);

    let done = cluster.run("alice", &["approve", "bob"]);
    assert_eq!(done.code, Some(2), "nobody is at a terminal to compare: {done}");
    says(&done, &[&key, &said]);
    let done = cluster.run("alice", &["approve", "bob", "P2P:0000"]);
    assert_eq!(done.code, Some(65), "{done}");
    let done = cluster.run("alice", &["approve", "bob", &said]);
    assert_eq!(done.code, Some(0), "{done}");
    worker.wait_for("at work for");

    // By its fingerprint, before it comes; and another key does not stand in for it.
    let done = cluster.run("alice", &["approve", "carol", &fingerprint(&cluster, "carol")]);
    assert_eq!(done.code, Some(0), "{done}");
    let done = cluster.run("carol", &["run", "--", "echo", "in"]);
    assert_eq!(done.stdout, "in\n", "{done}");
    let mut command = cluster.command("carol", &["run", "--wait", "5s", "--", "true"]);
    command.env("P2P_HOME", cluster.work("carol").join("other-machine"));
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(68), "{done}");
    says(&done, &["has to approve this machine's key"]);
}

#[test]
fn a_stolen_machine_is_forgotten_and_the_others_of_its_user_stay() {
    let cluster = Cluster::without_host();
    let mut host = host(&cluster, &["--users", "bob,carol", "--admit", "ask"]);
    let kept = fingerprint(&cluster, "bob");
    assert_eq!(cluster.run("alice", &["approve", "bob", &kept]).code, Some(0));
    let mut worker = cluster.worker("bob", 1);
    let mut other = cluster.command("bob", &["worker", "--slots", "1"]);
    other.env("P2P_HOME", cluster.work("bob").join("stolen"));
    let mut stolen = Background::start("stolen", other, cluster.folder());
    let key = within(PATIENCE, || {
        let members = cluster.run("alice", &["members", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&members.stdout).expect("members as JSON");
        shown["waiting"]["bob"][0]["key"].as_str().map(str::to_owned)
    });
    let key = key.expect("the stolen machine waits");
    assert_eq!(cluster.run("alice", &["approve", "bob", &key]).code, Some(0));
    stolen.wait_for("at work for");

    let done = cluster.run("alice", &["trust", "forget", "bob", &key]);
    assert_eq!(done.code, Some(0), "{done}");
    stolen.wait_for("has removed this machine");
    host.wait_for(&format!("the machine {key} of bob is removed"));
    assert!(!worker.is_over() && !worker.log().contains("has removed this machine"), "{}", worker.log());
    let members = cluster.run("alice", &["members"]);
    assert!(members.stdout.contains(&kept), "{members}");
    let done = cluster.run("alice", &["trust", "forget", "bob", "P2P:00000000000000000000000000000000"]);
    assert_eq!(done.code, Some(65), "{done}");
}

#[test]
fn a_key_that_was_named_is_the_only_host() {
    let cluster = Cluster::start();
    let (alice, carol) = (fingerprint(&cluster, "alice"), fingerprint(&cluster, "carol"));
    let done = cluster.run("bob", &["run", "--host-key", &carol, "--wait", "5s", "--", "true"]);
    assert!(done.code != Some(0), "{done}");
    says(&done, &["another key than the one", &alice, &carol]);
    let mut worker = hopeful(&cluster, "bob", &["--host-key", &alice]);
    worker.wait_for("at work for");
    let done = cluster.run("carol", &["trust", "pin", &carol, "--cluster", CLUSTER]);
    assert_eq!(done.code, Some(0), "{done}");
    says(&done, &["restart them"]);
    let done = cluster.run("carol", &["run", "--wait", "5s", "--", "true"]);
    assert!(done.code != Some(0), "{done}");
    says(&done, &["another key than the one"]);
    assert_eq!(cluster.run("carol", &["trust", "pin", &alice, "--cluster", CLUSTER]).code, Some(0));
    let done = cluster.run("carol", &["run", "--", "echo", "in"]);
    assert_eq!(done.stdout, "in\n", "{done}");
}

#[test]
fn a_host_with_a_new_key_is_believed_once_the_old_one_is_forgotten() {
    let mut cluster = Cluster::start();
    let worker = cluster.worker("bob", 1);
    let old = fingerprint(&cluster, "alice");
    drop(worker);
    cluster.stop_host();
    fs::remove_dir_all(cluster.home("alice")).expect("her folder of keys is lost");
    cluster.start_host();
    let new = fingerprint(&cluster, "alice");
    assert_ne!(old, new);
    let mut worker = hopeful(&cluster, "bob", &[]);
    worker.wait_for("another key than the one");
    assert!(worker.log().contains(&old) && worker.log().contains(&new), "{}", worker.log());
    drop(worker);
    let done = cluster.run("bob", &["trust", "forget", "--host", "--cluster", CLUSTER]);
    assert_eq!(done.code, Some(0), "{done}");
    says(&done, &["restart them"]);
    let _worker = cluster.worker("bob", 1);
    says(&cluster.run("bob", &["trust"]), &[&new]);
}

#[test]
fn everybody_is_told_when_the_host_leaves_and_links_go_on() {
    let mut cluster = Cluster::start();
    let mut worker = cluster.worker("bob", 1);
    let (marker, go_on) = (cluster.work("bob").join("running"), cluster.work("bob").join("go-on"));
    let script =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo done", marker.display(), go_on.display());
    let running = Running::start(cluster.command("carol", &["run", "-n", "--", "sh", "-c", &script]));
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    cluster.stop_host();
    worker.wait_for("alice's host is away: running links go on, new ones cannot meet");
    fs::write(&go_on, "").expect("a file");
    let done = running.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    says(&done, &["alice's host is away: running links go on, new ones cannot meet"]);
    cluster.start_host();
    worker.wait_for("alice's host is back");
}

#[test]
fn a_service_hosts_as_its_command_line_did() {
    let cluster = Cluster::without_host();
    let config = cluster.folder().join("config");
    let mut command = cluster.command("alice", &["host", "--users", "bob", "--service"]);
    command.env("XDG_CONFIG_HOME", &config);
    // Nothing is there; only because of the second one it is not asked.
    command.env("ALL_PROXY", "http://alice:a%$HOME@127.0.0.1:1").env("no_proxy", "127.0.0.1");
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(0), "{done}");
    says(&done, &["systemctl --user enable --now p2p-host-friends.service", "loginctl enable-linger"]);
    let unit = fs::read_to_string(config.join("systemd/user/p2p-host-friends.service")).expect("the unit");
    let line = |key: &str| {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(|words| shell_words::split(words).expect("words")).collect::<Vec<_>>()
    };
    let words = line("ExecStart=").remove(0);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().current_dir(cluster.folder());
    for variable in line("Environment=").into_iter().flatten() {
        let (name, value) = variable.split_once('=').expect("NAME=VALUE");
        command.env(name, value);
    }
    let proxy = command.get_envs().any(|(name, value)| {
        name == "ALL_PROXY" && value.is_some_and(|value| value == "http://alice:a%%$HOME@127.0.0.1:1")
    });
    assert!(proxy, "{unit}");
    let mut host = Background::start("service", command, cluster.folder());
    host.wait_for("is open for you and bob");
}
