//! Ways to the board: whoever speaks SSH, and over whatever.

mod cluster;

#[path = "../../p2p-dial/tests/servers/mod.rs"]
mod servers;

use cluster::relay::Relay;
use cluster::{Cluster, Done};
use servers::Server;

/// Goes over a command that leaves a mark, and runs something on a worker.
fn run_over(cluster: &Cluster, mark: &str, options: &[&str], more: &str) -> Done {
    let mark = cluster.work("alice").join(mark);
    let carry = "exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3; kill $!";
    let args = format!("-F none {more} -o \"ProxyCommand=bash -c 'touch {} && {carry}'\"", mark.display());
    let words = [&["run", "--ssh-args", &args], options, &["--", "echo", "here"]].concat();
    let done = cluster.run("alice", &words);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "here\n"), "{done}");
    assert!(mark.exists(), "the board was reached another way: {done}");
    done
}

#[test]
fn a_command_in_place_of_the_connection_leads_to_the_board_with_both_programs() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let done = run_over(&cluster, "native", &["--ssh", "native"], "");
    assert!(!done.stderr.contains("ssh program"), "{done}");
    let done = run_over(&cluster, "system", &["--ssh", "system"], "");
    assert!(!done.stderr.contains("ssh program"), "{done}");
    // What only ssh can do is left to ssh, and that is said.
    let done = run_over(&cluster, "auto", &[], "-o GSSAPIAuthentication=yes");
    assert!(done.stderr.contains("the ssh program speaks with the board"), "{done}");
    assert!(done.stderr.contains("gssapiauthentication=yes"), "{done}");
}

#[test]
fn options_that_are_none_of_ssh_are_told() {
    let cluster = Cluster::without_host();
    for (args, says) in [
        ("somehost", "\"somehost\" is no option of ssh"),
        ("-o 'x", "quote"),
        ("-N", "-N would keep ssh from"),
        ("-J", "lacks its value"),
    ] {
        let done = cluster.run("alice", &["id", &format!("--ssh-args={args}")]);
        assert!(
            done.code == Some(2) && done.stderr.contains(says) && done.stderr.contains("--ssh-args"),
            "{args}: {done}"
        );
    }
    let done = cluster.run("alice", &["id", "--ssh", "telnet"]);
    assert!(done.code == Some(2) && done.stderr.contains("auto, native or system"), "{done}");
}

#[test]
fn the_board_is_reached_by_a_proxy_and_not_without_it() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let id = |variables: &[(&str, &str)]| {
        let mut command = cluster.command("alice", &["id"]);
        command.envs(variables.iter().copied());
        cluster::Running::start(command).done()
    };
    let (socks5, http) = (Server::socks5(None), Server::http(None, None));
    for (variable, url) in [("ALL_PROXY", socks5.url()), ("https_proxy", http.url())] {
        let done = id(&[(variable, &url)]);
        assert_eq!(done.code, Some(0), "{done}");
    }
    drop(socks5);
    // It was the proxy: the board is there as before.
    let gone = "socks5://127.0.0.1:9";
    let done = id(&[("ALL_PROXY", gone)]);
    assert!(
        done.code == Some(69) && done.stderr.contains("the proxy socks5://127.0.0.1:9 cannot be reached"),
        "{done}"
    );
    let done = id(&[("ALL_PROXY", gone), ("NO_PROXY", "127.0.0.0/8")]);
    assert_eq!(done.code, Some(0), "{done}");
    let done = id(&[("ALL_PROXY", "gopher://h")]);
    assert!(done.code == Some(2) && done.stderr.contains("of no kind that is known here"), "{done}");
}

#[test]
fn links_go_by_a_proxy_to_a_relay() {
    let (cluster, relay) = (Cluster::start(), Relay::try_start().expect("a relay"));
    let address = format!("tcp:{}", relay.address());
    let by_relay = ["--relay", &address, "--relay-only"];
    let _worker = cluster.worker_with("bob", 1, &by_relay);
    let board = cluster.board().trim_start_matches("ssh://").to_owned();
    let run = |proxy: &str| {
        let mut command =
            cluster.command("alice", &[&["run", "--wait", "5s"], &by_relay[..], &["--", "echo", "here"]].concat());
        command.env("ALL_PROXY", proxy).env("NO_PROXY", &board);
        cluster::Running::start(command).done()
    };
    for server in [Server::socks5(None), Server::http(None, None)] {
        let done = run(&server.url());
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), "here\n"), "{done}");
    }
    let done = run("socks5://127.0.0.1:9");
    assert_eq!(done.code, Some(69), "{done}");
}
