//! No bytes panic a reader, and none make it allocate what they only announce (I-10).

use p2p_proto::board::Line;
use p2p_proto::board::line::{Lines, PREFIX};
use p2p_proto::board::message::Envelope;
use p2p_proto::link::item::{ToClient, ToWorker};
use p2p_proto::link::record;
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::task::Command;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{envelope, to_client, to_worker};

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..600)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn any_line(text in "[A-Za-z0-9_-]{1,600}") {
        Lines::default().feed(format!("{PREFIX}{text}\n").as_bytes(), |line| drop(line.decode()));
    }

    #[test]
    fn changed_messages(envelope in envelope(), item in to_worker(), answer in to_client(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&envelope, &mut bytes).unwrap();
        let at_envelope = at.index(bytes.len());
        bytes[at_envelope] = byte;
        if let Ok(read) = Envelope::from_cbor(&bytes) {
            drop(Line::encode(&read));
        }
        for record in [encoded(&item), encoded(&answer)] {
            let mut record = record;
            let at = at.index(record.len());
            record[at] = byte;
            read_as_everything(&record);
            read_as_everything(&record[..at]);
        }
    }
}

fn encoded<T: p2p_proto::link::item::Item>(item: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::append(item, &mut bytes);
    bytes.push(0);
    bytes
}

/// Must come back, with whatever verdict.
fn read_as_everything(bytes: &[u8]) {
    drop(Envelope::from_cbor(bytes));
    drop(Call::from_cbor(bytes));
    drop(Answer::from_cbor(bytes));
    drop(Command::from_cbor(bytes));
    assert!(record::items::<ToWorker>(bytes).count() <= bytes.len());
    assert!(record::items::<ToClient>(bytes).count() <= bytes.len());
}
