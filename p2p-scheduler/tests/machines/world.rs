//! A whole cluster in virtual time: real machines, real handshakes and records, no I/O. The seed decides what the board loses, how long
//! things take, and in which order what is simultaneous happens. Invariants are checked after every step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::board::{BoardEvent, Line};
use p2p_proto::ids::{AttemptId, MachineKey, PeerName, Role, TaskId, UserName};
use p2p_proto::limits;
use p2p_proto::link::item::{Finished, Item, Open};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, LinkPath, Stream, ToClient, ToWorker};
use p2p_proto::task::{Content, Ended, TaskSpec};
use p2p_proto::trust::{Identity, Membership, ProcessSecret};
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientOutput, ClientReport, Outcome};
use p2p_scheduler::machine::host::{HostInput, HostMachine, HostOutput, HostReport};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput, WorkerReport};
use p2p_scheduler::machine::{Me, Now};
use p2p_scheduler::memory::{Faults, Mangler};
use p2p_scheduler::{ConnectionId, LinkId, Waiting};

pub(crate) const CLUSTER: &str = "alice/friends";
/// The calendar when a world begins.
pub(crate) const EPOCH: u64 = 1_800_000_000;
/// From one peer to another.
const LINK_LATENCY: Duration = Duration::from_millis(5);
const BOARD_LATENCY: Duration = Duration::from_millis(30);

pub(crate) type Peer = usize;
type End = (Peer, LinkId);
/// One side of a connection.
type Plug = (Peer, ConnectionId);

#[allow(clippy::large_enum_variant, reason = "a world has a few dozen of them")]
pub(crate) enum Machine {
    Host(HostMachine),
    Worker(WorkerMachine),
    Client(ClientMachine),
    /// Its process has ended.
    Gone,
}

struct Place {
    machine: Machine,
    me: Me,
    mangler: Mangler,
    up: bool,
    slots: u32,
    kept: (Option<MachineKey>, Option<Membership>),
    workers_reports: Vec<WorkerReport>,
    client_reports: Vec<ClientReport>,
    host_reports: Vec<HostReport>,
}

enum Happening {
    Board(Peer, BoardEvent),
    Prepared(Plug),
    Connected(Plug),
    Disconnected(Plug, LinkError),
    /// A record on a wire.
    Record(usize, Plug, Vec<u8>),
    Ended(End, AttemptId, Ended),
    NobodyCame([u8; 32]),
}

struct Dial {
    plug: Plug,
    binding: [u8; 32],
    role: Role,
}

/// A connection: a record that is under way when it is cut is lost.
struct Wire {
    plugs: [Plug; 2],
    cut: bool,
}

/// One side of a link.
enum Side {
    Client(Stream<ToWorker, ToClient>),
    Worker(Stream<ToClient, ToWorker>),
}

struct Link {
    side: Side,
    carrier: Option<Plug>,
    /// Its machine has closed it: it ends when everything is sent.
    closing: bool,
}

pub(crate) struct Task {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) runs: u32,
    once: bool,
}

