//! The sending queue of a link: control first, an attempt's end behind its data, nothing lost or doubled (L-04).

use std::collections::{HashMap, HashSet, VecDeque};

use p2p_proto::ids::AttemptId;
use p2p_proto::limits;
use p2p_proto::link::item::{Channel, Data, Finished, Item, Note, Submit, ToClient, ToWorker};
use p2p_proto::link::{Outgoing, record};
use p2p_proto::task::{Content, Ended, TaskSpec};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Credit,
    Data(u64, usize),
    Finished(u64),
    Forget(u64),
    Fill,
}

fn step() -> impl Strategy<Value = Step> {
    let attempt = 0..4_u64;
    prop_oneof![
        2 => Just(Step::Credit),
        4 => (attempt.clone(), prop_oneof![0..300_usize, 40_000..=limits::CHUNK_BYTES]).prop_map(|(a, n)| Step::Data(a, n)),
        2 => attempt.clone().prop_map(Step::Finished),
        1 => attempt.prop_map(Step::Forget),
        3 => Just(Step::Fill),
    ]
}

proptest! {
    #[test]
    fn order_and_completeness(steps in vec(step(), 1..60)) {
        let mut queue = Outgoing::default();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u32;
            match step {
                Step::Credit => {
                    queue.push(ToClient::Credit(number)).unwrap();
                    model.control.push_back(number);
                }
                Step::Data(attempt, size) => {
                    let mut bytes = number.to_be_bytes().to_vec();
                    bytes.resize(size.max(4), 0);
                    let attempt = AttemptId(attempt);
                    queue.push(ToClient::Data(Data { attempt, channel: Channel::Stdout, end: false, packed: false, bytes })).unwrap();
                    model.attempts.entry(attempt).or_default().push_back((number, false));
                }
                Step::Finished(attempt) => {
                    queue.push(finished(AttemptId(attempt), number)).unwrap();
                    model.attempts.entry(AttemptId(attempt)).or_default().push_back((number, true));
                }
                Step::Forget(attempt) => {
                    queue.forget_bulk(AttemptId(attempt));
                    if let Some(waiting) = model.attempts.get_mut(&AttemptId(attempt)) {
                        waiting.retain(|(_, is_end)| *is_end);
                    }
                }
                Step::Fill => model.take(&mut queue)?,
            }
        }
        while !queue.is_empty() {
            model.take(&mut queue)?;
        }
        prop_assert!(model.control.is_empty() && model.attempts.values().all(VecDeque::is_empty), "lost: {:?}", model);
        prop_assert_eq!(queue.bulk_bytes(), 0);
    }
}

/// What still has to come out, in order: credits among themselves, and each attempt's data and ends.
#[derive(Debug, Default)]
struct Model {
    control: VecDeque<u32>,
    attempts: HashMap<AttemptId, VecDeque<(u32, bool)>>,
}

impl Model {
    fn take(&mut self, queue: &mut Outgoing<ToClient>) -> Result<(), TestCaseError> {
        let mut record = Vec::new();
        queue.fill(&mut record).unwrap();
        prop_assert_eq!(record.is_empty(), self.control.is_empty() && self.attempts.values().all(VecDeque::is_empty));
        prop_assert!(record.len() <= limits::RECORD_BYTES);
        let (mut with_data, mut bulk_began) = (HashSet::new(), false);
        for item in record::items::<ToClient>(&record) {
            let (attempt, found) = match item.unwrap() {
                ToClient::Credit(number) => {
                    prop_assert!(!bulk_began, "control behind bulk");
                    prop_assert_eq!(self.control.pop_front(), Some(number));
                    continue;
                }
                ToClient::Data(data) => {
                    bulk_began = true;
                    with_data.insert(data.attempt);
                    (data.attempt, (u32::from_be_bytes(data.bytes[..4].try_into().unwrap()), false))
                }
                ToClient::Finished(done) => (done.attempt, (done.ran_us as u32, true)),
                other => panic!("{other:?} was never queued"),
            };
            prop_assert_eq!(self.attempts.get_mut(&attempt).and_then(VecDeque::pop_front), Some(found));
        }
        Ok(())
    }
}

#[test]
fn an_end_goes_ahead_of_other_attempts_data_but_not_of_its_own() {
    let mut queue = Outgoing::default();
    for attempt in [1, 2] {
        let bytes = vec![0; limits::CHUNK_BYTES];
        let data = Data { attempt: AttemptId(attempt), channel: Channel::Stdout, end: true, packed: false, bytes };
        queue.push(ToClient::Data(data)).unwrap();
    }
    queue.push(finished(AttemptId(2), 0)).unwrap();
    queue.push(finished(AttemptId(3), 0)).unwrap();
    let mut order = Vec::new();
    while !queue.is_empty() {
        let mut record = Vec::new();
        queue.fill(&mut record).unwrap();
        order.extend(record::items::<ToClient>(&record).map(|item| match item.unwrap() {
            ToClient::Data(data) => ("data", data.attempt.0),
            ToClient::Finished(done) => ("finished", done.attempt.0),
            other => panic!("{other:?} was never queued"),
        }));
    }
    assert_eq!(order, [("finished", 3), ("data", 1), ("data", 2), ("finished", 2)]);
}

#[test]
fn control_for_a_peer_that_does_not_read_is_bounded() {
    let note = ToClient::Note(Note { attempt: AttemptId(1), text: "x".repeat(limits::NOTE_BYTES) });
    let most = limits::LINK_CONTROL_QUEUE_BYTES / note.weight();
    let mut queue = Outgoing::default();
    for _ in 0..most {
        queue.push(note.clone()).unwrap();
    }
    assert!(queue.push(note).is_err());
}

#[test]
fn an_item_that_no_record_holds_is_dropped_and_told() {
    let payload = Content::Inline(vec![0; limits::RECORD_BYTES]);
    let task = TaskSpec { payload, ..TaskSpec::default() };
    let mut queue = Outgoing::default();
    queue.push(ToWorker::Ping(1)).unwrap();
    queue.push(ToWorker::Submit(Submit { attempt: AttemptId(1), task, alone: false })).unwrap();
    queue.push(ToWorker::Ping(2)).unwrap();
    let mut fills = Vec::new();
    while !queue.is_empty() {
        let mut record = Vec::new();
        let filled = queue.fill(&mut record).is_ok();
        fills.push((filled, record::items::<ToWorker>(&record).map(Result::unwrap).collect::<Vec<_>>()));
    }
    assert_eq!(fills, [(true, vec![ToWorker::Ping(1)]), (false, vec![]), (true, vec![ToWorker::Ping(2)])]);
}

fn finished(attempt: AttemptId, number: u32) -> ToClient {
    let (value, outputs) = (Content::default(), Vec::new());
    ToClient::Finished(Finished { attempt, ended: Ended::Exit(0), value, outputs, ran_us: number.into() })
}
