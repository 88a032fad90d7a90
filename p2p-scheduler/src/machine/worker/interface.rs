//! What reaches the worker machine, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::board::{BoardError, BoardEvent, Line};
use p2p_proto::ids::{AttemptId, UserName};
use p2p_proto::link::item::{Finished, Open, Pong, Submit};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, LinkPath, ToClient, ToWorker};

use super::super::admission::{AdmissionEvent, MemberKept, Outside};
use super::super::side::{SideInput, SideOutput};
use crate::{ConnectionId, LinkId};

/// What reaches the worker machine.
#[derive(Debug)]
pub enum WorkerInput {
    /// Something happened on the board.
    Board(BoardEvent),
    /// Something happened in a side topic.
    Side(SideInput),
    /// Serve only these users from now on, or everybody in the cluster: links of others end (T-03).
    Allow(Option<BTreeSet<UserName>>),
    /// The answer to [`WorkerOutput::Prepare`].
    Prepared {
        /// Which set-up.
        connection: ConnectionId,
        /// This side's hints.
        hints: Result<Hints, LinkError>,
    },
    /// The answer to [`WorkerOutput::Connect`]: the connection is there, and waits for [`WorkerOutput::Attach`] or [`WorkerOutput::Abandon`], one of
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
        items: Vec<ToWorker>,
    },
    /// An attempt that was told to run, or staged, has ended, and its data was handed to the link.
    Ended {
        /// Of which link.
        link: LinkId,
        /// What to tell the client.
        finished: Finished,
    },
    /// The moment of `wake_at`.
    Tick,
    /// Take no more tasks, finish what is here, whether it runs or waits, then leave (S-06). A second one changes nothing.
    Drain,
    /// Leave now (S-06): what waits is handed back. What runs is killed, and lost to its client with the link, whose end is in order: it runs
    /// again elsewhere unless it is marked once. It cannot be handed back, for that would say that it never started.
    Stop,
}

/// What the worker machine wants done.
#[derive(Debug)]
pub enum WorkerOutput {
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
    /// Send this to a client, now or when the link has a connection again.
    Send(LinkId, ToClient),
    /// Send this too, with what the executor keeps of this user's inputs.
    Pong(LinkId, UserName, Pong),
    /// Make the attempt's two ends; stage what streams in.
    Stage {
        /// Its client.
        link: LinkId,
        /// Whose task it is.
        user: UserName,
        /// What to do.
        submit: Box<Submit>,
    },
    /// Give a staged attempt its slot.
    Run(LinkId, AttemptId),
    /// Ask a running attempt to end.
    Interrupt(LinkId, AttemptId),
    /// End an attempt at once. `Ended` is expected for one that runs, not for one that was only staged.
    Kill(LinkId, AttemptId),
    /// Do this in a side topic.
    Side(SideOutput),
    /// Keep this for the next start.
    Save(MemberKept),
    /// Tell a person.
    Report(WorkerReport),
    /// Nothing is left to do: leave.
    Drained,
}

/// What the worker's owner is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerReport {
    /// The board is up.
    BoardUp,
    /// The worker has said that it is here; clients may call it.
    AtWork,
    /// The board is away; it is tried again.
    BoardDown {
        /// Why.
        reason: String,
        /// After how long.
        retry_in: Duration,
    },
    /// The board did not let us in: not on the list, host away, or a wrong name.
    Misrouted {
        /// What is known about that.
        why: Outside,
        /// The next try.
        retry_in: Duration,
    },
    /// The board cannot be used without a person's help.
    Failed(BoardError),
    /// What the host said.
    Admission(AdmissionEvent),
    /// A client is linked.
    Linked {
        /// Whose.
        user: UserName,
        /// Which way.
        path: LinkPath,
    },
    /// A client's link has lost its connection; what he has here goes on for the grace (L-06).
    Broken {
        /// Whose.
        user: UserName,
        /// Why.
        error: LinkError,
    },
    /// A client's link goes on over a new connection.
    Resumed {
        /// Whose.
        user: UserName,
        /// Which way.
        path: LinkPath,
    },
    /// A client's link ended.
    Unlinked {
        /// Whose.
        user: UserName,
        /// Why.
        error: LinkError,
    },
    /// A caller was refused.
    Refused {
        /// Why, in words.
        why: String,
    },
    /// No more tasks are taken; what is here is finished.
    Draining {
        /// Attempts that still run.
        running: usize,
        /// Attempts that still wait.
        queued: u32,
    },
}

/// What a worker offers, and to whom.
#[derive(Clone, Debug)]
pub struct WorkerOffer {
    /// Slots, runtimes, memory, labels. What runs at a time takes no more than this memory together; where it is not known (0), tasks
    /// that ask for some do not run here (S-03).
    pub offer: Offer,
    /// Only these users; everybody in the cluster if absent.
    pub allow: Option<BTreeSet<UserName>>,
    /// How the slots are shared while more than one user has something waiting: with weight 3, one gets three times as many slot-seconds as
    /// with weight 1, which is everybody's who is not named (S-01). From 1 to [`limits::WEIGHT`](p2p_proto::limits::WEIGHT); what
    /// is outside is taken for the nearer end.
    pub weights: BTreeMap<UserName, u32>,
}
