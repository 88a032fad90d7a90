//! Links by a relay only: the one of Debian's package.

mod cluster;

use cluster::Cluster;
use cluster::relay::Relay;

#[test]
fn everything_works_by_a_relay_alone() {
    let relay = Relay::try_start().expect("a relay");
    let address = format!("tcp:{}", relay.address());
    let by_relay = ["--relay", &address, "--relay-only"];
    let cluster = Cluster::start();
    let _worker = cluster.worker_with("bob", 1, &by_relay);
    let client = |words: &[&str]| {
        let done = cluster.run("alice", &[&words[..1], &by_relay, &words[1..]].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done
    };
    let done = client(&["run", "--", "sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x"]);
    assert!(done.stdout.len() == 5_000_000 && done.stdout.bytes().all(|byte| byte == b'x'), "{}", done.stdout.len());
    let done = client(&["status", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(said["workers"][0]["link"], "relayed", "{said}");
    let done = client(&["status"]);
    assert!(done.stdout.contains("relayed ("), "{done}");
}

#[test]
fn without_a_relay_there_is_no_way_by_one_alone() {
    let cluster = Cluster::without_host();
    let done = cluster.run("alice", &["run", "--relay-only", "--", "true"]);
    assert_eq!(done.code, Some(2), "{done}");
    assert!(done.stderr.contains("name one with --relay"), "{done}");
}
