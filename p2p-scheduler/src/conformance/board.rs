//! The suite for boards.

use std::ops::{AsyncFnMut, Deref};

use p2p_proto::board::message::{Ready, Seek};
use p2p_proto::board::{Board, BoardError, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerName, ProcessKey, SetupId, UserName};
use p2p_proto::limits;

use super::soon;

/// Runs a board through everything that its trait promises. `places` makes three places on a topic where nobody else is.
///
/// # Panics
/// Where the board breaks a rule.
pub async fn board(mut places: impl AsyncFnMut() -> [Box<dyn Board>; 3]) {
    lines_come_in_order_and_never_back(up(places().await).await).await;
    writers_do_not_mix(up(places().await).await).await;
    the_longest_line_passes(up(places().await).await).await;
    too_many_lines_are_refused_and_the_others_come(up(places().await).await).await;
    waiting_may_be_given_up(up(places().await).await).await;
    a_slow_reader_misses_presence_first(up(places().await).await).await;
    who_leaves_has_spoken(up(places().await).await).await;
}

/// Runs a board that is cut out of a byte stream past what others write there: people, older programs, enemies. `write` writes bytes
/// as they are to the topic of both places.
///
/// # Panics
/// Where something foreign is reported, or costs a line of ours.
pub async fn foreign_lines(places: [Box<dyn Board>; 2], mut write: impl AsyncFnMut(&[u8])) {
    let [reader, writer] = &up(places).await;
    let long = vec![b'x'; 3 * limits::LINE_BYTES];
    let binary: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let prefixed = [b"~p2p1 ".as_slice(), &vec![b'A'; 2 * limits::LINE_BYTES]].concat();
    let foreign = [b"hello, who is here?".as_slice(), b"when=2025-01-01", b"", b"~p2p1 ", b"~p2p1 not base64!", &long];
    for (at, bytes) in foreign.into_iter().chain([binary.as_slice(), prefixed.as_slice()]).enumerate() {
        write(&[bytes, b"\r\n"].concat()).await;
        write(&[bytes, b"\n"].concat()).await;
        let sequence = at as u64;
        publish(writer, presence(sequence)).await;
        let heard = next_line(reader, "a line among foreign ones").await;
        assert_eq!(
            heard,
            sequence,
            "a foreign line was reported, or cost one of ours: {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// Waits until all of them are there.
async fn up<const N: usize>(places: [Box<dyn Board>; N]) -> [Box<dyn Board>; N] {
    for place in &places {
        // A board that has to reach a server may need several tries.
        loop {
            match soon("the board comes up", place.next()).await {
                BoardEvent::Up => break,
                BoardEvent::Down { .. } | BoardEvent::Misrouted { .. } => {}
                event => panic!("before a board is up it reported {event:?}"),
            }
        }
    }
    places
}

async fn lines_come_in_order_and_never_back([a, b, c]: [Box<dyn Board>; 3]) {
    for sequence in 0..200 {
        publish(&a, presence(sequence)).await;
    }
    for place in [&b, &c] {
        for sequence in 0..200 {
            assert_eq!(
                next_line(place, "a line of somebody else").await,
                sequence,
                "lines of one writer are out of order"
            );
        }
    }
    publish(&b, presence(1000)).await;
    assert_eq!(next_line(&a, "the answer").await, 1000, "a board echoes its own lines");
    assert_eq!(next_line(&c, "the answer").await, 1000);
}

async fn writers_do_not_mix([a, b, c]: [Box<dyn Board>; 3]) {
    for sequence in 0..100 {
        publish(&a, presence(sequence)).await;
        publish(&b, presence(1000 + sequence)).await;
    }
    let mut heard = Vec::new();
    for _ in 0..200 {
        heard.push(next_line(&c, "lines of two writers").await);
    }
    let (of_a, of_b): (Vec<u64>, Vec<u64>) = heard.into_iter().partition(|sequence| *sequence < 1000);
    assert_eq!(of_a, (0..100).collect::<Vec<_>>(), "the first writer's lines");
    assert_eq!(of_b, (1000..1100).collect::<Vec<_>>(), "the second writer's lines");
}

async fn the_longest_line_passes([a, b, _c]: [Box<dyn Board>; 3]) {
    let line = (1..)
        .map_while(|bytes| Line::encode(&envelope(7, set_up(bytes))).ok())
        .last()
        .unwrap_or_else(|| unreachable!("a short line encodes"));
    assert!(line.as_bytes().len() > limits::LINE_BYTES - 4, "the longest line of the protocol");
    a.publish(line.clone()).expect("a line within its bounds is taken");
    assert_eq!(soon("the longest line", b.next()).await, BoardEvent::Line(line), "the longest line came changed");
}

async fn too_many_lines_are_refused_and_the_others_come([a, b, _c]: [Box<dyn Board>; 3]) {
    let mut taken = Vec::new();
    for sequence in 0..4 * limits::BOARD_OUTBOX as u64 {
        match a.publish(presence(sequence)) {
            Ok(()) => taken.push(sequence),
            Err(BoardError::Full) => {}
            Err(fault) => panic!("a board that is up refused a line: {fault}"),
        }
    }
    assert!(taken.len() >= limits::BOARD_OUTBOX, "only {} lines were taken", taken.len());
    for sequence in taken {
        assert_eq!(next_line(&b, "every line that was taken").await, sequence);
    }
}

async fn waiting_may_be_given_up([a, b, _c]: [Box<dyn Board>; 3]) {
    for sequence in 0..50 {
        publish(&a, presence(sequence)).await;
        let mut patience = super::PATIENCE.as_millis();
        let heard = loop {
            // Given up after a moment, again and again: at any of them the line may be on its way to the reader.
            match async_std::future::timeout(std::time::Duration::from_millis(1), b.next()).await {
                Ok(BoardEvent::Line(line)) => break sequence_of(&line),
                Ok(event) => panic!("a line was expected, not {event:?}"),
                Err(_) => {
                    patience = patience.checked_sub(1).expect("a line was lost with a reader that gave up waiting")
                }
            }
        };
        assert_eq!(heard, sequence, "an event was lost with a reader that gave up waiting");
    }
}

async fn a_slow_reader_misses_presence_first([a, slow, quick]: [Box<dyn Board>; 3]) {
    let total = limits::BOARD_INBOX as u64 + 300;
    publish(&a, line(0, set_up(10))).await;
    for sequence in 1..total {
        publish(&a, presence(sequence)).await;
        assert_eq!(next_line(&quick, "a quick reader misses none").await, sequence - 1);
    }
    publish(&a, line(total, set_up(10))).await;
    let (mut lines, mut missed, mut last) = (0, 0, None);
    while last != Some(total) {
        match soon("what a slow reader has not missed", slow.next()).await {
            BoardEvent::Line(line) => {
                let sequence = sequence_of(&line);
                assert!(last.is_none_or(|last| last < sequence), "lines are out of order for a slow reader");
                assert!(lines > 0 || sequence == 0, "a set-up was dropped while there was presence to drop");
                lines += 1;
                last = Some(sequence);
            }
            BoardEvent::Lagged(count) => missed += count,
            event => panic!("a line or a gap was expected, not {event:?}"),
        }
    }
    assert_eq!(lines + missed, total + 1, "lines and gaps do not add up");
}

async fn who_leaves_has_spoken([a, b, _c]: [Box<dyn Board>; 3]) {
    for sequence in 0..20 {
        publish(&a, presence(sequence)).await;
    }
    soon("leaving", a.close()).await;
    assert_eq!(a.publish(presence(20)), Err(BoardError::Closed), "a board that was left takes lines");
    for sequence in 0..20 {
        assert_eq!(next_line(&b, "what was said before leaving").await, sequence);
    }
    // Who is gone disturbs nobody.
    drop(a);
    publish(&b, presence(0)).await;
}

/// Publishes as fast as the board takes lines.
async fn publish(board: &impl Deref<Target = dyn Board>, line: Line) {
    soon("a board takes a line", async {
        loop {
            match board.publish(line.clone()) {
                Ok(()) => return,
                Err(BoardError::Full) => async_std::task::sleep(std::time::Duration::from_millis(1)).await,
                Err(fault) => panic!("a board that is up refused a line: {fault}"),
            }
        }
    })
    .await;
}

async fn next_line(board: &impl Deref<Target = dyn Board>, what: &str) -> u64 {
    match soon(what, board.next()).await {
        BoardEvent::Line(line) => sequence_of(&line),
        event => panic!("{what}: a line was expected, not {event:?}"),
    }
}

fn sequence_of(line: &Line) -> u64 {
    line.decode().unwrap_or_else(|fault| panic!("a line came changed: {fault}")).sequence
}

fn presence(sequence: u64) -> Line {
    line(sequence, Message::Seek(Seek { runtime: String::new(), answers: 1 }))
}

/// A message of one set-up, which is said once.
fn set_up(noise_bytes: usize) -> Message {
    let (caller, callee) = (ProcessKey([1; 32]), ProcessKey([2; 32]));
    Message::Ready(Ready { caller, callee, setup: SetupId(1), noise: vec![0; noise_bytes] })
}

fn line(sequence: u64, message: Message) -> Line {
    Line::encode(&envelope(sequence, message)).unwrap_or_else(|fault| unreachable!("a short line encodes: {fault}"))
}

fn envelope(sequence: u64, message: Message) -> Envelope {
    let user: UserName = "conformance".parse().unwrap_or_else(|fault| unreachable!("a valid name: {fault}"));
    Envelope { from: PeerName::new(&user, "here", 1), sequence, time: 0, message }
}
