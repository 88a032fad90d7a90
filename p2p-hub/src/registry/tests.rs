use super::*;

#[derive(Default)]
struct Board {
    registry: Registry,
    next: u64,
}

impl Board {
    fn open(&mut self, user: &str, command: &str) -> (ClientId, Opened) {
        let (id, opened) = self.try_open(user, command);
        (id, opened.unwrap())
    }

    /// `command` is `DIRECTION TOPIC [FLAG]...`, with `a=LIST` for the access list.
    fn try_open(&mut self, user: &str, command: &str) -> (ClientId, Result<Opened, Refused>) {
        let mut words = command.split(' ');
        let direction = match words.next().unwrap() {
            "pub" => Direction::Pub,
            "sub" => Direction::Sub,
            _ => Direction::Pipe,
        };
        let topic = words.next().unwrap().to_owned();
        let flags: Vec<_> = words.collect();
        let list = flags.iter().find_map(|flag| flag.strip_prefix("a="));
        self.next += 1;
        let id = ClientId(self.next);
        let open = Open {
            label: format!("{}:{user}", self.next),
            direction,
            topic,
            public: flags.contains(&"p"),
            access: AccessList::parse(list.unwrap_or_default()).unwrap(),
            replay: flags.contains(&"r"),
            keep_alive: flags.contains(&"k"),
            block: direction == Direction::Pub && !flags.contains(&"nb"),
            dispatch: if flags.contains(&"rr") { Dispatch::RoundRobin } else { Dispatch::Multicast },
            substitute: format!("public/random-{}", self.next),
        };
        let caller = Caller { user: user.into(), fingerprint: format!("SHA256:{user}") };
        (id, self.registry.open(id, &caller, open))
    }

    fn pipe(&mut self, user: &str, topic: &str) -> ClientId {
        self.open(user, &format!("pipe {topic}")).0
    }

    fn topic_of(&self, id: ClientId) -> &str {
        &self.registry.clients[&id].topic
    }
}

#[test]
fn chunks_go_to_all_others_and_back_only_with_replay() {
    let mut board = Board::default();
    let alice = board.pipe("alice", "t a=bob");
    let bob = board.open("bob", "pipe alice/t r").0;
    let sub = board.open("alice", "sub t").0;
    assert_eq!(board.registry.readers(alice), Readers::To(vec![bob, sub]));
    assert_eq!(board.registry.readers(bob), Readers::To(vec![alice, bob, sub]));
}

#[test]
fn round_robin_hands_chunks_to_one_reader_after_the_other() {
    let mut board = Board::default();
    let writer = board.open("alice", "pipe t rr").0;
    let first = board.pipe("alice", "t");
    let second = board.pipe("alice", "t");
    let turns: Vec<_> = (0..3).map(|_| board.registry.readers(writer)).collect();
    assert_eq!(turns, [Readers::To(vec![first]), Readers::To(vec![second]), Readers::To(vec![first])]);
}

#[test]
fn the_first_dispatcher_of_a_topic_stays() {
    let mut board = Board::default();
    let writer = board.pipe("alice", "t");
    let first = board.open("alice", "pipe t rr").0;
    let second = board.pipe("alice", "t");
    assert_eq!(board.registry.readers(writer), Readers::To(vec![first, second]));
}

#[test]
fn the_owners_list_goes_with_the_session_that_brought_it() {
    let mut board = Board::default();
    let host = board.pipe("alice", "t a=bob,carol");
    let second = board.pipe("alice", "t");
    let bob = board.pipe("bob", "alice/t");
    assert_eq!(board.topic_of(bob), "alice/t");
    assert_eq!(board.registry.leave(host), []);
    assert_eq!(board.registry.readers(bob), Readers::To(vec![second]), "messages still flow");
    let carol = board.pipe("carol", "alice/t");
    assert_eq!(board.topic_of(carol), "carol/alice/t");
}

#[test]
fn a_guest_that_leaves_does_not_take_the_list_along() {
    let mut board = Board::default();
    let _host = board.pipe("alice", "t a=bob,carol");
    let _second = board.pipe("alice", "t");
    let bob = board.pipe("bob", "alice/t");
    board.registry.leave(bob);
    let carol = board.pipe("carol", "alice/t");
    assert_eq!(board.topic_of(carol), "alice/t");
}

#[test]
fn a_list_that_comes_second_is_ignored() {
    let mut board = Board::default();
    let first = board.pipe("alice", "t");
    let _second = board.pipe("alice", "t a=bob");
    let bob = board.pipe("bob", "alice/t");
    assert_eq!(board.topic_of(bob), "bob/alice/t");
    board.registry.leave(bob);
    board.registry.leave(first);
    let _third = board.pipe("alice", "t a=bob");
    let bob = board.pipe("bob", "alice/t");
    assert_eq!(board.topic_of(bob), "alice/t");
}

