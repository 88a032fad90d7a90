//! A whole cluster in virtual time: real machines, real handshakes and records, no I/O. The seed decides what the board loses, how long
//! things take, and in which order what is simultaneous happens. Invariants are checked after every step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::board::{BoardEvent, Line};
use p2p_proto::ids::{AttemptId, MachineKey, PeerName, Role, TaskId, UserName};
use p2p_proto::link::item::{Finished, Item};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, LinkPath, ToClient, ToWorker, record};
use p2p_proto::task::{Content, Ended, TaskSpec};
use p2p_proto::trust::{Identity, Membership, ProcessSecret};
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientOutput, ClientReport, Outcome};
use p2p_scheduler::machine::host::{HostInput, HostMachine, HostOutput, HostReport};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput, WorkerReport};
use p2p_scheduler::machine::{Me, Now};
use p2p_scheduler::memory::{Faults, Mangler};
use p2p_scheduler::{LinkId, Waiting};

pub(crate) const CLUSTER: &str = "alice/friends";
/// The calendar when a world begins.
pub(crate) const EPOCH: u64 = 1_800_000_000;
/// From one peer to another.
const LINK_LATENCY: Duration = Duration::from_millis(5);
const BOARD_LATENCY: Duration = Duration::from_millis(30);

pub(crate) type Peer = usize;
type End = (Peer, LinkId);

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
    Prepared(End),
    LinkUp(End),
    LinkDown(End, LinkError),
    /// A record of items on a wire.
    ToWorker(usize, End, Vec<u8>),
    ToClient(usize, End, Vec<u8>),
    Ended(End, AttemptId, Ended),
    NobodyCame([u8; 32]),
}

struct Dial {
    end: End,
    binding: [u8; 32],
    role: Role,
}

/// A link: a record that is under way when it is cut is lost.
struct Wire {
    ends: [End; 2],
    cut: bool,
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
    wired: HashMap<End, usize>,
    /// The wire that an end has or had: a worker may start what is here before it hears that the link was cut.
    wire_of: HashMap<End, usize>,
    /// Slots that it takes and how long it will run.
    staged: HashMap<(End, AttemptId), (u32, Duration)>,
    /// Slots that it takes and since when it runs.
    running: HashMap<(End, AttemptId), (u32, Duration)>,
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
            wire_of: HashMap::new(),
            staged: HashMap::new(),
            running: HashMap::new(),
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

    /// All links of a peer break.
    pub(crate) fn cut(&mut self, peer: Peer) {
        let wires: Vec<usize> = self.wired.iter().filter(|((of, _), _)| *of == peer).map(|(_, wire)| *wire).collect();
        for wire in wires {
            self.wires[wire].cut = true;
            for end in self.wires[wire].ends {
                self.wired.remove(&end);
                self.later(LINK_LATENCY, Happening::LinkDown(end, LinkError::Lost("cut".to_owned())));
            }
        }
    }

    /// All links of a peer break, and only it notices.
    pub(crate) fn cut_silently(&mut self, peer: Peer) {
        let ends: Vec<End> = self.wired.keys().filter(|(of, _)| *of == peer).copied().collect();
        for end in ends {
            if let Some(wire) = self.wired.remove(&end) {
                self.wires[wire].cut = true;
                self.later(LINK_LATENCY, Happening::LinkDown(end, LinkError::Lost("cut".to_owned())));
            }
        }
    }

