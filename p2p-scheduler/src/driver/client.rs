//! The client's driver, and the embedding API for who has tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, bounded};
use event_listener::Event;
use futures::future::{AbortHandle, Abortable};

use p2p_proto::board::{Board, BoardEvent};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, Role, TaskId};
use p2p_proto::limits;
use p2p_proto::link::{ConnectPlan, LinkError, LinkPath, LinkTransport, ToClient, ToWorker};

use super::task::{Task, TaskHandle, TaskShared};
use super::{Clock, LinkEntry, LinkQueue, Member, REPORTS, Timer, TrustStore, entropy, lock};
use crate::LinkId;
use crate::machine::client::{
    ClientInput, ClientMachine, ClientOutput, ClientReport, Needs, Status, TaskState, Waiting,
};

/// How long [`Client::close`] waits for links and board to take their last lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

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
        let clock = Clock::start();
        let (host, membership) = store.load(&member.cluster);
        let me = member.me(Role::Client).map_err(std::io::Error::other)?;
        let seed = entropy().map_err(std::io::Error::other)?;
        let (reports, read_reports) = bounded(REPORTS);
        let inner = Arc::new(ClientInner {
            core: Mutex::new(Core {
                machine: ClientMachine::new(me, clock.now(), host, membership, seed),
                links: HashMap::new(),
                tasks: HashMap::new(),
                attempts: HashMap::new(),
            }),
            member: member.clone(),
            clock,
            timer: Timer::new(),
            board,
            transport,
            store,
            reports,
            finished: Event::new(),
            next_task: AtomicU64::new(0),
        });
        let background = [spawn(Arc::clone(&inner).follow_board()), spawn(Arc::clone(&inner).follow_timer())];
        Ok(Self(Arc::new(Owner { inner, reports: read_reports, background })))
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

    async fn submit_lot(&self, mut lot: Vec<Task>, handles: &mut Vec<TaskHandle>) {
        let inner = &self.0.inner;
        while !lot.is_empty() {
            let finished = inner.finished.listen();
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
        lock(&inner.core).machine.status(inner.clock.now())
    }

    /// Why tasks wait, if any do.
    pub fn waiting(&self) -> Option<Waiting> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.waiting(inner.clock.now())
    }

    /// Why a task like this one would wait if it were submitted now; `None` if it would start at once, as far as is known after a
    /// [`Client::survey`].
    pub fn prospect(&self, task: &Task) -> Option<Waiting> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.prospect(inner.clock.now(), &Needs::of(&task.spec))
    }

    /// Where an unfinished task is, and so why it has no outcome yet; `None` once it has one.
    pub fn state(&self, task: TaskId) -> Option<TaskState> {
        let inner = &self.0.inner;
        lock(&inner.core).machine.state(inner.clock.now(), task)
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
                let finished = inner.finished.listen();
                if lock(&inner.core).links.is_empty() {
                    break;
                }
                finished.await;
            }
            inner.board.close().await;
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
    clock: Clock,
    timer: Timer,
    board: Arc<dyn Board>,
    transport: Arc<dyn LinkTransport>,
    store: Arc<dyn TrustStore>,
    reports: Sender<ClientReport>,
    /// A task or a link has ended.
    finished: Event,
    next_task: AtomicU64,
}

