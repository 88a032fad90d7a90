//! The procedure's machines against each other and against anything, on a virtual clock.

use std::time::Duration;

use p2p_proto::link::TransitKey;
use p2p_transport_wormhole::procedure::{
    Choice, Closed, ConnectionId, INCOMING, Input, Lines, Outbox, Output, Side, Way, exercise,
};
use proptest::prelude::*;

const HEAD_START: Duration = Duration::from_millis(750);

fn lines(side: Side) -> Lines {
    Lines::new(&TransitKey([7; 32]), side, [side as u8; 8])
}

fn choice(side: Side) -> Choice {
    Choice::new(side, lines(side), HEAD_START, true)
}

fn handle(machine: &mut Choice, now: Duration, input: Input<'_>) -> Outbox {
    let mut out = Outbox::default();
    machine.handle(now, input, &mut out);
    out
}

fn at_once(machine: &mut Choice, input: Input<'_>) -> Vec<Output> {
    handle(machine, Duration::ZERO, input).outputs
}

fn said(id: ConnectionId, line: &[u8]) -> Output {
    Output::Send(id, line.to_vec())
}

#[test]
fn a_leader_dials_and_goes() {
    let mut leader = choice(Side::Leader);
    let Lines { ours, theirs, .. } = lines(Side::Leader);
    assert_eq!(at_once(&mut leader, Input::Opened(1, Way::Dialled)), [said(1, &ours)]);
    let chosen = Output::Chosen { id: 1, rest: Vec::new() };
    assert_eq!(at_once(&mut leader, Input::Bytes(1, &theirs)), [said(1, b"go\n"), chosen]);
    assert!(leader.is_done());
    assert!(at_once(&mut leader, Input::Opened(2, Way::Dialled)).is_empty());
}

#[test]
fn a_follower_is_dialled_and_hears_go_with_the_first_record() {
    let mut follower = choice(Side::Follower);
    let Lines { ours, theirs, .. } = lines(Side::Follower);
    assert!(at_once(&mut follower, Input::Opened(1, Way::Accepted)).is_empty(), "a stranger hears nothing");
    assert_eq!(at_once(&mut follower, Input::Bytes(1, &theirs)), [said(1, &ours)]);
    let chosen = Output::Chosen { id: 1, rest: b"record".to_vec() };
    assert_eq!(at_once(&mut follower, Input::Bytes(1, b"go\nrecord")), [chosen]);
}

#[test]
fn a_relay_is_asked_first() {
    let mut follower = choice(Side::Follower);
    let Lines { ours, relay, .. } = lines(Side::Follower);
    assert_eq!(at_once(&mut follower, Input::Opened(1, Way::Relayed)), [said(1, &relay)]);
    assert_eq!(at_once(&mut follower, Input::Bytes(1, b"ok\n")), [said(1, &ours)]);
    assert_eq!(at_once(&mut follower, Input::Bytes(1, b"x")), [Output::Close(1, Closed::Garbage)]);
    assert!(follower.is_empty());
}

#[test]
fn a_relay_that_refuses_is_given_up() {
    for answer in [&b"impatient\n"[..], b"bad handshake\n", b"o\n", b"ok\r\n"] {
        let mut leader = choice(Side::Leader);
        at_once(&mut leader, Input::Opened(1, Way::Relayed));
        assert_eq!(at_once(&mut leader, Input::Bytes(1, answer)), [Output::Close(1, Closed::Garbage)]);
    }
}

