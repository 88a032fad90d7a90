//! `p2p doctor` says which leg is broken, and what to do about it.

mod cluster;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::relay::Relay;
use cluster::{Cluster, Done, Running};
use sshd::Sshd;

#[path = "../../p2p-transport-pico/tests/ssh/sshd.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod sshd;

/// What the file above takes from beside it.
mod kit {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    pub(crate) fn tool(package: &str, program: &str, arguments: &[&str]) -> Output {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|fault| panic!("{program}: {fault}; install the package {package}"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        output
    }

    /// Makes a key pair; returns the private file.
    pub(crate) fn make_key(folder: &Path, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let file = folder.join(name);
        let path = file.to_str().expect("a path");
        tool("openssh-client", "ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", path]);
        file
    }

    /// `TYPE BASE64` of a key pair.
    pub(crate) fn public_half(private: &Path) -> String {
        let text = std::fs::read_to_string(private.with_extension("pub")).expect("a key");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }
}

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
    let stranger = key(&cluster, "stranger", "");
    let stranger = stranger.to_str().expect("a path");
    breaks(&cluster, &[("P2P_IDENTITY", stranger)], "account", 77, &["which account", "ssh pico.sh"]);
    let relay = format!("tcp:{nobody}");
    breaks(&cluster, &[("P2P_RELAY", &relay)], "relay", 69, &[&relay, "direct only", "--relay"]);
}

/// As a firewall would have it: in a network of its own, in which nothing listens or is reached.
#[test]
fn a_machine_that_does_not_reach_itself_is_told_so() {
    let cluster = Cluster::without_host();
    let bare = cluster.command("bob", &["doctor", "--json", "--wait", "3s"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]).arg(bare.get_program()).args(bare.get_args()).env_clear();
    command.envs(bare.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(cluster.work("bob"));
    let done = Running::start(command).done();
    let (well, legs) = examined(&done);
    assert!(!well && legs["direct link"].0 == "failed", "{done}");
    assert!(legs["direct link"].1.contains("does a firewall keep programs from listening"), "{done}");
}

#[test]
fn a_relay_that_is_there_does_not_hide_one_that_is_not() {
    let cluster = Cluster::without_host();
    let relay = Relay::try_start().expect("a relay");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let (here, gone) = (format!("tcp:{}", relay.address()), format!("tcp:{nobody}"));
    let done = cluster.run("bob", &["doctor", "--json", "--wait", "20s", "--relay", &here, "--relay", &gone]);
    assert_eq!(done.code, Some(69), "{done}");
    let (state, said) = &examined(&done).1["relay"];
    for words in ["relayed (", &format!("no link comes about by {gone}"), "by the rest"] {
        assert!(state == "failed" && said.contains(words), "it did not say {words:?}: {done}");
    }
}

#[test]
fn a_server_that_is_not_the_one_that_was_known_is_told_from_a_new_one() {
    let cluster = Cluster::without_host();
    let known = cluster.work("bob").join("known");
    let address = cluster.board().trim_start_matches("ssh://");
    let (host, port) = address.split_once(':').expect("an address");
    let examine = || {
        let mut command = cluster.command("bob", &["doctor", "--json", "--known-hosts", "known"]);
        command.env_remove("P2P_BOARD_KEY");
        let done = Running::start(command).done();
        assert_eq!(done.code, Some(77), "{done}");
        examined(&done).1.remove("host key").expect("a leg")
    };
    let (state, said) = examine();
    assert!(state == "failed" && said.contains("was never seen before") && said.contains("SHA256:"), "{said}");
    let other = key(&cluster, "other", "");
    let public = std::fs::read_to_string(other.with_extension("pub")).expect("a key");
    std::fs::write(&known, format!("[{host}]:{port} {public}")).expect("a file");
    let (state, said) = examine();
    assert!(state == "failed" && said.contains("HAS CHANGED") && said.contains("ssh-keygen -R"), "{said}");
}

#[test]
fn a_locked_key_is_told_so() {
    let cluster = Cluster::without_host();
    let locked = key(&cluster, "locked", "open sesame");
    let locked = locked.to_str().expect("a path");
    breaks(&cluster, &[("P2P_IDENTITY", locked)], "key", 77, &[locked, "needs a passphrase", "ssh-add"]);
}

#[test]
fn a_port_at_which_nobody_speaks_is_given_up_in_time() {
    let cluster = Cluster::without_host();
    // Connections come about, and nothing is ever said.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let board = format!("ssh://{}", mute.local_addr().expect("an address"));
    let mut command = cluster.command("bob", &["doctor", "--json", "--wait", "2s"]);
    command.env("P2P_BOARD", &board);
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(69), "{done}");
    let (_, legs) = examined(&done);
    assert!(legs["port"].0 == "failed" && legs["port"].1.contains("no SSH server answered within 2 s"), "{done}");
}

