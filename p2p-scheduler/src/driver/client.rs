//! The client's driver, and the embedding API for who has tasks.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, bounded};
use async_std::task::spawn_blocking;
use futures::future::AbortHandle;

use p2p_proto::board::Board;
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, Role, TaskId};
use p2p_proto::limits;
use p2p_proto::link::item::Finished;
use p2p_proto::link::{LinkTransport, ToClient, ToWorker};
use p2p_proto::task::Content;

use super::connections::{self, Base, Links, Occurrence, Peer, spawn};
use super::task::{Names, Task, TaskHandle, TaskShared, has_large};
use super::{Clock, Member, REPORTS, Sides, TrustStore, entropy, lock};
use crate::LinkId;
use crate::machine::client::{
    ClientInput, ClientMachine, ClientOutput, ClientReport, Needs, Status, TaskState, Waiting,
};

/// How long [`Client::close`] waits for links and board to take their last lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// After so many bytes were read to name them, what has been named is submitted.
const NAMED_BYTES: u64 = 256 * 1024 * 1024;
/// Tasks that are submitted under one lock.
const LOT: usize = 65_536;

/// A client of a cluster: submits tasks. Cheap to clone; the last clone that goes closes its links and leaves.
#[derive(Clone)]
pub struct Client(Arc<Owner>);

