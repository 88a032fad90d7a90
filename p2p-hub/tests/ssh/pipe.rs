//! `pipe`: who reads what, and who goes when.

use crate::kit::{NO_STATUS, Site, Ssh, clients, wait_until};

fn pair(site: &Site) -> (Ssh, Ssh) {
    let alice = site.join("alice", "pipe friends -a bob,carol", "alice/friends");
    let bob = site.join("bob", "pipe alice/friends", "alice/friends");
    (alice, bob)
}

#[test]
fn what_one_writes_the_others_read_and_he_himself_does_not() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, mut bob) = pair(&site);
    let carol = site.join("carol", "pipe alice/friends", "alice/friends");
    alice.send(b"from alice\n");
    bob.stdout.until_contains("from alice\n");
    carol.stdout.until_contains("from alice\n");
    bob.send(b"from bob\n");
    alice.stdout.until_contains("from bob\n");
    carol.stdout.until_contains("from bob\n");
    assert_eq!(alice.stdout.now(), b"from bob\n");
    assert_eq!(bob.stdout.now(), b"from alice\n");
}

#[test]
fn with_replay_the_writer_reads_it_too() {
    let site = Site::new(&["alice"]);
    let mut alice = site.join("alice", "pipe friends -r", "alice/friends");
    alice.send(b"echo\n");
    alice.stdout.until_contains("echo\n");
}

#[test]
fn a_lone_client_is_sent_away_without_an_exit_status() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, mut bob) = pair(&site);
    bob.send(b"last words\n");
    alice.stdout.until_contains("last words\n");
    drop(bob);
    let done = alice.done();
    assert_eq!(done.status, Some(NO_STATUS));
    assert_eq!(done.stdout, "last words\n");
    assert_eq!(site.ls("alice"), "no pubsub channels found\n");
}

#[test]
fn two_who_remain_stay() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, bob) = pair(&site);
    let carol = site.join("carol", "pipe alice/friends", "alice/friends");
    drop(bob);
    wait_until("bob to leave", || site.count("alice", "alice/friends") == 2);
    alice.send(b"still here\n");
    carol.stdout.until_contains("still here\n");
}

#[test]
fn the_end_of_input_ends_a_pipe_after_its_bytes_were_handed_on() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (alice, mut bob) = pair(&site);
    let carol = site.join("carol", "pipe alice/friends", "alice/friends");
    bob.send(b"bye\n");
    bob.close_input();
    assert_eq!(bob.done().status, Some(NO_STATUS));
    alice.stdout.until_contains("bye\n");
    carol.stdout.until_contains("bye\n");
    assert_eq!(clients(&site.ls("alice"), "alice/friends").len(), 2);
}

#[test]
fn bytes_pass_as_they_are() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, bob) = pair(&site);
    let bytes: Vec<u8> = (0..=255).chain([0xff, 0xfe, b'\r', b'\n', 0]).collect();
    alice.send(&bytes);
    assert_eq!(bob.stdout.until_len(bytes.len()), bytes);
}

#[test]
fn a_line_longer_than_a_chunk_arrives_whole_where_one_client_writes() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, bob) = pair(&site);
    let mut line: Vec<u8> = (0..40 * 1024).map(|index| b'a' + (index % 26) as u8).collect();
    line.push(b'\n');
    alice.send(&line);
    assert_eq!(bob.stdout.until_len(line.len()), line);
}

#[test]
fn lines_of_two_who_write_at_once_are_not_torn() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, mut bob) = pair(&site);
    let carol = site.join("carol", "pipe alice/friends", "alice/friends");
    let line = |who: &str| who.repeat(3999) + "\n";
    for round in 1..=100 {
        alice.send(line("a").as_bytes());
        bob.send(line("b").as_bytes());
        // Only lines that ssh found alone in its input leave in one piece: it reads what there is.
        carol.stdout.until_len(round * 8000);
    }
    let printed = carol.stdout.now();
    assert_eq!(printed.len(), 100 * 8000);
    for read in printed.chunks(4000) {
        assert!(read == line("a").as_bytes() || read == line("b").as_bytes());
    }
}

#[test]
fn round_robin_hands_each_chunk_to_one_reader() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let mut alice = site.join("alice", "pipe jobs -a bob,carol -d round_robin", "alice/jobs");
    let bob = site.join("bob", "pipe alice/jobs", "alice/jobs");
    let carol = site.join("carol", "pipe alice/jobs", "alice/jobs");
    alice.send(b"one\n");
    bob.stdout.until_contains("one\n");
    alice.send(b"two\n");
    carol.stdout.until_contains("two\n");
    assert_eq!(bob.stdout.now(), b"one\n");
    assert_eq!(carol.stdout.now(), b"two\n");
}

#[test]
fn without_a_topic_a_random_one_is_made_and_printed() {
    let site = Site::new(&["alice", "bob"]);
    let mut alice = site.start("alice", "pipe -a bob");
    let hint = alice.stdout.until("the hint", |bytes| bytes.iter().filter(|b| **b == b'\n').count() == 2);
    let hint = String::from_utf8(hint).unwrap();
    let (title, command) = hint.split_once('\n').unwrap();
    assert_eq!(title, "subscribe to this topic:");
    let topic = command.trim().rsplit(' ').next().unwrap();
    assert!(topic.starts_with("alice/"));
    let bob = site.join("bob", &format!("pipe {topic}"), topic);
    alice.send(b"found\n");
    bob.stdout.until_contains("found\n");
}

#[test]
fn one_connection_carries_several_commands() {
    let site = Site::new(&["alice", "bob"]);
    let socket = format!("ControlPath={}", site.path("mux").display());
    let mut first = site.start_with("alice", "pipe one -r", &["-o", &socket, "-o", "ControlMaster=yes"]);
    first.send(b"1\n");
    first.stdout.until_contains("1\n");
    let mut second = site.start_with("alice", "pipe two -r", &["-o", &socket]);
    second.send(b"2\n");
    second.stdout.until_contains("2\n");
    let mut list = site.start_with("alice", "ls", &["-o", &socket]);
    let listing = list.done().stdout;
    let line = |topic: &str| clients(&listing, topic).pop().unwrap();
    let address = |line: String| line.rsplit('@').next().unwrap().to_owned();
    assert_eq!(address(line("alice/one")), address(line("alice/two")));
    second.close_input();
    assert_eq!(second.done().status, Some(NO_STATUS));
    first.send(b"3\n");
    first.stdout.until_contains("3\n");
    assert_eq!(first.stdout.now(), b"1\n3\n");
}

#[test]
fn an_idle_client_hears_from_the_hub() {
    let site = Site::new(&["alice"]);
    let mut alice = site.start_with("alice", "pipe friends -r", &["-o", "LogLevel=DEBUG1"]);
    alice.stderr.until_contains("rtype xon-xoff reply 0");
    alice.send(b"undisturbed\n");
    alice.stdout.until_contains("undisturbed\n");
}

#[test]
fn everybody_is_sent_away_when_the_hub_stops() {
    let mut site = Site::new(&["alice", "bob", "carol"]);
    let (mut alice, mut bob) = pair(&site);
    let other = Site::new(&[]);
    let hub = std::mem::replace(&mut site.hub, other.hub);
    hub.stop();
    assert_eq!(alice.done().status, Some(NO_STATUS));
    assert_eq!(bob.done().status, Some(NO_STATUS));
}
