//! The worker's driver, and the embedding API for who has slots.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, bounded};
use event_listener::Event;
use futures::FutureExt as _;
use futures::future::{AbortHandle, BoxFuture};

use p2p_proto::blob::Part;
use p2p_proto::board::Board;
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, Role, UserName};
use p2p_proto::limits;
use p2p_proto::link::item::{Channel, Data, Fetch, Finished, Note, Pong, Submit, Taken};
use p2p_proto::link::{LinkTransport, ToClient, ToWorker, record};
use p2p_proto::task::{Content, Ended, Failure, FailureKind};

use super::connections::{self, Base, Links, Occurrence, Peer, spawn};
use super::{Clock, LinkQueue, Member, REPORTS, Sides, TrustStore, entropy, lock};
use crate::LinkId;
use crate::executor::{AttemptEnd, AttemptHandle, Executor, Gone, OutputSink, Piece, Stop};
use crate::flow::{Inflow, Outflow};
use crate::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput, WorkerReport};

/// How long a worker that leaves waits for links and board to take their last lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A worker of a cluster: runs tasks of its members with an executor. Dropping it abandons whatever runs.
pub struct Worker {
    inner: Arc<WorkerInner>,
    reports: Receiver<WorkerReport>,
    background: [AbortHandle; 2],
}

impl Worker {
    /// Joins `member`'s cluster over `board`, with links by `transport`, and offers what `offer` says; what it says of runtimes is
    /// replaced by what `executor` has.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn join(
        member: &Member,
        mut offer: WorkerOffer,
        executor: Arc<dyn Executor>,
        board: Arc<dyn Board>,
        transport: Arc<dyn LinkTransport>,
        store: Arc<dyn TrustStore>,
    ) -> std::io::Result<Self> {
        offer.offer.runtimes = executor.runtimes();
        offer.offer.slots = offer.offer.slots.clamp(1, limits::SLOTS);
        offer.offer.check().map_err(std::io::Error::other)?;
        let clock = Clock::start();
        let kept = store.load(&member.cluster);
        let me = member.me(Role::Worker).map_err(std::io::Error::other)?;
        let seed = entropy().map_err(std::io::Error::other)?;
        let (reports, read_reports) = bounded(REPORTS);
        let inner = Arc::new(WorkerInner {
            core: Mutex::new(Core {
                machine: WorkerMachine::new(me, offer, clock.now(), member.trust.clone(), kept, seed),
                links: Links::default(),
                attempts: HashMap::new(),
            }),
            member: member.clone(),
            sides: Sides::new(board.witness()),
            base: Base::new(clock, board, transport),
            executor,
            store,
            reports,
            drained: AtomicBool::new(false),
        });
        let background = [
            spawn(connections::follow_board(Arc::clone(&inner))),
            spawn(connections::follow_timer(Arc::clone(&inner))),
        ];
        Ok(Self { inner, reports: read_reports, background })
    }

    /// The next report for its owner. Reports that nobody reads in time are dropped. Cancel-safe.
    pub async fn report(&self) -> Option<WorkerReport> {
        self.reports.recv().await.ok()
    }

    /// Takes no more tasks; what is here is finished, whether it runs or waits. [`Worker::left`] tells when.
    pub fn drain(&self) {
        self.inner.drive(WorkerInput::Drain);
    }

    /// Serves only these users from now on, or everybody in the cluster; links of others end at once (T-03).
    pub fn allow(&self, users: Option<std::collections::BTreeSet<UserName>>) {
        self.inner.drive(WorkerInput::Allow(users));
    }

    /// Hands back what waits, kills what runs, and leaves. [`Worker::left`] tells when.
    pub fn stop(&self) {
        self.inner.drive(WorkerInput::Stop);
    }

    /// Waits until a drain or stop is complete and the last lines are on their way. Cancel-safe.
    pub async fn left(&self) {
        let inner = &self.inner;
        while !inner.drained.load(Ordering::Acquire) {
            let ended = inner.base.ended.listen();
            if !inner.drained.load(Ordering::Acquire) {
                ended.await;
            }
        }
        let links_end = async {
            loop {
                let ended = inner.base.ended.listen();
                if lock(&inner.core).links.is_empty() {
                    break;
                }
                ended.await;
            }
            inner.base.board.close().await;
        };
        // What did not leave in time is lost; the other side notices the end of the connection.
        let _ = async_std::future::timeout(CLOSE_WITHIN, links_end).await;
    }

    /// Slots that run something, and attempts that wait.
    pub fn load(&self) -> (u32, u32) {
        lock(&self.inner.core).machine.load()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({})", self.inner.member.cluster)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
        let mut core = lock(&self.inner.core);
        for attempt in core.attempts.values() {
            attempt.handle.stop(Stop::Kill);
            attempt.sink.abandon();
        }
        core.links.abort();
    }
}