impl Client {
    /// Joins `member`'s cluster over `board`, with links by `transport`.
    ///
    /// Returns at once: tasks may be submitted right away, and wait until a worker is there. [`Client::waiting`] says why.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn join(
        member: &Member,
        board: Arc<dyn Board>,
        transport: Arc<dyn LinkTransport>,
        store: Arc<dyn TrustStore>,
    ) -> std::io::Result<Self> {
        Self::join_with_grace(member, board, transport, store, limits::GRACE)
    }

    /// As [`Client::join`], and waits so long for a link without a connection before its tasks are lost (L-06); a worker may wait for less.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub fn join_with_grace(
        member: &Member,
        board: Arc<dyn Board>,
        transport: Arc<dyn LinkTransport>,
        store: Arc<dyn TrustStore>,
        grace: Duration,
    ) -> std::io::Result<Self> {
        let clock = Clock::start();
        let kept = store.load(&member.cluster);
        let me = member.me(Role::Client).map_err(std::io::Error::other)?;
        let seed = entropy().map_err(std::io::Error::other)?;
        let (reports, read_reports) = bounded(REPORTS);
        let inner = Arc::new(ClientInner {
            core: Mutex::new(Core {
                machine: ClientMachine::new(me, clock.now(), member.trust.clone(), kept, seed).with_grace(grace),
                links: Links::default(),
                tasks: HashMap::new(),
                attempts: HashMap::new(),
            }),
            member: member.clone(),
            sides: Sides::new(board.witness()),
            base: Base::new(clock, board, transport),
            store,
            reports,
            next_task: AtomicU64::new(0),
            names: Arc::default(),
        });
        let background = [
            spawn(connections::follow_board(Arc::clone(&inner))),
            spawn(connections::follow_timer(Arc::clone(&inner))),
        ];
        Ok(Self(Arc::new(Owner { inner, reports: read_reports, background })))
    }

    /// Keeps the names of large files in this folder, which has to be its user's alone, so that later processes need not read them again to
    /// find out that a worker has them. Files that changed within two seconds, or look different, are read again. Without this call, names
    /// are remembered while this client lives. Only the first call counts.
    pub fn keep_names(&self, folder: PathBuf) {
        self.0.inner.names.keep_in(folder);
    }

    /// Submits a task. Waits only while [`limits::CLIENT_TASKS`] are unfinished (S-07). Cancel-safe: either it was submitted or not.
    pub async fn submit(&self, task: Task) -> TaskHandle {
        let mut handles = self.submit_all([task]).await;
        handles.pop().unwrap_or_else(|| unreachable!("one task gives one handle"))
    }

    /// Submits many tasks at once, which is cheaper than one by one. Waits as [`Client::submit`] does, also amid them: what is not
    /// submitted yet is taken from `tasks` only when there is room for it.
    pub async fn submit_all(&self, tasks: impl IntoIterator<Item = Task>) -> Vec<TaskHandle> {
        let mut tasks = tasks.into_iter();
        let mut handles = Vec::new();
        loop {
            let lot: Vec<Task> = tasks.by_ref().take(LOT).collect();
            if lot.is_empty() {
                return handles;
            }
            self.submit_lot(lot, &mut handles).await;
        }
    }

    /// Names what is large in it, and submits it. What took long to name is not waited for by what was named before.
    async fn submit_lot(&self, mut lot: Vec<Task>, handles: &mut Vec<TaskHandle>) {
        while lot.iter().any(has_large) {
            let names = Arc::clone(&self.0.inner.names);
            let (named, rest) = spawn_blocking(move || {
                let (mut read, mut at) = (0, 0);
                while at < lot.len() && read < NAMED_BYTES {
                    read += names.name(&mut lot[at]);
                    at += 1;
                }
                let rest = lot.split_off(at);
                (lot, rest)
            })
            .await;
            self.submit_named(named, handles).await;
            lot = rest;
        }
        self.submit_named(lot, handles).await;
    }

    async fn submit_named(&self, mut lot: Vec<Task>, handles: &mut Vec<TaskHandle>) {
        let inner = &self.0.inner;
        while !lot.is_empty() {
            let finished = inner.base.ended.listen();
            if !inner.submit_what_fits(&mut lot, handles) {
                finished.await;
            }
        }
    }

    /// Links to every worker that answers, so that [`Client::status`] knows all about them.
    pub fn survey(&self) {
        self.0.inner.drive(ClientInput::Survey);
    }

    /// What is known about the cluster now.
    pub fn status(&self) -> Status {
        let inner = &self.0.inner;
        lock(&inner.core).machine.status(inner.base.clock.now())
    }

    /// Why tasks wait, if any do.
    pub fn waiting(&self) -> Option<Waiting> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.waiting(inner.base.clock.now())
    }

    /// Why a task like this one would wait if it were submitted now; `None` if it would start at once, as far as is known after a
    /// [`Client::survey`].
    pub fn prospect(&self, task: &Task) -> Option<Waiting> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.prospect(inner.base.clock.now(), &Needs::of(&task.spec))
    }

    /// Where an unfinished task is, and so why it has no outcome yet; `None` once it has one.
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.state(inner.base.clock.now(), task)
    }

    /// The next report for a person. Reports that nobody reads in time are dropped. Cancel-safe.
    pub async fn report(&self) -> Option<ClientReport> {
        self.0.reports.recv().await.ok()
    }

    /// Cancels what is unfinished, says goodbye, and waits until that is on its way, for at most two seconds.
    pub async fn close(self) {
        let inner = &self.0.inner;
        inner.drive(ClientInput::Leave);
        let links_end = async {
            loop {
                let finished = inner.base.ended.listen();
                if lock(&inner.core).links.is_empty() {
                    break;
                }
                finished.await;
            }
            inner.base.board.close().await;
        };
        // What did not leave in time is lost; the other side notices the end of the connection.
        let _ = async_std::future::timeout(CLOSE_WITHIN, links_end).await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.inner.member.cluster)
    }
}

struct Owner {
    inner: Arc<ClientInner>,
    reports: Receiver<ClientReport>,
    background: [AbortHandle; 2],
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Whoever still waits for a task hears that it is over; links end in order, by tasks of their own.
        self.inner.drive(ClientInput::Leave);
        for task in &self.background {
            task.abort();
        }
    }
}

pub(crate) struct ClientInner {
    core: Mutex<Core>,
    member: Member,
    sides: Sides,
    base: Base,
    store: Arc<dyn TrustStore>,
    reports: Sender<ClientReport>,
    next_task: AtomicU64,
    names: Arc<Names>,
}

