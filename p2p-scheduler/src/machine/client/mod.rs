//! The client: holds tasks, links to workers, and decides which worker gets which task (S-01 to S-04, S-06).
//!
//! A task waits in the queue of its needs until a worker that fits has granted a credit; workers with a free slot come first, then
//! those that queue. Each submitted task ends in exactly one [`Outcome`] (I-01).

mod assignment;
mod belonging;
mod calls;
mod interface;
mod links;
mod locality;
mod needs;
mod standby;
mod state;
mod status;
mod stragglers;
mod tasks;
mod workers;

use std::time::Duration;

use p2p_proto::board::message::{Hello, Seek};
use p2p_proto::board::{BoardError, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerName, ProcessKey};
use p2p_proto::link::{ToClient, ToWorker};
use p2p_proto::{VERSION, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use self::calls::Calls;
pub use self::interface::{ClientInput, ClientOutput, ClientReport, Outcome};
use self::locality::Locality;
pub use self::needs::Needs;
pub use self::state::{Stays, TaskState};
pub use self::status::{Status, Waiting, WorkerStatus};
use self::stragglers::Stragglers;
use self::tasks::Tasks;
use self::workers::Workers;
use super::admission::{Admission, HostTrust, MemberKept, Wanted};
use super::directory::Directory;
use super::speaker::Speaker;
use super::{Me, Now, earliest};
use crate::{ConnectionId, LinkId};

/// The first search is repeated after this long while tasks wait, doubled each time up to [`SEEK_AGAIN_MAX`].
const SEEK_AGAIN: Duration = Duration::from_secs(1);
/// The longest time between two searches.
const SEEK_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Between two pings of one link: they measure the round trip.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The client's machine.
#[derive(Debug)]
pub struct ClientMachine {
    me: Me,
    rng: ChaCha20Rng,
    speaker: Speaker,
    admission: Admission,
    directory: Directory,
    calls: Calls,
    workers: Workers,
    tasks: Tasks,
    stragglers: Stragglers,
    locality: Locality,
    next_link: u64,
    next_connection: u64,
    /// How long a link without a connection is waited for.
    grace: Duration,
    board: BoardState,
    surveying: bool,
    seek_at: Option<Duration>,
    seek_again: Duration,
    /// The last search.
    sought_at: Option<Duration>,
    hello_at: Option<Duration>,
    /// When a link's credentials may have ended.
    expire_at: Option<Duration>,
    left: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum BoardState {
    Joining,
    Up,
    Down(String),
    Misrouted,
    Failed(BoardError),
}

impl ClientMachine {
    /// A client with what an earlier start has kept. `seed` must be fresh randomness: keys of links come from it.
    pub fn new(me: Me, now: Now, trust: HostTrust, kept: MemberKept, seed: [u8; 32]) -> Self {
        let admission = Admission::new(&me, now, trust, kept);
        Self {
            speaker: Speaker::new(me.name.clone()),
            // The calendar keeps counters of an earlier process with the same keys, should there be one, below ours.
            calls: Calls::new(now.unix << 20),
            me,
            admission,
            rng: ChaCha20Rng::from_seed(seed),
            directory: Directory::default(),
            workers: Workers::default(),
            tasks: Tasks::default(),
            stragglers: Stragglers::default(),
            locality: Locality::default(),
            next_link: 0,
            next_connection: 0,
            grace: limits::GRACE,
            board: BoardState::Joining,
            surveying: false,
            seek_at: None,
            seek_again: SEEK_AGAIN,
            sought_at: None,
            hello_at: None,
            expire_at: None,
            left: false,
        }
    }

    /// Waits so long for a link without a connection before its tasks are lost (L-06), [`limits::GRACE`] by default; a worker may wait for less.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: ClientInput, out: &mut Vec<ClientOutput>) {
        match input {
            ClientInput::Board(event) => self.on_board(now, event, out),
            ClientInput::Side(input) => self.on_side(now, input, out),
            ClientInput::Prepared { connection, hints } => self.on_prepared(now, connection, hints, out),
            ClientInput::Connected { connection, path } => self.on_connected(now, connection, path, out),
            ClientInput::Disconnected { connection, error } => self.on_disconnected(now, connection, error, out),
            ClientInput::Items { link, items } => {
                for item in items {
                    self.on_item(now, link, item, out);
                }
            }
            ClientInput::Submit(tasks) => {
                if self.left {
                    // Nobody will ever run it; whoever waits for it must hear so.
                    out.extend(tasks.into_iter().map(|(id, _)| ClientOutput::Outcome(id, Outcome::Cancelled)));
                    return;
                }
                for (id, spec) in tasks {
                    self.tasks.add(id, spec);
                }
                self.seek_if_quiet(now);
            }
            ClientInput::Cancel(task) => self.on_cancel(task, out),
            ClientInput::Crowded { task, attempt } => self.on_crowded(task, attempt, out),
            ClientInput::Survey => {
                self.surveying = true;
                self.calls.look_again();
                self.seek_soon(now);
            }
            ClientInput::Tick => {}
            ClientInput::Leave => self.leave(now, out),
        }
        if !self.left {
            if self.expire_at.is_some_and(|at| at <= now.at) {
                self.cut(now, out);
            }
            // First what is due: a task that comes back because its worker is away waits for nobody, and who did not answer makes room for
            // another call.
            self.on_time(now, out);
            self.assign(now, out);
            self.call_workers(now, out);
        }
    }

    /// When to call with a tick.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.left {
            return None;
        }
        let board = (self.board == BoardState::Up)
            .then(|| {
                earliest([
                    self.speaker.wake_at(),
                    self.admission.wake_at(),
                    self.seek_at,
                    self.hello_at,
                    self.calls.wake_at(),
                    self.workers.call_at(),
                ])
            })
            .flatten();
        let idle = (!self.surveying).then(|| self.workers.idle_at(limits::LINK_IDLE)).flatten();
        let (links, waits) = (self.workers.wake_at(), self.locality.wake_at());
        earliest([board, links, idle, self.stragglers.wake_at(), waits, self.expire_at])
    }

    fn on_board(&mut self, now: Now, event: BoardEvent, out: &mut Vec<ClientOutput>) {
        match event {
            BoardEvent::Up => {
                self.board = BoardState::Up;
                out.push(ClientOutput::Report(ClientReport::BoardUp));
                let mut wanted = Wanted::default();
                self.admission.on_up(&self.me, now, &mut self.speaker, &mut wanted);
                self.on_wanted(now, wanted, out);
                self.hello_at = Some(now.at + self.speaker.spread(self.rng.next_u32()));
                self.calls.look_again();
                self.workers.call_again_at(now.at);
                self.seek_soon(now);
            }
            BoardEvent::Line(line) => {
                if let Ok(envelope) = line.decode() {
                    self.on_message(now, envelope, out);
                }
            }
            BoardEvent::Lagged(_) | BoardEvent::Warning(_) => {}
            BoardEvent::Down { reason, retry_in } => {
                self.board = BoardState::Down(reason.clone());
                out.push(ClientOutput::Report(ClientReport::BoardDown { reason, retry_in }));
            }
            BoardEvent::Misrouted { retry_in } => {
                self.board = BoardState::Misrouted;
                out.push(ClientOutput::Report(ClientReport::Misrouted { retry_in }));
            }
            BoardEvent::Failed(error) => {
                self.board = BoardState::Failed(error.clone());
                out.push(ClientOutput::Report(ClientReport::Failed(error)));
            }
        }
    }

    fn on_message(&mut self, now: Now, envelope: Envelope, out: &mut Vec<ClientOutput>) {
        match envelope.message {
            Message::Hello(hello) => self.on_hello(now, envelope.from, hello),
            Message::Bye(bye) => {
                // A peer with a live link is not gone because a line says so (B-02).
                if self.workers.of_process(bye.process).is_none() {
                    self.directory.remove(bye.process);
                }
            }
            Message::Ready(ready) => self.on_ready(ready, out),
            Message::Refuse(refuse) => self.on_refuse(now, &refuse, out),
            message => self.on_admission(now, message, out),
        }
    }

    fn on_hello(&mut self, now: Now, name: PeerName, hello: Hello) {
        if hello.role != p2p_proto::ids::Role::Worker || !super::speaks(hello.version) {
            return;
        }
        let process = hello.process;
        let (admission, me) = (&self.admission, &self.me);
        let verify = |hello: &Hello| admission.verify(me, now, &hello.credentials, hello.role, hello.process);
        match self.directory.on_hello(now, name, hello, verify) {
            Ok(true) => self.calls.forget_failures(process),
            Ok(false) => {}
            Err(_) => return,
        }
        self.on_shown(now, process);
        // New, or with another offer than before.
        self.calls.look_again();
    }

    /// What is due by now.
    fn on_time(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        self.ping(now, out);
        self.on_links_due(now, out);
        if self.board != BoardState::Up {
            return;
        }
        let mut wanted = Wanted::default();
        self.admission.on_tick(&self.me, now, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
        let mut lines = Vec::new();
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now.at);
        if self.admission.is_member(now) {
            if due(self.hello_at)
                && let Some(credentials) = self.admission.credentials(&self.me, now).cloned()
            {
                let ttl = self.speaker.hello_ttl();
                let hello = Hello {
                    credentials,
                    process: self.me.secret.process_key(),
                    role: self.me.role,
                    version: VERSION,
                    offer: None,
                    ttl_s: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
                };
                self.speaker.say(now, Message::Hello(hello), &mut lines);
                self.hello_at = Some(now.at + ttl / 2);
            }
            if due(self.seek_at) {
                self.seek(now, &mut lines);
            }
        } else {
            // Both come with the membership.
            self.hello_at = None;
            self.seek_at = None;
        }
        self.calls.on_tick(now, &mut self.speaker, &mut lines);
        self.speaker.on_tick(now, &mut lines);
        out.extend(lines.into_iter().map(ClientOutput::Publish));
    }

    /// Something has changed: asks at once, and then ever more rarely. Two searches never follow each other faster than
    /// [`SEEK_AGAIN`], whatever changes how often (B-03).
    fn seek_soon(&mut self, now: Now) {
        self.seek_again = SEEK_AGAIN;
        let at = self.sought_at.map_or(now.at, |at| now.at.max(at + SEEK_AGAIN));
        self.seek_at = Some(self.seek_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// There is more to do. A search that goes on does not go faster for it: lines do not grow with tasks (I-09).
    fn seek_if_quiet(&mut self, now: Now) {
        if self.seek_at.is_none() {
            let at = self.sought_at.map_or(now.at, |at| now.at.max(at + self.seek_again));
            self.seek_at = Some(at);
        }
    }

    /// Asks for workers while tasks wait and the linked slots are too few; then again, ever more rarely.
    fn seek(&mut self, now: Now, lines: &mut Vec<Line>) {
        if !self.lacks_slots() {
            self.seek_at = None;
            return;
        }
        let needed = self.tasks.waiting().map(|class| self.tasks.slots_needed(class)).fold(0, u32::saturating_add);
        let runtime = if self.surveying { String::new() } else { self.tasks.waiting_runtime().unwrap_or_default() };
        let most = u32::try_from(limits::CLIENT_LINKS).unwrap_or(u32::MAX);
        let answers = if self.surveying { most } else { most.min(needed.max(1)) };
        self.speaker.say(now, Message::Seek(Seek { runtime, answers }), lines);
        self.sought_at = Some(now.at);
        self.seek_at = Some(now.at + self.seek_again);
        self.seek_again = (self.seek_again * 2).min(SEEK_AGAIN_MAX);
    }

    fn on_item(&mut self, now: Now, link: LinkId, item: ToClient, out: &mut Vec<ClientOutput>) {
        let Some(worker) = self.workers.get_mut(link) else { return };
        match item {
            ToClient::Open(open) => self.on_open(now, link, &open, out),
            ToClient::Credit(credits) => self.workers.on_credit(link, credits),
            ToClient::Revoke(credits) => self.workers.on_revoke(link, credits),
            ToClient::Started(attempt) => self.on_started(now, link, attempt, out),
            ToClient::Note(note) => {
                if let Some(task) = self.workers.task_of(link, note.attempt) {
                    out.push(ClientOutput::Note { task, attempt: note.attempt, text: note.text });
                }
            }
            ToClient::Finished(finished) => self.on_finished(now, link, finished, out),
            ToClient::Returned(returned) => self.on_returned(now, link, returned, out),
            ToClient::Draining => {
                out.push(ClientOutput::Report(ClientReport::Draining(worker.name.clone())));
                let process = worker.process;
                self.workers.on_draining(link, &self.tasks);
                self.calls.look_again();
                self.directory.remove(process);
                self.seek_soon(now);
                self.leave_if_drained(link, out);
            }
            ToClient::Pong(pong) => {
                self.workers.on_pong(now, link, pong, &self.tasks);
            }
            ToClient::Standby(standby) => self.on_standby(link, &standby, out),
            ToClient::TooLate(attempt) => self.workers.on_too_late(link, attempt),
            ToClient::Data(_) | ToClient::Taken(_) | ToClient::Fetch(_) | ToClient::Ack(_) => {}
        }
    }

    fn ping(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let nonce = self.rng.next_u64();
        for link in self.workers.due_pings(now, PING_INTERVAL) {
            out.push(ClientOutput::Send(link, ToWorker::Ping(nonce)));
        }
        if !self.surveying {
            for link in self.workers.idle_since(now, limits::LINK_IDLE) {
                out.push(ClientOutput::Send(link, ToWorker::Bye));
                self.forget_link(link, out);
                self.calls.look_again();
            }
        }
    }

    fn leave(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        for link in self.workers.ids() {
            out.push(ClientOutput::Send(link, ToWorker::Bye));
            out.push(ClientOutput::Close(link));
        }
        out.extend(self.calls.drain().into_iter().map(ClientOutput::Abandon));
        self.stragglers.clear();
        for task in self.tasks.drain() {
            out.push(ClientOutput::Outcome(task, Outcome::Cancelled));
        }
        let process = self.me.secret.process_key();
        let line = self.speaker.line(now, Message::Bye(p2p_proto::board::message::Bye { process }));
        out.push(ClientOutput::Publish(line));
    }

    fn entropy(&mut self) -> [u8; 32] {
        super::secret_of(&mut self.rng)
    }

    fn new_link_id(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    fn new_connection_id(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }

    fn process(&self) -> ProcessKey {
        self.me.secret.process_key()
    }
}