#[test]
fn a_leader_waits_a_moment_for_a_direct_connection() {
    let Lines { theirs, .. } = lines(Side::Leader);
    let mut leader = choice(Side::Leader);
    at_once(&mut leader, Input::Opened(1, Way::Relayed));
    at_once(&mut leader, Input::Opened(2, Way::Dialled));
    at_once(&mut leader, Input::Bytes(1, b"ok\n"));
    let out = handle(&mut leader, Duration::ZERO, Input::Bytes(1, &theirs));
    assert_eq!(out, Outbox { outputs: Vec::new(), wake_at: Some(HEAD_START) });

    // A direct one in time is taken, and the relay's is told so.
    let mut in_time = leader.clone();
    let outputs = handle(&mut in_time, HEAD_START / 2, Input::Bytes(2, &theirs)).outputs;
    let chosen = Output::Chosen { id: 2, rest: Vec::new() };
    assert_eq!(outputs, [said(2, b"go\n"), said(1, b"nevermind\n"), Output::Close(1, Closed::NotChosen), chosen]);

    // Else it goes by the relay.
    let outputs = handle(&mut leader, HEAD_START, Input::Tick).outputs;
    let chosen = Output::Chosen { id: 1, rest: Vec::new() };
    assert_eq!(outputs, [said(1, b"go\n"), Output::Close(2, Closed::NotChosen), chosen]);
}

#[test]
fn a_leader_without_direct_connections_takes_the_relay_at_once() {
    let lines = lines(Side::Leader);
    let mut leader = Choice::new(Side::Leader, lines.clone(), HEAD_START, false);
    at_once(&mut leader, Input::Opened(1, Way::Relayed));
    at_once(&mut leader, Input::Bytes(1, b"ok\n"));
    let outputs = at_once(&mut leader, Input::Bytes(1, &lines.theirs));
    assert_eq!(outputs, [said(1, b"go\n"), Output::Chosen { id: 1, rest: Vec::new() }]);
}

#[test]
fn a_relay_that_breaks_while_it_waits_is_not_taken() {
    let Lines { theirs, .. } = lines(Side::Leader);
    let mut leader = choice(Side::Leader);
    at_once(&mut leader, Input::Opened(1, Way::Relayed));
    at_once(&mut leader, Input::Bytes(1, b"ok\n"));
    at_once(&mut leader, Input::Bytes(1, &theirs));
    assert!(at_once(&mut leader, Input::Ended(1)).is_empty());
    assert_eq!(handle(&mut leader, 2 * HEAD_START, Input::Tick), Outbox::default());
}

#[test]
fn a_follower_who_hears_nevermind_goes_on_with_the_others() {
    let mut follower = choice(Side::Follower);
    let Lines { theirs, .. } = lines(Side::Follower);
    for id in [1, 2] {
        at_once(&mut follower, Input::Opened(id, Way::Dialled));
        at_once(&mut follower, Input::Bytes(id, &theirs));
    }
    assert_eq!(at_once(&mut follower, Input::Bytes(1, b"nevermind\n")), [Output::Close(1, Closed::NotChosen)]);
    let chosen = Output::Chosen { id: 2, rest: Vec::new() };
    assert_eq!(at_once(&mut follower, Input::Bytes(2, b"go\n")), [chosen]);
}

#[test]
fn a_follower_who_speaks_before_go_is_given_up() {
    let mut leader = choice(Side::Leader);
    let Lines { mut theirs, .. } = lines(Side::Leader);
    theirs.push(0);
    at_once(&mut leader, Input::Opened(1, Way::Dialled));
    assert_eq!(at_once(&mut leader, Input::Bytes(1, &theirs)), [Output::Close(1, Closed::Garbage)]);
}

#[test]
fn every_changed_byte_of_the_line_is_garbage() {
    let Lines { theirs, .. } = lines(Side::Follower);
    for at in 0..theirs.len() {
        let mut changed = theirs.clone();
        changed[at] ^= 0x20;
        let mut follower = choice(Side::Follower);
        at_once(&mut follower, Input::Opened(1, Way::Accepted));
        assert_eq!(at_once(&mut follower, Input::Bytes(1, &changed)), [Output::Close(1, Closed::Garbage)], "byte {at}");
    }
}

