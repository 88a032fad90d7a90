//! What travels on a link (L-03, L-04): [`ToWorker`] one way, [`ToClient`] the other.
//!
//! The serde names are the wire's tags; a tag that was ever used stays reserved for its meaning. Unknown tags and fields are
//! skipped by the reader, so a newer peer can say more.

use serde::{Deserialize, Serialize};

use crate::blob::Part;
use crate::ids::{AttemptId, PeerName, SetupId};
use crate::task::{Content, Ended, File, ReturnReason, TaskSpec};

/// From client to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First item of the link: who I am and what I can.
    #[serde(rename = "open")]
    Open(Open),
    /// I have this much to do.
    #[serde(rename = "want")]
    Want(Want),
    /// Do this; uses up one credit.
    #[serde(rename = "submit")]
    Submit(Submit),
    /// Stop this, or do not start it. Answered by `Finished` or `Returned`.
    #[serde(rename = "cancel")]
    Cancel(AttemptId),
    /// Hand this back if it does not run yet. Answered by `Returned`, `TooLate` or `Finished` (S-02).
    #[serde(rename = "recall")]
    Recall(AttemptId),
    /// Are you there? Answered by `Pong`.
    #[serde(rename = "ping")]
    Ping(u64),
    /// Bytes of a payload, an input file or stdin.
    #[serde(rename = "data")]
    Data(Data),
    /// Output was taken: more may come.
    #[serde(rename = "taken")]
    Taken(Taken),
    /// A call for the link's next connection, should this one break.
    #[serde(rename = "standby")]
    Standby(Standby),
    /// I have nothing more to do here, and close.
    #[serde(rename = "bye")]
    Bye,
    /// So many of your items have reached me.
    #[serde(rename = "ack")]
    Ack(u64),
}

/// From worker to client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// First item of the link: who I am and what I can.
    #[serde(rename = "open")]
    Open(Open),
    /// You may submit this many more tasks.
    #[serde(rename = "credit")]
    Credit(u32),
    /// Up to this many unused credits are void.
    #[serde(rename = "revoke")]
    Revoke(u32),
    /// It runs now.
    #[serde(rename = "started")]
    Started(AttemptId),
    /// Bytes of stdout, stderr, an output file or a value.
    #[serde(rename = "data")]
    Data(Data),
    /// Input was taken: more may come.
    #[serde(rename = "taken")]
    Taken(Taken),
    /// I do not have this: send it.
    #[serde(rename = "fetch")]
    Fetch(Fetch),
    /// Something a person should know.
    #[serde(rename = "note")]
    Note(Note),
    /// It ended. All its data came before.
    #[serde(rename = "finished")]
    Finished(Finished),
    /// It was not started, and is yours again.
    #[serde(rename = "returned")]
    Returned(Returned),
    /// It could not be recalled: it runs or ended already.
    #[serde(rename = "late")]
    TooLate(AttemptId),
    /// I take no more tasks, and leave when what I hold is done.
    #[serde(rename = "draining")]
    Draining,
    /// I am here, and this is my load.
    #[serde(rename = "pong")]
    Pong(Pong),
    /// The answer to a call for the link's next connection.
    #[serde(rename = "standby")]
    Standby(Standby),
    /// So many of your items have reached me.
    #[serde(rename = "ack")]
    Ack(u64),
}

/// First item of each connection: version and capability exchange (L-03), and what of the link's stream has arrived (L-05).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The protocol version spoken.
    #[serde(rename = "v")]
    pub version: u16,
    /// The peer's display name.
    #[serde(rename = "n")]
    pub name: PeerName,
    /// Words for what the peer can beyond its version; unknown ones are ignored.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// A worker's slots; 0 from a client.
    #[serde(rename = "s", default)]
    pub slots: u32,
    /// Where the link goes on over a new connection: how many of the other side's items have arrived; the rest is sent again. `None`
    /// where it begins, or where the worker has given it up.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// How long a broken link may be resumed, seconds: what the client wishes, and then what the worker grants (L-06).
    #[serde(rename = "g", default)]
    pub grace_s: u32,
}

/// Half of a handshake for the link's next connection, made while this one lives (L-05).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The caller's counter, as in a `connect`.
    #[serde(rename = "i")]
    pub setup: SetupId,
    /// Noise message 1, or 2.
    #[serde(rename = "n", with = "serde_bytes")]
    pub noise: Vec<u8>,
}

/// How much a client has to do (S-01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Tasks that wait for a worker like this one.
    #[serde(rename = "n")]
    pub tasks: u32,
    /// The round trip that the client measured on this link, microseconds; 0 before it has. Decides how far to prefetch (S-02).
    #[serde(rename = "r", default)]
    pub round_trip_us: u32,
}