struct Core {
    machine: ClientMachine,
    links: HashMap<LinkId, LinkEntry<ToWorker>>,
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
        core.machine.handle(self.clock.now(), input, &mut outbox);
        for output in outbox {
            self.perform(core, output);
        }
        self.timer.set(core.machine.wake_at());
    }

    fn perform(self: &Arc<Self>, core: &mut Core, output: ClientOutput) {
        match output {
            ClientOutput::Publish(line) => {
                if let Err(fault) = self.board.publish(line) {
                    // Lines are repeated until they are answered.
                    log::debug!("a board line was dropped: {fault}");
                }
            }
            ClientOutput::Prepare(link) => self.prepare(core, link),
            ClientOutput::Connect(link, plan) => self.connect(core, link, *plan),
            ClientOutput::Close(link) => {
                if core.links.get_mut(&link).is_some_and(LinkEntry::close) {
                    core.links.remove(&link);
                    self.finished.notify(usize::MAX);
                }
            }
            ClientOutput::Send(link, item) => {
                if let Some(entry) = core.links.get(&link) {
                    entry.queue.push(item);
                }
            }
            ClientOutput::Attempt { task, link, attempt, worker } => {
                let (Some(shared), Some(entry)) = (core.tasks.get(&task), core.links.get(&link)) else { return };
                shared.on_attempt(attempt, worker, entry.queue.clone());
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
                self.finished.notify(usize::MAX);
            }
            ClientOutput::Save { host, membership } => self.store.save(&self.member.cluster, host, &membership),
            ClientOutput::Report(report) => {
                // Full: nobody reads, and reports are for people.
                let _ = self.reports.try_send(report);
            }
        }
    }

    fn prepare(self: &Arc<Self>, core: &mut Core, link: LinkId) {
        let queue = Arc::new(LinkQueue::new());
        let inner = Arc::clone(self);
        let abort = spawn(async move {
            let (pending, hints) = match inner.transport.prepare().await {
                Ok(pending) => {
                    let hints = pending.hints();
                    (Some(pending), Ok(hints))
                }
                Err(error) => (None, Err(error)),
            };
            let mut core = lock(&inner.core);
            if let Some(entry) = core.links.get_mut(&link) {
                entry.pending = pending;
                entry.abort = None;
            }
            inner.drive_locked(&mut core, ClientInput::Prepared { link, hints });
        });
        core.links.insert(link, LinkEntry { queue, pending: None, abort: Some(abort), connected: false });
    }

    fn connect(self: &Arc<Self>, core: &mut Core, link: LinkId, plan: ConnectPlan) {
        let Some(entry) = core.links.get_mut(&link) else { return };
        let Some(pending) = entry.pending.take() else { return };
        let queue = Arc::clone(&entry.queue);
        let inner = Arc::clone(self);
        entry.abort = Some(spawn(async move {
            let error = match pending.connect(plan).await {
                Ok(connected) => {
                    if !inner.on_link_up(link, connected.path.clone()) {
                        return;
                    }
                    queue.run(connected, |items| inner.on_items(link, items)).await
                }
                Err(error) => error,
            };
            inner.on_link_end(link, error);
        }));
    }

    /// The link is there. Returns `false` when it was given up meanwhile.
    fn on_link_up(self: &Arc<Self>, link: LinkId, path: LinkPath) -> bool {
        let mut core = lock(&self.core);
        let Some(entry) = core.links.get_mut(&link) else { return false };
        entry.connected = true;
        self.drive_locked(&mut core, ClientInput::LinkUp { link, path });
        true
    }

    fn on_link_end(self: &Arc<Self>, link: LinkId, error: LinkError) {
        let mut core = lock(&self.core);
        core.links.remove(&link);
        self.drive_locked(&mut core, ClientInput::LinkDown { link, error });
        drop(core);
        self.finished.notify(usize::MAX);
    }

    /// Data and acknowledgements go to their task, the rest to the machine.
    fn on_items(self: &Arc<Self>, link: LinkId, items: Vec<ToClient>) -> Result<(), ProtoError> {
        let mut core = lock(&self.core);
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
                ToClient::Taken(taken) => {
                    if let Some((_, shared)) = core.attempts.get(&taken.attempt).filter(|(of, _)| *of == link) {
                        shared.on_taken(taken);
                    }
                }
                item => control.push(item),
            }
        }
        if !control.is_empty() {
            self.drive_locked(&mut core, ClientInput::Items { link, items: control });
        }
        for input in crowded {
            self.drive_locked(&mut core, input);
        }
        Ok(())
    }

    async fn follow_board(self: Arc<Self>) {
        loop {
            let event = self.board.next().await;
            let last = matches!(event, BoardEvent::Failed(_));
            self.drive(ClientInput::Board(event));
            if last {
                return;
            }
        }
    }

    async fn follow_timer(self: Arc<Self>) {
        loop {
            self.timer.tick(&self.clock).await;
            self.drive(ClientInput::Tick);
        }
    }
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

/// Runs in the background until it ends or is aborted.
pub(super) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let (abort, registration) = AbortHandle::new_pair();
    async_std::task::spawn(Abortable::new(future, registration));
    abort
}