pub(crate) struct World {
    pub(crate) at: Duration,
    places: Vec<Place>,
    happenings: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    rng: u64,
    dials: HashMap<[u8; 32], Dial>,
    wires: Vec<Wire>,
    wired: HashMap<Plug, usize>,
    /// Links that a machine has, by its end.
    links: HashMap<End, Link>,
    /// What a connection carries.
    carries: HashMap<Plug, LinkId>,
    /// Who is at the other end of a link.
    others: HashMap<End, Peer>,
    /// Slots that it takes and how long it will run.
    staged: HashMap<(End, AttemptId), (u32, Duration)>,
    /// Slots that it takes and since when it runs.
    running: HashMap<(End, AttemptId), (u32, Duration)>,
    /// How many times as long everything takes.
    slowness: HashMap<Peer, u32>,
    starts: HashMap<Peer, usize>,
    /// Credits of a client's link, as the world counts them.
    credits: HashMap<End, i64>,
    attempts: HashMap<(Peer, AttemptId), TaskId>,
    forged: HashSet<(Peer, AttemptId)>,
    uncounted: Option<Peer>,
    pub(crate) tasks: HashMap<(Peer, TaskId), Task>,
    next_task: u64,
    /// Every line that was said, by whom.
    pub(crate) said: Vec<(Duration, Peer, Line)>,
    machines: HashMap<String, [u8; 32]>,
    /// Connections that are refused: to say so is up to the test.
    pub(crate) refuse_links: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            at: Duration::from_secs(1),
            places: Vec::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            rng: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            dials: HashMap::new(),
            wires: Vec::new(),
            wired: HashMap::new(),
            links: HashMap::new(),
            carries: HashMap::new(),
            others: HashMap::new(),
            staged: HashMap::new(),
            running: HashMap::new(),
            slowness: HashMap::new(),
            starts: HashMap::new(),
            credits: HashMap::new(),
            attempts: HashMap::new(),
            forged: HashSet::new(),
            uncounted: None,
            tasks: HashMap::new(),
            next_task: 0,
            said: Vec::new(),
            machines: HashMap::new(),
            refuse_links: false,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { at: self.at, unix: EPOCH + self.at.as_secs() }
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        // xorshift: enough to mix a test.
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below
    }

    /// A process of `user`, whose machine is the same each time.
    fn me(&mut self, user: &str, role: Role) -> Me {
        let pid = u32::try_from(self.places.len()).unwrap() + 1;
        let fresh = u8::try_from(self.machines.len()).unwrap() + 1;
        let secret = *self.machines.entry(user.to_owned()).or_insert([fresh; 32]);
        let user: UserName = user.parse().unwrap();
        let mut process = [7; 32];
        process[..4].copy_from_slice(&pid.to_be_bytes());
        Me {
            cluster: CLUSTER.parse().unwrap(),
            name: PeerName::new(&user, "box", pid),
            user,
            role,
            identity: Identity::from_secret(&secret),
            secret: ProcessSecret::from_entropy(process),
        }
    }

    /// From now on `user` sits at another machine.
    pub(crate) fn new_machine(&mut self, user: &str) {
        let fresh = 100 + u8::try_from(self.machines.len()).unwrap();
        self.machines.insert(user.to_owned(), [fresh; 32]);
    }

    fn place(&mut self, machine: Machine, me: Me, slots: u32) -> Peer {
        let peer = self.places.len();
        let (mangler, kept) = (Mangler::new(Faults::default(), 0), (None, None));
        let (workers_reports, client_reports, host_reports) = Default::default();
        let up = true;
        self.places.push(Place {
            machine,
            me,
            mangler,
            up,
            slots,
            kept,
            workers_reports,
            client_reports,
            host_reports,
        });
        self.later(Duration::from_millis(200), Happening::Board(peer, BoardEvent::Up));
        peer
    }

    pub(crate) fn host(&mut self, listed: &[&str]) -> Peer {
        self.host_with(listed, &[], 0)
    }

    pub(crate) fn host_with(&mut self, listed: &[&str], bound: &[(UserName, MachineKey)], serial: u64) -> Peer {
        let me = self.me("alice", Role::Host);
        let listed = listed.iter().map(|user| user.parse().unwrap());
        let machine = HostMachine::new(me.clone(), listed, bound.iter().cloned(), serial);
        self.place(Machine::Host(machine), me, 0)
    }

    pub(crate) fn worker(&mut self, user: &str, slots: u32) -> Peer {
        self.worker_with(user, offer(slots, &["r"]), None)
    }

    /// A worker that starts with what the peer `before` has kept.
    pub(crate) fn worker_with(&mut self, user: &str, offer: WorkerOffer, before: Option<Peer>) -> Peer {
        let me = self.me(user, Role::Worker);
        let (host, membership) = before.map_or((None, None), |before| self.places[before].kept.clone());
        let seed = self.seed();
        let slots = offer.offer.slots;
        let machine = WorkerMachine::new(me.clone(), offer, self.now(), host, membership, seed);
        self.place(Machine::Worker(machine), me, slots)
    }

    pub(crate) fn client(&mut self, user: &str) -> Peer {
        self.client_with(user, None)
    }

    pub(crate) fn client_with(&mut self, user: &str, before: Option<Peer>) -> Peer {
        let me = self.me(user, Role::Client);
        let (host, membership) = before.map_or((None, None), |before| self.places[before].kept.clone());
        let seed = self.seed();
        let machine = ClientMachine::new(me.clone(), self.now(), host, membership, seed);
        self.place(Machine::Client(machine), me, 0)
    }

    fn seed(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| u8::try_from(self.random(256)).unwrap())
    }

    pub(crate) fn me_of(&self, peer: Peer) -> &Me {
        &self.places[peer].me
    }

    pub(crate) fn kept(&self, peer: Peer) -> &(Option<MachineKey>, Option<Membership>) {
        &self.places[peer].kept
    }

    pub(crate) fn worker_reports(&self, peer: Peer) -> &[WorkerReport] {
        &self.places[peer].workers_reports
    }

    pub(crate) fn client_reports(&self, peer: Peer) -> &[ClientReport] {
        &self.places[peer].client_reports
    }

    pub(crate) fn host_reports(&self, peer: Peer) -> &[HostReport] {
        &self.places[peer].host_reports
    }

    pub(crate) fn client_machine(&self, peer: Peer) -> &ClientMachine {
        match &self.places[peer].machine {
            Machine::Client(machine) => machine,
            _ => panic!("peer {peer} is no client"),
        }
    }

    pub(crate) fn worker_machine(&self, peer: Peer) -> &WorkerMachine {
        match &self.places[peer].machine {
            Machine::Worker(machine) => machine,
            _ => panic!("peer {peer} is no worker"),
        }
    }

    pub(crate) fn waiting(&self, client: Peer) -> Option<Waiting> {
        self.client_machine(client).waiting(self.now())
    }

    /// Does this to the lines for every peer there is now.
    pub(crate) fn set_faults(&mut self, faults: Faults, seed: u64) {
        for (peer, place) in self.places.iter_mut().enumerate() {
            place.mangler = Mangler::new(faults, seed.wrapping_add(peer as u64));
        }
    }

    /// The peer's own board connection breaks.
    pub(crate) fn board_down(&mut self, peer: Peer) {
        self.places[peer].up = false;
        let event = BoardEvent::Down { reason: "cut".to_owned(), retry_in: Duration::from_secs(1) };
        self.board_event(peer, event);
    }

    pub(crate) fn board_up(&mut self, peer: Peer) {
        self.places[peer].up = true;
        self.board_event(peer, BoardEvent::Up);
    }

    pub(crate) fn board_event(&mut self, peer: Peer, event: BoardEvent) {
        self.later(Duration::ZERO, Happening::Board(peer, event));
        self.run_for(Duration::ZERO);
    }

    /// Says a line to one peer, in whosever name.
    pub(crate) fn inject(&mut self, peer: Peer, line: Line) {
        self.board_event(peer, BoardEvent::Line(line));
    }

    /// The process ends without a word; its links break.
    pub(crate) fn kill(&mut self, peer: Peer) {
        self.places[peer].machine = Machine::Gone;
        self.cut(peer);
        self.running.retain(|((of, _), _), _| *of != peer);
    }

    /// All connections of a peer break.
    pub(crate) fn cut(&mut self, peer: Peer) {
        self.cut_until(peer, LINK_LATENCY);
    }

    /// All connections of a peer break; the other side notices when it has heard nothing for too long.
    pub(crate) fn cut_silently(&mut self, peer: Peer) {
        self.cut_until(peer, limits::LINK_SILENCE);
    }

    fn cut_until(&mut self, peer: Peer, noticed: Duration) {
        let mut wires: Vec<usize> = self.wires_of(peer).collect();
        wires.sort_unstable();
        for wire in wires {
            self.wires[wire].cut = true;
            for plug in self.wires[wire].plugs {
                let after = if plug.0 == peer { LINK_LATENCY } else { noticed };
                self.later(after, Happening::Disconnected(plug, LinkError::Lost("cut".to_owned())));
            }
        }
    }

    /// Connections of this peer that are not cut.
    fn wires_of(&self, peer: Peer) -> impl Iterator<Item = usize> {
        let wired = self.wired.iter().filter(move |((of, _), wire)| *of == peer && !self.wires[**wire].cut);
        wired.map(|(_, wire)| *wire)
    }

    /// The other end of a link that has a connection.
    pub(crate) fn other_end(&self, peer: Peer, link: LinkId) -> End {
        self.other(peer, link).expect("it is connected")
    }

    fn other(&self, peer: Peer, link: LinkId) -> Option<End> {
        let plug = self.links.get(&(peer, link))?.carrier?;
        let other = self.wires[*self.wired.get(&plug)?].plugs.into_iter().find(|other| *other != plug)?;
        Some((other.0, *self.carries.get(&other)?))
    }

    /// What a client sends that its machine did not decide: its tasks are nobody's.
    pub(crate) fn forged_input(&mut self, worker: Peer, link: LinkId, items: Vec<ToWorker>) {
        let client = self.other_end(worker, link).0;
        for item in &items {
            if let ToWorker::Submit(submit) = item {
                self.forged.insert((client, submit.attempt));
            }
        }
        self.worker_input(worker, WorkerInput::Items { link, items });
    }

    /// It grants what it likes: nobody counts it.
    pub(crate) fn trust_no_credits_of(&mut self, worker: Peer) {
        self.uncounted = Some(worker);
    }

    /// The latest attempt of whomever.
    pub(crate) fn last_attempt(&self) -> AttemptId {
        *self.attempts.keys().map(|(_, attempt)| attempt).max().expect("there was one")
    }

    /// Links of this peer that have a connection.
    pub(crate) fn links(&self, peer: Peer) -> usize {
        self.links_of(peer).len()
    }

    /// The peer's ends of its links that have a connection, oldest first.
    pub(crate) fn links_of(&self, peer: Peer) -> Vec<LinkId> {
        let of_peer = self.links.iter().filter(|((of, _), link)| *of == peer && !link.closing);
        let whole = |plug: &Plug| self.wired.get(plug).is_some_and(|wire| !self.wires[*wire].cut);
        let connected = of_peer.filter(|(_, link)| link.carrier.as_ref().is_some_and(whole));
        let mut links: Vec<LinkId> = connected.map(|((_, link), _)| *link).collect();
        links.sort();
        links
    }

    pub(crate) fn submit(&mut self, client: Peer, spec: TaskSpec) -> TaskId {
        self.submit_all(client, vec![spec])[0]
    }

    pub(crate) fn submit_all(&mut self, client: Peer, specs: Vec<TaskSpec>) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        for spec in specs {
            let id = TaskId(self.next_task);
            self.next_task += 1;
            self.tasks.insert((client, id), Task { outcomes: Vec::new(), runs: 0, once: spec.once });
            tasks.push((id, spec));
        }
        let ids = tasks.iter().map(|(id, _)| *id).collect();
        self.client_input(client, ClientInput::Submit(tasks));
        ids
    }

    pub(crate) fn outcome(&self, client: Peer, task: TaskId) -> Option<&Outcome> {
        self.tasks[&(client, task)].outcomes.first()
    }

    pub(crate) fn runs(&self, client: Peer, task: TaskId) -> u32 {
        self.tasks[&(client, task)].runs
    }

    pub(crate) fn all_done(&self) -> bool {
        self.tasks.values().all(|task| !task.outcomes.is_empty())
    }

    /// On this worker everything takes so many times as long.
    pub(crate) fn slow_down(&mut self, worker: Peer, times: u32) {
        self.slowness.insert(worker, times);
    }

    /// How often a worker has started anything.
    pub(crate) fn runs_of(&self, worker: Peer) -> usize {
        self.starts.get(&worker).copied().unwrap_or(0)
    }

    /// The workers on which a task runs now.
    pub(crate) fn runs_on(&self, client: Peer, task: TaskId) -> Vec<Peer> {
        let mut workers = Vec::new();
        for (end, attempt) in self.running.keys() {
            if self.others[end] == client && self.attempts.get(&(client, *attempt)) == Some(&task) {
                workers.push(end.0);
            }
        }
        workers
    }

    pub(crate) fn running(&self, worker: Peer) -> usize {
        self.running.keys().filter(|((of, _), _)| *of == worker).count()
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.happenings.insert((self.at + after, self.sequence), happening);
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.at + time;
        while self.step(until) {}
        self.at = until;
    }

    /// Runs until `done`, for at most `limit`.
    #[track_caller]
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let until = self.at + limit;
        while !done(self) {
            assert!(self.step(until), "it did not come about within {limit:?} of virtual time; {}", self.why());
        }
    }

    /// What every client says, for people who look for a fault.
    fn why(&self) -> String {
        let clients = self.places.iter().enumerate().filter_map(|(peer, place)| match &place.machine {
            Machine::Client(machine) => Some(format!(
                "client {peer} waits: {:?}; {:#?}",
                machine.waiting(self.now()),
                machine.status(self.now())
            )),
            _ => None,
        });
        clients.collect()
    }

    /// Does the next thing that happens up to `until`.
    fn step(&mut self, until: Duration) -> bool {
        let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
        let wake = (0..self.places.len()).filter_map(|peer| self.wake_at(peer).map(|at| (at, peer))).min();
        match (happening, wake) {
            (at, Some((wake, peer))) if at.is_none_or(|at| wake <= at) && wake <= until => {
                // A moment that has passed is now: time never goes back.
                self.at = self.at.max(wake);
                self.tick(peer);
                let next = self.wake_at(peer);
                assert!(
                    next.is_none_or(|next| next > self.at),
                    "peer {peer} ticked at {:?} and wants to be woken at {next:?}: its driver would spin",
                    self.at
                );
            }
            (Some(at), _) if at <= until => {
                self.at = self.at.max(at);
                let Some((_, happening)) = self.happenings.pop_first() else { unreachable!() };
                self.happen(happening);
            }
            _ => return false,
        }
        self.check();
        true
    }

    fn wake_at(&self, peer: Peer) -> Option<Duration> {
        match &self.places[peer].machine {
            Machine::Host(machine) => machine.wake_at(),
            Machine::Worker(machine) => machine.wake_at(),
            Machine::Client(machine) => machine.wake_at(),
            Machine::Gone => None,
        }
    }

    fn tick(&mut self, peer: Peer) {
        match &self.places[peer].machine {
            Machine::Host(_) => self.host_input(peer, HostInput::Tick),
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Tick),
            Machine::Client(_) => self.client_input(peer, ClientInput::Tick),
            Machine::Gone => {}
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        for ((client, task), state) in &self.tasks {
            assert!(state.outcomes.len() <= 1, "I-01: task {task:?} of {client} ended twice: {:?}", state.outcomes);
            assert!(!state.once || state.runs <= 1, "I-02: task {task:?} of {client} ran {} times", state.runs);
        }
        for (worker, place) in self.places.iter().enumerate() {
            let busy: u32 =
                self.running.iter().filter(|(((of, _), _), _)| *of == worker).map(|(_, (cpus, _))| cpus).sum();
            assert!(busy <= place.slots, "I-03: worker {worker} uses {busy} of {} slots", place.slots);
        }
        for (end, credits) in &self.credits {
            let worker = self.other(end.0, end.1).map(|other| other.0);
            if worker.is_none() || worker == self.uncounted {
                continue;
            }
            assert!(*credits >= 0, "I-04: {end:?} sent {} tasks without a credit", -credits);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Board(peer, event) => match &self.places[peer].machine {
                Machine::Host(_) => self.host_input(peer, HostInput::Board(event)),
                Machine::Worker(_) => self.worker_input(peer, WorkerInput::Board(event)),
                Machine::Client(_) => self.client_input(peer, ClientInput::Board(event)),
                Machine::Gone => {}
            },
            Happening::Prepared((peer, connection)) => {
                let hints = Ok(Hints::default());
                match &self.places[peer].machine {
                    Machine::Worker(_) => self.worker_input(peer, WorkerInput::Prepared { connection, hints }),
                    _ => self.client_input(peer, ClientInput::Prepared { connection, hints }),
                }
            }
            Happening::Connected((peer, connection)) => {
                if !self.wired.contains_key(&(peer, connection)) {
                    return;
                }
                let path = LinkPath::Memory;
                match &self.places[peer].machine {
                    Machine::Worker(_) => self.worker_input(peer, WorkerInput::Connected { connection, path }),
                    _ => self.client_input(peer, ClientInput::Connected { connection, path }),
                }
                if !self.carries.contains_key(&(peer, connection)) {
                    self.abandon((peer, connection));
                }
            }
            Happening::Disconnected(plug, error) => self.disconnected(plug, error),
            Happening::Record(wire, plug, bytes) => self.on_record(wire, plug, &bytes),
            Happening::Ended(end, attempt, ended) => self.end_attempt(end, attempt, ended),
            Happening::NobodyCame(key) => {
                if let Some(dial) = self.dials.remove(&key) {
                    let error = LinkError::Unreachable("nobody came".to_owned());
                    self.disconnected(dial.plug, error);
                }
            }
        }
    }

    /// An attempt ends now, if it still runs.
    fn end_attempt(&mut self, (peer, link): End, attempt: AttemptId, ended: Ended) {
        if let Some((_, since)) = self.running.remove(&((peer, link), attempt)) {
            let ran_us = u64::try_from((self.at - since).as_micros()).unwrap();
            let finished = Finished { attempt, ended, value: Content::default(), outputs: Vec::new(), ran_us };
            self.worker_input(peer, WorkerInput::Ended { link, finished });
        }
    }

    fn publish(&mut self, from: Peer, line: Line) {
        self.said.push((self.at, from, line.clone()));
        if !self.places[from].up {
            return;
        }
        for peer in 0..self.places.len() {
            if peer != from && self.places[peer].up {
                for line in self.places[peer].mangler.pass(line.clone()) {
                    let after = BOARD_LATENCY + Duration::from_millis(self.random(20));
                    self.later(after, Happening::Board(peer, BoardEvent::Line(line)));
                }
            }
        }
    }

    pub(crate) fn host_input(&mut self, peer: Peer, input: HostInput) {
        let now = self.now();
        let Machine::Host(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        for output in out {
            match output {
                HostOutput::Publish(line) => self.publish(peer, line),
                HostOutput::Bind { .. } => {}
                HostOutput::Report(report) => self.places[peer].host_reports.push(report),
            }
        }
    }

    pub(crate) fn worker_input(&mut self, peer: Peer, input: WorkerInput) {
        let now = self.now();
        let Machine::Worker(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        for output in out {
            match output {
                WorkerOutput::Publish(line) => self.publish(peer, line),
                WorkerOutput::Prepare(connection) => self.later(LINK_LATENCY, Happening::Prepared((peer, connection))),
                WorkerOutput::Connect(connection, plan) => self.dial((peer, connection), *plan),
                WorkerOutput::Attach { link, connection, open, resumes } => {
                    self.attach((peer, link), (peer, connection), open, resumes);
                }
                WorkerOutput::Abandon(connection) => self.abandon((peer, connection)),
                WorkerOutput::Close(link) => self.close((peer, link)),
                WorkerOutput::Send(link, item) => {
                    if let Some(Link { side: Side::Worker(stream), .. }) = self.links.get_mut(&(peer, link)) {
                        stream.push(item).unwrap();
                        self.flush((peer, link));
                    }
                }
                WorkerOutput::Stage(link, submit) => {
                    let known =
                        self.staged.insert(((peer, link), submit.attempt), (submit.task.cpus(), time_of(&submit.task)));
                    assert!(known.is_none(), "{:?} was staged twice", submit.attempt);
                }
                WorkerOutput::Run(link, attempt) => self.run((peer, link), attempt),
                WorkerOutput::Interrupt(link, attempt) | WorkerOutput::Kill(link, attempt) => {
                    let end = (peer, link);
                    self.staged.remove(&(end, attempt));
                    if self.running.contains_key(&(end, attempt)) {
                        self.later(Duration::from_millis(1), Happening::Ended(end, attempt, Ended::Cancelled));
                    }
                }
                WorkerOutput::Save { host, membership } => self.places[peer].kept = (Some(host), Some(membership)),
                WorkerOutput::Report(report) => self.places[peer].workers_reports.push(report),
                WorkerOutput::Drained => {}
            }
        }
    }

    pub(crate) fn client_input(&mut self, peer: Peer, input: ClientInput) {
        let now = self.now();
        let Machine::Client(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        for output in out {
            match output {
                ClientOutput::Publish(line) => self.publish(peer, line),
                ClientOutput::Prepare(connection) => self.later(LINK_LATENCY, Happening::Prepared((peer, connection))),
                ClientOutput::Connect(connection, plan) => self.dial((peer, connection), *plan),
                ClientOutput::Attach { link, connection, open, resumes } => {
                    self.attach((peer, link), (peer, connection), open, resumes);
                }
                ClientOutput::Abandon(connection) => self.abandon((peer, connection)),
                ClientOutput::Close(link) => self.close((peer, link)),
                ClientOutput::Send(link, item) => {
                    if matches!(item, ToWorker::Submit(_)) {
                        *self.credits.entry((peer, link)).or_default() -= 1;
                    }
                    if let Some(Link { side: Side::Client(stream), .. }) = self.links.get_mut(&(peer, link)) {
                        stream.push(item).unwrap();
                        self.flush((peer, link));
                    }
                }
                ClientOutput::Attempt { task, attempt, .. } => {
                    let known = self.attempts.insert((peer, attempt), task);
                    assert!(known.is_none(), "{attempt:?} was used twice");
                }
                ClientOutput::Outcome(task, outcome) => {
                    let known = self.tasks.get_mut(&(peer, task));
                    known.unwrap_or_else(|| panic!("nobody submitted {task:?}")).outcomes.push(outcome);
                }
                ClientOutput::Withdraw { .. } | ClientOutput::Started { .. } | ClientOutput::Note { .. } => {}
                ClientOutput::Save { host, membership } => self.places[peer].kept = (Some(host), Some(membership)),
                ClientOutput::Report(report) => self.places[peer].client_reports.push(report),
            }
        }
    }

    /// Both sides dial by transit key; only the two halves of one session meet.
    fn dial(&mut self, plug: Plug, plan: ConnectPlan) {
        let (key, binding, role) = (plan.transit_key.0, plan.session.channel_binding(), plan.role);
        if self.refuse_links {
            let error = LinkError::Unreachable("a wall".to_owned());
            self.later(LINK_LATENCY, Happening::Disconnected(plug, error));
            return;
        }
        let Some(other) = self.dials.remove(&key) else {
            self.dials.insert(key, Dial { plug, binding, role });
            self.later(p2p_proto::limits::SETUP_TIMEOUT, Happening::NobodyCame(key));
            return;
        };
        assert_eq!(other.binding, binding, "I-08: two sessions met");
        assert_ne!(other.role, role);
        let wire = self.wires.len();
        self.wires.push(Wire { plugs: [plug, other.plug], cut: false });
        for plug in [plug, other.plug] {
            self.wired.insert(plug, wire);
            self.later(LINK_LATENCY, Happening::Connected(plug));
        }
    }

    fn attach(&mut self, end: End, plug: Plug, open: Open, resumes: bool) {
        let wire = &self.wires[self.wired[&plug]];
        let other = wire.plugs.into_iter().find(|other| *other != plug).unwrap();
        self.others.insert(end, other.0);
        let is_client = matches!(self.places[end.0].machine, Machine::Client(_));
        if !resumes {
            let side = if is_client { Side::Client(Stream::default()) } else { Side::Worker(Stream::default()) };
            let fresh = self.links.insert(end, Link { side, carrier: None, closing: false });
            assert!(fresh.is_none(), "{end:?} was there before");
        }
        let link = self.links.get_mut(&end).expect("what is resumed is there");
        match &mut link.side {
            Side::Client(stream) => stream.on_connected(open, resumes),
            Side::Worker(stream) => stream.on_connected(open, resumes),
        }
        let before = link.carrier.replace(plug);
        self.carries.insert(plug, end.1);
        if let Some(before) = before {
            self.abandon(before);
        }
        self.flush(end);
    }

    /// Ends a set-up or connection at once: only the other side hears of it.
    fn abandon(&mut self, plug: Plug) {
        self.dials.retain(|_, dial| dial.plug != plug);
        self.unplug(plug);
        if let Some(wire) = self.wired.remove(&plug) {
            self.wires[wire].cut = true;
            for other in self.wires[wire].plugs.into_iter().filter(|other| *other != plug) {
                self.later(LINK_LATENCY, Happening::Disconnected(other, LinkError::Lost("abandoned".to_owned())));
            }
        }
    }

    /// A connection carries nothing any more.
    fn unplug(&mut self, plug: Plug) {
        let Some(of) = self.carries.remove(&plug) else { return };
        let end = (plug.0, of);
        let Some(link) = self.links.get_mut(&end).filter(|link| link.carrier == Some(plug)) else { return };
        link.carrier = None;
        match &mut link.side {
            Side::Client(stream) => stream.on_disconnected(),
            Side::Worker(stream) => stream.on_disconnected(),
        }
        if link.closing {
            self.links.remove(&end);
        }
    }

    fn disconnected(&mut self, plug: Plug, error: LinkError) {
        let was_wired = self.wired.remove(&plug).is_some();
        if !was_wired && self.carries.contains_key(&plug) {
            return;
        }
        self.unplug(plug);
        let (peer, connection) = plug;
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Disconnected { connection, error }),
            _ => self.client_input(peer, ClientInput::Disconnected { connection, error }),
        }
    }

    fn on_record(&mut self, wire: usize, plug: Plug, bytes: &[u8]) {
        let peer = plug.0;
        if self.wires[wire].cut || matches!(self.places[peer].machine, Machine::Gone) {
            return;
        }
        let Some(&link) = self.carries.get(&plug) else { return };
        let Some(entry) = self.links.get_mut(&(peer, link)).filter(|link| link.carrier == Some(plug)) else { return };
        match &mut entry.side {
            Side::Worker(stream) => {
                let items = stream.on_record(bytes).unwrap();
                self.worker_input(peer, WorkerInput::Items { link, items });
            }
            Side::Client(stream) => {
                let items = stream.on_record(bytes).unwrap();
                let granted: i64 =
                    items.iter().map(|item| if let ToClient::Credit(n) = item { i64::from(*n) } else { 0 }).sum();
                *self.credits.entry((peer, link)).or_default() += granted;
                self.client_input(peer, ClientInput::Items { link, items });
            }
        }
        self.flush((peer, link));
    }

    /// An orderly end: what was sent before still arrives.
    fn close(&mut self, end: End) {
        let Some(link) = self.links.get_mut(&end) else { return };
        link.closing = true;
        match link.carrier {
            None => {
                self.links.remove(&end);
            }
            Some(_) => self.flush(end),
        }
    }

    /// Puts on the wire what may go.
    fn flush(&mut self, end: End) {
        let Some(link) = self.links.get_mut(&end) else { return };
        let Some(plug) = link.carrier else { return };
        let (records, drained) = match &mut link.side {
            Side::Client(stream) => filled(stream),
            Side::Worker(stream) => filled(stream),
        };
        let closed = drained && link.closing;
        let Some(&wire) = self.wired.get(&plug) else { return };
        let to = self.wires[wire].plugs.into_iter().find(|other| *other != plug).unwrap();
        for record in records {
            self.later(LINK_LATENCY, Happening::Record(wire, to, record));
        }
        if closed {
            self.unplug(plug);
            self.wired.remove(&plug);
            self.later(LINK_LATENCY, Happening::Disconnected(to, LinkError::Closed));
        }
    }

    fn run(&mut self, end: End, attempt: AttemptId) {
        let (cpus, time) = self.staged.remove(&(end, attempt)).expect("what runs was staged before");
        let client = self.others[&end];
        if !self.forged.contains(&(client, attempt)) {
            let task = self.attempts[&(client, attempt)];
            self.tasks.get_mut(&(client, task)).unwrap().runs += 1;
        }
        assert!(self.running.insert((end, attempt), (cpus, self.at)).is_none());
        *self.starts.entry(end.0).or_default() += 1;
        let time = time * self.slowness.get(&end.0).copied().unwrap_or(1);
        self.later(time, Happening::Ended(end, attempt, Ended::Exit(0)));
    }
}

