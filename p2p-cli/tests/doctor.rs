//! `p2p doctor` says which leg is broken, and what to do about it.

mod cluster;

use std::collections::BTreeMap;
use std::process::Command;

use cluster::relay::Relay;
use cluster::{Cluster, Done, Running};

const LEGS: [&str; 9] = ["name", "port", "host key", "key", "account", "board", "direct link", "relay", "clock"];

/// What it says to programs: the state of each leg, and the words.
fn examined(done: &Done) -> (bool, BTreeMap<String, (String, String)>) {
    let said: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_else(|fault| panic!("{fault}: {done}"));
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let legs: Vec<_> = said["legs"].as_array().expect("legs").iter().collect();
    assert_eq!(legs.iter().map(|leg| text(&leg["leg"])).collect::<Vec<_>>(), LEGS);
    let legs = legs.iter().map(|leg| (text(&leg["leg"]), (text(&leg["state"]), text(&leg["said"])))).collect();
    (said["well"].as_bool().expect("well or not"), legs)
}

/// Runs it as bob, with this changed in his environment.
fn doctor(cluster: &Cluster, changed: &[(&str, &str)]) -> Done {
    let mut command = cluster.command("bob", &["doctor", "--json", "--wait", "20s"]);
    command.envs(changed.iter().copied());
    Running::start(command).done()
}

/// The leg `broken` is the first that fails, with these words; those after it that need it were not tried.
#[track_caller]
fn breaks(cluster: &Cluster, changed: &[(&str, &str)], broken: &str, code: i32, words: &[&str]) {
    let done = doctor(cluster, changed);
    assert_eq!(done.code, Some(code), "{done}");
    let (well, legs) = examined(&done);
    assert!(!well, "{done}");
    let at = LEGS.iter().position(|leg| *leg == broken).expect("a leg");
    assert!(LEGS[..at].iter().all(|leg| legs[*leg].0 != "failed"), "{done}");
    assert_eq!(legs[broken].0, "failed", "{done}");
    for words in words {
        assert!(legs[broken].1.contains(words), "it did not say {words:?}: {done}");
    }
    for leg in LEGS[..6].iter().skip(at + 1) {
        assert_eq!(legs[*leg], ("skipped".to_owned(), format!("not tried: first {broken}")), "{done}");
    }
}

#[test]
fn where_all_is_well_it_says_so() {
    let cluster = Cluster::start();
    let relay = Relay::try_start().expect("a relay");
    let done = doctor(&cluster, &[("P2P_RELAY", &format!("tcp:{}", relay.address()))]);
    assert_eq!(done.code, Some(0), "{done}");
    let (well, legs) = examined(&done);
    assert!(well && legs.values().all(|(state, _)| state == "ok"), "{done}");
    for (leg, words) in [
        ("port", "is an SSH server: SSH-2.0-p2p-hub_"),
        ("host key", "SHA256:"),
        ("key", "bob/key"),
        ("account", "you are bob there"),
        ("board", "a line comes back"),
        ("direct link", "direct ("),
        ("relay", "relayed ("),
        ("clock", "agrees with that of alice's host"),
    ] {
        assert!(legs[leg].1.contains(words), "{leg} does not say {words:?}: {done}");
    }
    // And to people.
    let done = cluster.run("bob", &["doctor"]);
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stdout.contains("ok    account     you are bob there\n"), "{done}");
    assert!(done.stdout.contains("-     relay       none is set (--relay)"), "{done}");
    assert!(done.stdout.ends_with("all is well, as far as one can see from here\n"), "{done}");
}

#[test]
fn the_leg_that_is_broken_is_named_with_what_to_do() {
    let cluster = Cluster::without_host();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let closed = format!("ssh://{nobody}");
    breaks(&cluster, &[("P2P_BOARD", "ssh://no-such-host.invalid")], "name", 69, &["cannot be looked up", "offline"]);
    breaks(&cluster, &[("P2P_BOARD", &closed)], "port", 69, &["nothing listens at that port", "Check the network"]);
    let wrong = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    breaks(&cluster, &[("P2P_BOARD_KEY", wrong)], "host key", 77, &["was asked for", "ask its operator"]);
    breaks(&cluster, &[("P2P_IDENTITY", "/no/such/key")], "key", 77, &["/no/such/key", "ssh-keygen"]);
    let stranger = cluster.folder().join("stranger");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger).status();
    assert!(made.expect("ssh-keygen runs").success());
    let stranger = stranger.to_str().expect("a path");
    breaks(&cluster, &[("P2P_IDENTITY", stranger)], "account", 77, &["which account", "ssh pico.sh"]);
    let relay = format!("tcp:{nobody}");
    breaks(&cluster, &[("P2P_RELAY", &relay)], "relay", 69, &[&relay, "direct only", "--relay"]);
}

#[test]
fn what_the_ssh_program_does_is_left_to_it() {
    let cluster = Cluster::start();
    let (known_hosts, address) = (cluster.folder().join("known"), cluster.board().trim_start_matches("ssh://"));
    let (host, port) = address.split_once(':').expect("an address");
    let scanned = Command::new("ssh-keyscan").args(["-p", port, host]).output().expect("ssh-keyscan runs");
    std::fs::write(&known_hosts, scanned.stdout).expect("a file");
    let mut command = cluster.command("bob", &["doctor", "--json", "--ssh", "system", "--known-hosts"]);
    command.arg(&known_hosts).env_remove("P2P_BOARD_KEY");
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(0), "{done}");
    let (_, legs) = examined(&done);
    assert_eq!(legs["port"], ("skipped".to_owned(), "left to the ssh program".to_owned()), "{done}");
    assert!(legs["key"].1.contains("the ssh program logged in") && legs["board"].0 == "ok", "{done}");
}
