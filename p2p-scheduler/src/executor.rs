//! What runs attempts: the trait that an executor implements, and what it is given for each attempt.
//!
//! The worker's driver is on the other side of an [`AttemptIo`], by its [`AttemptHandle`] and an [`OutputSink`]. An executor decides
//! nothing about slots, credits or windows: it stages, waits for its slot, runs, and says how it ended.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use futures::future::BoxFuture;

use p2p_proto::blob::Part;
use p2p_proto::ids::UserName;
use p2p_proto::link::item::{CacheUse, Channel};
use p2p_proto::task::{Ended, Failure, File, TaskSpec};

use crate::driver::lock;

/// Runs attempts of some runtimes on this machine.
pub trait Executor: Send + Sync {
    /// The runtimes that it can run, as a worker offers them; at most [`p2p_proto::limits::RUNTIMES`].
    fn runtimes(&self) -> Vec<String>;

    /// One attempt at `task`, whose bounds are checked already.
    ///
    /// The future is polled at once where content streams in, so that files are staged while the attempt waits for its slot; it must
    /// not run anything of the task before [`AttemptIo::slot`] has let it through. It must end soon after [`Stop::Kill`], and when it is
    /// dropped it must leave no process and no file behind.
    fn attempt(&self, task: TaskSpec, io: AttemptIo) -> BoxFuture<'static, AttemptEnd>;

    /// What is kept of this user's inputs; `None` where nothing is. It is asked under the driver's lock, and must not block.
    fn cache_use(&self, _user: &UserName) -> Option<CacheUse> {
        None
    }

    /// Runs an attempt that has its slot to its end. By default on async-std's executor, where nothing may block; an executor whose
    /// attempts do has threads of its own.
    fn spawn(&self, attempt: BoxFuture<'static, ()>) {
        async_std::task::spawn(attempt);
    }
}

/// How an attempt ended, and what it leaves to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// How.
    pub ended: Ended,
    /// What a function returned; empty for commands.
    pub value: Vec<u8>,
    /// Files to bring back: inline, or already written to [`Channel::Output`] of their index.
    pub outputs: Vec<File>,
    /// How long it ran, staging and waiting not counted.
    pub ran: Duration,
}

impl AttemptEnd {
    /// An end without value and files.
    pub fn new(ended: Ended) -> Self {
        Self { ended, value: Vec::new(), outputs: Vec::new(), ran: Duration::ZERO }
    }
}

impl From<Failure> for AttemptEnd {
    fn from(failure: Failure) -> Self {
        Self::new(Ended::Failed(failure))
    }
}

/// What an executor is given for one attempt. The fields are meant to be taken apart.
#[derive(Debug)]
pub struct AttemptIo {
    /// Whose task it is: blobs are kept for each user.
    pub user: UserName,
    /// Opens when the attempt has its slot.
    pub slot: SlotGate,
    /// Streamed payload, input files and stdin; blobs, when they are asked for.
    pub content: ContentReader,
    /// Asks it to end.
    pub stops: Stops,
    /// Takes stdout, stderr, output files and notes.
    pub output: OutputWriter,
}

/// Lets an attempt through when a slot is its own.
#[derive(Debug)]
pub struct SlotGate {
    opens: Receiver<()>,
    open: bool,
}

impl SlotGate {
    /// Waits for the slot; returns at once from when it was there. Cancel-safe.
    ///
    /// # Errors
    /// [`Gone`] when the attempt was withdrawn: nobody waits for its end any more.
    pub async fn pass(&mut self) -> Result<(), Gone> {
        if !self.open {
            self.opens.recv().await.map_err(|_| Gone)?;
            self.open = true;
        }
        Ok(())
    }
}

/// A piece of one incoming channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which stream.
    pub channel: Channel,
    /// At most [`p2p_proto::limits::CHUNK_BYTES`].
    pub bytes: Vec<u8>,
    /// Nothing comes after it on this channel, or in this answer.
    pub end: bool,
    /// The bytes are packed; only in what answers a request for a part of a blob.
    pub packed: bool,
}

/// Channels with readers of their own.
type Routes = Arc<Mutex<HashMap<Channel, Sender<Piece>>>>;

/// Reads what streams in. Pieces of one channel come in order; channels may mix.
pub struct ContentReader {
    pieces: Receiver<Piece>,
    routes: Routes,
    sink: Arc<dyn OutputSink>,
}

impl ContentReader {
    /// The next piece. The reader says with [`ContentReader::taken`] when more may come. Cancel-safe.
    ///
    /// # Errors
    /// [`Gone`] when nothing more can come: the client or the link is gone.
    pub async fn next(&mut self) -> Result<Piece, Gone> {
        self.pieces.recv().await.map_err(|_| Gone)
    }

    /// Says that `bytes` of `channel` were put where they belong, so that more may come.
    pub fn taken(&self, channel: Channel, bytes: usize) {
        self.sink.taken(channel, bytes as u64);
    }

    /// Reads this channel apart from the others from now on.
    pub(crate) fn channel(&self, channel: Channel) -> ChannelReader {
        // Bounded by the channel's window.
        let (sender, pieces) = channel::unbounded();
        lock(&self.routes).insert(channel, sender);
        ChannelReader { channel, pieces, routes: Arc::clone(&self.routes), sink: Arc::clone(&self.sink) }
    }
}