struct WorkerInner {
    core: Mutex<Core>,
    member: Member,
    sides: Sides,
    base: Base,
    executor: Arc<dyn Executor>,
    store: Arc<dyn TrustStore>,
    reports: Sender<WorkerReport>,
    drained: AtomicBool,
}

struct Core {
    machine: WorkerMachine,
    links: Links<ToClient>,
    attempts: HashMap<(LinkId, AttemptId), Attempt>,
}

struct Attempt {
    handle: AttemptHandle,
    sink: Arc<Sink>,
    inflow: Inflow,
    stage: Stage,
}

enum Stage {
    /// Nothing streams in, so nothing is to be done before it has its slot.
    Waiting(BoxFuture<'static, AttemptEnd>),
    /// Content streams in while it waits.
    Staging(AbortHandle),
    Running,
}

impl WorkerInner {
    fn drive(self: &Arc<Self>, input: WorkerInput) {
        self.drive_locked(&mut lock(&self.core), input);
    }

    fn drive_locked(self: &Arc<Self>, core: &mut Core, input: WorkerInput) {
        let mut outbox = Vec::new();
        core.machine.handle(self.base.clock.now(), input, &mut outbox);
        for output in outbox {
            self.perform(core, output);
        }
        self.base.timer.set(core.machine.wake_at());
    }

    fn perform(self: &Arc<Self>, core: &mut Core, output: WorkerOutput) {
        match output {
            WorkerOutput::Publish(line) => {
                if let Err(fault) = self.base.board.publish(line) {
                    // Lines are repeated until they are answered.
                    log::debug!("a board line was dropped: {fault}");
                }
            }
            WorkerOutput::Prepare(connection) => connections::prepare(self, core, connection),
            WorkerOutput::Connect(connection, plan) => connections::connect(self, core, connection, *plan),
            WorkerOutput::Attach { link, connection, open, resumes } => {
                core.links.attach(link, connection, open, resumes);
            }
            WorkerOutput::Abandon(connection) => {
                core.links.abandon(connection);
                self.base.ended.notify(usize::MAX);
            }
            WorkerOutput::Close(link) => {
                core.links.close(link);
                self.base.ended.notify(usize::MAX);
            }
            WorkerOutput::Send(link, item) => core.links.send(link, item),
            WorkerOutput::Pong(link, user, pong) => {
                let cache = self.executor.cache_use(&user);
                core.links.send(link, ToClient::Pong(Pong { cache, ..pong }));
            }
            WorkerOutput::Stage { link, user, submit } => self.stage(core, link, user, *submit),
            WorkerOutput::Run(link, attempt) => self.run(core, link, attempt),
            WorkerOutput::Interrupt(link, attempt) => {
                if let Some(entry) = core.attempts.get(&(link, attempt)) {
                    entry.handle.stop(Stop::Interrupt);
                }
            }
            WorkerOutput::Kill(link, attempt) => {
                let Some(entry) = core.attempts.get(&(link, attempt)) else { return };
                entry.handle.stop(Stop::Kill);
                entry.sink.abandon();
                match &entry.stage {
                    Stage::Running => return,
                    Stage::Staging(abort) => abort.abort(),
                    Stage::Waiting(_) => {}
                }
                core.attempts.remove(&(link, attempt));
            }
            WorkerOutput::Save(kept) => self.store.save(&self.member.cluster, &kept),
            WorkerOutput::Side(output) => {
                let inner = Arc::downgrade(self);
                self.sides.perform(output, move |input| {
                    if let Some(inner) = inner.upgrade() {
                        inner.drive(WorkerInput::Side(input));
                    }
                });
            }
            WorkerOutput::Report(report) => {
                // Full: nobody reads, and reports are for people.
                let _ = self.reports.try_send(report);
            }
            WorkerOutput::Drained => {
                self.drained.store(true, Ordering::Release);
                self.base.ended.notify(usize::MAX);
            }
        }
    }

