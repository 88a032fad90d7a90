//! `p2p map` with real processes.

mod cluster;

use cluster::Cluster;

#[test]
fn a_cluster_starts() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let done = cluster.run("alice", &["run", "--", "echo", "hello"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "hello\n"), "{done}");
}