#[test]
fn a_clock_that_is_wrong_is_found_whether_or_not_the_host_is_known() {
    let cluster = Cluster::start();
    let ahead = |words: &[&str]| {
        let real = cluster.command("bob", &[&["doctor", "--json"], words].concat());
        let mut command = Command::new("faketime");
        command.args(["--exclude-monotonic", "-f", "+1h"]).arg(real.get_program()).args(real.get_args());
        command.current_dir(cluster.work("bob")).env_clear();
        command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = Running::start(command).done();
        assert_eq!(done.code, Some(71), "{done}");
        let clock = examined(&done).1.remove("clock").expect("a leg");
        assert!(clock.0 == "failed" && clock.1.contains("ahead of that of"), "{done}");
        clock.1
    };
    let said = ahead(&[]);
    assert!(said.contains("whoever speaks as alice's host"), "{said}");
    // Nobody was believed for that.
    assert!(!cluster.home("bob").join("clusters").join("alice+friends.json").exists());
    let done = cluster.run("alice", &["id", "--offline", "--json"]);
    let id: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let said = ahead(&["--host-key", id["key"].as_str().expect("a fingerprint")]);
    assert!(said.contains("that of alice's host"), "{said}");
}

#[test]
fn a_clock_that_is_behind_the_program_itself_is_wrong_whoever_is_there() {
    let cluster = Cluster::without_host();
    let program = cluster.folder().join("p2p-of-tomorrow");
    std::fs::copy(env!("CARGO_BIN_EXE_p2p"), &program).expect("a copy");
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    let file = std::fs::File::options().write(true).open(&program).expect("a file");
    file.set_modified(tomorrow).expect("a time");
    drop(file);
    let real = cluster.command("bob", &["doctor", "--json"]);
    let mut command = Command::new(&program);
    command.args(real.get_args()).current_dir(cluster.work("bob")).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(71), "{done}");
    let (_, legs) = examined(&done);
    assert!(legs["clock"].0 == "failed" && legs["clock"].1.contains("set it"), "{done}");
}

#[test]
fn what_cannot_be_read_is_said_on_its_leg_and_all_others_are_tried() {
    let cluster = Cluster::start();
    // Made as the program makes it, for its user alone.
    let done = cluster.run("bob", &["id", "--offline"]);
    assert_eq!(done.code, Some(0), "{done}");
    let clusters = cluster.home("bob").join("clusters");
    std::fs::write(clusters.join("alice+friends.json"), "half a k").expect("a file");
    breaks(&cluster, &[], "clock", 71, &["alice+friends.json", "mend it"]);
}

#[test]
fn a_server_that_passes_no_lines_on_is_no_board() {
    let cluster = Cluster::without_host();
    // It says who one is, and what a session says comes back to that session alone.
    let server = Sshd::start(&[&cluster.folder().join("bob/key")], tempfile::tempdir().expect("a folder"));
    let mut command = cluster.command("bob", &["doctor", "--json", "--wait", "10s"]);
    command.env("P2P_BOARD", server.url()).env("P2P_BOARD_KEY", server.fingerprint()).env_remove("P2P_CLUSTER");
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(69), "{done}");
    let (_, legs) = examined(&done);
    assert_eq!(legs["account"].0, "ok", "{done}");
    assert!(legs["board"].0 == "failed" && legs["board"].1.contains("did not reach the other"), "{done}");
    assert!(legs["clock"].0 == "skipped" && legs["clock"].1.contains("--cluster"), "{done}");
}

#[test]
fn over_another_machine_each_leg_says_of_which_machine_it_speaks() {
    let mut cluster = Cluster::start();
    let way = key(&cluster, "way", "");
    let between = Sshd::start(&[&way], tempfile::tempdir().expect("a folder"));
    let config = configure(&cluster, &between, &way);
    let over = |cluster: &Cluster| {
        let args = format!("-F {} -J between", config.display());
        Running::start(cluster.command("bob", &["doctor", "--json", "--wait", "20s", "--ssh-args", &args])).done()
    };
    let done = over(&cluster);
    assert_eq!(done.code, Some(0), "{done}");
    let (_, legs) = examined(&done);
    assert!(legs["name"].1.contains("127.0.0.1 is left to the machine before it"), "{done}");
    assert!(legs["port"].1.contains("SSH-2.0-OpenSSH") && legs["port"].1.contains("SSH-2.0-p2p-hub"), "{done}");
    assert!(between.served() > 0, "the board was reached another way: {done}");
    // The machine in between is there, and the board is not.
    cluster.stop_hub();
    let done = over(&cluster);
    assert_eq!(done.code, Some(69), "{done}");
    let (_, legs) = examined(&done);
    assert!(legs["port"].0 == "failed" && legs["port"].1.contains("does not connect any further"), "{done}");
    assert_eq!(legs["key"], ("skipped".to_owned(), "not tried: first port".to_owned()), "{done}");
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

/// A configuration of `ssh` that names the machine in between, and the key for it.
fn configure(cluster: &Cluster, between: &Sshd, key: &Path) -> PathBuf {
    let (file, known) = (cluster.work("bob").join("ssh_config"), cluster.work("bob").join("known_between"));
    std::fs::write(&known, between.known_hosts_line()).expect("a file");
    let url = between.url();
    let user = url.trim_start_matches("ssh://").split('@').next().expect("a user");
    let text = format!(
        "Host between\n HostName 127.0.0.1\n Port {}\n User {user}\n UserKnownHostsFile {}\n IdentityFile {}\n IdentitiesOnly yes\n",
        between.address.port(),
        known.display(),
        key.display()
    );
    std::fs::write(&file, text).expect("a file");
    file
}

/// A key that no account has.
fn key(cluster: &Cluster, name: &str, passphrase: &str) -> PathBuf {
    kit::make_key(&cluster.work("bob"), name, "ed25519", passphrase)
}
