//! Who gets into whose topic.

use crate::kit::{Site, clients, wait_until};

#[test]
fn who_is_not_on_the_list_silently_gets_a_topic_of_his_own() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let mut alice = site.join("alice", "pipe friends -a bob", "alice/friends");
    let mut carol = site.join("carol", "pipe alice/friends", "carol/alice/friends");
    let bob = site.join("bob", "pipe alice/friends", "alice/friends");
    carol.send(b"from carol\n");
    alice.send(b"from alice\n");
    bob.stdout.until_contains("from alice\n");
    assert_eq!(bob.stdout.now(), b"from alice\n");
    assert!(alice.stdout.now().is_empty());
    assert!(carol.stdout.now().is_empty());
    assert!(carol.is_running());
}

#[test]
fn a_topic_without_a_list_is_private() {
    let site = Site::new(&["alice", "bob"]);
    let _alice = site.join("alice", "pipe friends", "alice/friends");
    let _bob = site.join("bob", "pipe alice/friends", "bob/alice/friends");
    assert_eq!(site.count("alice", "alice/friends"), 1);
}

#[test]
fn a_key_fingerprint_on_the_list_lets_in() {
    let site = Site::new(&["alice"]);
    let print =
        std::process::Command::new("ssh-keygen").args(["-l", "-f"]).arg(site.path("stranger.pub")).output().unwrap();
    let print = String::from_utf8(print.stdout).unwrap();
    let fingerprint = print.split(' ').nth(1).unwrap();
    let mut alice = site.join("alice", &format!("pipe t -a {fingerprint}"), "alice/t");
    let stranger = site.join("stranger", "pipe alice/t", "alice/t");
    assert!(site.ls("alice").contains(" (public@127.0.0.1:"));
    alice.send(b"hello\n");
    stranger.stdout.until_contains("hello\n");
}

#[test]
fn the_list_goes_with_the_session_that_brought_it() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let host = site.join("alice", "pipe friends -a bob,carol", "alice/friends");
    let mut second = site.join("alice", "pipe friends", "alice/friends");
    let bob = site.join("bob", "pipe alice/friends", "alice/friends");
    drop(host);
    wait_until("the host to leave", || site.count("alice", "alice/friends") == 2);
    second.send(b"still flowing\n");
    bob.stdout.until_contains("still flowing\n");
    assert!(site.ls("alice").starts_with("Channel Information\r\n- alice/friends:\r\n"));
    let _carol = site.join("carol", "pipe alice/friends", "carol/alice/friends");
}

#[test]
fn a_guest_that_leaves_first_leaves_the_list_in_force() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let _host = site.join("alice", "pipe friends -a bob,carol", "alice/friends");
    let _second = site.join("alice", "pipe friends", "alice/friends");
    let bob = site.join("bob", "pipe alice/friends", "alice/friends");
    drop(bob);
    wait_until("bob to leave", || site.count("alice", "alice/friends") == 2);
    assert!(site.ls("alice").contains("- alice/friends: (Access List: bob, carol)\r\n"));
    let _carol = site.join("carol", "pipe alice/friends", "alice/friends");
}

#[test]
fn an_unknown_key_is_the_public_user() {
    let site = Site::new(&["alice"]);
    let done = site.run("stranger", "ls");
    assert_eq!((done.status, done.stderr.as_str()), (Some(1), "access denied\n\r"));
    assert_eq!(site.run("stranger", "user").status, Some(1));

    let mut stranger = site.start("stranger", "pipe room -r");
    stranger.send(b"1\n");
    stranger.stdout.until_contains("1\n");
    let mut alice = site.start("alice", "pipe room -p -r");
    alice.send(b"2\n");
    stranger.stdout.until_contains("2\n");
    assert_eq!(site.ls("alice"), "no pubsub channels found\n");
}

#[test]
fn a_list_keeps_others_out_of_a_public_topic() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let mut alice = site.start("alice", "pipe room -p -r -a alice,bob");
    alice.send(b"open\n");
    alice.stdout.until_contains("open\n");
    let denied = site.run("carol", "sub room -p");
    assert_eq!((denied.status, denied.stderr.as_str()), (Some(1), "access denied\n\r"));
    assert_eq!(site.run("stranger", "sub room").status, Some(1));
    let mut bob = site.start("bob", "pipe room -p");
    bob.send(b"listed\n");
    alice.stdout.until_contains("listed\n");
}

#[test]
fn ls_prints_ones_own_topics_in_exactly_this_form() {
    let site = Site::new(&["alice", "bob", "carol"]);
    assert_eq!(site.ls("alice"), "no pubsub channels found\n");
    let _alice = site.join("alice", "pipe friends/future.p2p -a bob,carol", "alice/friends/future.p2p");
    let _bob = site.join("bob", "pipe alice/friends/future.p2p", "alice/friends/future.p2p");
    let _sub = site.join("alice", "sub friends/future.p2p", "alice/friends/future.p2p");
    let _waiting = site.join("alice", "pub zzz", "alice/zzz");
    let _others = site.join("bob", "pipe private", "bob/private");
    let listing = site.ls("alice");
    let lines = clients(&listing, "alice/friends/future.p2p");
    let waiting = clients(&listing, "alice/zzz");
    let [sub, alice, bob] = lines.as_slice() else {
        panic!("{listing}");
    };
    assert_eq!(
        listing,
        format!(
            "Channel Information\r\n- alice/friends/future.p2p: (Access List: bob, carol)\r\n  Subs:\r\n{sub}\r\n  \
             Pipes:\r\n{alice}\r\n{bob}\r\n- alice/zzz:\r\n  Waiting Pubs:\r\n{}\r\n",
            waiting[0]
        )
    );
    for (line, user) in [(alice, "alice"), (bob, "bob"), (sub, "alice")] {
        let (uuid, rest) = line.strip_prefix("  - ").unwrap().split_once(' ').unwrap();
        let groups: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        let port = rest.strip_prefix(&format!("({user}@127.0.0.1:")).unwrap();
        assert!(port.strip_suffix(')').unwrap().parse::<u16>().is_ok());
    }
}
