//! A handshake verifies only for the two it was made for, in the cluster and the roles they meant (L-01).

use p2p_proto::error::ProtoError;
use p2p_proto::ids::{ClusterName, MachineKey, PeerKeys};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Called, Calling, Parties, Session};
use p2p_proto::link::setup::Answer;
use p2p_proto::link::{Hint, Hints, TransitKey};
use p2p_proto::trust::ProcessSecret;
use proptest::collection::vec;
use proptest::prelude::*;

fn secret(byte: u8) -> ProcessSecret {
    ProcessSecret::from_entropy([byte; 32])
}

fn keys(byte: u8) -> PeerKeys {
    PeerKeys { machine: MachineKey([byte; 32]), process: secret(byte).process_key() }
}

fn parties() -> Parties {
    Parties { cluster: "alice/friends".parse().unwrap(), caller: keys(1), callee: keys(2) }
}

fn calling() -> (Calling, Vec<u8>) {
    Calling::start(&parties(), &secret(1), b"call", [11; 32]).unwrap()
}

fn called(message: &[u8]) -> Result<(Called, Vec<u8>), ProtoError> {
    Called::open(&parties(), &secret(2), message, [12; 32])
}

fn sessions() -> (Session, Session) {
    let (calling, message_1) = calling();
    let (called, payload) = called(&message_1).unwrap();
    assert_eq!(payload, b"call");
    let (callee, message_2) = called.answer(b"answer").unwrap();
    let (caller, payload) = calling.finish(&message_2).unwrap();
    assert_eq!(payload, b"answer");
    (caller, callee)
}

#[test]
fn message_1_verifies_under_no_other_names() {
    let (_, message) = calling();
    let with = |change: &dyn Fn(&mut Parties)| {
        let mut parties = parties();
        change(&mut parties);
        parties
    };
    let wrong = [
        ("cluster", with(&|parties| parties.cluster = "alice/others".parse().unwrap())),
        ("owner", with(&|parties| parties.cluster = "bob/friends".parse::<ClusterName>().unwrap())),
        ("caller's machine", with(&|parties| parties.caller.machine = MachineKey([9; 32]))),
        ("caller's process", with(&|parties| parties.caller.process = keys(9).process)),
        ("callee's machine", with(&|parties| parties.callee.machine = MachineKey([9; 32]))),
        ("callee's process", with(&|parties| parties.callee.process = keys(9).process)),
        ("roles", with(&|parties| std::mem::swap(&mut parties.caller, &mut parties.callee))),
    ];
    for (what, parties) in wrong {
        let opened = Called::open(&parties, &secret(2), &message, [12; 32]);
        assert_eq!(opened.err(), Some(ProtoError::Handshake), "another {what} was accepted");
    }
    let opened = Called::open(&parties(), &secret(3), &message, [12; 32]);
    assert_eq!(opened.err(), Some(ProtoError::Handshake), "another key was accepted");
}

#[test]
fn somebody_else_cannot_call_under_a_members_name() {
    // Mallory has no secret of the caller, and names him all the same.
    let (_, message) = Calling::start(&parties(), &secret(66), b"call", [11; 32]).unwrap();
    assert_eq!(called(&message).err(), Some(ProtoError::Handshake));
}

#[test]
fn nobody_else_reads_an_address() {
    let address = "relay.somewhere.example";
    let hints = Hints(vec![Hint::Relay { host: address.to_owned(), port: 4001 }]).checked().unwrap();
    let answer = Answer { hints, transit_key: TransitKey([5; 32]) }.to_cbor();
    let shows = |bytes: &[u8]| bytes.windows(address.len()).any(|part| part == address.as_bytes());
    assert!(shows(&answer));
    let (calling, message_1) = Calling::start(&parties(), &secret(1), &answer, [11; 32]).unwrap();
    let (_, message_2) = called(&message_1).unwrap().0.answer(&answer).unwrap();
    assert!(!shows(&message_1) && !shows(&message_2));
    assert_eq!(calling.finish(&message_2).unwrap().1, answer);
}

#[test]
fn an_answer_belongs_to_its_call() {
    let (_, message_1) = calling();
    let (_, message_2) = called(&message_1).unwrap().0.answer(b"answer").unwrap();
    let (other, _) = Calling::start(&parties(), &secret(1), b"call", [99; 32]).unwrap();
    assert_eq!(other.finish(&message_2).err(), Some(ProtoError::Handshake));
    // The same entropy makes the same call, so a forged answer does not cost the set-up.
    let (calling, _) = calling();
    assert!(calling.finish(&message_2).is_ok());
}

#[test]
fn both_sides_share_a_binding_that_no_other_session_has() {
    let (caller, callee) = sessions();
    assert_eq!(caller.channel_binding(), callee.channel_binding());
    let (_, message_1) = calling();
    let (called, _) = Called::open(&parties(), &secret(2), &message_1, [77; 32]).unwrap();
    let (other, _) = called.answer(b"answer").unwrap();
    assert_ne!(other.channel_binding(), callee.channel_binding());
}

#[test]
fn records_keep_their_bounds() {
    let (mut sealer, _) = sessions().0.split();
    let mut out = vec![0; limits::RECORD_WIRE_BYTES];
    assert_eq!(sealer.seal(&vec![0; limits::RECORD_BYTES], &mut out), Ok(limits::RECORD_WIRE_BYTES));
    assert!(matches!(sealer.seal(&vec![0; limits::RECORD_BYTES + 1], &mut out), Err(ProtoError::Bounds { .. })));
    assert!(matches!(sealer.seal(b"x", &mut [0; 16]), Err(ProtoError::Bounds { .. })));
}

proptest! {
    #[test]
    fn a_changed_message_1_does_not_verify(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (_, mut message) = calling();
        let at = at.index(message.len());
        message[at] ^= 1 << bit;
        prop_assert_eq!(called(&message).err(), Some(ProtoError::Handshake));
    }

    #[test]
    fn a_changed_message_2_does_not_verify(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (calling, message_1) = calling();
        let (_, mut message) = called(&message_1).unwrap().0.answer(b"answer").unwrap();
        let at = at.index(message.len());
        message[at] ^= 1 << bit;
        prop_assert_eq!(calling.finish(&message).err(), Some(ProtoError::Handshake));
    }

    #[test]
    fn garbage_does_not_verify(message in vec(any::<u8>(), 0..3000)) {
        prop_assert!(called(&message).is_err());
        prop_assert!(calling().0.finish(&message).is_err());
    }

    #[test]
    fn records_open_once_and_in_order(records in vec(vec(any::<u8>(), 0..300), 2..6), bit in any::<prop::sample::Index>()) {
        let (caller, callee) = sessions();
        let (mut sealer, mut opener) = (caller.split().0, callee.split().1);
        let (mut out, mut buffer) = (vec![0; 400], vec![0; 400]);
        let sealed: Vec<Vec<u8>> = records.iter().map(|record| {
            let length = sealer.seal(record, &mut out).unwrap();
            out[..length].to_vec()
        }).collect();
        prop_assert!(opener.open(&sealed[1], &mut buffer).is_err(), "a record out of order was opened");
        for (record, message) in records.iter().zip(&sealed) {
            let mut changed = message.clone();
            let at = bit.index(changed.len() * 8);
            changed[at / 8] ^= 1 << (at % 8);
            prop_assert!(opener.open(&changed, &mut buffer).is_err(), "a changed record was opened");
            prop_assert_eq!(opener.open(message, &mut buffer), Ok(record.as_slice()));
            prop_assert!(opener.open(message, &mut buffer).is_err(), "a record was opened twice");
        }
    }
}