    /// The other end of a link.
    pub(crate) fn other_end(&self, peer: Peer, link: LinkId) -> End {
        let end = (peer, link);
        self.wires[self.wired[&end]].ends.into_iter().find(|other| *other != end).unwrap()
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

    /// Links that this peer has.
    pub(crate) fn links(&self, peer: Peer) -> usize {
        self.wired.keys().filter(|(of, _)| *of == peer).count()
    }

    /// The worker's ends of its links, oldest first.
    pub(crate) fn links_of(&self, peer: Peer) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = self.wired.keys().filter(|(of, _)| *of == peer).map(|(_, link)| *link).collect();
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
            let worker = self.wired.get(end).map(|_| self.other_end(end.0, end.1).0);
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
            Happening::Prepared((peer, link)) => {
                let hints = Ok(Hints::default());
                match &self.places[peer].machine {
                    Machine::Worker(_) => self.worker_input(peer, WorkerInput::Prepared { link, hints }),
                    _ => self.client_input(peer, ClientInput::Prepared { link, hints }),
                }
            }
            Happening::LinkUp((peer, link)) => {
                let path = LinkPath::Memory;
                match &self.places[peer].machine {
                    Machine::Worker(_) => self.worker_input(peer, WorkerInput::LinkUp { link, path }),
                    _ => self.client_input(peer, ClientInput::LinkUp { link, path }),
                }
            }
            Happening::LinkDown((peer, link), error) => match &self.places[peer].machine {
                Machine::Worker(_) => self.worker_input(peer, WorkerInput::LinkDown { link, error }),
                _ => self.client_input(peer, ClientInput::LinkDown { link, error }),
            },
            Happening::ToWorker(wire, (peer, link), bytes) => {
                if !self.wires[wire].cut {
                    let items = record::items(&bytes).collect::<Result<_, _>>().unwrap();
                    self.worker_input(peer, WorkerInput::Items { link, items });
                }
            }
            Happening::ToClient(wire, (peer, link), bytes) => {
                if !self.wires[wire].cut {
                    let items: Vec<ToClient> = record::items(&bytes).collect::<Result<_, _>>().unwrap();
                    let granted: i64 =
                        items.iter().map(|item| if let ToClient::Credit(n) = item { i64::from(*n) } else { 0 }).sum();
                    *self.credits.entry((peer, link)).or_default() += granted;
                    self.client_input(peer, ClientInput::Items { link, items });
                }
            }
            Happening::Ended(end, attempt, ended) => self.end_attempt(end, attempt, ended),
            Happening::NobodyCame(key) => {
                if let Some(dial) = self.dials.remove(&key) {
                    let error = LinkError::Unreachable("nobody came".to_owned());
                    self.happen(Happening::LinkDown(dial.end, error));
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
                WorkerOutput::Prepare(link) => self.later(LINK_LATENCY, Happening::Prepared((peer, link))),
                WorkerOutput::Connect(link, plan) => self.dial((peer, link), *plan),
                WorkerOutput::Close(link) => self.close((peer, link)),
                WorkerOutput::Send(link, item) => self.send((peer, link), &item, Happening::ToClient),
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
                ClientOutput::Prepare(link) => self.later(LINK_LATENCY, Happening::Prepared((peer, link))),
                ClientOutput::Connect(link, plan) => self.dial((peer, link), *plan),
                ClientOutput::Close(link) => self.close((peer, link)),
                ClientOutput::Send(link, item) => {
                    if matches!(item, ToWorker::Submit(_)) {
                        *self.credits.entry((peer, link)).or_default() -= 1;
                    }
                    self.send((peer, link), &item, Happening::ToWorker);
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
    fn dial(&mut self, end: End, plan: ConnectPlan) {
        let (key, binding, role) = (plan.transit_key.0, plan.session.channel_binding(), plan.role);
        if self.refuse_links {
            let error = LinkError::Unreachable("a wall".to_owned());
            self.later(LINK_LATENCY, Happening::LinkDown(end, error));
            return;
        }
        let Some(other) = self.dials.remove(&key) else {
            self.dials.insert(key, Dial { end, binding, role });
            self.later(p2p_proto::limits::SETUP_TIMEOUT, Happening::NobodyCame(key));
            return;
        };
        assert_eq!(other.binding, binding, "I-08: two sessions met");
        assert_ne!(other.role, role);
        let wire = self.wires.len();
        self.wires.push(Wire { ends: [end, other.end], cut: false });
        for end in [end, other.end] {
            self.wired.insert(end, wire);
            self.wire_of.insert(end, wire);
            self.later(LINK_LATENCY, Happening::LinkUp(end));
        }
    }

    /// An orderly end: what was sent before still arrives.
    fn close(&mut self, end: End) {
        self.dials.retain(|_, dial| dial.end != end);
        let Some(wire) = self.wired.remove(&end) else { return };
        for other in self.wires[wire].ends {
            self.wired.remove(&other);
            self.later(LINK_LATENCY, Happening::LinkDown(other, LinkError::Closed));
        }
    }

    fn send<T: Item>(&mut self, from: End, item: &T, happening: impl Fn(usize, End, Vec<u8>) -> Happening) {
        let Some(&wire) = self.wired.get(&from) else { return };
        let to = self.wires[wire].ends.into_iter().find(|end| *end != from).unwrap();
        let mut bytes = Vec::new();
        assert!(record::append(item, &mut bytes));
        self.later(LINK_LATENCY, happening(wire, to, bytes));
    }

    fn run(&mut self, end: End, attempt: AttemptId) {
        let (cpus, time) = self.staged.remove(&(end, attempt)).expect("what runs was staged before");
        let wire = &self.wires[self.wire_of[&end]];
        let client = wire.ends.into_iter().find(|other| *other != end).unwrap().0;
        if !self.forged.contains(&(client, attempt)) {
            let task = self.attempts[&(client, attempt)];
            self.tasks.get_mut(&(client, task)).unwrap().runs += 1;
        }
        assert!(self.running.insert((end, attempt), (cpus, self.at)).is_none());
        self.later(time, Happening::Ended(end, attempt, Ended::Exit(0)));
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
