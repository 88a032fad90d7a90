//! A task as the embedding program sees it: what to run, and a handle to what becomes of it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_std::io::ReadExt as _;
use event_listener::Event;
use futures::AsyncRead;
use serde::Serialize;

use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, PeerName, TaskId};
use p2p_proto::limits;
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data, Taken};
use p2p_proto::task::{COMMAND_RUNTIME, Command, Content, Failure, File, TaskSpec, check_file_name, check_file_size};

use super::client::ClientInner;
use super::{LinkQueue, lock};
use crate::flow::{ReceiveWindow, SendWindow};
use crate::functions::to_cbor;
use crate::machine::client::Outcome;

/// Files of one task that travel inside its `Submit`, bytes together; the others stream.
const INLINE_TOTAL_BYTES: u64 = 32 * 1024;

/// What to run.
#[derive(Debug)]
pub struct Task {
    pub(crate) spec: TaskSpec,
    pub(crate) sources: Vec<(Channel, Source)>,
    inline: u64,
}

/// Where streamed content comes from.
pub enum Source {
    /// From memory.
    Bytes(Arc<Vec<u8>>),
    /// From a file of exactly the size that the task's spec says.
    File(PathBuf),
    /// From a stream that can be read once.
    Reader(Option<Box<dyn AsyncRead + Send + Unpin>>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

impl Task {
    /// A task for `runtime` with this input.
    pub fn new(runtime: &str, payload: Vec<u8>) -> Self {
        let spec = TaskSpec { runtime: runtime.to_owned(), ..TaskSpec::default() };
        let mut task = Self { spec, sources: Vec::new(), inline: 0 };
        if payload.len() <= limits::PAYLOAD_BYTES {
            task.inline = payload.len() as u64;
            task.spec.payload = Content::Inline(payload);
        } else {
            task.spec.payload = Content::Streamed(payload.len() as u64);
            task.sources.push((Channel::Payload, Source::Bytes(Arc::new(payload))));
        }
        task
    }

    /// A call of the function that workers registered under `name`.
    pub fn function(name: &str, input: Vec<u8>) -> Self {
        Self::new(name, input)
    }

    /// A call of the function that workers registered under `name`, with one value as its input; see
    /// [`Functions::register_typed`](crate::Functions::register_typed).
    ///
    /// # Errors
    /// When the value does not serialise.
    pub fn call<In: Serialize>(name: &str, input: &In) -> Result<Self, String> {
        Ok(Self::new(name, to_cbor(input)?))
    }

    /// A program and its arguments.
    pub fn command(command: &Command) -> Self {
        Self::new(COMMAND_RUNTIME, command.to_cbor())
    }

    /// Puts the file at `path` into the task's scratch folder as `name`.
    ///
    /// # Errors
    /// A [`Failure`] that says why that file cannot travel: unreadable, no regular file, too large, or a bad name.
    pub fn input(mut self, name: &str, path: &Path) -> Result<Self, Failure> {
        use p2p_proto::task::FailureKind;
        check_file_name(name)?;
        let shown = path.display();
        let unreadable = |fault: std::io::Error| {
            Failure::new(
                FailureKind::Other,
                format!("the input file {shown} cannot be read: {fault}; check its name and rights"),
            )
        };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
            return Err(Failure::new(FailureKind::Other, format!("the input {shown} is {what}: name regular files")));
        }
        check_file_size(&shown.to_string(), metadata.len())?;
        let index = u16::try_from(self.spec.inputs.len()).ok().filter(|index| usize::from(*index) < limits::FILES);
        let Some(index) = index else {
            let message = format!("a task may have at most {} input files", limits::FILES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        };
        let content = if self.inline + metadata.len() <= INLINE_TOTAL_BYTES {
            let bytes = std::fs::read(path).map_err(unreadable)?;
            self.inline += bytes.len() as u64;
            Content::Inline(bytes)
        } else {
            // Opened now, so that a missing right is told at once and not in the middle of the work.
            std::fs::File::open(path).map_err(unreadable)?;
            self.sources.push((Channel::Input(index), Source::File(path.to_owned())));
            Content::Streamed(metadata.len())
        };
        self.spec.inputs.push(File { name: name.to_owned(), content, executable: is_executable(&metadata) });
        Ok(self)
    }

    /// Brings the files back that this relative name or pattern matches.
    ///
    /// # Errors
    /// A [`Failure`] when the name leads out of the scratch folder.
    pub fn output(mut self, pattern: &str) -> Result<Self, Failure> {
        check_file_name(pattern)?;
        self.spec.outputs.push(pattern.to_owned());
        Ok(self)
    }

    /// Streams `reader` to the command's stdin. Such a task cannot be started again once it ran.
    pub fn stdin(mut self, reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        self.spec.stdin = true;
        self.sources.push((Channel::Stdin, Source::Reader(Some(Box::new(reader)))));
        self
    }

    /// Kills it after so long.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.spec.timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// Lets it take so many slots, at least 1.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.spec.extra_cpus = cpus.saturating_sub(1);
        self
    }

    /// Never starts it a second time, even if its worker is lost.
    pub fn once(mut self) -> Self {
        self.spec.once = true;
        self
    }
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    false
}

/// What happens to a task, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// An attempt was sent to this worker.
    Sent(PeerName),
    /// It runs.
    Started,
    /// A piece of output, an output file or a value.
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
    /// The attempt is void, with all that it sent; another one follows.
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
            let news = self.shared.news.listen();
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