pub(crate) struct Core {
    machine: ClientMachine,
    links: Links<ToWorker>,
    tasks: HashMap<TaskId, Arc<TaskShared>>,
    attempts: HashMap<AttemptId, (LinkId, Arc<TaskShared>)>,
}

impl ClientInner {
    /// Submits the first of `lot`, up to [`limits::CLIENT_TASKS`] unfinished ones. Returns `false` when there is no room for any.
    fn submit_what_fits(self: &Arc<Self>, lot: &mut Vec<Task>, handles: &mut Vec<TaskHandle>) -> bool {
        let mut core = lock(&self.core);
        let room = limits::CLIENT_TASKS.saturating_sub(core.tasks.len()).min(lot.len());
        let mut submitted = Vec::with_capacity(room);
        for task in lot.drain(..room) {
            let id = TaskId(self.next_task.fetch_add(1, Ordering::Relaxed));
            let shared = Arc::new(TaskShared::new(id, task.sources));
            handles.push(TaskHandle::new(Arc::clone(&shared), Arc::downgrade(self)));
            core.tasks.insert(id, shared);
            submitted.push((id, task.spec));
        }
        if room > 0 {
            self.drive_locked(&mut core, ClientInput::Submit(submitted));
        }
        room > 0
    }

    pub(crate) fn cancel(self: &Arc<Self>, task: TaskId) {
        self.drive(ClientInput::Cancel(task));
    }

    fn drive(self: &Arc<Self>, input: ClientInput) {
        self.drive_locked(&mut lock(&self.core), input);
    }

    fn drive_locked(self: &Arc<Self>, core: &mut Core, input: ClientInput) {
        let mut outbox = Vec::new();
        core.machine.handle(self.base.clock.now(), input, &mut outbox);
        for output in outbox {
            self.perform(core, output);
        }
        self.base.timer.set(core.machine.wake_at());
    }

    fn perform(self: &Arc<Self>, core: &mut Core, output: ClientOutput) {
        match output {
            ClientOutput::Publish(line) => {
                if let Err(fault) = self.base.board.publish(line) {
                    // Lines are repeated until they are answered.
                    log::debug!("a board line was dropped: {fault}");
                }
            }
            ClientOutput::Prepare(connection) => connections::prepare(self, core, connection),
            ClientOutput::Connect(connection, plan) => connections::connect(self, core, connection, *plan),
            ClientOutput::Attach { link, connection, open, resumes } => {
                core.links.attach(link, connection, open, resumes);
            }
            ClientOutput::Abandon(connection) => {
                core.links.abandon(connection);
                self.base.ended.notify(usize::MAX);
            }
            ClientOutput::Close(link) => {
                core.links.close(link);
                self.base.ended.notify(usize::MAX);
            }
            ClientOutput::Send(link, item) => core.links.send(link, item),
            ClientOutput::Attempt { task, link, attempt, worker } => {
                let (Some(shared), Some(queue)) = (core.tasks.get(&task), core.links.queue(link)) else { return };
                shared.on_attempt(attempt, worker, queue.clone());
                core.attempts.insert(attempt, (link, Arc::clone(shared)));
                if shared.has_sources() {
                    async_std::task::spawn(pump(Arc::downgrade(self), Arc::clone(shared), attempt));
                }
            }
            ClientOutput::Withdraw { task, attempt } => {
                core.attempts.remove(&attempt);
                if let Some(shared) = core.tasks.get(&task) {
                    shared.on_withdraw(attempt);
                }
            }
            ClientOutput::Started { task, attempt } => {
                if let Some(shared) = core.tasks.get(&task) {
                    shared.on_started(attempt);
                }
            }
            ClientOutput::Note { task, attempt, text } => {
                if let Some(shared) = core.tasks.get(&task) {
                    shared.on_note(attempt, text);
                }
            }
            ClientOutput::Outcome(task, outcome) => {
                if let Some(shared) = core.tasks.remove(&task) {
                    for attempt in shared.on_outcome(outcome) {
                        core.attempts.remove(&attempt);
                    }
                }
                self.base.ended.notify(usize::MAX);
            }
            ClientOutput::Save(kept) => self.store.save(&self.member.cluster, &kept),
            ClientOutput::Side(output) => {
                let inner = Arc::downgrade(self);
                self.sides.perform(output, move |input| {
                    if let Some(inner) = inner.upgrade() {
                        inner.drive(ClientInput::Side(input));
                    }
                });
            }
            ClientOutput::Report(report) => {
                // Full: nobody reads, and reports are for people.
                let _ = self.reports.try_send(report);
            }
        }
    }
}

