//! The whole program on pico's own pipe, and the same on the hub: the main job, and what people with the wrong account, list or name are told.

mod cluster;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Background, CLUSTER, Cluster, Done, PATIENCE, Running, Server, within};

/// Each of these functions is a test on the hub, and one on pico's pipe.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_hub {
            $(#[test]
            fn $name() {
                super::$name(super::Server::Hub);
            })*
        }
        mod on_pico {
            $(#[test]
            #[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
            fn $name() {
                super::$name(super::Server::Pico);
            })*
        }
    };
}

on_both!(
    two_hundred_tasks_on_two_workers,
    whoever_may_not_enter_is_told_why,
    a_key_without_an_account_is_told_how_to_get_one,
    a_second_host_says_who_hosts_already,
    a_host_on_another_machine_is_told_of_and_loses_nobody,
    the_account_is_shown_and_the_doctor_finds_all_well,
    whoever_is_taken_off_the_list_is_out,
    the_host_hears_of_a_stranger,
    everybody_goes_on_after_the_server_was_away,
    the_old_commands_are_host_enough_for_a_circle_that_trusts_itself,
    ones_own_machines_need_no_host,
);

/// The exit code and every one of these words, in stderr.
#[track_caller]
fn says(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.code, Some(code), "{done}");
    for words in words {
        assert!(done.stderr.contains(words), "it did not say {words:?}: {done}");
    }
}

/// OpenSSH's own program on the board, with these words as the command.
fn ssh(cluster: &Cluster, user: &str, words: &[&str]) -> Command {
    let address = cluster.board().trim_start_matches("ssh://");
    let (host, port) = address.split_once(':').expect("an address");
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "/dev/null", "-T", "-p", port, "-i"]).arg(cluster.folder().join(user).join("key"));
    for option in [
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.arg(host).args(words);
    ssh
}

fn two_hundred_tasks_on_two_workers(server: Server) {
    let cluster = Cluster::start_on(server);
    let workers = [cluster.worker("bob", 2), cluster.worker("carol", 2)];
    // Who lets in whom on whose word is said where the server is no hub: to the host, and to newcomers.
    let no_hub = server == Server::Pico;
    let auto = "by the login that this server reports (--admit auto), and it is no hub";
    assert_eq!(cluster.host_log().contains(auto), no_hub, "{}", cluster.host_log());
    for worker in &workers {
        let log = worker.log();
        assert_eq!(log.contains("is the board's word and nothing else"), no_hub, "{log}");
        assert_eq!(log.contains("p2p trust pin P2P:"), no_hub, "{log}");
    }
    let numbers: String = (1..=200).map(|number| format!("{number}\n")).collect();
    let done = cluster.run_with("alice", &["map", "echo {} $((2 * {}))"], numbers.as_bytes());
    assert_eq!(done.code, Some(0), "{done}");
    let mut wanted: Vec<String> = (1..=200).map(|number| format!("{number} {}", 2 * number)).collect();
    wanted.sort_unstable();
    assert_eq!(done.sorted(), wanted, "{done}");
}

