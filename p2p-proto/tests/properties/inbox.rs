//! A slow reader costs bounded memory, loses presence first, and is told how much (B-07).

use std::time::Duration;

use p2p_proto::board::message::{Bye, Envelope, Message, Refuse, RefuseReason};
use p2p_proto::board::{BoardEvent, Inbox, Line};
use p2p_proto::ids::{ProcessKey, SetupId};
use p2p_proto::limits;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Presence(usize),
    SetUp(usize),
    Down,
    Pop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..700_usize).prop_map(Step::Presence),
        (1..400_usize).prop_map(Step::SetUp),
        Just(Step::Down),
        (1..500_usize).prop_map(Step::Pop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn bounded_and_honest(steps in vec(step(), 1..12)) {
        let (mut inbox, mut sequence) = (Inbox::default(), 0);
        let (mut pushed, mut read, mut lost) = (0_u64, 0_u64, 0_u64);
        let mut last_set_up = None;
        let mut push = |inbox: &mut Inbox, event| {
            inbox.push(event);
            pushed += 1;
        };
        for step in steps {
            match step {
                Step::Presence(count) => for _ in 0..count {
                    push(&mut inbox, presence());
                },
                Step::SetUp(count) => for _ in 0..count {
                    sequence += 1;
                    push(&mut inbox, set_up(sequence));
                },
                Step::Down => push(&mut inbox, BoardEvent::Down { reason: String::new(), retry_in: Duration::ZERO }),
                Step::Pop(count) => for _ in 0..count {
                    take(&mut inbox, &mut read, &mut lost, &mut last_set_up);
                },
            }
        }
        let before = read;
        while !inbox.is_empty() {
            take(&mut inbox, &mut read, &mut lost, &mut last_set_up);
        }
        prop_assert!(read - before <= limits::BOARD_INBOX as u64, "{} events waited", read - before);
        prop_assert_eq!(pushed, read + lost, "what was dropped was not told");
        prop_assert_eq!(inbox.pop(), None);
    }
}

/// Reads one event; set-ups come in the order in which they were pushed.
fn take(inbox: &mut Inbox, read: &mut u64, lost: &mut u64, last_set_up: &mut Option<u64>) {
    match inbox.pop() {
        Some(BoardEvent::Lagged(count)) => *lost += count,
        Some(BoardEvent::Line(line)) => {
            *read += 1;
            if let Ok(Envelope { message: Message::Refuse(refuse), .. }) = line.decode() {
                assert!(*last_set_up < Some(refuse.setup.0), "set-ups came out of order");
                *last_set_up = Some(refuse.setup.0);
            }
        }
        Some(_) => *read += 1,
        None => {}
    }
}

#[test]
fn presence_goes_before_a_set_up() {
    let mut inbox = Inbox::default();
    inbox.push(set_up(1));
    for _ in 0..limits::BOARD_INBOX * 2 {
        inbox.push(presence());
    }
    inbox.push(set_up(2));
    assert_eq!(inbox.pop(), Some(BoardEvent::Lagged(limits::BOARD_INBOX as u64 + 2)));
    assert_eq!(inbox.pop(), Some(set_up(1)));
    let mut last = None;
    while let Some(event) = inbox.pop() {
        last = Some(event);
    }
    assert_eq!(last, Some(set_up(2)));
}

#[test]
fn what_is_not_a_line_outlives_lines() {
    let mut inbox = Inbox::default();
    inbox.push(BoardEvent::Up);
    for sequence in 0..limits::BOARD_INBOX as u64 * 2 {
        inbox.push(set_up(sequence));
    }
    assert!(matches!(inbox.pop(), Some(BoardEvent::Lagged(_))));
    assert_eq!(inbox.pop(), Some(BoardEvent::Up));
}

fn presence() -> BoardEvent {
    line(Message::Bye(Bye { process: ProcessKey([1; 32]) }))
}

fn set_up(setup: u64) -> BoardEvent {
    let (caller, callee) = (ProcessKey([1; 32]), ProcessKey([2; 32]));
    let (setup, why) = (SetupId(setup), RefuseReason::Busy);
    line(Message::Refuse(Refuse { caller, callee, setup, why, version: p2p_proto::VERSION }))
}

fn line(message: Message) -> BoardEvent {
    let from = "bob@attic:1".parse().unwrap();
    BoardEvent::Line(Line::encode(&Envelope { from, sequence: 0, time: 0, message }).unwrap())
}