    fn stage(self: &Arc<Self>, core: &mut Core, link: LinkId, user: UserName, submit: Submit) {
        let Some(queue) = core.links.queue(link) else { return };
        let attempt = submit.attempt;
        let sink = Arc::new(Sink {
            attempt,
            queue: Arc::clone(queue),
            inner: Arc::downgrade(self),
            link,
            outflow: Mutex::default(),
            moved: Event::new(),
            gone: AtomicBool::new(false),
        });
        let streams = streams_in(&submit);
        let mut inflow = Inflow::default();
        for (channel, content) in contents(&submit) {
            if matches!(content, Content::Blob(_)) {
                inflow.answers_only(channel);
            }
        }
        let (handle, io) = AttemptHandle::pair(user, Arc::clone(&sink) as Arc<dyn OutputSink>);
        // A fault of the executor must cost this attempt and not its slot.
        let executor = Arc::clone(&self.executor);
        let begun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| executor.attempt(submit.task, io)));
        let future = begun.unwrap_or_else(|_| futures::future::ready(executor_fault()).boxed());
        let stage = if streams {
            let (inner, sink) = (Arc::clone(self), Arc::clone(&sink));
            Stage::Staging(spawn(async move { inner.finish(link, &sink, future).await }))
        } else {
            Stage::Waiting(future)
        };
        core.attempts.insert((link, attempt), Attempt { handle, sink, inflow, stage });
    }

    fn run(self: &Arc<Self>, core: &mut Core, link: LinkId, attempt: AttemptId) {
        let Some(entry) = core.attempts.get_mut(&(link, attempt)) else { return };
        entry.handle.open_slot();
        if let Stage::Waiting(future) = std::mem::replace(&mut entry.stage, Stage::Running) {
            let (inner, sink) = (Arc::clone(self), Arc::clone(&entry.sink));
            self.executor.spawn(async move { inner.finish(link, &sink, future).await }.boxed());
        }
    }

    /// Sees an attempt through to its end, and tells the machine.
    async fn finish(self: Arc<Self>, link: LinkId, sink: &Sink, attempt: BoxFuture<'static, AttemptEnd>) {
        let ended = std::panic::AssertUnwindSafe(attempt).catch_unwind().await;
        let mut end = ended.unwrap_or_else(|_| executor_fault());
        let value = if end.value.len() <= limits::PAYLOAD_BYTES {
            Content::Inline(std::mem::take(&mut end.value))
        } else if end.value.len() as u64 > limits::VALUE_BYTES {
            let message = format!(
                "the function returned {} bytes; up to {} MiB can travel: return less, or write a file",
                end.value.len(),
                limits::VALUE_BYTES / (1024 * 1024)
            );
            end.ended = Ended::Failed(Failure::new(FailureKind::TooLarge, message));
            Content::default()
        } else {
            match sink.write_all(Channel::Value, &end.value).await {
                Ok(()) => Content::Streamed(end.value.len() as u64),
                Err(Gone) => {
                    // It was told to end meanwhile: half a value is none.
                    end.ended = Ended::Cancelled;
                    Content::default()
                }
            }
        };
        let mut finished = Finished {
            attempt: sink.attempt,
            ended: end.ended,
            value,
            outputs: end.outputs,
            ran_us: u64::try_from(end.ran.as_micros()).unwrap_or(u64::MAX),
        };
        keep_in_record(&mut finished);
        let mut core = lock(&self.core);
        core.attempts.remove(&(link, finished.attempt));
        self.drive_locked(&mut core, WorkerInput::Ended { link, finished });
    }
}

impl Peer for WorkerInner {
    type Out = ToClient;
    type Core = Core;

    fn base(&self) -> &Base {
        &self.base
    }

    fn core(&self) -> &Mutex<Core> {
        &self.core
    }

    fn links(core: &mut Core) -> &mut Links<ToClient> {
        &mut core.links
    }

    fn occur(self: &Arc<Self>, core: &mut Core, occurrence: Occurrence) {
        let input = match occurrence {
            Occurrence::Board(event) => WorkerInput::Board(event),
            Occurrence::Tick => WorkerInput::Tick,
            Occurrence::Prepared(connection, hints) => WorkerInput::Prepared { connection, hints },
            Occurrence::Connected(connection, path) => WorkerInput::Connected { connection, path },
            Occurrence::Disconnected(connection, error) => WorkerInput::Disconnected { connection, error },
        };
        self.drive_locked(core, input);
    }

    /// Data and what was taken go to their attempt, the rest to the machine; in order, so that data follows its `Submit`.
    fn on_items(self: &Arc<Self>, core: &mut Core, link: LinkId, items: Vec<ToWorker>) -> Result<(), ProtoError> {
        let mut control = Vec::with_capacity(items.len());
        for item in items {
            match item {
                ToWorker::Data(data) => {
                    if !control.is_empty() {
                        let items = std::mem::take(&mut control);
                        self.drive_locked(core, WorkerInput::Items { link, items });
                    }
                    on_data(core, link, data)?;
                }
                ToWorker::Taken(taken) => {
                    if let Some(attempt) = core.attempts.get(&(link, taken.attempt)) {
                        attempt.sink.on_taken(taken);
                    }
                }
                item => control.push(item),
            }
        }
        if !control.is_empty() {
            self.drive_locked(core, WorkerInput::Items { link, items: control });
        }
        Ok(())
    }
}

