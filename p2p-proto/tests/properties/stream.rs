//! A link's stream over connections that break (L-05): each side's items arrive once, in order, whatever is lost on the way.

use p2p_proto::ids::AttemptId;
use p2p_proto::limits;
use p2p_proto::link::item::{Channel, Data, Finished, Note, Open, ToClient, ToWorker};
use p2p_proto::link::{Stream, record};
use p2p_proto::task::{Content, Ended};
use proptest::collection::vec;
use proptest::prelude::*;

type Client = Stream<ToWorker, ToClient>;
type Worker = Stream<ToClient, ToWorker>;

fn open(received: Option<u64>) -> Open {
    let name = "bob@box:1".parse().unwrap();
    Open { version: p2p_proto::VERSION, name, capabilities: Vec::new(), slots: 0, received, grace_s: 60 }
}

fn data(number: u64, size: usize) -> Data {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(size.max(8), 0);
    Data { attempt: AttemptId(1), channel: Channel::Stdin, end: false, packed: false, bytes }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ping,
    ToWorkerData(usize),
    Credit,
    ToClientData(usize),
    Finished,
    /// One side writes a record onto the wire.
    ClientWrites,
    WorkerWrites,
    /// The next record of a wire arrives.
    ClientReads,
    WorkerReads,
    /// Everything under way is lost.
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0..200_usize, 30_000..=limits::CHUNK_BYTES];
    prop_oneof![
        3 => Just(Step::Ping),
        2 => size.clone().prop_map(Step::ToWorkerData),
        3 => Just(Step::Credit),
        2 => size.prop_map(Step::ToClientData),
        2 => Just(Step::Finished),
        5 => Just(Step::ClientWrites),
        5 => Just(Step::WorkerWrites),
        5 => Just(Step::ClientReads),
        5 => Just(Step::WorkerReads),
        1 => Just(Step::Cut),
    ]
}

/// Two sides, and the records under way to each.
#[derive(Default)]
struct Pair {
    client: Client,
    worker: Worker,
    to_client: std::collections::VecDeque<Vec<u8>>,
    to_worker: std::collections::VecDeque<Vec<u8>>,
    /// What arrived: control and bulk apart, since control overtakes.
    at_worker: [Vec<u64>; 2],
    at_client: [Vec<u64>; 2],
}

impl Pair {
    fn connect(&mut self, resumes: bool) {
        self.to_client.clear();
        self.to_worker.clear();
        self.client.on_connected(open(None), resumes);
        self.worker.on_connected(open(None), resumes);
    }

    fn client_writes(&mut self) -> bool {
        let mut record = Vec::new();
        self.client.fill(&mut record).unwrap();
        assert!(record.len() <= limits::RECORD_BYTES);
        let wrote = !record.is_empty();
        self.to_worker.extend(wrote.then_some(record));
        wrote
    }

    fn worker_writes(&mut self) -> bool {
        let mut record = Vec::new();
        let ready = self.worker.is_ready();
        self.worker.fill(&mut record).unwrap();
        let wrote = !record.is_empty();
        assert!(!wrote || ready, "it wrote and had not said that it could");
        self.to_client.extend(wrote.then_some(record));
        wrote
    }

    fn worker_reads(&mut self) -> bool {
        let Some(record) = self.to_worker.pop_front() else { return false };
        for item in self.worker.on_record(&record).unwrap() {
            match item {
                ToWorker::Ping(number) => self.at_worker[0].push(number),
                ToWorker::Data(data) => self.at_worker[1].push(number(&data.bytes)),
                ToWorker::Open(_) => {}
                item => panic!("{item:?} was never sent"),
            }
        }
        true
    }

    fn client_reads(&mut self) -> bool {
        let Some(record) = self.to_client.pop_front() else { return false };
        for item in self.client.on_record(&record).unwrap() {
            match item {
                ToClient::Credit(number) => self.at_client[0].push(number.into()),
                ToClient::Data(data) => self.at_client[1].push(number(&data.bytes)),
                ToClient::Finished(finished) => self.at_client[1].push(finished.ran_us),
                ToClient::Open(_) => {}
                item => panic!("{item:?} was never sent"),
            }
        }
        true
    }
}