/// One attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Its id, above all before it on this link.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// What to do.
    #[serde(rename = "t")]
    pub task: TaskSpec,
    /// Nothing else may run there at the same time: it was lost with its worker before (S-04).
    #[serde(rename = "w", default, skip_serializing_if = "is_false")]
    pub alone: bool,
}

/// Which stream of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// The task's payload, when it is streamed.
    #[serde(rename = "p")]
    Payload,
    /// The input file of this index in the task.
    #[serde(rename = "i")]
    Input(u16),
    /// Standard input.
    #[serde(rename = "0")]
    Stdin,
    /// Standard output.
    #[serde(rename = "1")]
    Stdout,
    /// Standard error.
    #[serde(rename = "2")]
    Stderr,
    /// The output file of this index in `Finished`.
    #[serde(rename = "o")]
    Output(u16),
    /// The value of a function, when it is streamed.
    #[serde(rename = "v")]
    Value,
}

/// A piece of one channel, at most [`crate::limits::CHUNK_BYTES`]; pieces come in order and without gaps (D-03).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Whose.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// Which stream.
    #[serde(rename = "c")]
    pub channel: Channel,
    /// Nothing comes after this piece.
    #[serde(rename = "e", default, skip_serializing_if = "is_false")]
    pub end: bool,
    /// The bytes are a zstd frame of at most [`crate::limits::CHUNK_BYTES`]; only in what answers a [`Fetch`].
    #[serde(rename = "z", default, skip_serializing_if = "is_false")]
    pub packed: bool,
    /// The bytes.
    #[serde(rename = "d", with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A reader has taken this many bytes of a channel in all: the writer may be
/// [`crate::limits::CHANNEL_WINDOW_BYTES`] ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Whose.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// Which stream.
    #[serde(rename = "c")]
    pub channel: Channel,
    /// Bytes since the beginning.
    #[serde(rename = "n")]
    pub bytes: u64,
}

/// Asks for a part of a blob that the task names, on the channel of the input or payload that is this blob.
///
/// Its bytes follow there as [`Data`], in the order in which they were asked for; `end` closes the answer to each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// For which attempt.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// Which of its blobs.
    #[serde(rename = "c")]
    pub channel: Channel,
    /// What of it.
    #[serde(rename = "p")]
    pub part: Part,
}

/// Something a person should know about an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// About which.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// The words, at most [`crate::limits::NOTE_BYTES`].
    #[serde(rename = "m")]
    pub text: String,
}

/// The end of an attempt that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Which.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// How.
    #[serde(rename = "e")]
    pub ended: Ended,
    /// What a function returned.
    #[serde(rename = "v", default, skip_serializing_if = "Content::is_left_out")]
    pub value: Content,
    /// Files that came back; their content came before on [`Channel::Output`], or is inline.
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<File>,
    /// How long it ran, microseconds.
    #[serde(rename = "t", default)]
    pub ran_us: u64,
}

/// An attempt that was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// Which.
    #[serde(rename = "a")]
    pub attempt: AttemptId,
    /// Why.
    #[serde(rename = "w")]
    pub why: ReturnReason,
}

/// The answer to a ping, with the worker's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// As in the ping.
    #[serde(rename = "n")]
    pub nonce: u64,
    /// Slots in all.
    #[serde(rename = "s")]
    pub slots: u32,
    /// Slots that run something.
    #[serde(rename = "b")]
    pub busy: u32,
    /// Attempts that wait here for a slot, of all clients.
    #[serde(rename = "q")]
    pub queued: u32,
    /// What it keeps of the asking user's inputs; `None` where it keeps none.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheUse>,
}

/// What a worker's cache was good for since it started, and what is coming in now; of one user, or of all where they share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Inputs that were there when a task needed them.
    #[serde(rename = "h", default)]
    pub hits: u64,
    /// Bytes that did not have to be sent.
    #[serde(rename = "s", default)]
    pub saved_bytes: u64,
    /// Bytes that were sent.
    #[serde(rename = "f", default)]
    pub fetched_bytes: u64,
    /// Inputs that are coming in.
    #[serde(rename = "n", default)]
    pub coming: u32,
    /// What of them is there, bytes.
    #[serde(rename = "d", default)]
    pub coming_done_bytes: u64,
    /// What they have together, bytes.
    #[serde(rename = "t", default)]
    pub coming_bytes: u64,
    /// How fast they come in, bytes a second.
    #[serde(rename = "r", default)]
    pub rate_bytes: u64,
}

