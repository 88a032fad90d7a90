//! One link set-up from its first message to its first records, with fixed entropy.

use p2p_proto::ids::SetupId;
use p2p_proto::link::handshake::{Called, Calling, PATTERN, Parties, Sealer, Session};
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{Hint, Hints, TransitKey};
use p2p_proto::trust::ProcessSecret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::actors::{bob, carol, cluster, inputs};
use crate::book::{Book, hex, vector};
use crate::diagnostic::diagnostic;

const CALLER_ENTROPY: [u8; 32] = [0x51; 32];
const CALLEE_ENTROPY: [u8; 32] = [0x52; 32];
/// The record that closes a link in order.
const CLOSE: [u8; 1] = [0xff];

pub(crate) struct SetUp {
    pub(crate) call: Call,
    pub(crate) answer: Answer,
    pub(crate) message_1: Vec<u8>,
    pub(crate) message_2: Vec<u8>,
    pub(crate) caller: Session,
    pub(crate) callee: Session,
}

impl SetUp {
    pub(crate) fn run() -> Self {
        let (parties, call, answer) = (parties(), call(), answer());
        let (calling, message_1) =
            Calling::start(&parties, &carol().process(), &call.to_cbor(), CALLER_ENTROPY).unwrap();
        let (called, read) = Called::open(&parties, &bob().process(), &message_1, CALLEE_ENTROPY).unwrap();
        assert_eq!(Call::from_cbor(&read), Ok(call.clone()));
        let (callee, message_2) = called.answer(&answer.to_cbor()).unwrap();
        let (caller, read) = calling.finish(&message_2).unwrap();
        assert_eq!(Answer::from_cbor(&read), Ok(answer.clone()));
        assert_eq!(caller.channel_binding(), callee.channel_binding());
        Self { call, answer, message_1, message_2, caller, callee }
    }
}

pub(crate) fn book() -> Book {
    let set_up = SetUp::run();
    assert_eq!(
        message_1_by_the_book(&set_up.call.to_cbor()),
        set_up.message_1,
        "docs/protocol.md has another prologue"
    );
    let binding = set_up.caller.channel_binding();
    let mut vectors = vec![
        vector("message 1")
            .with("prologue", hex(&prologue()))
            .with("ephemeral_secret", hex(&ephemeral(CALLER_ENTROPY)))
            .with("payload", hex(&set_up.call.to_cbor()))
            .with("payload_shown", diagnostic(&set_up.call.to_cbor()))
            .with("message", hex(&set_up.message_1)),
        vector("message 2")
            .with("ephemeral_secret", hex(&ephemeral(CALLEE_ENTROPY)))
            .with("payload", hex(&set_up.answer.to_cbor()))
            .with("payload_shown", diagnostic(&set_up.answer.to_cbor()))
            .with("message", hex(&set_up.message_2)),
        vector("channel binding").with("hash", hex(&binding)),
    ];
    let (mut to_worker, mut from_client) = set_up.caller.split();
    let (mut to_client, mut from_worker) = set_up.callee.split();
    for (direction, sealer, opener) in
        [("client to worker", &mut to_worker, &mut from_worker), ("worker to client", &mut to_client, &mut from_client)]
    {
        for (nonce, record) in [b"first".as_slice(), b"", &CLOSE].into_iter().enumerate() {
            let frame = frame(sealer, record);
            let mut buffer = [0; 64];
            assert_eq!(opener.open(&frame[2..], &mut buffer), Ok(record));
            vectors.push(
                vector(&format!("record {nonce}, {direction}"))
                    .with("nonce", nonce)
                    .with("record", hex(record))
                    .with("frame", hex(&frame)),
            );
        }
    }
    Book {
        about: "L-01, L-02: a set-up. carol (client) calls bob (worker); message 1 travels in connect, message 2 in ready. After \
                \"go\" each frame is a big-endian u16 length and a Noise message: an empty record keeps alive, ff closes.",
        inputs: inputs().with("pattern", PATTERN).with("transit_key", hex(&answer().transit_key.0)),
        vectors,
    }
}

fn frame(sealer: &mut Sealer, record: &[u8]) -> Vec<u8> {
    let mut message = [0; 64];
    let length = sealer.seal(record, &mut message).unwrap();
    let mut frame = (length as u16).to_be_bytes().to_vec();
    frame.extend_from_slice(&message[..length]);
    frame
}

pub(crate) fn parties() -> Parties {
    Parties { cluster: cluster(), caller: carol().keys(), callee: bob().keys() }
}

pub(crate) fn call() -> Call {
    let hints = vec![
        Hint::Direct("192.0.2.7:40001".parse().unwrap()),
        Hint::Direct("[2001:db8::7]:40002".parse().unwrap()),
        Hint::Relay { host: "relay.example".into(), port: 4001 },
    ];
    Call { credentials: carol().credentials(), epoch: 1, link: SetupId(1), setup: SetupId(1), hints: Hints(hints) }
}

pub(crate) fn answer() -> Answer {
    let hints = vec![Hint::Direct("198.51.100.8:50001".parse().unwrap())];
    Answer { hints: Hints(hints), transit_key: TransitKey([0x77; 32]) }
}

/// As `docs/protocol.md` spells it, not as the crate does.
fn prologue() -> Vec<u8> {
    let (caller, callee) = (carol().keys(), bob().keys());
    let mut bytes = b"p2p1 link\0alice/friends\0client\0\x00\x01".to_vec();
    for key in [caller.machine.0, caller.process.0, callee.machine.0, callee.process.0] {
        bytes.extend_from_slice(&key);
    }
    bytes
}

/// The first 32 bytes of the generator that the crate seeds with the entropy.
fn ephemeral(entropy: [u8; 32]) -> [u8; 32] {
    let mut secret = [0; 32];
    ChaCha20Rng::from_seed(entropy).fill_bytes(&mut secret);
    secret
}

/// Message 1 by snow alone, from the pattern, the prologue and the ephemeral secret that the book names.
fn message_1_by_the_book(payload: &[u8]) -> Vec<u8> {
    let prologue = prologue();
    let static_secret = [0x43; 32];
    assert_eq!(ProcessSecret::from_entropy(static_secret).process_key(), carol().keys().process);
    let ephemeral = ephemeral(CALLER_ENTROPY);
    let callee = bob().keys().process;
    let mut noise = snow::Builder::new(PATTERN.parse().unwrap())
        .local_private_key(&static_secret)
        .and_then(|builder| builder.remote_public_key(&callee.0))
        .and_then(|builder| builder.prologue(&prologue))
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral)
        .build_initiator()
        .unwrap();
    let mut message = vec![0; payload.len() + 96];
    let length = noise.write_message(payload, &mut message).unwrap();
    message.truncate(length);
    message
}
