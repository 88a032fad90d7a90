//! What a program that submitted a task holds of it.

use std::fmt;
use std::sync::{Arc, Weak};

use p2p_proto::ids::{PeerName, TaskId};
use p2p_proto::link::item::{Channel, Finished};
use p2p_proto::task::{Content, Ended, Failure, FailureKind};

use super::TaskShared;
use crate::driver::client::ClientInner;
use crate::machine::client::Outcome;

/// What happens to a task, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// An attempt was sent to this worker.
    Sent(PeerName),
    /// It runs.
    Started,
    /// A piece of output, an output file or a value; at most [`CHUNK_BYTES`](p2p_proto::limits::CHUNK_BYTES).
    Data {
        /// Which stream.
        channel: Channel,
        /// The bytes.
        bytes: Vec<u8>,
        /// Nothing follows on this stream.
        end: bool,
    },
    /// Something for a person.
    Note(String),
    /// The attempt is void, with all that it sent: its worker was lost, or another one was quicker. Another one follows, from its
    /// beginning, or the outcome.
    Again,
    /// How it ended. Nothing follows.
    Outcome(Outcome),
}

/// A submitted task. Dropping the handle cancels it, unless it has ended.
pub struct TaskHandle {
    shared: Arc<TaskShared>,
    client: Weak<ClientInner>,
    ended: bool,
}

impl TaskHandle {
    pub(crate) fn new(shared: Arc<TaskShared>, client: Weak<ClientInner>) -> Self {
        Self { shared, client, ended: false }
    }

    /// Its number.
    pub fn id(&self) -> TaskId {
        self.shared.id
    }

    /// The next event, or `None` after the outcome. Output is acknowledged when it is handed out here, so a slow reader slows the
    /// task down instead of filling memory. Cancel-safe.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        while !self.ended {
            let news = self.shared.news();
            match self.shared.pop() {
                Some(event) => {
                    self.ended = matches!(event, TaskEvent::Outcome(_));
                    return Some(event);
                }
                None => news.await,
            }
        }
        None
    }

    /// Waits for the outcome; output on the way is dropped, a streamed value is gathered into the outcome. A value of which a part is
    /// missing is a [`Failure`], never a short value: so it is when a part of it was handed out by [`TaskHandle::next`] before.
    ///
    /// Cancel-safe in that the outcome is not lost to another call, but output dropped on the way is.
    pub async fn outcome(mut self) -> Outcome {
        let mut value = Vec::new();
        loop {
            match self.next().await {
                Some(TaskEvent::Data { channel: Channel::Value, bytes, .. }) => value.extend_from_slice(&bytes),
                Some(TaskEvent::Again) => value.clear(),
                Some(TaskEvent::Outcome(mut outcome)) => {
                    if let Outcome::Finished { finished, .. } = &mut outcome {
                        put_value(finished, value);
                    }
                    return outcome;
                }
                Some(_) => {}
                // An outcome was handed out before; there is no second one.
                None => return Outcome::Cancelled,
            }
        }
    }

    /// Asks for the task's end; its outcome follows.
    pub fn cancel(&self) {
        if let Some(client) = self.client.upgrade() {
            client.cancel(self.shared.id);
        }
    }
}

/// Puts the gathered value where a streamed one was announced.
fn put_value(finished: &mut Finished, value: Vec<u8>) {
    let Content::Streamed(announced) = finished.value else { return };
    let gathered = value.len() as u64;
    if gathered == announced {
        finished.value = Content::Inline(value);
        return;
    }
    finished.value = Content::default();
    // Why it failed by itself says more.
    if !matches!(finished.ended, Ended::Failed(_)) {
        let message = format!(
            "its value has {announced} bytes, but {gathered} were gathered: the worker sent another one than it announced, or a part \
             was read before"
        );
        finished.ended = Ended::Failed(Failure::new(FailureKind::Malformed, message));
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskHandle({:?})", self.shared.id)
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if !self.ended && !self.shared.is_over() {
            self.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Recorder, data, finished, worker};
    use super::*;
    use p2p_proto::ids::AttemptId;

    const FIRST: AttemptId = AttemptId(1);
    const SECOND: AttemptId = AttemptId(2);

    fn task() -> (Arc<TaskShared>, TaskHandle) {
        let shared = Arc::new(TaskShared::new(TaskId(7), Vec::new()));
        shared.on_attempt(FIRST, worker("bob"), Arc::new(Recorder::default()));
        (Arc::clone(&shared), TaskHandle::new(shared, Weak::new()))
    }

    fn outcome_of(attempt: AttemptId, value: Content, ended: Ended) -> Outcome {
        Outcome::Finished { worker: worker("bob"), finished: Finished { value, ended, ..finished(attempt) } }
    }

    #[test]
    fn a_gathered_value_has_the_length_that_was_announced() {
        let failed = || Ended::Failed(Failure::new(FailureKind::FunctionFailed, "of its own"));
        let cases = [
            (Content::Streamed(6), Ended::Exit(0), Ok(b"abcdef".to_vec())),
            (Content::Inline(b"x".to_vec()), Ended::Exit(0), Ok(b"x".to_vec())),
            (Content::Streamed(5), Ended::Exit(0), Err("its value has 5 bytes, but 6 were gathered")),
            (Content::Streamed(7), Ended::Exit(0), Err("its value has 7 bytes, but 6 were gathered")),
            (Content::Streamed(7), failed(), Err("of its own")),
        ];
        for (announced, ended, expected) in cases {
            let (shared, handle) = task();
            shared.on_data(data(FIRST, Channel::Value, b"abc", false)).unwrap();
            shared.on_data(data(FIRST, Channel::Value, b"def", true)).unwrap();
            shared.on_outcome(outcome_of(FIRST, announced.clone(), ended));
            let outcome = async_std::task::block_on(handle.outcome());
            let Outcome::Finished { finished, .. } = outcome else { panic!("{outcome:?}") };
            match (expected, finished.ended) {
                (Ok(value), Ended::Exit(0)) => assert_eq!(finished.value, Content::Inline(value)),
                (Err(words), Ended::Failed(failure)) => {
                    assert!(failure.message.starts_with(words), "{}", failure.message);
                    assert_eq!(finished.value, Content::default(), "half a value is none");
                }
                (_, ended) => panic!("{announced:?} gave {ended:?}"),
            }
        }
    }

    #[test]
    fn a_value_is_gathered_from_the_attempt_that_won() {
        let (shared, handle) = task();
        shared.on_data(data(FIRST, Channel::Value, b"old", false)).unwrap();
        shared.on_attempt(SECOND, worker("carol"), Arc::new(Recorder::default()));
        shared.on_data(data(SECOND, Channel::Value, b"new value", true)).unwrap();
        shared.on_outcome(outcome_of(SECOND, Content::Streamed(9), Ended::Exit(0)));
        let outcome = async_std::task::block_on(handle.outcome());
        assert_eq!(outcome, outcome_of(SECOND, Content::Inline(b"new value".to_vec()), Ended::Exit(0)));
    }

    #[test]
    fn a_handle_hands_out_what_comes_while_it_waits_and_nothing_after_the_outcome() {
        let (shared, mut handle) = task();
        let reader = async_std::task::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = handle.next().await {
                events.push(event);
            }
            (events, handle.next().await)
        });
        shared.on_started(FIRST);
        shared.on_outcome(Outcome::Cancelled);
        let (events, after) = async_std::task::block_on(reader);
        let expected = [TaskEvent::Sent(worker("bob")), TaskEvent::Started, TaskEvent::Outcome(Outcome::Cancelled)];
        assert_eq!((&events[..], after), (&expected[..], None));
    }
}