/// Whoever could see at which byte a guess fails would have the whole line after a thousand tries.
#[test]
fn where_a_guess_fails_is_not_to_be_seen() {
    let Lines { theirs, .. } = lines(Side::Follower);
    for at in b"transit ".len()..theirs.len() {
        let mut changed = theirs.clone();
        changed[at] ^= 1;
        let mut follower = choice(Side::Follower);
        at_once(&mut follower, Input::Opened(1, Way::Accepted));
        let (last, before) = changed.split_last().unwrap();
        for byte in before {
            assert_eq!(at_once(&mut follower, Input::Bytes(1, &[*byte])), [], "byte {at}");
        }
        assert_eq!(at_once(&mut follower, Input::Bytes(1, &[*last])), [Output::Close(1, Closed::Garbage)], "byte {at}");
    }
    // Who speaks another protocol is told from the first byte on.
    let mut follower = choice(Side::Follower);
    at_once(&mut follower, Input::Opened(1, Way::Accepted));
    assert_eq!(at_once(&mut follower, Input::Bytes(1, b"G")), [Output::Close(1, Closed::Garbage)]);
}

#[test]
fn strangers_make_room_for_who_comes_later_but_the_peer_stays() {
    let mut follower = choice(Side::Follower);
    let Lines { theirs, .. } = lines(Side::Follower);
    at_once(&mut follower, Input::Opened(1, Way::Accepted));
    at_once(&mut follower, Input::Bytes(1, &theirs));
    for id in 2..1000 {
        let outputs = at_once(&mut follower, Input::Opened(id, Way::Accepted));
        let oldest = id.checked_sub(INCOMING as u32 - 1).filter(|oldest| *oldest > 1);
        let expected: Vec<_> = oldest.map(|oldest| Output::Close(oldest, Closed::Crowded)).into_iter().collect();
        assert_eq!(outputs, expected);
        assert!(follower.len() <= INCOMING);
    }
    assert!(matches!(at_once(&mut follower, Input::Bytes(1, b"go\n"))[..], [.., Output::Chosen { id: 1, .. }]));
}

/// What a follower makes of `stream` on a connection that came in, cut at `cuts`.
fn followed(stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Closed>, Option<Vec<u8>>) {
    let mut follower = choice(Side::Follower);
    at_once(&mut follower, Input::Opened(1, Way::Accepted));
    let (mut said, mut closed, mut rest) = (Vec::new(), None, None);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    for piece in cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]) {
        // Once chosen, what arrives is no longer the machine's.
        if let Some(rest) = &mut rest {
            Vec::extend_from_slice(rest, piece);
            continue;
        }
        for output in at_once(&mut follower, Input::Bytes(1, piece)) {
            match output {
                Output::Send(_, line) => said.extend(line),
                Output::Close(_, why) => closed = Some(why),
                Output::Chosen { rest: first, .. } => rest = Some(first),
            }
        }
    }
    (said, closed, rest)
}

proptest! {
    #[test]
    fn splits_do_not_matter(
        verdict in prop::sample::select(vec!["go\n", "nevermind\n", "gone\n", ""]),
        tail in proptest::collection::vec(any::<u8>(), 0..50),
        flip in proptest::option::weighted(0.3, 0..150_usize),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut stream = [&lines(Side::Follower).theirs[..], verdict.as_bytes(), &tail].concat();
        if let Some(byte) = flip.and_then(|at| stream.get_mut(at)) {
            *byte ^= 1;
        }
        prop_assert_eq!(followed(&stream, &cuts), followed(&stream, &[]));
    }

    #[test]
    fn nothing_that_arrives_does_harm(script in proptest::collection::vec(any::<u8>(), 0..2000)) {
        exercise(&script);
    }

    #[test]
    fn few_connections_used_much_do_no_harm(
        setting in any::<u8>(),
        steps in proptest::collection::vec((0..4_u8, any::<u8>()), 0..500),
    ) {
        let mut script = vec![setting];
        script.extend(steps.into_iter().flat_map(|(id, operation)| [id, operation]));
        exercise(&script);
    }
}
