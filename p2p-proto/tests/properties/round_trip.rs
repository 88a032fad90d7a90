//! What is written is read back as it was, whatever it is.

use p2p_proto::board::line::Line;
use p2p_proto::board::message::Beat;
use p2p_proto::limits;
use p2p_proto::link::item::Item;
use p2p_proto::link::record;
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::task::Command;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{answer, beat, call, cluster, command, envelope, peer_name, to_client, to_worker, user};

proptest! {
    #[test]
    fn names(user in user(), cluster in cluster(), peer in peer_name()) {
        prop_assert_eq!(user.to_string().parse(), Ok(user));
        prop_assert_eq!(cluster.to_string().parse(), Ok(cluster));
        prop_assert!(peer.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{} is not plain", peer);
        prop_assert_eq!(peer.to_string().parse(), Ok(peer));
    }

    #[test]
    fn board_messages(envelope in envelope()) {
        let line = Line::encode(&envelope).unwrap();
        prop_assert!(line.as_bytes().len() <= limits::LINE_BYTES);
        prop_assert_eq!(line.decode(), Ok(envelope));
    }

    #[test]
    fn beats((host, beat) in beat(), cluster in cluster()) {
        prop_assert_eq!(Beat::verify(&beat.sign(&host, &cluster), &cluster), Ok(beat));
    }

    #[test]
    fn set_up_payloads(call in call(), answer in answer()) {
        prop_assert_eq!(Call::from_cbor(&call.to_cbor()), Ok(call));
        prop_assert_eq!(Answer::from_cbor(&answer.to_cbor()), Ok(answer));
    }

    #[test]
    fn commands(command in command()) {
        prop_assert_eq!(Command::from_cbor(&command.to_cbor()), Ok(command));
    }

    #[test]
    fn records_to_the_worker(items in vec(to_worker(), 1..12)) {
        through_records(&items)?;
    }

    #[test]
    fn records_to_the_client(items in vec(to_client(), 1..12)) {
        through_records(&items)?;
    }
}

fn through_records<T: Item + PartialEq + Clone + std::fmt::Debug>(items: &[T]) -> Result<(), TestCaseError> {
    let (mut record, mut written) = (Vec::new(), 0);
    for item in items {
        let before = record.len();
        if !record::append(item, &mut record) {
            prop_assert_eq!(record.len(), before, "an item that did not fit left something behind");
            break;
        }
        prop_assert!(record.len() - before <= item.weight(), "{:?} weighs less than its bytes", item);
        written += 1;
    }
    prop_assert!(record.len() <= limits::RECORD_BYTES);
    let read: Vec<T> = record::items(&record).collect::<Result<_, _>>().unwrap();
    prop_assert_eq!(read.as_slice(), &items[..written]);
    Ok(())
}
