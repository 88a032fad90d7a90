//! What a board's reader does with a stream.

use p2p_proto::board::line::{Line, Lines};
use p2p_proto::board::message::{Beat, Message};
use p2p_proto::board::{BoardEvent, Inbox};
use p2p_proto::ids::ClusterName;
use p2p_proto::limits;

/// The first byte says how large the pieces are in which the rest arrives.
///
/// # Panics
/// When the pieces change the lines, a line is over its bound, or a message that was read does not survive writing.
pub fn board_line(bytes: &[u8]) {
    let Some((&size, stream)) = bytes.split_first() else { return };
    let mut whole = Vec::new();
    Lines::default().feed(stream, |line| whole.push(line));
    let mut pieces = Vec::new();
    let mut lines = Lines::default();
    for piece in stream.chunks(usize::from(size) + 1) {
        lines.feed(piece, |line| pieces.push(line));
    }
    assert_eq!(whole, pieces, "the pieces changed the lines");

    let mut inbox = Inbox::default();
    for line in whole {
        read(&line);
        inbox.push(BoardEvent::Line(line));
    }
    while inbox.pop().is_some() {}
}

fn read(line: &Line) {
    assert!(line.as_bytes().len() <= limits::LINE_BYTES, "a line over its bound");
    let Ok(envelope) = line.decode() else { return };
    // It may not fit any more: fields that a writer may leave out are always written here.
    if let Ok(again) = Line::encode(&envelope) {
        assert_eq!(again.decode().as_ref(), Ok(&envelope), "a message does not survive writing");
    }
    judge(&envelope.message);
}

/// What a peer checks before it believes a message.
fn judge(message: &Message) {
    let Ok(cluster) = "alice/friends".parse::<ClusterName>() else { return };
    let now = 1_800_000_000;
    match message {
        Message::Beat(signed) => drop(Beat::verify(signed, &cluster)),
        Message::Admit(admit) => drop(admit.membership.verify_first_sight(&cluster, now)),
        Message::Claim(claim) => {
            drop(claim.certificate.verify(&cluster, claim.keys.machine, claim.role, claim.keys.process, now));
        }
        Message::Hello(hello) => {
            if let Ok(claims) = hello.credentials.membership.verify_first_sight(&cluster, now) {
                drop(hello.credentials.verify(&cluster, claims.host, hello.role, hello.process, now));
            }
        }
        _ => {}
    }
}