/// Everything that a stream may send now, and whether nothing is left.
fn filled<Out: Item, In: Item>(stream: &mut Stream<Out, In>) -> (Vec<Vec<u8>>, bool) {
    let mut records = Vec::new();
    loop {
        let mut record = Vec::new();
        stream.fill(&mut record).unwrap();
        if record.is_empty() {
            return (records, stream.is_drained());
        }
        records.push(record);
    }
}

/// A worker with so many slots for these runtimes.
pub(crate) fn offer(slots: u32, runtimes: &[&str]) -> WorkerOffer {
    let runtimes = runtimes.iter().map(|runtime| (*runtime).to_owned()).collect();
    WorkerOffer { offer: Offer { slots, runtimes, ..Offer::default() }, allow: None, weights: Default::default() }
}

/// A task for the runtime `r` that runs so long.
pub(crate) fn task(time_ms: u64) -> TaskSpec {
    let payload = Content::Inline(time_ms.to_be_bytes().to_vec());
    TaskSpec { runtime: "r".to_owned(), payload, ..TaskSpec::default() }
}

fn time_of(spec: &TaskSpec) -> Duration {
    let Content::Inline(bytes) = &spec.payload else { return Duration::ZERO };
    Duration::from_millis(bytes.as_slice().try_into().map_or(0, u64::from_be_bytes))
}
