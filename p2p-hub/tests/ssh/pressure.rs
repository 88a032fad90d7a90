//! Clients that read slowly or not at all.

use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::kit::{Site, Ssh, clients, wait_until};

const MANY: usize = 8 * 1024 * 1024;

fn numbered(seed: u8) -> Vec<u8> {
    (0..MANY).map(|index| (index / 64) as u8 ^ seed).collect()
}

#[test]
fn who_stops_reading_is_cut_off_and_the_others_go_on() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let mut alice = site.join("alice", "pipe t -a bob,carol", "alice/t");
    let bob = site.join("bob", "pipe alice/t", "alice/t");
    let mut carol = site.join("carol", "pipe alice/t", "alice/t");
    bob.signal("STOP");
    alice.send_in_background(numbered(0));
    assert!(carol.stdout.until_len(MANY) == numbered(0));
    wait_until("bob to be cut off", || {
        let members = clients(&site.ls("alice"), "alice/t");
        members.len() == 2 && members.iter().all(|member| !member.contains("bob"))
    });
    carol.send(b"still here\n");
    alice.stdout.until_contains("still here\n");
    bob.signal("CONT");
    let mut bob = bob;
    assert_eq!(bob.done().status, Some(1));
}

#[test]
fn a_slow_reader_gets_everything() {
    let site = Site::new(&["alice"]);
    let mut reader =
        site.command("alice", &[]).arg("sub t").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("the reader to join", || site.count("alice", "alice/t") == 1);
    let mut writer = site.join("alice", "pub t -c", "alice/t");
    writer.send_in_background(numbered(1));
    let mut output = reader.stdout.take().unwrap();
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while received.len() < MANY {
        let count = output.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "ended after {} bytes", received.len());
        received.extend_from_slice(&buffer[..count]);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(received == numbered(1));
    let _ = reader.kill();
    let _ = reader.wait();
}

#[test]
fn two_who_flood_each_other_get_on() {
    let site = Site::new(&["alice", "bob"]);
    let mut alice = site.join("alice", "pipe t -a bob", "alice/t");
    let mut bob = site.join("bob", "pipe alice/t", "alice/t");
    alice.send_in_background(numbered(2));
    bob.send_in_background(numbered(3));
    assert!(alice.stdout.until_len(MANY) == numbered(3));
    assert!(bob.stdout.until_len(MANY) == numbered(2));
}

#[test]
fn many_small_lines_overtake_nobody() {
    let site = Site::new(&["alice", "bob"]);
    let mut alice = site.join("alice", "pipe t -a bob", "alice/t");
    let bob = site.join("bob", "pipe alice/t", "alice/t");
    let lines: Vec<u8> = (0..20_000).flat_map(|index| format!("{index}\n").into_bytes()).collect();
    for line in lines.chunks(7) {
        alice.send(line);
    }
    assert!(bob.stdout.until_len(lines.len()) == lines);
}

#[test]
fn a_vanished_client_makes_room() {
    let site = Site::new(&["alice", "bob", "carol"]);
    let mut alice = site.join("alice", "pipe t -a bob,carol", "alice/t");
    let bob: Ssh = site.join("bob", "pipe alice/t", "alice/t");
    let carol = site.join("carol", "pipe alice/t", "alice/t");
    bob.signal("KILL");
    wait_until("bob to be gone", || site.count("alice", "alice/t") == 2);
    alice.send(b"two left\n");
    carol.stdout.until_contains("two left\n");
}

#[test]
fn a_publisher_that_vanishes_while_it_is_held_is_noticed() {
    let site = Site::new(&["alice"]);
    let mut publisher = site.join("alice", "pub t -c", "alice/t");
    publisher.send_in_background(numbered(4));
    // The pings go on although nothing is read from it.
    wait_until("a while of being held", || publisher.is_running());
    publisher.signal("KILL");
    wait_until("the publisher to be gone", || site.ls("alice") == "no pubsub channels found\n");
}