proptest! {
    #[test]
    fn every_item_arrives_once_and_in_order(steps in vec(step(), 1..200)) {
        let mut pair = Pair::default();
        pair.connect(false);
        // Before the first words have arrived there is nothing to resume.
        while pair.client_writes() | pair.worker_writes() | pair.client_reads() | pair.worker_reads() {}
        let mut sent = [const { Vec::<u64>::new() }; 4];
        // An end waits behind the bulk of its attempt; if there is none, it is control.
        for (n, step) in (0_u64..).zip(steps) {
            match step {
                Step::Ping => { pair.client.push(ToWorker::Ping(n)).unwrap(); sent[0].push(n); }
                Step::ToWorkerData(size) => {
                    pair.client.push(ToWorker::Data(data(n, size))).unwrap();
                    sent[1].push(n);
                }
                Step::Credit => { pair.worker.push(ToClient::Credit(n as u32)).unwrap(); sent[2].push(n); }
                Step::ToClientData(size) => {
                    pair.worker.push(ToClient::Data(data(n, size))).unwrap();
                    sent[3].push(n);
                }
                Step::Finished => { pair.worker.push(finished(n)).unwrap(); sent[3].push(n); }
                Step::ClientWrites => { pair.client_writes(); }
                Step::WorkerWrites => { pair.worker_writes(); }
                Step::ClientReads => { pair.client_reads(); }
                Step::WorkerReads => { pair.worker_reads(); }
                Step::Cut => pair.connect(true),
            }
        }
        while pair.client_writes() | pair.worker_writes() | pair.client_reads() | pair.worker_reads() {}
        prop_assert_eq!(&pair.at_worker[0], &sent[0]);
        prop_assert_eq!(&pair.at_worker[1], &sent[1]);
        prop_assert_eq!(&pair.at_client[0], &sent[2]);
        prop_assert_eq!(&pair.at_client[1], &sent[3]);
        prop_assert!(pair.client.is_drained() && pair.worker.is_drained());
    }
}

fn finished(number: u64) -> ToClient {
    let (value, outputs) = (Content::default(), Vec::new());
    ToClient::Finished(Finished { attempt: AttemptId(1), ended: Ended::Exit(0), value, outputs, ran_us: number })
}

fn flushed<Out, In>(stream: &mut Stream<Out, In>) -> Vec<Out>
where
    Out: p2p_proto::link::item::Item,
    In: p2p_proto::link::item::Item,
{
    let mut items = Vec::new();
    loop {
        let mut record = Vec::new();
        stream.fill(&mut record).unwrap();
        if record.is_empty() {
            return items;
        }
        items.extend(record::items::<Out>(&record).map(Result::unwrap));
    }
}

fn packed(items: &[ToWorker]) -> Vec<u8> {
    let mut record = Vec::new();
    assert!(items.iter().all(|item| record::append(item, &mut record)));
    record
}

/// A worker's stream that sent two credits, of which the other side has acknowledged the first.
fn broken() -> Worker {
    let mut worker = Worker::default();
    worker.on_connected(open(None), false);
    worker.push(ToClient::Credit(1)).unwrap();
    worker.push(ToClient::Credit(2)).unwrap();
    flushed(&mut worker);
    worker.on_record(&packed(&[ToWorker::Open(open(None)), ToWorker::Ping(7), ToWorker::Ack(1)])).unwrap();
    worker.on_disconnected();
    worker.push(ToClient::Credit(3)).unwrap();
    assert_eq!(flushed(&mut worker), [], "there is no connection");
    worker
}

/// Columns: what the other side says that it has; then: what it is sent, `None` where it breaks the protocol.
#[test]
fn a_new_connection_goes_on_with_what_is_missing() {
    let credits = |numbers: &[u32]| Some(numbers.iter().map(|n| ToClient::Credit(*n)).collect::<Vec<_>>());
    for (received, expected) in [
        (Some(0), None),
        (Some(1), credits(&[2, 3])),
        (Some(2), credits(&[3])),
        (Some(3), None),
        (Some(u64::MAX), None),
        (None, credits(&[])),
    ] {
        let mut worker = broken();
        worker.on_connected(open(None), true);
        let first = flushed(&mut worker);
        assert_eq!(
            first,
            [ToClient::Open(open(Some(1)))],
            "nothing else goes before the other side has said what it has"
        );
        let hello = ToWorker::Open(open(received));
        let read = worker.on_record(&packed(&[hello.clone(), ToWorker::Ping(8)]));
        match &expected {
            None => assert!(read.is_err(), "{received:?}"),
            Some(_) if received.is_none() => {
                assert_eq!(read.unwrap(), [hello], "of a link that it does not have, nothing is taken");
                assert!(worker.is_drained() && !worker.is_ready());
            }
            Some(_) => assert_eq!(read.unwrap(), [hello, ToWorker::Ping(8)]),
        }
        if let Some(expected) = expected {
            let mut sent = flushed(&mut worker);
            sent.retain(|item| !matches!(item, ToClient::Ack(_)));
            assert_eq!(sent, expected, "{received:?}");
        }
    }
}

