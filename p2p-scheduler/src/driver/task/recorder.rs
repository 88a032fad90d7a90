//! A link's queue for tests: it keeps what it is given.

use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use p2p_proto::ids::{AttemptId, PeerName, UserName};
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data, Finished};
use p2p_proto::task::{Content, Ended};

use super::attempt::AttemptQueue;
use crate::driver::lock;
use crate::executor::Gone;

#[derive(Default)]
pub(super) struct Recorder {
    items: Mutex<Vec<ToWorker>>,
    pub(super) forgotten: Mutex<Vec<AttemptId>>,
    /// Has no room for bulk.
    full: bool,
}

impl AttemptQueue for Recorder {
    fn push(&self, item: ToWorker) {
        lock(&self.items).push(item);
    }

    fn push_bulk(&self, item: ToWorker) -> BoxFuture<'_, Result<(), Gone>> {
        if self.full {
            return futures::future::pending().boxed();
        }
        self.push(item);
        async { Ok(()) }.boxed()
    }

    fn forget_bulk(&self, attempt: AttemptId) {
        lock(&self.forgotten).push(attempt);
    }
}

impl Recorder {
    pub(super) fn without_room() -> Self {
        Self { full: true, ..Self::default() }
    }

    /// What was sent.
    pub(super) fn items(&self) -> Vec<ToWorker> {
        lock(&self.items).clone()
    }

    /// All bytes that were sent on a channel, and whether that has ended.
    pub(super) fn sent(&self, attempt: AttemptId, channel: Channel) -> (Vec<u8>, bool) {
        let mut sent = (Vec::new(), false);
        for item in self.items() {
            if let ToWorker::Data(data) = item
                && (data.attempt, data.channel) == (attempt, channel)
            {
                sent.0.extend_from_slice(&data.bytes);
                sent.1 |= data.end;
            }
        }
        sent
    }
}

pub(super) fn data(attempt: AttemptId, channel: Channel, bytes: &[u8], end: bool) -> Data {
    Data { attempt, channel, end, packed: false, bytes: bytes.to_vec() }
}

pub(super) fn finished(attempt: AttemptId) -> Finished {
    Finished { attempt, ended: Ended::Exit(0), value: Content::default(), outputs: Vec::new(), ran_us: 1 }
}

pub(super) fn worker(user: &str) -> PeerName {
    PeerName::new(&user.parse::<UserName>().unwrap(), "computer", 1)
}