/// The items of one direction: lets records and queues serve both.
pub trait Item: Serialize + serde::de::DeserializeOwned {
    /// Every tag of this direction, to tell an unknown kind from a malformed one.
    const TAGS: &'static [&'static str];

    /// The items of the other direction.
    type Other: Item<Other = Self>;

    /// The first item of a connection.
    fn open(open: Open) -> Self;

    /// Says that so many items of the other side have arrived.
    fn ack(received: u64) -> Self;

    /// What concerns the connection and not the link's stream: these items are not numbered (L-05).
    fn of_connection(self) -> Result<OfConnection, Self>;

    /// The attempt whose bulk this is; `None` for control.
    fn bulk_of(&self) -> Option<AttemptId>;

    /// The attempt behind whose bulk this item must stay; `None` for one that goes ahead of all bulk.
    fn follows_bulk_of(&self) -> Option<AttemptId>;

    /// An upper estimate of its memory and wire size, bytes.
    fn weight(&self) -> usize;
}

/// An item that belongs to one connection of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfConnection {
    /// The first one.
    Open(Open),
    /// So many items have arrived.
    Ack(u64),
}

/// What an item weighs without its variable parts, bytes; generous.
const FIXED_WEIGHT: usize = 128;

impl Item for ToWorker {
    const TAGS: &'static [&'static str] =
        &["open", "want", "submit", "cancel", "recall", "ping", "data", "taken", "standby", "bye", "ack"];

    type Other = ToClient;

    fn open(open: Open) -> Self {
        Self::Open(open)
    }

    fn ack(received: u64) -> Self {
        Self::Ack(received)
    }

    fn of_connection(self) -> Result<OfConnection, Self> {
        match self {
            Self::Open(open) => Ok(OfConnection::Open(open)),
            Self::Ack(received) => Ok(OfConnection::Ack(received)),
            item => Err(item),
        }
    }

    fn bulk_of(&self) -> Option<AttemptId> {
        match self {
            Self::Data(data) => Some(data.attempt),
            _ => None,
        }
    }

    fn follows_bulk_of(&self) -> Option<AttemptId> {
        None
    }

    fn weight(&self) -> usize {
        FIXED_WEIGHT
            + match self {
                Self::Open(open) => open_weight(open),
                Self::Submit(submit) => task_weight(&submit.task),
                Self::Data(data) => data.bytes.len(),
                Self::Standby(standby) => standby.noise.len(),
                _ => 0,
            }
    }
}

impl Item for ToClient {
    const TAGS: &'static [&'static str] = &[
        "open", "credit", "revoke", "started", "data", "taken", "fetch", "note", "finished", "returned", "late",
        "draining", "pong", "standby", "ack",
    ];

    type Other = ToWorker;

    fn open(open: Open) -> Self {
        Self::Open(open)
    }

    fn ack(received: u64) -> Self {
        Self::Ack(received)
    }

    fn of_connection(self) -> Result<OfConnection, Self> {
        match self {
            Self::Open(open) => Ok(OfConnection::Open(open)),
            Self::Ack(received) => Ok(OfConnection::Ack(received)),
            item => Err(item),
        }
    }

    fn bulk_of(&self) -> Option<AttemptId> {
        match self {
            Self::Data(data) => Some(data.attempt),
            _ => None,
        }
    }

    fn follows_bulk_of(&self) -> Option<AttemptId> {
        match self {
            Self::Finished(finished) => Some(finished.attempt),
            _ => None,
        }
    }

    fn weight(&self) -> usize {
        FIXED_WEIGHT
            + match self {
                Self::Open(open) => open_weight(open),
                Self::Data(data) => data.bytes.len(),
                Self::Note(note) => note.text.len(),
                Self::Fetch(Fetch { part: Part::Chunks(runs), .. }) => runs.len() * 16,
                Self::Standby(standby) => standby.noise.len(),
                Self::Finished(finished) => {
                    ended_weight(&finished.ended) + inline(&finished.value) + files_weight(&finished.outputs)
                }
                _ => 0,
            }
    }
}

fn open_weight(open: &Open) -> usize {
    open.capabilities.iter().map(|word| word.len() + 32).sum()
}

fn ended_weight(ended: &Ended) -> usize {
    match ended {
        Ended::Failed(failure) => failure.message.len(),
        _ => 0,
    }
}

fn task_weight(task: &TaskSpec) -> usize {
    let outputs: usize = task.outputs.iter().map(|name| name.len() + 8).sum();
    let labels: usize = task.labels.iter().map(|label| label.len() + 8).sum();
    task.runtime.len() + inline(&task.payload) + files_weight(&task.inputs) + outputs + labels
}

fn files_weight(files: &[File]) -> usize {
    files.iter().map(|file| file.name.len() + inline(&file.content) + 32).sum()
}

fn inline(content: &Content) -> usize {
    match content {
        Content::Inline(bytes) => bytes.len(),
        Content::Streamed(_) => 0,
        Content::Blob(_) => 64,
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