#[test]
fn what_breaks_the_order_of_a_connection_is_refused() {
    for items in [
        vec![ToWorker::Ping(1)],
        vec![ToWorker::Ack(0)],
        vec![ToWorker::Open(open(None)), ToWorker::Open(open(None))],
        vec![ToWorker::Open(open(None)), ToWorker::Ack(1)],
    ] {
        let mut worker = Worker::default();
        worker.on_connected(open(None), false);
        assert!(worker.on_record(&packed(&items)).is_err(), "{items:?}");
    }
}

#[test]
fn an_acknowledgement_travels_along_or_comes_when_it_is_due() {
    let mut worker = Worker::default();
    worker.on_connected(open(None), false);
    flushed(&mut worker);
    worker.on_record(&packed(&[ToWorker::Open(open(None)), ToWorker::Ping(1)])).unwrap();
    assert!(!worker.is_ready());
    worker.push(ToClient::Credit(1)).unwrap();
    assert_eq!(flushed(&mut worker), [ToClient::Ack(1), ToClient::Credit(1)]);
    for n in 1..=limits::ACK_ITEMS {
        assert!(!worker.is_ready());
        worker.on_record(&packed(&[ToWorker::Ping(n)])).unwrap();
    }
    assert_eq!(flushed(&mut worker), [ToClient::Ack(1 + limits::ACK_ITEMS)]);
    let mut bytes = 0;
    while bytes < limits::ACK_BYTES {
        assert!(!worker.is_ready());
        let record = packed(&[ToWorker::Data(data(1, limits::CHUNK_BYTES))]);
        bytes += record.len();
        worker.on_record(&record).unwrap();
    }
    assert!(matches!(flushed(&mut worker)[..], [ToClient::Ack(_)]));
    // An item of a kind that this version does not know has a number all the same.
    let mut worker = Worker::default();
    worker.on_connected(open(None), false);
    let mut record = packed(&[ToWorker::Open(open(None)), ToWorker::Ping(1)]);
    record.extend_from_slice(b"\x64new?");
    worker.on_record(&record).unwrap();
    worker.push(ToClient::Credit(1)).unwrap();
    assert_eq!(flushed(&mut worker)[1], ToClient::Ack(2));
}

#[test]
fn bulk_waits_while_too_much_of_it_is_not_acknowledged_and_control_goes_on() {
    let mut worker = Worker::default();
    worker.on_connected(open(None), false);
    worker.on_record(&packed(&[ToWorker::Open(open(None))])).unwrap();
    for n in 0..200 {
        worker.push(ToClient::Data(data(n, limits::CHUNK_BYTES))).unwrap();
    }
    let sent = flushed(&mut worker).len() as u64 - 1;
    assert!(sent < 200 && sent as usize * limits::CHUNK_BYTES >= limits::LINK_KEPT_BULK_BYTES - limits::CHUNK_BYTES);
    worker.push(ToClient::Credit(1)).unwrap();
    assert_eq!(flushed(&mut worker), [ToClient::Credit(1)]);
    assert!(!worker.is_ready() && !worker.is_drained());
    worker.on_record(&packed(&[ToWorker::Ack(10)])).unwrap();
    assert!((9..=11).contains(&flushed(&mut worker).len()));
}

#[test]
fn control_that_is_never_acknowledged_is_bounded() {
    let mut worker = Worker::default();
    worker.on_connected(open(None), false);
    let note = ToClient::Note(Note { attempt: AttemptId(1), text: "x".repeat(limits::NOTE_BYTES) });
    let mut pushed = 0;
    while worker.push(note.clone()).is_ok() {
        pushed += 1;
        if pushed % 1000 == 0 {
            flushed(&mut worker);
        }
        assert!(pushed * limits::NOTE_BYTES <= limits::LINK_CONTROL_QUEUE_BYTES);
    }
}
