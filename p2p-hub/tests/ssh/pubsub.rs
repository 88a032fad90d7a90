//! `pub` and `sub`.

use crate::kit::{NO_STATUS, Site, clients, wait_until};

#[test]
fn a_publisher_waits_for_a_reader_and_says_so() {
    let site = Site::new(&["alice"]);
    let mut publisher = site.start("alice", "pub news");
    publisher.send(b"early ");
    publisher.send(b"bird\n");
    publisher.close_input();
    publisher.stdout.until_contains("no subs found ... waiting 720h0m0s\n");
    wait_until("the publisher to be listed", || clients(&site.ls("alice"), "alice/news").len() == 1);
    assert!(site.ls("alice").contains("- alice/news:\r\n  Waiting Pubs:\r\n"));
    let mut reader = site.start("alice", "sub news");
    reader.stdout.until_contains("early bird\n");
    let port = site.hub.local_addr().port();
    let done = publisher.done();
    assert_eq!(done.status, Some(0));
    assert_eq!(
        done.stdout,
        format!(
            "subscribe to this channel:\n  ssh -p {port} 127.0.0.1 sub news\nno subs found ... waiting 720h0m0s\n\
             sending msg ...\nmsg sent!\n"
        )
    );
    let done = reader.done();
    assert_eq!((done.status, done.stdout.as_str()), (Some(NO_STATUS), "early bird\n"));
}

#[test]
fn a_reader_that_keeps_alive_stays_for_the_next_publisher() {
    let site = Site::new(&["alice"]);
    let mut reader = site.join("alice", "sub news -k", "alice/news");
    reader.close_input();
    for word in ["one", "two"] {
        let mut publisher = site.start("alice", "pub news -c");
        publisher.send(word.as_bytes());
        publisher.close_input();
        let done = publisher.done();
        assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""));
        reader.stdout.until_contains(word);
    }
    assert!(reader.is_running());
}

#[test]
fn an_empty_message_is_one_zero_byte() {
    let site = Site::new(&["alice"]);
    let reader = site.join("alice", "sub news -k", "alice/news");
    assert_eq!(site.run("alice", "pub news -e").status, Some(0));
    assert_eq!(reader.stdout.until_len(1), [0]);
}

#[test]
fn a_publisher_that_does_not_wait_goes_unheard() {
    let site = Site::new(&["alice"]);
    let done = site.run("alice", "pub news -b=false");
    assert_eq!(done.status, Some(0));
    assert!(done.stdout.ends_with("sending msg ...\nmsg sent!\n"));
}

#[test]
fn a_large_message_that_waited_arrives_whole() {
    let site = Site::new(&["alice"]);
    let file: Vec<u8> = (0..6_000_000_u32).map(|index| (index / 7) as u8).collect();
    let mut publisher = site.join("alice", "pub news -c", "alice/news");
    publisher.send_in_background(file.clone());
    let reader = site.start("alice", "sub news -c");
    assert!(reader.stdout.until_len(file.len()) == file);
}