#[test]
fn an_unlisted_stranger_never_gets_in() {
    let mut board = Board::default();
    let host = board.pipe("alice", "t a=bob");
    let mallory = board.pipe("mallory", "alice/t");
    assert_eq!(board.topic_of(mallory), "mallory/alice/t");
    assert_eq!(board.registry.readers(host), Readers::To(vec![]));
}

#[test]
fn a_denied_public_topic_is_refused_to_readers_and_replaced_for_others() {
    let mut board = Board::default();
    let _alice = board.open("alice", "pipe t p a=bob,alice");
    assert_eq!(board.try_open("carol", "sub t p").1, Err(Refused::AccessDenied));
    assert_eq!(board.open("carol", "pipe t p").1.topic, "public/random-3");
    assert_eq!(board.open("bob", "sub t p").1.topic, "public/t");
}

#[test]
fn who_is_sent_away_when_somebody_leaves() {
    // Those who join, who of them leaves, who is sent away.
    let table: [(&[&str], usize, &[usize]); 9] = [
        (&["pipe t", "pipe t"], 1, &[0]),
        (&["pipe t", "pipe t", "pipe t"], 2, &[]),
        (&["pipe t"], 0, &[]),
        (&["pipe t", "sub t", "pipe t"], 2, &[0, 1]),
        (&["sub t", "pub t"], 1, &[0]),
        (&["sub t k", "pub t"], 1, &[]),
        (&["sub t", "pub t", "pub t"], 1, &[]),
        (&["sub t", "sub t"], 0, &[1]),
        (&["pipe t", "pub t", "pipe t"], 2, &[]),
    ];
    for (joining, leaving, expected) in table {
        let mut board = Board::default();
        let ids: Vec<_> = joining.iter().map(|command| board.open("alice", command).0).collect();
        let expected: Vec<_> = expected.iter().map(|index| ids[*index]).collect();
        let sent_away = board.registry.leave(ids[leaving]);
        assert_eq!(sent_away, expected, "{joining:?}, {leaving} leaves");
        assert_eq!(board.registry.leave(ids[leaving]), [], "leaving twice is harmless");
        for id in sent_away {
            assert_eq!(board.registry.readers(id), Readers::Gone);
        }
    }
}

#[test]
fn nothing_remains_when_all_have_left() {
    let mut board = Board::default();
    let ids = [
        board.pipe("alice", "t a=bob"),
        board.pipe("bob", "alice/t"),
        board.open("carol", "pub x").0,
        board.open("carol", "sub y k").0,
    ];
    for id in ids {
        board.registry.leave(id);
    }
    assert!(board.registry.topics.is_empty());
    assert!(board.registry.lists.is_empty());
    assert!(board.registry.clients.is_empty());
}

#[test]
fn a_publisher_waits_for_a_reader_and_again_when_the_reader_went() {
    let mut board = Board::default();
    let (publisher, opened) = board.open("alice", "pub t");
    assert!(opened.waiting);
    assert!(board.registry.is_waiting(publisher));
    assert_eq!(board.registry.readers(publisher), Readers::Blocked);
    let (reader, opened) = board.open("alice", "sub t");
    assert_eq!(opened.unblocked, [publisher]);
    assert!(!board.registry.is_waiting(publisher));
    assert_eq!(board.registry.readers(publisher), Readers::To(vec![reader]));
    board.registry.leave(reader);
    assert_eq!(board.registry.readers(publisher), Readers::Blocked);
    assert_eq!(board.open("alice", "sub t").1.unblocked, [publisher]);
}

#[test]
fn a_publisher_that_does_not_wait_loses_what_nobody_reads() {
    let mut board = Board::default();
    let (publisher, opened) = board.open("alice", "pub t nb");
    assert!(!opened.waiting);
    assert_eq!(board.registry.readers(publisher), Readers::To(vec![]));
}

#[test]
fn only_the_owners_topics_are_listed() {
    let mut board = Board::default();
    board.open("alice", "pipe b a=bob");
    board.open("alice", "pub a");
    board.open("bob", "pipe alice/b");
    board.open("alice2", "pipe c");
    let views = board.registry.topics_of("alice");
    let names: Vec<_> = views.iter().map(|view| view.name).collect();
    assert_eq!(names, ["alice/a", "alice/b"]);
    assert_eq!(views[0].waiting_pubs, ["2:alice"]);
    assert_eq!(views[1].access, ["bob"]);
    assert_eq!(views[1].pipes, ["1:alice", "3:bob"]);
    assert!(board.registry.topics_of("al").is_empty());
}

#[test]
fn topics_are_bounded() {
    let mut board = Board::default();
    for index in 0..MAX_TOPICS {
        board.open("alice", &format!("pipe {index}"));
    }
    assert_eq!(board.try_open("alice", "pipe more").1, Err(Refused::TooManyTopics));
    assert!(board.try_open("alice", "pipe 0").1.is_ok());
}