fn whoever_may_not_enter_is_told_why(server: Server) {
    let cluster = Cluster::without_host_on(server);
    // Nobody hosts.
    let done = cluster.run("bob", &["run", "--", "true"]);
    says(&done, 68, &["does not let you into alice/friends", "alice is not hosting it now"]);
    let mut cluster = cluster;
    cluster.start_host();
    // Another guest stays, so that the host is not sent away with each of those who look in.
    let _worker = cluster.worker("carol", 1);
    let done = cluster.run("bob", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
    // A wrong name.
    let done = cluster.run("bob", &["run", "--cluster", "alice/nosuch", "--", "true"]);
    says(&done, 68, &["alice/nosuch", "the name is wrong"]);
    // On no list.
    let done = cluster.run("mallory", &["run", "--", "true"]);
    says(&done, 68, &["not on its list", "ask alice to run: p2p host"]);
    // Who was inside before knows more.
    cluster.stop_host();
    let done = cluster.run("bob", &["run", "--", "true"]);
    says(
        &done,
        68,
        &["does not let you into alice/friends any more", "alice's host is away now, or you were taken off"],
    );
}

fn a_key_without_an_account_is_told_how_to_get_one(server: Server) {
    let cluster = Cluster::start_on(server);
    let key = cluster.folder().join("stranger");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let key = key.to_str().expect("a path");
    for command in [&["run", "--", "true"][..], &["worker"], &["host"], &["id"]] {
        let mut words = vec![command[0], "--identity", key];
        words.extend(&command[1..]);
        let mut command = cluster.command("mallory", &words);
        command.env_remove("P2P_IDENTITY");
        let done = Running::start(command).done();
        says(&done, 77, &["which account this key belongs to", "access denied", "ssh pico.sh"]);
    }
}

fn a_second_host_says_who_hosts_already(server: Server) {
    let cluster = Cluster::start_on(server);
    let _worker = cluster.worker("bob", 1);
    let done = cluster.run("alice", &["host", "--users", "bob,carol"]);
    says(&done, 68, &["alice/friends is hosted already, by alice@", "end that one first"]);
    // The first one has not been disturbed.
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
}

/// Whoever gets onto the topic can say that he hosts: with another machine's key that proves nothing, and nobody goes because of it. Members stay
/// with the one they know.
fn a_host_on_another_machine_is_told_of_and_loses_nobody(server: Server) {
    let mut cluster = Cluster::start_on(server);
    let _worker = cluster.worker("bob", 1);
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
    let mut command = cluster.command("alice", &["host", "--users", "bob,carol"]);
    command.env("P2P_HOME", cluster.folder().join("other machine"));
    let mut other = Background::start("other-host", command, cluster.folder());
    let told = "says that it hosts alice/friends, with another machine's key";
    other.wait_for(told);
    cluster.wait_for_host(told);
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
}

fn the_account_is_shown_and_the_doctor_finds_all_well(server: Server) {
    let cluster = Cluster::start_on(server);
    let done = cluster.run("bob", &["id"]);
    assert!(done.code == Some(0) && done.stdout.contains(&format!("user   bob on {}", cluster.board())), "{done}");
    let done = cluster.run("bob", &["doctor"]);
    assert_eq!(done.code, Some(0), "{done}");
    for words in ["ok    account     you are bob there", "ok    board", "ok    direct link", "ok    clock"] {
        assert!(done.stdout.contains(words), "it did not say {words:?}: {done}");
    }
}

fn whoever_is_taken_off_the_list_is_out(server: Server) {
    let cluster = Cluster::without_host_on(server);
    let file = cluster.folder().join("friends");
    fs::write(&file, "bob\ncarol\n").expect("the file of users");
    let users_file = file.to_str().expect("a path");
    let command = cluster.command("alice", &["host", "--admit", "auto", "--users-file", users_file]);
    let mut host = Background::start("host", command, cluster.folder());
    host.wait_for("is open for");
    let _worker = cluster.worker("bob", 1);
    let marker = cluster.work("bob").join("running");
    let script = format!("touch {}; sleep 600", marker.display());
    let command = cluster.command("carol", &["run", "-n", "--", "sh", "-c", &script]);
    let mut running = Background::start("running", command, cluster.folder());
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    let struck_off = Instant::now();
    fs::write(&file, "bob\n").expect("the file of users");
    running.wait_for("has removed this machine: its links end");
    assert!(struck_off.elapsed() < Duration::from_secs(5), "after {:?}", struck_off.elapsed());
    assert!(running.wait() != Some(0), "{}", running.log());
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(68), "{done}");
}

fn the_host_hears_of_a_stranger(server: Server) {
    let mut cluster = Cluster::start_on(server);
    let mut stranger = Running::start(ssh(&cluster, "mallory", &["pipe", &format!("{CLUSTER}/future.p2p"), "-c"]));
    match server {
        Server::Pico => {
            cluster.wait_for_host("warning: mallory (from 127.0.0.1:");
            assert!(cluster.host_log().contains("is not on your list"), "{}", cluster.host_log());
        }
        // He is on a topic of his own, and the host has nobody to be warned of.
        Server::Hub => {
            stranger.write(b"hello?\n");
            let _worker = cluster.worker("bob", 1);
            assert!(!cluster.host_log().contains("warning"), "{}", cluster.host_log());
        }
    }
}

fn everybody_goes_on_after_the_server_was_away(server: Server) {
    let mut cluster = Cluster::start_on(server);
    let mut worker = cluster.worker("bob", 1);
    let (marker, go_on) = (cluster.work("bob").join("running"), cluster.work("bob").join("go-on"));
    let script =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo done", marker.display(), go_on.display());
    let running = Running::start(cluster.command("alice", &["run", "--", "sh", "-c", &script]));
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    cluster.stop_hub();
    worker.wait_for("the board is away");
    cluster.start_hub();
    fs::write(&go_on, "").expect("a file");
    let done = running.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    let done = cluster.run("carol", &["run", "--", "echo", "again"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "again\n"), "{done}");
}

