//! What a link's reader does with a record.

use p2p_proto::limits;
use p2p_proto::link::item::{Item, ToClient, ToWorker};
use p2p_proto::link::{Outgoing, record};
use p2p_proto::task::{Command, Content, TaskSpec};

/// The first byte says in which direction the rest travelled.
///
/// # Panics
/// When items come after an error, an item that was read does not survive writing, or a queue loses one.
pub fn link_record(bytes: &[u8]) {
    let Some((&direction, record)) = bytes.split_first() else { return };
    if direction & 1 == 0 {
        for item in read::<ToWorker>(record) {
            if let ToWorker::Submit(submit) = item {
                judge(&submit.task);
            }
        }
    } else {
        read::<ToClient>(record);
    }
}

fn read<T: Item + std::fmt::Debug + PartialEq + Clone>(record: &[u8]) -> Vec<T> {
    let mut items = record::items::<T>(record);
    let mut good = Vec::new();
    for item in items.by_ref() {
        match item {
            Ok(item) => good.push(item),
            Err(_) => break,
        }
    }
    if items.next().is_some() {
        // Only reached after an error: a whole record has been read to its end.
        panic!("an item after an error");
    }
    for item in &good {
        let mut alone = Vec::new();
        if record::append(item, &mut alone) {
            assert!(alone.len() <= item.weight(), "{item:?} weighs less than its {} bytes", alone.len());
            let again: Vec<_> = record::items::<T>(&alone).collect();
            assert_eq!(again, [Ok(item.clone())], "an item does not survive writing");
        }
    }
    requeue(&good);
    good
}

/// What goes into a queue comes out of it.
fn requeue<T: Item + Clone>(items: &[T]) {
    let mut queue = Outgoing::default();
    let mut pushed = 0;
    for item in items {
        pushed += usize::from(queue.push(item.clone()).is_ok());
    }
    let mut popped = 0;
    let mut record = Vec::new();
    while !queue.is_empty() {
        record.clear();
        match queue.fill(&mut record) {
            Ok(()) => assert!(!record.is_empty(), "a queue that is not empty fills no record"),
            Err(_) => popped += 1,
        }
        assert!(record.len() <= limits::RECORD_BYTES, "a record over its bound");
        popped += record::items::<T>(&record).filter(Result::is_ok).count();
    }
    assert_eq!(pushed, popped, "a queue lost or doubled an item");
    assert_eq!(queue.bulk_bytes(), 0, "an empty queue holds bulk");
}

fn judge(task: &TaskSpec) {
    drop(task.check());
    if let Content::Inline(bytes) = &task.payload
        && let Ok(command) = Command::from_cbor(bytes)
    {
        assert_eq!(Command::from_cbor(&command.to_cbor()), Ok(command), "a command does not survive writing");
    }
}
