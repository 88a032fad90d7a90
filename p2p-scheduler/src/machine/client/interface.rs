//! What reaches the client machine, and what it wants done.

use std::time::Duration;

use p2p_proto::board::{BoardError, BoardEvent, Line};
use p2p_proto::ids::{AttemptId, PeerName, TaskId};
use p2p_proto::link::item::{Finished, Open};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, LinkPath, ToClient, ToWorker};
use p2p_proto::task::{Content, Ended, TaskSpec};

use super::super::admission::{AdmissionEvent, MemberKept};
use super::super::side::{SideInput, SideOutput};
use crate::{ConnectionId, LinkId};

/// What reaches the client machine.
#[derive(Debug)]
pub enum ClientInput {
    /// Something happened on the board.
    Board(BoardEvent),
    /// Something happened in a side topic.
    Side(SideInput),
    /// The answer to [`ClientOutput::Prepare`].
    Prepared {
        /// Which set-up.
        connection: ConnectionId,
        /// This side's hints.
        hints: Result<Hints, LinkError>,
    },
    /// The answer to [`ClientOutput::Connect`]: the connection is there, and waits for [`ClientOutput::Attach`] or [`ClientOutput::Abandon`], one of
    /// which is among this input's outputs.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Which way it goes.
        path: LinkPath,
    },
    /// A set-up failed, or a connection ended that carried a link.
    Disconnected {
        /// Which.
        connection: ConnectionId,
        /// Why.
        error: LinkError,
    },
    /// Items of one record, as the link's stream hands them out: `Open` is the first of each connection. `Data`, `Taken` and `Ack` go past
    /// the machine.
    Items {
        /// From which link.
        link: LinkId,
        /// In order.
        items: Vec<ToClient>,
    },
    /// New tasks, under ids that were never used before.
    Submit(Vec<(TaskId, TaskSpec)>),
    /// End this task.
    Cancel(TaskId),
    /// The output of this live attempt, which the task's reader does not see, waits for room.
    Crowded {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Link to every worker there is, to learn about it.
    Survey,
    /// The moment of `wake_at`.
    Tick,
    /// Leave: cancel everything and close.
    Leave,
}

/// What the client machine wants done.
#[derive(Debug)]
pub enum ClientOutput {
    /// Say this on the board.
    Publish(Line),
    /// Start a set-up with the transport.
    Prepare(ConnectionId),
    /// Connect it.
    Connect(ConnectionId, Box<ConnectPlan>),
    /// This connection carries the link from now on; whatever carried it before ends at once, and no `Disconnected` follows for that.
    Attach {
        /// Which link; new, unless it resumes.
        link: LinkId,
        /// Which connection.
        connection: ConnectionId,
        /// Its first item; where the link resumes, the stream adds what it has received.
        open: Open,
        /// Whether the stream of the connections before goes on (L-05).
        resumes: bool,
    },
    /// End a set-up or connection at once; no `Disconnected` follows.
    Abandon(ConnectionId),
    /// Send what waits, end the link in order, and forget it. Without a connection it is forgotten at once. No `Disconnected` follows.
    Close(LinkId),
    /// Send this to a worker, now or when the link has a connection again.
    Send(LinkId, ToWorker),
    /// The task's attempt was sent: its streamed content may follow, and its data will come.
    Attempt {
        /// Which task.
        task: TaskId,
        /// By which link.
        link: LinkId,
        /// Under which id.
        attempt: AttemptId,
        /// To which worker.
        worker: PeerName,
    },
    /// The attempt is over without an outcome: forget what it sent. Another one follows.
    Withdraw {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The task runs.
    Started {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Something for a person.
    Note {
        /// Which task.
        task: TaskId,
        /// Which attempt says it.
        attempt: AttemptId,
        /// The words.
        text: String,
    },
    /// The task's one outcome.
    Outcome(TaskId, Outcome),
    /// Do this in a side topic.
    Side(SideOutput),
    /// Keep this for the next start.
    Save(MemberKept),
    /// Tell a person.
    Report(ClientReport),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A worker ran it, or tried to.
    Finished {
        /// On which worker.
        worker: PeerName,
        /// How it ended there, with value and files.
        finished: Finished,
    },
    /// It was cancelled before any worker ended it.
    Cancelled,
    /// The connection to its worker was lost while it may have run, and it is not to be run again.
    Lost {
        /// The last worker.
        worker: PeerName,
        /// How that link ended.
        error: LinkError,
        /// Workers that were lost while it ran there, or may have, and never came back; empty for a task that starts only once and whose
        /// last worker gave it up.
        losses: Vec<PeerName>,
    },
}

/// What a client's user is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientReport {
    /// The board is up.
    BoardUp,
    /// The board is away; it is tried again. Links go on.
    BoardDown {
        /// Why.
        reason: String,
        /// After how long.
        retry_in: Duration,
    },
    /// The board did not let us in: not on the list, host away, or a wrong name.
    Misrouted {
        /// The next try.
        retry_in: Duration,
    },
    /// The board cannot be used without a person's help.
    Failed(BoardError),
    /// What the host said.
    Admission(AdmissionEvent),
    /// A worker is linked.
    Linked {
        /// Which.
        worker: PeerName,
        /// Which way.
        path: LinkPath,
    },
    /// A worker's link has lost its connection. It is called again, and its tasks go on there meanwhile (L-06).
    Broken {
        /// Which.
        worker: PeerName,
        /// Why.
        error: LinkError,
        /// Tasks that it has.
        tasks: usize,
    },
    /// A worker's link has been without a connection for so long that its tasks start elsewhere too, if they may.
    Elsewhere {
        /// Which worker.
        worker: PeerName,
        /// How many tasks.
        tasks: usize,
    },
    /// A worker's link goes on over a new connection.
    Resumed {
        /// Which.
        worker: PeerName,
        /// Which way.
        path: LinkPath,
    },
    /// A worker's link ended while it had tasks.
    Unlinked {
        /// Which.
        worker: PeerName,
        /// Why.
        error: LinkError,
        /// Tasks that start again elsewhere.
        again: usize,
    },
    /// A worker could not be linked.
    CallFailed {
        /// Which.
        worker: PeerName,
        /// Why, in words.
        why: String,
    },
    /// A worker takes no more tasks.
    Draining(PeerName),
}

impl Outcome {
    /// Whether the task did what was asked: its command exited with 0, its function returned.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Finished { finished, .. } if finished.ended == Ended::Exit(0))
    }

    /// What a function returned, as [`Functions::register_typed`](crate::Functions::register_typed) encoded it.
    ///
    /// # Errors
    /// In words: why there is no value, or why it is not a `T`.
    pub fn value<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Finished {
                finished: Finished { ended: Ended::Exit(0), value: Content::Inline(bytes), .. }, ..
            } => crate::functions::from_cbor(bytes),
            Self::Finished { finished: Finished { ended: Ended::Exit(0), .. }, .. } => {
                Err("the value was streamed and not gathered; TaskHandle::outcome gathers it".to_owned())
            }
            Self::Finished { finished: Finished { ended: Ended::Failed(failure), .. }, worker } => {
                Err(format!("it failed on {worker}: {}", failure.message))
            }
            Self::Finished { finished, worker } => Err(format!("it ended on {worker} with {:?}", finished.ended)),
            Self::Cancelled => Err("it was cancelled".to_owned()),
            Self::Lost { worker, error, .. } => Err(format!("its worker {worker} was lost: {error}")),
        }
    }
}
