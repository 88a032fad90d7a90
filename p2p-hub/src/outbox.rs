//! What waits to be sent on one channel: bounded, and emptied at the client's own pace.
//!
//! Whoever fills it never waits. Past a first bound it says [`Room::Slow`], and the driver reads less from the writer; past
//! the second one it says [`Room::Overflow`], and the client is cut off.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::{
    BACKLOG_BYTES, BACKLOG_CHUNKS, BACKLOG_SLOW_BYTES, BACKLOG_SLOW_CHUNKS, HOLD_STEP, MAX_CHUNK_BYTES,
};
use crate::lock;

/// How a channel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With an exit status, after all bytes have been sent.
    Exit(u32),
    /// Without one, after all bytes have been sent: what the pipe does to those whom it sends away.
    Silent,
    /// With exit status 1, at once: the client does not read.
    CutOff,
    /// At once and without a word: the client has gone.
    Gone,
}

impl End {
    fn is_immediate(self) -> bool {
        matches!(self, End::CutOff | End::Gone)
    }
}

/// How full an outbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Plenty,
    Slow,
    Overflow,
}

/// The next thing to do on a channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    End(End),
}

/// The queue of one channel.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    pushed: Notify,
    taken: Notify,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Stream, Arc<[u8]>)>,
    bytes: usize,
    end: Option<End>,
    done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Outbox {
    /// Queues a chunk for standard output; after the end it is dropped.
    pub(crate) fn push(&self, chunk: Arc<[u8]>) -> Room {
        self.queue(Stream::Stdout, chunk)
    }

    /// Queues a line of the hub's own for standard output.
    pub(crate) fn say(&self, text: &str) {
        self.queue(Stream::Stdout, text.as_bytes().into());
    }

    /// Queues the reason of a failure for standard error, and the exit status 1.
    pub(crate) fn fail(&self, reason: &str) {
        // These very bytes: Go's Fprintln and a lone carriage return.
        self.queue(Stream::Stderr, format!("{reason}\n\r").as_bytes().into());
        self.finish(End::Exit(1));
    }

    /// Ends the channel. The first end counts, but an immediate one overrides one that waits for bytes to be sent.
    pub(crate) fn finish(&self, end: End) {
        let mut state = lock(&self.state);
        match state.end {
            Some(earlier) if earlier.is_immediate() || !end.is_immediate() => return,
            _ => state.end = Some(end),
        }
        if end.is_immediate() {
            state.queue.clear();
            state.bytes = 0;
        }
        drop(state);
        self.pushed.notify_one();
        self.taken.notify_waiters();
        self.ended.notify_waiters();
    }

    /// The next bytes, several chunks joined up to 32 KiB, or the end when none are left. Cancel-safe.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.pushed.notified().await;
        }
    }

    /// Waits until the channel has an end, the bytes before it sent or not.
    pub(crate) async fn ended(&self) {
        self.wait(&self.ended, |state| state.end.is_some()).await;
    }

    /// Waits until the channel ends at once, and says how.
    pub(crate) async fn ended_at_once(&self) -> End {
        let immediate = |state: &State| state.end.is_some_and(End::is_immediate);
        self.wait(&self.ended, immediate).await;
        lock(&self.state).end.unwrap_or(End::Gone)
    }

    /// Waits until a writer may go on: there is room, or nothing was taken for [`HOLD_STEP`].
    pub(crate) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if lock(&self.state).room() == Room::Plenty {
                return;
            }
            if timeout(HOLD_STEP, taken).await.is_err() {
                return;
            }
        }
    }

    /// Notes that the channel has been closed.
    pub(crate) fn close(&self) {
        lock(&self.state).done = true;
        self.finish(End::Gone);
    }

    /// Whether the channel has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).done
    }

    fn queue(&self, stream: Stream, chunk: Arc<[u8]>) -> Room {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return Room::Plenty;
        }
        state.bytes += chunk.len();
        state.queue.push_back((stream, chunk));
        let room = state.room();
        drop(state);
        self.pushed.notify_one();
        room
    }

    fn try_next(&self) -> Option<Next> {
        let mut state = lock(&self.state);
        let Some((stream, first)) = state.queue.pop_front() else {
            return state.end.map(Next::End);
        };
        let mut bytes = first.to_vec();
        while let Some((next, chunk)) = state.queue.front() {
            if *next != stream || bytes.len() + chunk.len() > MAX_CHUNK_BYTES {
                break;
            }
            bytes.extend_from_slice(chunk);
            state.queue.pop_front();
        }
        state.bytes -= bytes.len();
        drop(state);
        self.taken.notify_waiters();
        Some(match stream {
            Stream::Stdout => Next::Stdout(bytes),
            Stream::Stderr => Next::Stderr(bytes),
        })
    }

    async fn wait(&self, notify: &Notify, reached: impl Fn(&State) -> bool) {
        loop {
            let notified = notify.notified();
            tokio::pin!(notified);
            // Registered before the check: a change in between is not missed.
            notified.as_mut().enable();
            if reached(&lock(&self.state)) {
                return;
            }
            notified.await;
        }
    }
}

impl State {
    fn room(&self) -> Room {
        if self.bytes > BACKLOG_BYTES || self.queue.len() > BACKLOG_CHUNKS {
            Room::Overflow
        } else if self.bytes > BACKLOG_SLOW_BYTES || self.queue.len() > BACKLOG_SLOW_CHUNKS {
            Room::Slow
        } else {
            Room::Plenty
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(length: usize) -> Arc<[u8]> {
        vec![b'x'; length].into()
    }

    #[test]
    fn room_shrinks_by_bytes_and_by_chunks() {
        let table = [
            (1, BACKLOG_SLOW_CHUNKS, Room::Plenty),
            (1, BACKLOG_SLOW_CHUNKS + 1, Room::Slow),
            (1, BACKLOG_CHUNKS, Room::Slow),
            (1, BACKLOG_CHUNKS + 1, Room::Overflow),
            (MAX_CHUNK_BYTES, 16, Room::Plenty),
            (MAX_CHUNK_BYTES, 17, Room::Slow),
            (MAX_CHUNK_BYTES, 33, Room::Overflow),
        ];
        for (length, count, expected) in table {
            let outbox = Outbox::default();
            let room = (0..count).map(|_| outbox.push(chunk(length))).last();
            assert_eq!(room, Some(expected), "{count} chunks of {length}");
        }
    }

    #[test]
    fn small_chunks_are_joined_and_the_end_comes_last() {
        let outbox = Outbox::default();
        outbox.say("one ");
        outbox.say("two");
        outbox.push(chunk(MAX_CHUNK_BYTES));
        outbox.fail("no");
        outbox.say("too late");
        assert_eq!(outbox.try_next(), Some(Next::Stdout(b"one two".to_vec())));
        assert!(matches!(outbox.try_next(), Some(Next::Stdout(bytes)) if bytes.len() == MAX_CHUNK_BYTES));
        assert_eq!(outbox.try_next(), Some(Next::Stderr(b"no\n\r".to_vec())));
        assert_eq!(outbox.try_next(), Some(Next::End(End::Exit(1))));
    }

    #[test]
    fn an_immediate_end_drops_what_waits_and_is_final() {
        let outbox = Outbox::default();
        outbox.push(chunk(5));
        outbox.finish(End::Silent);
        outbox.finish(End::CutOff);
        outbox.finish(End::Exit(0));
        assert_eq!(outbox.try_next(), Some(Next::End(End::CutOff)));
    }
}
