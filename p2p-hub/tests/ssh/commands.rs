//! Commands that answer and end, and those that fail.

use crate::kit::Site;

#[test]
fn help_is_printed_without_a_command_and_on_request() {
    let site = Site::new(&["alice"]);
    for line in ["", "help"] {
        let done = site.run("alice", line);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        assert!(done.stdout.starts_with("Command: ssh -p "));
        assert!(done.stdout.contains("\r\n  pipe <topic> [flags] "));
    }
}

#[test]
fn user_prints_four_lines() {
    let site = Site::new(&["alice", "bob"]);
    let done = site.run("alice", "user");
    assert_eq!(done.status, Some(0));
    let lines: Vec<_> = done.stdout.split('\n').collect();
    let [name, id, since, plan, ""] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!((*name, id.len(), *plan), ("alice", 36, ""));
    assert!(since.len() == 20 && since.ends_with('Z') && since.contains('T'));
    assert_ne!(site.run("bob", "user").stdout.split('\n').nth(1), Some(*id));
}

#[test]
fn failures_have_status_1_and_a_reason() {
    let site = Site::new(&["alice"]);
    let long = format!("pipe {}", "x".repeat(300));
    let table = [
        ("frobnicate", "unknown command"),
        ("monitor x 1h", "not supported"),
        ("sub", "topic is required"),
        ("pipe x -z", "invalid cmd args"),
        ("pipe x -a", "invalid cmd args"),
        ("pipe '*'", "not supported"),
        (&long, "topic name too long"),
        ("pub x -t 10ms", "timeout reached, exiting"),
    ];
    for (line, reason) in table {
        let done = site.run("alice", line);
        assert_eq!(done.status, Some(1), "{line}: {}", done.stderr);
        assert!(done.stderr.contains(reason), "{line}: {}", done.stderr);
    }
    assert_eq!(site.ls("alice"), "no pubsub channels found\n");
}

#[test]
fn help_on_a_command_prints_its_flags() {
    let site = Site::new(&["alice"]);
    let done = site.run("alice", "pipe -h");
    assert_eq!(done.status, Some(1));
    assert!(done.stdout.starts_with("Usage: pipe <topic> [args...]\nArgs:\n  -a string\n    \tComma separated"));
}