/// Reads one channel, on which parts of a blob are asked for.
pub(crate) struct ChannelReader {
    channel: Channel,
    pieces: Receiver<Piece>,
    routes: Routes,
    sink: Arc<dyn OutputSink>,
}

impl ChannelReader {
    /// Asks for a part of the blob that this channel is of. Its bytes come until a piece with an end; until then nothing else may be
    /// asked for here.
    pub(crate) fn fetch(&self, part: Part) {
        self.sink.fetch(self.channel, part);
    }

    /// As [`ContentReader::next`].
    pub(crate) async fn next(&mut self) -> Result<Piece, Gone> {
        self.pieces.recv().await.map_err(|_| Gone)
    }

    /// As [`ContentReader::taken`].
    pub(crate) fn taken(&self, bytes: usize) {
        self.sink.taken(self.channel, bytes as u64);
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        lock(&self.routes).remove(&self.channel);
    }
}

impl fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentReader(..)")
    }
}

/// How an attempt is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Politely: SIGINT. A `Kill` follows after a grace.
    Interrupt,
    /// At once, with everything that it started.
    Kill,
}

/// Hears [`Stop`].
#[derive(Debug)]
pub struct Stops(Receiver<Stop>);

impl Stops {
    /// The next request. When the worker itself is gone that is a [`Stop::Kill`]. Cancel-safe.
    pub async fn next(&mut self) -> Stop {
        self.0.recv().await.unwrap_or(Stop::Kill)
    }
}

/// The other side is gone: nobody will read this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client of this attempt is gone")]
pub struct Gone;

/// Takes what an attempt says; cheap to clone.
#[derive(Clone)]
pub struct OutputWriter(Arc<dyn OutputSink>);

impl OutputWriter {
    /// Sends a piece of `channel`; waits while the client does not read (D-03). Longer input is cut into pieces.
    ///
    /// # Errors
    /// [`Gone`] when nobody will ever read it.
    pub async fn write(&self, channel: Channel, bytes: Vec<u8>, end: bool) -> Result<(), Gone> {
        let limit = p2p_proto::limits::CHUNK_BYTES;
        if bytes.len() <= limit {
            return self.0.write(Piece { channel, bytes, end, packed: false }).await;
        }
        let mut pieces = bytes.chunks(limit).peekable();
        while let Some(piece) = pieces.next() {
            let end = end && pieces.peek().is_none();
            self.0.write(Piece { channel, bytes: piece.to_vec(), end, packed: false }).await?;
        }
        Ok(())
    }

    /// Tells a person something about this attempt.
    pub fn note(&self, text: String) {
        self.0.note(text);
    }
}

impl fmt::Debug for OutputWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputWriter(..)")
    }
}

/// The driver's side of what an attempt says. Implementations are the worker's driver, and tests.
pub trait OutputSink: Send + Sync {
    /// Takes one piece, when there is room.
    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Gone>>;
    /// `bytes` more of an incoming channel were taken.
    fn taken(&self, channel: Channel, bytes: u64);
    /// A part of the blob of this channel is wanted.
    fn fetch(&self, channel: Channel, part: Part);
    /// Something for a person.
    fn note(&self, text: String);
}

/// The driver's end of an [`AttemptIo`].
#[derive(Debug)]
pub struct AttemptHandle {
    slot: Sender<()>,
    pieces: Sender<Piece>,
    routes: Routes,
    stops: Sender<Stop>,
}

impl AttemptHandle {
    /// The two ends of an attempt at a task of `user`; `sink` takes what it says.
    pub fn pair(user: UserName, sink: Arc<dyn OutputSink>) -> (Self, AttemptIo) {
        let (slot, gate) = channel::bounded(1);
        // Bounded by the windows of the channels, not by a count of pieces.
        let (pieces, reader) = channel::unbounded();
        let (stops, stopped) = channel::bounded(4);
        let routes = Routes::default();
        let content = ContentReader { pieces: reader, routes: Arc::clone(&routes), sink: Arc::clone(&sink) };
        let slot_gate = SlotGate { opens: gate, open: false };
        let io = AttemptIo { user, slot: slot_gate, content, stops: Stops(stopped), output: OutputWriter(sink) };
        (Self { slot, pieces, routes, stops }, io)
    }

    /// Gives the attempt its slot.
    pub fn open_slot(&self) {
        // Full or closed: it has its slot, or ended by itself.
        let _ = self.slot.try_send(());
    }

    /// Hands a piece of content in.
    pub fn content(&self, piece: Piece) {
        let routes = lock(&self.routes);
        // Closed: the attempt ended by itself and wants no more.
        let _ = routes.get(&piece.channel).unwrap_or(&self.pieces).try_send(piece);
    }

    /// Asks it to end.
    pub fn stop(&self, stop: Stop) {
        // Full: as many requests as matter wait already. Closed: it ended by itself.
        let _ = self.stops.try_send(stop);
    }
}

impl Drop for AttemptHandle {
    fn drop(&mut self) {
        // Who reads a channel of its own hears it too.
        lock(&self.routes).clear();
    }
}
