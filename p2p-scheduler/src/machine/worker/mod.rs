//! The worker: offers slots, grants credits, queues and runs attempts (S-01, S-02, S-04, S-06).
//!
//! Slots belong to the worker, so what runs next is decided here, when a slot frees: fairly among users, by what they have used. A client sends
//! no task without a credit. When a client's link ends, its attempts end with it; one that only lost its connection is waited for.

mod answers;
mod attempts;
mod belonging;
mod credit;
mod fair;
mod interface;
mod links;
mod queue;
mod standby;

use std::time::Duration;

use p2p_proto::board::message::{Bye, Hello, Offer, Seek};
use p2p_proto::board::{BoardEvent, Envelope, Message};
use p2p_proto::ids::{AttemptId, ProcessKey};
use p2p_proto::link::item::{Finished, Pong, Returned, Submit};
use p2p_proto::link::{LinkError, ToClient, ToWorker};
use p2p_proto::task::{Ended, ReturnReason, TaskSpec};
use p2p_proto::{VERSION, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use self::answers::Answers;
use self::attempts::Attempts;
pub use self::interface::{WorkerInput, WorkerOffer, WorkerOutput, WorkerReport};
use self::links::Links;
use self::queue::{Waiting, Withdrawn};
use super::admission::{Admission, HostTrust, MemberKept, Wanted};
use super::speaker::{FEW_PEERS, Speaker};
use super::{Me, Now, Table, earliest};
use crate::{ConnectionId, LinkId};

/// A worker that leaves waits so long for its clients to say that they have everything: one that is silent is noticed within this.
const LAST_WORDS: Duration = limits::LINK_SILENCE.saturating_mul(2);

/// The worker's machine.
#[derive(Debug)]
pub struct WorkerMachine {
    me: Me,
    config: WorkerOffer,
    rng: ChaCha20Rng,
    speaker: Speaker,
    admission: Admission,
    answers: Answers,
    links: Links,
    attempts: Attempts,
    /// Whether users competed when credits were granted last.
    contended: bool,
    next_link: u64,
    next_connection: u64,
    up: bool,
    hello_at: Option<Duration>,
    draining: bool,
    left: bool,
    /// It drains, and nothing runs and nobody is away: it leaves then at the latest.
    leave_at: Option<Duration>,
    /// A hello was said since the board came up.
    at_work: bool,
    /// When a link's credentials may have ended.
    expire_at: Option<Duration>,
}

impl WorkerMachine {
    /// A worker with what an earlier start has kept. `seed` must be fresh randomness: keys of links come from it.
    pub fn new(me: Me, config: WorkerOffer, now: Now, trust: HostTrust, kept: MemberKept, seed: [u8; 32]) -> Self {
        let admission = Admission::new(&me, now, trust, kept);
        Self {
            speaker: Speaker::new(me.name.clone()),
            attempts: Attempts::new(&config.offer, config.weights.clone()),
            contended: false,
            admission,
            me,
            config,
            rng: ChaCha20Rng::from_seed(seed),
            answers: Answers::default(),
            links: Links::default(),
            next_link: 0,
            next_connection: 0,
            up: false,
            hello_at: None,
            draining: false,
            left: false,
            leave_at: None,
            at_work: false,
            expire_at: None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: WorkerInput, out: &mut Vec<WorkerOutput>) {
        if self.left {
            return;
        }
        // Whose demand, attempts or lengths may change: only its credits may.
        let touched = match &input {
            WorkerInput::Items { link, .. } | WorkerInput::Ended { link, .. } => Some(*link),
            _ => None,
        };
        match input {
            WorkerInput::Board(event) => self.on_board(now, event, out),
            WorkerInput::Side(input) => self.on_side(now, input, out),
            WorkerInput::Allow(allow) => self.on_allow(now, allow, out),
            WorkerInput::Prepared { connection, hints } => self.on_prepared(now, connection, hints, out),
            WorkerInput::Connected { connection, path } => self.on_connected(now, connection, path, out),
            WorkerInput::Disconnected { connection, error } => self.on_disconnected(now, connection, error, out),
            WorkerInput::Items { link, items } => {
                for item in items {
                    self.on_item(now, link, item, out);
                }
            }
            WorkerInput::Ended { link, finished } => self.on_ended(now, link, finished, out),
            WorkerInput::Tick => {}
            WorkerInput::Drain => self.on_drain(out),
            WorkerInput::Stop => {
                self.on_drain(out);
                for (link, attempt) in self.attempts.withdraw_queued(now.at) {
                    self.hand_back(link, attempt, ReturnReason::Draining, out);
                }
                // Nobody asked for the end of what runs here: to its client it is lost with the link, and runs again elsewhere if it may.
                for link in self.links.ids() {
                    self.drop_link(now, link, LinkError::Closed, out);
                }
                // What clients that are gone have left.
                out.extend(self.attempts.running().map(|(link, attempt)| WorkerOutput::Kill(link, attempt)));
            }
        }
        if self.expire_at.is_some_and(|at| at <= now.at) {
            self.cut(now, out);
        }
        self.end_graces(now, out);
        self.run_next(now, out);
        self.grant(touched, out);
        self.on_time(now, out);
        if self.draining && self.attempts.is_idle() {
            let waits = if self.links.owes_who_is_away() {
                // He wakes this by coming back, which gives him his time anew, or by the end of his grace.
                self.leave_at = None;
                true
            } else {
                let leave_at = *self.leave_at.get_or_insert(now.at + LAST_WORDS);
                self.links.owes_results() && now.at < leave_at
            };
            if !waits {
                self.leave(now, out);
            }
        }
    }

    /// When to call with a tick.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.left {
            return None;
        }
        let board = earliest([self.speaker.wake_at(), self.admission.wake_at(), self.hello_at]);
        earliest([
            board.filter(|_| self.up),
            self.attempts.wake_at(),
            self.links.wake_at(),
            self.leave_at,
            self.expire_at,
        ])
    }

    /// Slots that run something, and attempts that wait.
    pub fn load(&self) -> (u32, u32) {
        (self.attempts.busy(), self.attempts.queued())
    }

    /// What it holds of others, and may hold at most (I-07).
    pub fn tables(&self) -> [Table; 4] {
        let links = Table {
            what: "links and set-ups",
            holds: self.links.len() + self.answers.len(),
            most: limits::WORKER_LINKS,
        };
        let half_open = Table { what: "set-ups", holds: self.answers.len(), most: limits::HALF_OPEN };
        let slots = self.config.offer.slots;
        let of_each = slots.saturating_add(limits::PREFETCH.max(slots)) as usize;
        let attempts = Table {
            what: "attempts that wait",
            holds: self.attempts.queued() as usize,
            most: self.links.len().saturating_mul(of_each),
        };
        [self.speaker.table(), links, half_open, attempts]
    }

    fn on_board(&mut self, now: Now, event: BoardEvent, out: &mut Vec<WorkerOutput>) {
        match event {
            BoardEvent::Up => {
                self.up = true;
                self.at_work = false;
                out.push(WorkerOutput::Report(WorkerReport::BoardUp));
                let mut wanted = Wanted::default();
                self.admission.on_up(&self.me, now, &mut self.speaker, &mut wanted);
                self.on_wanted(now, wanted, out);
                // After a restart everybody comes at once: spread over N/10 s (B-03).
                self.hello_in_turn(now);
            }
            BoardEvent::Line(line) => {
                if let Ok(envelope) = line.decode() {
                    self.on_message(now, envelope, out);
                }
            }
            BoardEvent::Lagged(_) | BoardEvent::Warning(_) => {}
            BoardEvent::Down { reason, retry_in } => {
                self.up = false;
                out.push(WorkerOutput::Report(WorkerReport::BoardDown { reason, retry_in }));
            }
            BoardEvent::Misrouted { retry_in } => {
                self.up = false;
                out.push(WorkerOutput::Report(WorkerReport::Misrouted {
                    retry_in,
                    why: self.admission.outside(&self.me),
                }));
            }
            BoardEvent::Failed(error) => {
                self.up = false;
                out.push(WorkerOutput::Report(WorkerReport::Failed(error)));
            }
        }
    }

    fn on_message(&mut self, now: Now, envelope: Envelope, out: &mut Vec<WorkerOutput>) {
        match envelope.message {
            Message::Seek(seek) => self.on_seek(now, &seek),
            Message::Connect(connect) if connect.callee == self.me.keys() => self.on_connect(now, connect, out),
            Message::Hello(hello) => self.on_hello(now, &hello),
            message => self.on_admission(now, message, out),
        }
    }

    fn on_seek(&mut self, now: Now, seek: &Seek) {
        let offered = seek.runtime.is_empty() || self.config.offer.runtimes.contains(&seek.runtime);
        // Anybody can ask: who was answered lately, or what members wait for, comes first.
        let asked_much = !self.speaker.is_quiet(now) && self.hello_at.is_some();
        if !offered || asked_much {
            return;
        }
        let peers = self.speaker.peers();
        if peers <= FEW_PEERS || seek.answers >= peers || self.rng.next_u32() % peers < seek.answers {
            self.hello_in_turn(now);
        }
    }

    /// Says hello when its turn among all peers comes, which is at once where they are few.
    fn hello_in_turn(&mut self, now: Now) {
        let pause = self.speaker.spread(self.rng.next_u32());
        self.hello_after(now, pause);
    }

    fn hello_within(&mut self, now: Now, limit: Duration) {
        let pause = limit.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
        self.hello_after(now, pause);
    }

    fn hello_after(&mut self, now: Now, pause: Duration) {
        if !self.draining {
            let at = now.at + pause;
            self.hello_at = Some(self.hello_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// What is due by now.
    fn on_time(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        if !self.up {
            return;
        }
        let mut wanted = Wanted::default();
        self.admission.on_tick(&self.me, now, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
        let mut lines = Vec::new();
        if self.hello_at.is_some_and(|at| at <= now.at) {
            // Without a membership there is nothing to say yet; the admission says hello when it comes.
            self.hello_at = None;
            if let Some(credentials) = self.admission.credentials(&self.me, now) {
                let ttl = self.speaker.hello_ttl();
                let mut offer = self.config.offer.clone();
                offer.free = offer.slots.saturating_sub(self.attempts.busy());
                let hello = Hello {
                    credentials: credentials.clone(),
                    process: self.me.secret.process_key(),
                    role: self.me.role,
                    version: VERSION,
                    offer: Some(offer),
                    ttl_s: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
                };
                self.speaker.say(now, Message::Hello(hello), &mut lines);
                self.hello_at = Some(now.at + ttl / 2);
                if !std::mem::replace(&mut self.at_work, true) {
                    out.push(WorkerOutput::Report(WorkerReport::AtWork));
                }
            }
        }
        self.speaker.on_tick(now, &mut lines);
        out.extend(lines.into_iter().map(WorkerOutput::Publish));
    }

    fn on_item(&mut self, now: Now, link: LinkId, item: ToWorker, out: &mut Vec<WorkerOutput>) {
        let Some(client) = self.links.get_mut(&link) else { return };
        match item {
            ToWorker::Open(open) => self.on_open(now, link, &open, out),
            ToWorker::Want(want) => client.demand.on_want(want),
            ToWorker::Submit(submit) => self.on_submit(now, link, submit, out),
            ToWorker::Cancel(attempt) => match self.attempts.withdraw(now.at, link, attempt) {
                Withdrawn::Queued => self.hand_back(link, attempt, ReturnReason::Cancelled, out),
                Withdrawn::Running => out.push(WorkerOutput::Interrupt(link, attempt)),
                // It ended meanwhile: its `Finished` is under way.
                Withdrawn::Unknown => {}
            },
            ToWorker::Recall(attempt) => match self.attempts.withdraw(now.at, link, attempt) {
                Withdrawn::Queued => self.hand_back(link, attempt, ReturnReason::Recalled, out),
                Withdrawn::Running => out.push(WorkerOutput::Send(link, ToClient::TooLate(attempt))),
                // As above.
                Withdrawn::Unknown => {}
            },
            ToWorker::Ping(nonce) => {
                let user = client.verified.user.clone();
                let (busy, queued) = self.load();
                let pong = Pong { nonce, slots: self.config.offer.slots, busy, queued, cache: None };
                out.push(WorkerOutput::Pong(link, user, pong));
            }
            ToWorker::Bye => {
                self.drop_link(now, link, LinkError::Closed, out);
                self.hello_within(now, self.speaker.hello_ttl() / 4);
            }
            ToWorker::Standby(standby) => self.on_standby(now, link, &standby, out),
            ToWorker::Data(_) | ToWorker::Taken(_) | ToWorker::Ack(_) => {}
        }
    }

    fn on_submit(&mut self, now: Now, link: LinkId, submit: Submit, out: &mut Vec<WorkerOutput>) {
        let Some(client) = self.links.get_mut(&link) else { return };
        let attempt = submit.attempt;
        client.has_submitted = true;
        let credited = client.demand.on_submit();
        let back = if self.draining {
            Some(ReturnReason::Draining)
        } else if !credited {
            Some(ReturnReason::NoCredit)
        } else if !runs_here(&submit.task, &self.config.offer) {
            Some(ReturnReason::Mismatch)
        } else {
            None
        };
        if let Some(why) = back {
            out.push(WorkerOutput::Send(link, ToClient::Returned(Returned { attempt, why })));
            return;
        }
        if let Err(failure) = submit.task.check() {
            let ended = Ended::Failed(failure);
            let finished = Finished { attempt, ended, value: Default::default(), outputs: Vec::new(), ran_us: 0 };
            out.push(WorkerOutput::Send(link, ToClient::Finished(finished)));
            return;
        }
        let task = &submit.task;
        let waiting = Waiting {
            attempt,
            // All slots: then nothing runs beside it (S-04).
            cpus: if submit.alone { self.config.offer.slots } else { task.cpus() },
            memory_mib: task.memory_mib,
            priority: task.priority,
            stdin: task.stdin,
        };
        if self.attempts.queue(now.at, link, &client.verified.user, waiting) {
            out.push(WorkerOutput::Stage { link, user: client.verified.user.clone(), submit: Box::new(submit) });
        } else {
            self.drop_link(now, link, LinkError::Broken("its ids of attempts do not rise".to_owned()), out);
        }
    }

    /// Tells the driver and the client of an attempt that was withdrawn from the queue (S-04).
    fn hand_back(&mut self, link: LinkId, attempt: AttemptId, why: ReturnReason, out: &mut Vec<WorkerOutput>) {
        out.push(WorkerOutput::Kill(link, attempt));
        out.push(WorkerOutput::Send(link, ToClient::Returned(Returned { attempt, why })));
    }

    fn on_ended(&mut self, now: Now, link: LinkId, finished: Finished, out: &mut Vec<WorkerOutput>) {
        // One that was handed back while it ended has had its answer (S-04).
        if !self.attempts.on_ended(now.at, link, finished.attempt) {
            return;
        }
        if let Some(client) = self.links.get_mut(&link) {
            client.demand.on_ran(finished.ran_us);
            out.push(WorkerOutput::Send(link, ToClient::Finished(finished)));
        }
    }

    /// Gives free slots to whoever is next.
    fn run_next(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        while let Some((link, attempt)) = self.attempts.next_to_run(now.at) {
            out.push(WorkerOutput::Run(link, attempt));
        }
        for (link, attempt) in self.attempts.due_announcements(now.at) {
            out.push(WorkerOutput::Send(link, ToClient::Started(attempt)));
        }
    }

    /// Grants credits where there is demand: to the link from which something came, or to all when users begin or cease to compete.
    fn grant(&mut self, touched: Option<LinkId>, out: &mut Vec<WorkerOutput>) {
        if self.draining {
            return;
        }
        let contended = self.attempts.is_contended();
        let turned = std::mem::replace(&mut self.contended, contended) != contended;
        let links = match touched {
            Some(link) if !turned => self.links.connected(link..=link),
            None if !turned => return,
            _ => self.links.connected(LinkId(0)..=LinkId(u64::MAX)),
        };
        for (link, client) in links {
            let held = self.attempts.held(*link);
            if let Some(credits) = client.demand.grant(self.config.offer.slots, held, contended) {
                out.push(WorkerOutput::Send(*link, ToClient::Credit(credits)));
            }
        }
    }

    fn on_drain(&mut self, out: &mut Vec<WorkerOutput>) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.hello_at = None;
        for link in self.links.ids() {
            out.push(WorkerOutput::Send(link, ToClient::Draining));
        }
        let (running, queued) = (self.attempts.running().count(), self.attempts.queued());
        out.push(WorkerOutput::Report(WorkerReport::Draining { running, queued }));
    }

    fn leave(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        self.left = true;
        let bye = Message::Bye(Bye { process: self.me.secret.process_key() });
        let line = self.speaker.line(now, bye);
        out.push(WorkerOutput::Publish(line));
        out.extend(std::mem::take(&mut self.links).ids().into_iter().map(WorkerOutput::Close));
        out.extend(self.answers.drain().into_iter().map(WorkerOutput::Abandon));
        out.push(WorkerOutput::Drained);
    }

    fn entropy(&mut self) -> [u8; 32] {
        super::secret_of(&mut self.rng)
    }

    /// Whether one more link may be set up, for whoever asks.
    fn has_room(&self) -> bool {
        self.links.len() + self.answers.len() < limits::WORKER_LINKS
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

/// Whether a worker with this offer can ever run such a task (S-03).
fn runs_here(task: &TaskSpec, offer: &Offer) -> bool {
    offer.runtimes.contains(&task.runtime)
        && task.cpus() <= offer.slots
        && task.memory_mib <= offer.memory_mib
        && task.labels.iter().all(|label| offer.labels.contains(label))
}