fn the_old_commands_are_host_enough_for_a_circle_that_trusts_itself(server: Server) {
    const CIRCLE: [&str; 6] = ["--cluster", "alice/p2p", "--topic", "p2p", "--trust", "first-sight"];
    let cluster = Cluster::without_host_on(server);
    let _host = Running::start(ssh(&cluster, "alice", &["pipe", "p2p", "-a", "bob,carol,diana"]));
    let listed = || Running::start(ssh(&cluster, "alice", &["ls"])).done().stdout;
    let open = || listed().contains("- alice/p2p: (Access List: bob, carol, diana)").then_some(());
    within(PATIENCE, open).expect("the topic is open, with its list");
    let mut by_hand = Running::start(ssh(&cluster, "bob", &["pipe", "alice/p2p"]));
    within(PATIENCE, || listed().contains("(bob@").then_some(())).expect("bob has joined");

    let worker = cluster.worker_with("bob", 1, &CIRCLE);
    assert!(worker.log().contains("whoever gets onto the topic alice/p2p is believed"), "{}", worker.log());
    let hello = |user: &str| cluster.run(user, &[&["run"], &CIRCLE[..], &["--", "echo", "hello"]].concat());
    let done = hello("carol");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "hello\n"), "{done}");
    says(&done, 0, &["nobody signs who belongs"]);
    // Who joined by hand harms nobody, whatever he types.
    by_hand.write(b"hi!\nwhen=,type\n~p2p1 AAAA\n~p2p1 \xff\xfe\n\0\0");
    let done = hello("alice");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "hello\n"), "{done}");
    let done = cluster.run("alice", &[&["status"], &CIRCLE[..]].concat());
    assert!(done.stdout.contains("alice/p2p: without a host, whoever is on its topic belongs"), "{done}");
    assert!(done.stdout.contains("bob@"), "{done}");

    // It has to be asked for.
    let done = cluster.run("carol", &[&["run"], &CIRCLE[..4], &["--", "true"]].concat());
    assert_eq!(done.code, Some(68), "{done}");
    let done = cluster.run("alice", &[&["host", "--users", "bob"], &CIRCLE[..]].concat());
    says(&done, 2, &["with --trust first-sight there is no host"]);
    let done = hello("mallory");
    says(&done, 68, &["does not let you into alice/p2p"]);
}

/// What alice has in another place.
fn on_her_other_machine(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = cluster.command("alice", words);
    command.env_remove("P2P_CLUSTER").env("P2P_HOME", cluster.folder().join("other machine"));
    command
}

fn ones_own_machines_need_no_host(server: Server) {
    let cluster = Cluster::without_host_on(server);
    let here = |words: &[&str]| {
        let mut command = cluster.command("alice", words);
        command.env_remove("P2P_CLUSTER");
        command
    };
    let mut worker = Background::start("worker-here", here(&["worker", "--slots", "1"]), cluster.folder());
    worker.wait_for("at work for alice/personal");
    let done = Running::start(here(&["run", "--", "echo", "here"])).done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "here\n"), "{done}");
    // Another machine of hers, which begins as the first one did, is let in by that one: at once where the board's word is enough; else she says
    // so there, and until then it waits and does not begin to sign.
    let mut other = Background::start(
        "worker-there",
        on_her_other_machine(&cluster, &["worker", "--slots", "1"]),
        cluster.folder(),
    );
    if server == Server::Pico {
        worker.wait_for("a machine of alice wants in");
        other.wait_for("has to approve this machine's key");
        // By then it would have begun.
        std::thread::sleep(Duration::from_secs(10));
        let id = Running::start(on_her_other_machine(&cluster, &["id", "--offline", "--json"])).done();
        let id: serde_json::Value = serde_json::from_str(&id.stdout).expect("JSON");
        assert!(worker.log().contains(id["words"].as_str().expect("words")), "{}", worker.log());
        let approve = ["approve", "alice", id["key"].as_str().expect("a key"), "--cluster", "alice/personal"];
        let done = Running::start(here(&approve)).done();
        assert_eq!(done.code, Some(0), "{done}");
    }
    other.wait_for("at work for alice/personal");
    assert!(worker.log().contains("alice/personal is open for"), "{}", worker.log());
    assert!(!other.log().contains("alice/personal is open for"), "{}", other.log());
    // It compares, too; the first one has only itself to believe.
    let no_hub = server == Server::Pico;
    assert_eq!(other.log().contains("is the board's word and nothing else"), no_hub, "{}", other.log());
    assert!(!worker.log().contains("for the first time"), "{}", worker.log());
    let client = Running::start(on_her_other_machine(&cluster, &["run", "--", "echo", "there"]));
    let done = client.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "there\n"), "{done}");
    // The two go on without the one that signed them.
    worker.kill();
    let done = Running::start(here(&["run", "--", "echo", "still"])).done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "still\n"), "{done}");
    // It is nobody else's.
    let done = cluster.run("bob", &["run", "--cluster", "alice/personal", "--", "true"]);
    assert_eq!(done.code, Some(68), "{done}");
    let done = cluster.run("alice", &["host", "--cluster", "alice/personal", "--users", "bob"]);
    says(&done, 2, &["for your own machines", "another name"]);
}