impl Peer for ClientInner {
    type Out = ToWorker;
    type Core = Core;

    fn base(&self) -> &Base {
        &self.base
    }

    fn core(&self) -> &Mutex<Core> {
        &self.core
    }

    fn links(core: &mut Core) -> &mut Links<ToWorker> {
        &mut core.links
    }

    fn occur(self: &Arc<Self>, core: &mut Core, occurrence: Occurrence) {
        let input = match occurrence {
            Occurrence::Board(event) => ClientInput::Board(event),
            Occurrence::Tick => ClientInput::Tick,
            Occurrence::Prepared(connection, hints) => ClientInput::Prepared { connection, hints },
            Occurrence::Connected(connection, path) => ClientInput::Connected { connection, path },
            Occurrence::Disconnected(connection, error) => ClientInput::Disconnected { connection, error },
        };
        self.drive_locked(core, input);
    }

    /// Data and what was taken go to their task, the rest to the machine.
    fn on_items(self: &Arc<Self>, core: &mut Core, link: LinkId, items: Vec<ToClient>) -> Result<(), ProtoError> {
        let mut control = Vec::with_capacity(items.len());
        let mut crowded = Vec::new();
        for item in items {
            match item {
                ToClient::Data(data) => {
                    let attempt = data.attempt;
                    if let Some((_, shared)) = core.attempts.get(&attempt).filter(|(of, _)| *of == link)
                        && shared.on_data(data)?
                    {
                        crowded.push(ClientInput::Crowded { task: shared.id, attempt });
                    }
                }
                ToClient::Fetch(fetch) => {
                    if let Some((_, shared)) = core.attempts.get(&fetch.attempt).filter(|(of, _)| *of == link) {
                        shared.on_fetch(fetch)?;
                    }
                }
                ToClient::Taken(taken) => {
                    if let Some((_, shared)) = core.attempts.get(&taken.attempt).filter(|(of, _)| *of == link) {
                        shared.on_taken(taken);
                    }
                }
                ToClient::Finished(finished) if has_blobs(&finished) => {
                    return Err(ProtoError::Malformed("a result that is named and not sent".to_owned()));
                }
                item => control.push(item),
            }
        }
        if !control.is_empty() {
            self.drive_locked(core, ClientInput::Items { link, items: control });
        }
        for input in crowded {
            self.drive_locked(core, input);
        }
        Ok(())
    }
}

/// Results are sent, whatever their size: nobody has them yet.
fn has_blobs(finished: &Finished) -> bool {
    let mut contents = finished.outputs.iter().map(|file| &file.content).chain([&finished.value]);
    contents.any(|content| matches!(content, Content::Blob(_)))
}

/// Sends a task's streamed input to one attempt; a task whose input cannot be read is cancelled.
async fn pump(inner: Weak<ClientInner>, shared: Arc<TaskShared>, attempt: AttemptId) {
    if let Err(fault) = shared.pump(attempt).await {
        shared.on_unreadable(fault);
        if let Some(inner) = inner.upgrade() {
            inner.cancel(shared.id);
        }
    }
}
