//! A task as the embedding program sees it: what to run, and a handle to what becomes of it.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_std::io::ReadExt as _;
use event_listener::Event;
use futures::AsyncRead;
use futures::future::{Either, select};
use serde::Serialize;

use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, PeerName, TaskId};
use p2p_proto::limits;
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data, Taken};
use p2p_proto::task::{
    COMMAND_RUNTIME, Command, Content, Failure, FailureKind, File, TaskSpec, check_file_name, check_file_size,
};

use super::client::ClientInner;
use super::{LinkQueue, lock};
use crate::flow::{Inflow, Outflow};
use crate::functions::to_cbor;
use crate::machine::client::Outcome;

/// Payload and files of one task that travel inside its `Submit`, bytes together; the others stream. With as many names as a task may
/// have, and what each file costs, it still fits one record.
const INLINE_TOTAL_BYTES: u64 = 26 * 1024;

/// What to run.
#[derive(Debug)]
pub struct Task {
    pub(crate) spec: TaskSpec,
    pub(crate) sources: Vec<(Channel, Source)>,
    inline: u64,
    /// Bytes of all file names.
    names: usize,
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
        let mut task = Self { spec, sources: Vec::new(), inline: 0, names: 0 };
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
        self.add_name(name)?;
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
            if bytes.len() as u64 != metadata.len() {
                let message = format!("the input file {shown} changed while it was read: try again when it is at rest");
                return Err(Failure::new(FailureKind::Other, message));
            }
            self.inline += metadata.len();
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
    /// A [`Failure`] when the name leads out of the scratch folder, or there are too many.
    pub fn output(mut self, pattern: &str) -> Result<Self, Failure> {
        self.add_name(pattern)?;
        if self.spec.outputs.len() >= limits::FILES {
            let message = format!("a task may have at most {} names or patterns of output files", limits::FILES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        self.spec.outputs.push(pattern.to_owned());
        Ok(self)
    }

    /// All names travel in one item: there is room for so many bytes of them.
    fn add_name(&mut self, name: &str) -> Result<(), Failure> {
        check_file_name(name)?;
        self.names += name.len();
        if self.names > limits::FILE_NAMES_BYTES {
            let message = format!(
                "the file names of one task may have {} bytes together: shorten them, or use patterns or several tasks",
                limits::FILE_NAMES_BYTES
            );
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        Ok(())
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
    /// Notes in `events`.
    notes: usize,
    over: bool,
    attempt: Option<Attempt>,
}

struct Attempt {
    id: AttemptId,
    queue: Arc<LinkQueue<ToWorker>>,
    started: bool,
    inflow: Inflow,
    outflow: Outflow,
}

/// Notes of a task that wait for a reader, at most; more are dropped, being for people.
const NOTES: usize = 64;

impl TaskShared {
    pub(crate) fn new(id: TaskId, mut sources: Vec<(Channel, Source)>) -> Self {
        // What can be read only once comes last: it waits until the attempt runs.
        sources.sort_by_key(|(_, source)| matches!(source, Source::Reader(_)));
        Self { id, sources: Mutex::new(sources), state: Mutex::default(), news: Event::new(), moved: Event::new() }
    }

    pub(crate) fn push(&self, event: TaskEvent) {
        let mut state = lock(&self.state);
        if matches!(event, TaskEvent::Note(_)) {
            if state.notes >= NOTES {
                return;
            }
            state.notes += 1;
        }
        state.events.push_back(event);
        drop(state);
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

    /// An attempt begins.
    pub(crate) fn on_attempt(&self, id: AttemptId, queue: Arc<LinkQueue<ToWorker>>) {
        let (inflow, outflow) = Default::default();
        lock(&self.state).attempt = Some(Attempt { id, queue, started: false, inflow, outflow });
        self.moved.notify(usize::MAX);
    }

    /// It runs.
    pub(crate) fn on_started(&self, id: AttemptId) {
        if let Some(attempt) = lock(&self.state).attempt.as_mut().filter(|attempt| attempt.id == id) {
            attempt.started = true;
        }
        self.moved.notify(usize::MAX);
        self.push(TaskEvent::Started);
    }

    /// The attempt is void: what it said and nobody has read is forgotten.
    pub(crate) fn on_withdraw(&self, id: AttemptId) {
        let mut state = lock(&self.state);
        if let Some(attempt) = state.attempt.take_if(|attempt| attempt.id == id) {
            attempt.queue.forget_bulk(id);
            let void = state.events.iter().rposition(|event| *event == TaskEvent::Again).map_or(0, |at| at + 1);
            state.events.truncate(void);
            state.notes = 0;
            if state.events.back() != Some(&TaskEvent::Again) {
                state.events.push_back(TaskEvent::Again);
            }
            drop(state);
            self.moved.notify(usize::MAX);
            self.news.notify(1);
        }
    }

    /// A piece of the attempt's output came.
    pub(crate) fn on_data(&self, data: Data) -> Result<(), ProtoError> {
        let mut state = lock(&self.state);
        let Some(attempt) = state.attempt.as_mut().filter(|attempt| attempt.id == data.attempt) else { return Ok(()) };
        let Data { channel, bytes, end, .. } = data;
        if attempt.inflow.on_received(channel, bytes.len(), end)? {
            state.events.push_back(TaskEvent::Data { channel, bytes, end });
            drop(state);
            self.news.notify(1);
        }
        Ok(())
    }

    /// The worker took input.
    pub(crate) fn on_taken(&self, taken: Taken) {
        if let Some(attempt) = lock(&self.state).attempt.as_mut().filter(|attempt| attempt.id == taken.attempt) {
            attempt.outflow.on_taken(taken.channel, taken.bytes);
        }
        self.moved.notify(usize::MAX);
    }

    /// What is to be streamed, once: whoever takes it sees to all attempts.
    pub(crate) fn take_sources(&self) -> Option<Vec<(Channel, Source)>> {
        let sources = std::mem::take(&mut *lock(&self.sources));
        (!sources.is_empty()).then_some(sources)
    }

    /// Sends all streamed content, channel after channel, to one attempt after the other until the task is over.
    ///
    /// # Errors
    /// Why this machine cannot read what it has promised; the task must then be cancelled.
    pub(crate) async fn pump(&self, mut sources: Vec<(Channel, Source)>) -> Result<(), String> {
        let mut last = None;
        while let Some(id) = self.attempt_after(last).await {
            last = Some(id);
            for (channel, source) in &mut sources {
                match self.pump_one(id, *channel, source).await {
                    Ok(()) => {}
                    Err(Pumped::Void) => break,
                    Err(Pumped::Unreadable(fault)) => return Err(fault),
                }
            }
        }
        Ok(())
    }

    async fn pump_one(&self, id: AttemptId, channel: Channel, source: &mut Source) -> Result<(), Pumped> {
        match source {
            Source::Bytes(bytes) => {
                let mut pieces = bytes.chunks(limits::CHUNK_BYTES).peekable();
                while let Some(piece) = pieces.next() {
                    self.send(id, channel, piece.to_vec(), pieces.peek().is_none()).await?;
                }
                Ok(())
            }
            Source::File(path) => {
                let opened = async_std::fs::File::open(&*path).await;
                let unreadable =
                    |fault| Pumped::Unreadable(format!("{} cannot be read any more: {fault}", path.display()));
                self.pump_reader(id, channel, &mut opened.map_err(unreadable)?).await
            }
            Source::Reader(reader) => {
                // An attempt that is handed back before it ran has read nothing of it, so another one can.
                self.until(id, |attempt| attempt.started).await?;
                let again = || Pumped::Unreadable("its stdin was read by an earlier attempt".to_owned());
                let mut reader = reader.take().ok_or_else(again)?;
                self.pump_reader(id, channel, &mut reader).await
            }
        }
    }

    async fn pump_reader(
        &self,
        id: AttemptId,
        channel: Channel,
        reader: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), Pumped> {
        loop {
            let mut bytes = vec![0; limits::CHUNK_BYTES];
            let count = {
                // Whoever waits for a person's next line must hear that nobody wants it any more.
                let void = std::pin::pin!(self.until(id, |_| false));
                match select(reader.read(&mut bytes), void).await {
                    Either::Left((count, _)) => count,
                    Either::Right(_) => return Err(Pumped::Void),
                }
            };
            let count = count.map_err(|fault| Pumped::Unreadable(format!("its input cannot be read: {fault}")))?;
            bytes.truncate(count);
            self.send(id, channel, bytes, count == 0).await?;
            if count == 0 {
                return Ok(());
            }
        }
    }

    /// Sends a piece when the windows and the link have room.
    async fn send(&self, id: AttemptId, channel: Channel, bytes: Vec<u8>, end: bool) -> Result<(), Pumped> {
        self.until(id, |attempt| attempt.outflow.reserve(channel, bytes.len())).await?;
        let queue = lock(&self.state).attempt.as_ref().map(|attempt| Arc::clone(&attempt.queue));
        let data = ToWorker::Data(Data { attempt: id, channel, end, bytes });
        queue.ok_or(Pumped::Void)?.push_bulk(data).await.map_err(|_| Pumped::Void)
    }

    /// Waits until something holds of the attempt `id`.
    async fn until(&self, id: AttemptId, mut holds: impl FnMut(&mut Attempt) -> bool) -> Result<(), Pumped> {
        loop {
            let moved = self.moved.listen();
            if holds(lock(&self.state).attempt.as_mut().filter(|attempt| attempt.id == id).ok_or(Pumped::Void)?) {
                return Ok(());
            }
            moved.await;
        }
    }

    /// Waits for another attempt than `last`; `None` once the task is over.
    async fn attempt_after(&self, last: Option<AttemptId>) -> Option<AttemptId> {
        loop {
            let moved = self.moved.listen();
            {
                let state = lock(&self.state);
                let id = state.attempt.as_ref().map(|attempt| attempt.id);
                if state.over {
                    return None;
                }
                if id.is_some() && id != last {
                    return id;
                }
            }
            moved.await;
        }
    }

    fn pop(&self) -> Option<TaskEvent> {
        let mut state = lock(&self.state);
        let event = state.events.pop_front()?;
        match &event {
            TaskEvent::Data { channel, bytes, .. } => {
                if let Some(attempt) = state.attempt.as_mut()
                    && let Some(bytes) = attempt.inflow.on_taken(*channel, bytes.len() as u64)
                {
                    let taken = Taken { attempt: attempt.id, channel: *channel, bytes };
                    attempt.queue.push(ToWorker::Taken(taken));
                }
            }
            TaskEvent::Note(_) => state.notes = state.notes.saturating_sub(1),
            _ => {}
        }
        Some(event)
    }

    fn is_over(&self) -> bool {
        lock(&self.state).over
    }
}

/// Why a stream was not sent to its end.
enum Pumped {
    /// The attempt is over.
    Void,
    /// This machine cannot read it.
    Unreadable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_one_item_are_refused_when_the_task_is_made() {
        let mut task = Ok(Task::new("command", Vec::new()));
        for index in 0..limits::FILES {
            task = task.and_then(|task| task.output(&format!("{index}")));
        }
        assert_eq!(task.unwrap().output("one-more").unwrap_err().kind, FailureKind::TooLarge);
        let long = "x".repeat(limits::FILE_NAME_BYTES);
        let mut task = Ok(Task::new("command", Vec::new()));
        for _ in 0..=limits::FILE_NAMES_BYTES / long.len() {
            task = task.and_then(|task| task.output(&long));
        }
        assert_eq!(task.unwrap_err().kind, FailureKind::TooLarge);
    }
}