    /// Waits for the outcome; output on the way is dropped, a streamed value is gathered into the outcome.
    ///
    /// Cancel-safe in that the outcome is not lost to another call, but output dropped on the way is.
    pub async fn outcome(mut self) -> Outcome {
        let mut value = Vec::new();
        loop {
            match self.next().await {
                Some(TaskEvent::Data { channel: Channel::Value, bytes, .. }) => value.extend_from_slice(&bytes),
                Some(TaskEvent::Again) => value.clear(),
                Some(TaskEvent::Outcome(mut outcome)) => {
                    if let Outcome::Finished { finished, .. } = &mut outcome
                        && matches!(finished.value, Content::Streamed(_))
                    {
                        finished.value = Content::Inline(value);
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

/// What the client's driver and a handle share about a task.
pub(crate) struct TaskShared {
    pub(crate) id: TaskId,
    sources: Mutex<Vec<(Channel, Source)>>,
    state: Mutex<TaskState>,
    news: Event,
    /// Room in a window, or another attempt.
    moved: Event,
}

#[derive(Default)]
struct TaskState {
    events: VecDeque<TaskEvent>,
    over: bool,
    attempt: Option<Attempt>,
}

struct Attempt {
    id: AttemptId,
    queue: Arc<LinkQueue<ToWorker>>,
    receive: HashMap<Channel, ReceiveWindow>,
    send: HashMap<Channel, SendWindow>,
}

impl TaskShared {
    pub(crate) fn new(id: TaskId, sources: Vec<(Channel, Source)>) -> Self {
        Self { id, sources: Mutex::new(sources), state: Mutex::default(), news: Event::new(), moved: Event::new() }
    }

    pub(crate) fn push(&self, event: TaskEvent) {
        lock(&self.state).events.push_back(event);
        self.news.notify(1);
    }

    /// The task is over. Returns its last attempt.
    pub(crate) fn on_outcome(&self, outcome: Outcome) -> Option<AttemptId> {
        let mut state = lock(&self.state);
        state.over = true;
        state.events.push_back(TaskEvent::Outcome(outcome));
        let attempt = state.attempt.take();
        drop(state);
        self.news.notify(1);
        self.moved.notify(usize::MAX);
        attempt.map(|attempt| {
            attempt.queue.forget_bulk(attempt.id);
            attempt.id
        })
    }

    pub(crate) fn has_sources(&self) -> bool {
        !lock(&self.sources).is_empty()
    }

    /// An attempt begins.
    pub(crate) fn on_attempt(&self, id: AttemptId, queue: Arc<LinkQueue<ToWorker>>) {
        lock(&self.state).attempt = Some(Attempt { id, queue, receive: HashMap::new(), send: HashMap::new() });
    }

    /// The attempt is void.
    pub(crate) fn on_withdraw(&self, id: AttemptId) {
        let mut state = lock(&self.state);
        if let Some(attempt) = state.attempt.take_if(|attempt| attempt.id == id) {
            attempt.queue.forget_bulk(id);
            drop(state);
            self.moved.notify(usize::MAX);
            self.push(TaskEvent::Again);
        }
    }

    /// A piece of the attempt's output came.
    pub(crate) fn on_data(&self, data: Data) -> Result<(), ProtoError> {
        let mut state = lock(&self.state);
        let Some(attempt) = state.attempt.as_mut().filter(|attempt| attempt.id == data.attempt) else { return Ok(()) };
        let window = attempt.receive.entry(data.channel).or_default();
        window.on_received(data.bytes.len())?;
        if attempt.receive.len() > limits::FILES + 8 {
            return Err(ProtoError::Misuse("a worker opened too many streams for one attempt"));
        }
        let Data { channel, bytes, end, .. } = data;
        state.events.push_back(TaskEvent::Data { channel, bytes, end });
        drop(state);
        self.news.notify(1);
        Ok(())
    }

    /// The worker took input.
    pub(crate) fn on_taken(&self, taken: Taken) {
        let mut state = lock(&self.state);
        let Some(attempt) = state.attempt.as_mut().filter(|attempt| attempt.id == taken.attempt) else { return };
        if let Some(window) = attempt.send.get_mut(&taken.channel) {
            window.on_taken(taken.bytes);
        }
        drop(state);
        self.moved.notify(usize::MAX);
    }

    /// Sends all streamed content of the attempt `id`, channel after channel.
    ///
    /// # Errors
    /// Why this machine cannot read what it has promised; the task must then be cancelled.
    pub(crate) async fn pump(self: Arc<Self>, id: AttemptId) -> Result<(), String> {
        let sources = std::mem::take(&mut *lock(&self.sources));
        let mut kept = Vec::with_capacity(sources.len());
        let mut result = Ok(());
        for (channel, mut source) in sources {
            if result.is_ok() {
                result = self.pump_one(id, channel, &mut source).await;
            }
            kept.push((channel, source));
        }
        // For the next attempt, should there be one.
        *lock(&self.sources) = kept;
        result
    }

    async fn pump_one(&self, id: AttemptId, channel: Channel, source: &mut Source) -> Result<(), String> {
        let mut file;
        let mut memory;
        let reader: &mut (dyn AsyncRead + Send + Unpin) = match source {
            Source::Bytes(bytes) => {
                memory = futures::io::Cursor::new(Arc::clone(bytes).to_vec());
                &mut memory
            }
            Source::File(path) => {
                let opened = async_std::fs::File::open(&*path).await;
                file = opened.map_err(|fault| format!("{} cannot be read any more: {fault}", path.display()))?;
                &mut file
            }
            Source::Reader(Some(reader)) => reader,
            Source::Reader(None) => return Err("its stdin was read by an earlier attempt".to_owned()),
        };
        loop {
            let mut bytes = vec![0; limits::CHUNK_BYTES];
            let count = reader.read(&mut bytes).await.map_err(|fault| format!("its input cannot be read: {fault}"))?;
            bytes.truncate(count);
            let end = count == 0;
            let Some(queue) = self.room(id, channel, count).await else { return Ok(()) };
            let data = ToWorker::Data(Data { attempt: id, channel, end, bytes });
            if queue.push_bulk(data).await.is_err() || end {
                return Ok(());
            }
        }
    }

    /// Waits until `count` bytes fit the channel's window; `None` when the attempt is over.
    async fn room(&self, id: AttemptId, channel: Channel, count: usize) -> Option<Arc<LinkQueue<ToWorker>>> {
        loop {
            let moved = self.moved.listen();
            {
                let mut state = lock(&self.state);
                let attempt = state.attempt.as_mut().filter(|attempt| attempt.id == id)?;
                let window = attempt.send.entry(channel).or_default();
                if window.room() >= count as u64 {
                    window.on_sent(count);
                    return Some(Arc::clone(&attempt.queue));
                }
            }
            moved.await;
        }
    }

    fn pop(&self) -> Option<TaskEvent> {
        let mut state = lock(&self.state);
        let event = state.events.pop_front()?;
        if let TaskEvent::Data { channel, bytes, .. } = &event
            && let Some(attempt) = state.attempt.as_mut()
            && let Some(window) = attempt.receive.get_mut(channel)
            && let Some(total) = window.on_taken(bytes.len() as u64)
        {
            attempt.queue.push(ToWorker::Taken(Taken { attempt: attempt.id, channel: *channel, bytes: total }));
        }
        Some(event)
    }

    fn is_over(&self) -> bool {
        lock(&self.state).over
    }
}
