//! Ways to the board: whoever speaks SSH, and over whatever.

mod cluster;

use cluster::{Cluster, Done};

/// Goes over a command that leaves a mark, and runs something on a worker.
fn run_over(cluster: &Cluster, mark: &str, options: &[&str], more: &str) -> Done {
    let mark = cluster.work("alice").join(mark);
    let carry = "exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3";
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
