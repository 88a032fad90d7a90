//! A board's stream is cut into the same lines, however the network cuts it.

use p2p_proto::board::line::{Line, Lines, PREFIX};
use p2p_proto::limits;
use proptest::collection::vec;
use proptest::prelude::*;

/// A line of ours, of somebody else, too long, broken, or a half one.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[A-Za-z0-9_-]{1,200}\r?\n".prop_map(|rest| [PREFIX, &rest].concat().into_bytes()),
        (4085_usize..4095).prop_map(|size| format!("{PREFIX}{}\n", "A".repeat(size)).into_bytes()),
        (5000_usize..9000).prop_map(|size| vec![b'x'; size]),
        vec(any::<u8>(), 0..80),
        Just(b"\n".to_vec()),
        Just(PREFIX.as_bytes().to_vec()),
    ]
}

proptest! {
    #[test]
    fn cuts_do_not_matter(pieces in vec(piece(), 0..12), cuts in vec(1_usize..5000, 1..20)) {
        let stream = pieces.concat();
        let whole = read(&mut Lines::default(), [stream.as_slice()]);
        let (mut rest, mut parts) = (stream.as_slice(), Vec::new());
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, after) = rest.split_at(cut.min(rest.len()));
            parts.push(part);
            rest = after;
        }
        prop_assert_eq!(read(&mut Lines::default(), parts), whole);
    }

    #[test]
    fn lines_keep_their_bound(pieces in vec(piece(), 0..12)) {
        for line in read(&mut Lines::default(), [pieces.concat().as_slice()]) {
            prop_assert!(line.as_bytes().len() <= limits::LINE_BYTES);
            prop_assert!(line.as_bytes().ends_with(b"\n"));
            let _ = line.decode();
        }
    }
}

#[test]
fn a_line_of_exactly_the_bound_is_read_and_one_byte_more_is_not() {
    for (size, lines) in [(limits::LINE_BYTES, 1), (limits::LINE_BYTES + 1, 0)] {
        let text = format!("{PREFIX}{}\n", "A".repeat(size - PREFIX.len() - 1));
        assert_eq!(read(&mut Lines::default(), [text.as_bytes()]).len(), lines, "{size} bytes");
    }
}

#[test]
fn what_somebody_left_unfinished_costs_the_next_writer_nothing() {
    for left in [b"~p2p1 AAAA".as_slice(), b"hello, who is", b"~p2p1 ", b"\xff\xfe\x00 ", b"~p2p1 ~p2p1 "] {
        let stream = [left, b"~p2p1 BB\n"].concat();
        let found = read(&mut Lines::default(), [stream.as_slice()]);
        assert_eq!(found.iter().map(Line::as_bytes).collect::<Vec<_>>(), [b"~p2p1 BB\n".as_slice()], "after {left:?}");
    }
}

#[test]
fn a_new_stream_starts_with_a_whole_line() {
    let mut lines = Lines::default();
    assert!(read(&mut lines, [b"~p2p1 AA".as_slice()]).is_empty());
    lines.reset();
    assert_eq!(
        read(&mut lines, [b"~p2p1 BB\n".as_slice()]).first().map(Line::as_bytes),
        Some(b"~p2p1 BB\n".as_slice())
    );
}

fn read<'a>(lines: &mut Lines, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
    let mut all = Vec::new();
    for part in parts {
        lines.feed(part, |line| all.push(line));
    }
    all
}
