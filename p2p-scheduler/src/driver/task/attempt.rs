//! One attempt at a task, as the client's driver knows it: what it said that nobody has read, and its windows.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use p2p_proto::blob::Part;
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, PeerName};
use p2p_proto::limits;
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data, Taken};

use super::TaskEvent;
use crate::driver::LinkQueue;
use crate::executor::Gone;
use crate::flow::{Inflow, Outflow};

/// Notes of an attempt that wait for a reader, at most; more are dropped, being for people.
const NOTES: usize = 64;
/// Once an attempt's output is crowded, a piece joins the last one of its channel if that is among so many: two streams that take turns
/// by the byte become a few large pieces.
const JOIN_BEHIND: usize = 8;

/// Where an attempt's items go: the queue of its link, which outlives the link's connections.
pub(crate) trait AttemptQueue: Send + Sync {
    /// Queues an item; what cannot be sent any more is dropped.
    fn push(&self, item: ToWorker);
    /// Queues bulk when there is room.
    fn push_bulk(&self, item: ToWorker) -> BoxFuture<'_, Result<(), Gone>>;
    /// Drops the bulk of an attempt that is over.
    fn forget_bulk(&self, attempt: AttemptId);
}

impl AttemptQueue for LinkQueue<ToWorker> {
    fn push(&self, item: ToWorker) {
        self.push(item);
    }

    fn push_bulk(&self, item: ToWorker) -> BoxFuture<'_, Result<(), Gone>> {
        self.push_bulk(item).boxed()
    }

    fn forget_bulk(&self, attempt: AttemptId) {
        self.forget_bulk(attempt);
    }
}

/// An attempt that lives.
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) queue: Arc<dyn AttemptQueue>,
    pub(super) started: bool,
    /// Its input cannot be read.
    pub(super) starved: bool,
    inflow: Inflow,
    pub(super) outflow: Outflow,
    /// What it asks for, and nobody has begun to answer.
    pub(super) fetches: VecDeque<(Channel, Part)>,
    /// Where its next request must wait for the answer to the last one: this bounds how many there are.
    pub(super) answering: HashSet<Channel>,
    /// What it said and nobody has read.
    pub(super) events: VecDeque<TaskEvent>,
    /// Notes in `events`.
    notes: usize,
    /// The machine was told that it waits for the reader.
    pub(super) crowded: bool,
}

impl Attempt {
    pub(super) fn new(id: AttemptId, worker: PeerName, queue: Arc<dyn AttemptQueue>) -> Self {
        let events = VecDeque::from([TaskEvent::Sent(worker)]);
        Self {
            id,
            queue,
            started: false,
            starved: false,
            inflow: Inflow::default(),
            outflow: Outflow::default(),
            fetches: VecDeque::new(),
            answering: HashSet::new(),
            events,
            notes: 0,
            crowded: false,
        }
    }

    /// Keeps a note.
    pub(super) fn on_note(&mut self, text: String) {
        if self.notes < NOTES {
            self.notes += 1;
            self.events.push_back(TaskEvent::Note(text));
        }
    }

    /// The next event for the reader. Returns with it what its worker must be told that was taken.
    pub(super) fn pop(&mut self) -> Option<(TaskEvent, Option<Taken>)> {
        let event = self.events.pop_front()?;
        let taken = match &event {
            TaskEvent::Data { channel, bytes, .. } => {
                let taken = self.inflow.on_taken(*channel, bytes.len() as u64);
                taken.map(|bytes| Taken { attempt: self.id, channel: *channel, bytes })
            }
            TaskEvent::Note(_) => {
                self.notes = self.notes.saturating_sub(1);
                None
            }
            _ => None,
        };
        Some((event, taken))
    }

    /// Keeps a piece. Returns whether much of its output waits.
    pub(super) fn on_data(&mut self, data: Data) -> Result<bool, ProtoError> {
        let Data { channel, bytes, end, packed, .. } = data;
        if packed {
            return Err(ProtoError::Malformed("packed output".to_owned()));
        }
        let says_something = self.inflow.on_received(channel, bytes.len(), end)?;
        let crowded = self.inflow.is_crowded(channel);
        if says_something && !self.join(channel, &bytes, end, if crowded { JOIN_BEHIND } else { 1 }) {
            self.events.push_back(TaskEvent::Data { channel, bytes, end });
        }
        Ok(crowded)
    }

    /// Appends a piece to an earlier one of its channel, if there is one among the last few and both fit one chunk.
    fn join(&mut self, channel: Channel, more: &[u8], ends: bool, behind: usize) -> bool {
        let last = self.events.iter_mut().rev().take(behind).find_map(|event| match event {
            TaskEvent::Data { channel: of, bytes, end } if *of == channel => Some((bytes, end)),
            _ => None,
        });
        let Some((bytes, end)) = last.filter(|(bytes, _)| bytes.len() + more.len() <= limits::CHUNK_BYTES) else {
            return false;
        };
        bytes.extend_from_slice(more);
        *end = ends;
        self.inflow.on_joined();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Recorder, data, worker};
    use super::*;

    const ID: AttemptId = AttemptId(1);

    fn attempt() -> Attempt {
        let mut attempt = Attempt::new(ID, worker("bob"), Arc::new(Recorder::default()));
        attempt.events.clear();
        attempt
    }

    #[test]
    fn small_pieces_of_a_stream_are_read_as_one_up_to_a_chunk() {
        let mut attempt = attempt();
        for size in [1, 2, limits::CHUNK_BYTES - 3, 1, 0] {
            attempt.on_data(data(ID, Channel::Stdout, &vec![7; size], size == 0)).unwrap();
        }
        let mut read = Vec::new();
        while let Some((event, _)) = attempt.pop() {
            if let TaskEvent::Data { bytes, end, .. } = event {
                read.push((bytes.len(), end));
            }
        }
        assert_eq!(read, [(limits::CHUNK_BYTES, false), (1, true)]);
    }

    #[test]
    fn streams_that_take_turns_by_the_byte_stay_within_bounds_while_nobody_reads() {
        let mut attempt = attempt();
        for turn in 0..200_000 {
            let channel = if turn % 2 == 0 { Channel::Stdout } else { Channel::Stderr };
            attempt.on_data(data(ID, channel, b"x", false)).unwrap();
        }
        let mut read = [0, 0];
        while let Some((event, _)) = attempt.pop() {
            if let TaskEvent::Data { channel, bytes, .. } = event {
                read[usize::from(channel == Channel::Stderr)] += bytes.len();
            }
        }
        assert_eq!(read, [100_000, 100_000]);
    }

    #[test]
    fn notes_that_nobody_reads_are_bounded() {
        let mut attempt = attempt();
        for _ in 0..=NOTES {
            attempt.on_note("busy".to_owned());
        }
        assert_eq!(std::iter::from_fn(|| attempt.pop()).count(), NOTES);
        attempt.on_note("again".to_owned());
        assert!(attempt.pop().is_some());
    }
}