fn executor_fault() -> AttemptEnd {
    let message = "the worker's program has a fault: its executor panicked; its log says more";
    Failure::new(FailureKind::Worker, message).into()
}

/// An end that no record can hold would end the link, and with it all other attempts.
fn keep_in_record(finished: &mut Finished) {
    // Few have files.
    if !finished.outputs.is_empty() && !record::append(&ToClient::Finished(finished.clone()), &mut Vec::new()) {
        let message = "the names and contents of its output files do not fit one message: bring back fewer of them";
        finished.ended = Ended::Failed(Failure::new(FailureKind::TooLarge, message));
        finished.outputs.clear();
        finished.value = Content::default();
    }
}

fn on_data(core: &mut Core, link: LinkId, data: Data) -> Result<(), ProtoError> {
    // One that ended already wants no more of its input.
    let Some(attempt) = core.attempts.get_mut(&(link, data.attempt)) else { return Ok(()) };
    if matches!(attempt.stage, Stage::Waiting(_)) {
        // Nothing streams into it before it runs: what came would only fill memory, for each of a thousand that wait.
        return Err(ProtoError::Malformed("data that nobody asked for".to_owned()));
    }
    let Data { channel, bytes, end, packed, .. } = data;
    if packed && !attempt.inflow.is_of_answers(channel) {
        return Err(ProtoError::Malformed("packed data on a stream that has none".to_owned()));
    }
    if attempt.inflow.on_received(channel, bytes.len(), end)? {
        attempt.handle.content(Piece { channel, bytes, end, packed });
    }
    Ok(())
}

fn streams_in(submit: &Submit) -> bool {
    contents(submit).any(|(_, content)| !matches!(content, Content::Inline(_)))
}

/// What may come in, and on which channel.
fn contents(submit: &Submit) -> impl Iterator<Item = (Channel, &Content)> {
    let inputs = (0..).zip(&submit.task.inputs).map(|(index, file)| (Channel::Input(index), &file.content));
    inputs.chain([(Channel::Payload, &submit.task.payload)])
}

/// Where an attempt's output goes: its link's queue, as far as windows allow.
struct Sink {
    attempt: AttemptId,
    queue: Arc<LinkQueue<ToClient>>,
    inner: std::sync::Weak<WorkerInner>,
    link: LinkId,
    outflow: Mutex<Outflow>,
    moved: Event,
    gone: AtomicBool,
}

impl Sink {
    fn on_taken(&self, taken: Taken) {
        lock(&self.outflow).on_taken(taken.channel, taken.bytes);
        self.moved.notify(usize::MAX);
    }

    /// Nobody reads any more.
    fn abandon(&self) {
        self.gone.store(true, Ordering::Release);
        self.moved.notify(usize::MAX);
    }

    async fn write_all(&self, channel: Channel, bytes: &[u8]) -> Result<(), Gone> {
        let mut pieces = bytes.chunks(limits::CHUNK_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            self.send(Piece { channel, bytes: piece.to_vec(), end: pieces.peek().is_none(), packed: false }).await?;
        }
        Ok(())
    }

    async fn send(&self, piece: Piece) -> Result<(), Gone> {
        loop {
            let moved = self.moved.listen();
            if self.gone.load(Ordering::Acquire) {
                return Err(Gone);
            }
            if lock(&self.outflow).reserve(piece.channel, piece.bytes.len()) {
                break;
            }
            moved.await;
        }
        let Piece { channel, bytes, end, packed } = piece;
        self.queue.push_bulk(ToClient::Data(Data { attempt: self.attempt, channel, end, packed, bytes })).await
    }
}

impl OutputSink for Sink {
    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Gone>> {
        self.send(piece).boxed()
    }

    fn taken(&self, channel: Channel, bytes: u64) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut core = lock(&inner.core);
        let Some(attempt) = core.attempts.get_mut(&(self.link, self.attempt)) else { return };
        if let Some(bytes) = attempt.inflow.on_taken(channel, bytes) {
            self.queue.push(ToClient::Taken(Taken { attempt: self.attempt, channel, bytes }));
        }
    }

    fn fetch(&self, channel: Channel, part: Part) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut core = lock(&inner.core);
        let Some(attempt) = core.attempts.get_mut(&(self.link, self.attempt)) else { return };
        if attempt.inflow.on_asked(channel) {
            self.queue.push(ToClient::Fetch(Fetch { attempt: self.attempt, channel, part }));
        }
    }

    fn note(&self, mut text: String) {
        text.truncate(text.floor_char_boundary(limits::NOTE_BYTES));
        self.queue.push(ToClient::Note(Note { attempt: self.attempt, text }));
    }
}
