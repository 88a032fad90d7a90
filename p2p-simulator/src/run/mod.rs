//! One plan, from its beginning to a clean end: faults, calm, liveness, and nothing left over.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::ids::TaskId;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::host::HostInput;
use p2p_scheduler::machine::worker::{WorkerInput, WorkerOffer};

use crate::ledger::Violation;
use crate::plan::{Fault, Plan, Seat};
use crate::trace::Trace;
use crate::world::{Peer, Weather, World, offer, plan_task};

mod settle;

/// Who is on the host's list.
const LISTED: [&str; 6] = ["bob", "carol", "dave", "erin", "frank", "grace"];
/// When a world begins.
const START: Duration = World::START;
/// From the end of a process by what it ran to the start of the next one.
const POISONED_STARTS_AGAIN: Duration = Duration::from_secs(1);

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tasks that had an outcome.
    pub tasks: u64,
    /// Calls of machines.
    pub steps: u64,
    /// Virtual time, seconds.
    pub virtual_s: u64,
    /// Lines on the board.
    pub lines: u64,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub violation: Violation,
    /// When, since the world began.
    pub at: Duration,
    /// The last events, where they were kept.
    pub trace: Trace,
}

/// Runs a plan.
///
/// # Errors
/// The first rule that was broken; a machine that panics breaks I-10.
pub fn run(plan: &Plan, trace: Trace) -> Result<Summary, Box<Failure>> {
    run_traced(plan, trace).0
}

/// Runs a plan and returns its trace too, however it ended.
pub fn run_traced(plan: &Plan, trace: Trace) -> (Result<Summary, Box<Failure>>, Trace) {
    let mut run = Run::new(plan, trace);
    let ended = quietly(|| run.all());
    let (at, trace) = (run.world.at, run.world.trace.clone());
    let ended = match ended {
        Ok(Ok(())) => Ok(Summary {
            tasks: run.world.ledger.tasks().filter(|(_, task)| !task.outcomes.is_empty()).count() as u64,
            steps: run.world.steps,
            virtual_s: at.as_secs(),
            lines: run.world.ledger.lines(),
        }),
        Ok(Err(violation)) => Err(Box::new(Failure { violation, at, trace: trace.clone() })),
        Err(panic) => {
            let violation = Violation::new("I-10", format!("panicked: {panic}"));
            Err(Box::new(Failure { violation, at, trace: trace.clone() }))
        }
    };
    (ended, trace)
}

/// What is due at a moment.
#[derive(Clone, Copy, Debug)]
enum Action {
    Start(Seat, Option<Peer>),
    Submit(usize),
    Cancel(usize),
    Begin(usize),
    End(usize),
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    seats: BTreeMap<Seat, Peer>,
    actions: BTreeMap<(Duration, u64), Action>,
    sequence: u64,
    ids: BTreeMap<usize, TaskId>,
    /// When everything had gone wrong that does.
    calm: Duration,
    /// When a process that was ended by what it ran is there again, the last one.
    disturbed: Duration,
    /// Since when a worker could have run something that waited, and started nothing.
    idle: BTreeMap<Peer, Duration>,
    /// The same while the client of what waits has a link to it.
    linked_idle: BTreeMap<Peer, Duration>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: Trace) -> Self {
        let mut world = World::new(plan.seed);
        world.trace = trace;
        world.keep_lines = false;
        world.strict = true;
        if plan.closes_last {
            world.close_for_the_last();
        }
        let calm = START + Duration::from_millis(plan.calm_ms() + 1);
        let mut run = Self {
            plan,
            world,
            seats: BTreeMap::new(),
            actions: BTreeMap::new(),
            sequence: 0,
            ids: BTreeMap::new(),
            calm,
            disturbed: Duration::ZERO,
            idle: BTreeMap::new(),
            linked_idle: BTreeMap::new(),
        };
        run.schedule();
        run
    }

    fn schedule(&mut self) {
        let start = START;
        self.plan_at(start, Action::Start(Seat::Host, None));
        let plan = self.plan;
        let ms = |ms: u64| start + Duration::from_millis(ms);
        for (seat, worker) in plan.workers.iter().enumerate().filter(|(_, worker)| worker.present) {
            self.plan_at(ms(worker.at_ms), Action::Start(Seat::Worker(seat), None));
        }
        for (seat, client) in plan.clients.iter().enumerate().filter(|(_, client)| client.present) {
            self.plan_at(ms(client.at_ms), Action::Start(Seat::Client(seat), None));
        }
        for (index, task) in plan.tasks.iter().enumerate() {
            self.plan_at(ms(task.at_ms), Action::Submit(index));
            if let Some(at) = task.cancel_ms {
                self.plan_at(ms(at), Action::Cancel(index));
            }
        }
        for (index, fault) in plan.faults.iter().enumerate() {
            self.plan_at(ms(fault.at_ms), Action::Begin(index));
            self.plan_at(ms(fault.at_ms + fault.for_ms), Action::End(index));
        }
    }

    fn plan_at(&mut self, at: Duration, action: Action) {
        self.sequence += 1;
        self.actions.insert((at, self.sequence), action);
    }

    fn all(&mut self) -> Result<(), Violation> {
        // What runs may end its worker's process, which puts the calm off.
        while self.world.at < self.calm {
            self.watch_to(self.calm)?;
        }
        self.calm_down();
        self.settle()?;
        self.world.audit()?;
        self.clean_up()?;
        self.world.audit()
    }

    /// Lets time pass, and does what is due meanwhile.
    fn run_to(&mut self, until: Duration) -> Result<(), Violation> {
        loop {
            let next = self.actions.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= until);
            while self.world.step(next.unwrap_or(until))? {
                if !self.world.died.is_empty() {
                    break;
                }
            }
            let died = std::mem::take(&mut self.world.died);
            if !died.is_empty() {
                died.into_iter().for_each(|peer| self.on_died(peer));
                continue;
            }
            match next.and_then(|_| self.actions.pop_first()) {
                Some((_, action)) => self.act(action),
                None => return Ok(()),
            }
        }
    }

    /// A worker's process was ended by what it ran: somebody starts it again.
    fn on_died(&mut self, peer: Peer) {
        let at = self.world.at + POISONED_STARTS_AGAIN;
        if let Some(seat) = self.seat_of(peer) {
            self.plan_at(at, Action::Start(seat, Some(peer)));
        }
        self.calm = self.calm.max(at);
        self.disturbed = at;
    }

    fn seat_of(&self, peer: Peer) -> Option<Seat> {
        self.seats.iter().find(|(_, of)| **of == peer).map(|(seat, _)| *seat)
    }

    /// The process in this seat, if it runs.
    fn at(&self, seat: Seat) -> Option<Peer> {
        self.seats.get(&seat).copied().filter(|peer| self.world.is_alive(*peer))
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(seat, before) => self.start(seat, before),
            Action::Submit(index) => {
                let task = &self.plan.tasks[index];
                if let Some(client) = self.at(Seat::Client(task.client)) {
                    let id = self.world.submit(client, plan_task(task));
                    self.ids.insert(index, id);
                }
            }
            Action::Cancel(index) => {
                let Some(id) = self.ids.get(&index).copied() else { return };
                let owner = self.world.ledger.task(id).map(|task| task.client);
                if let Some(client) = owner.filter(|client| self.world.is_alive(*client)) {
                    self.world.client_input(client, ClientInput::Cancel(id));
                }
            }
            Action::Begin(index) => self.begin(index),
            Action::End(index) => self.end(index),
        }
    }

    fn start(&mut self, seat: Seat, before: Option<Peer>) {
        if self.at(seat).is_some() {
            return;
        }
        let peer = match seat {
            Seat::Host => {
                let kept = before.map(|before| self.world.roster(before)).unwrap_or_default();
                self.world.host_with(&LISTED, kept)
            }
            Seat::Worker(index) => {
                let offer = self.offer(index);
                self.world.worker_with(self.plan.workers[index].user, offer, before)
            }
            Seat::Client(index) => self.world.client_with(self.plan.clients[index].user, before),
        };
        self.seats.insert(seat, peer);
    }

    fn offer(&self, index: usize) -> WorkerOffer {
        let worker = &self.plan.workers[index];
        let mut offered = offer(worker.slots, &["r"]);
        let labels = worker.labels.iter().map(|label| (*label).to_owned()).collect();
        offered.offer = Offer { memory_mib: worker.memory_mib, labels, ..offered.offer };
        if !worker.allow.is_empty() {
            offered.allow = Some(worker.allow.iter().filter_map(|user| user.parse().ok()).collect());
        }
        offered
    }

    fn begin(&mut self, index: usize) {
        let plan = self.plan;
        let fault = &plan.faults[index];
        let time = Duration::from_millis(fault.for_ms);
        self.world.trace.note(self.world.at, "FAULT", || fault.fault.to_string());
        match &fault.fault {
            Fault::Weather(weather) => self.world.set_weather(*weather),
            Fault::Apart(seats) => self.each(seats, |world, peer| world.set_group(peer, 1)),
            Fault::BoardRestart => self.world.close_board(),
            Fault::BoardAway(seat) => self.each(&[*seat], World::board_down),
            Fault::Misrouted(seat) => self.each(&[*seat], World::misroute),
            Fault::Replay(times) => (0..*times).for_each(|_| self.world.replay()),
            Fault::Forge(times) => (0..*times).for_each(|_| self.world.forge()),
            Fault::Cut(seat) => self.each(&[*seat], World::cut),
            Fault::HalfOpen(seat) => self.each(&[*seat], World::cut_silently),
            Fault::Unnoticed(seat) => self.each(&[*seat], World::cut_unnoticed),
            Fault::Slow(seat, by_ms) => {
                let by = Duration::from_millis(*by_ms);
                self.each(&[*seat], |world, peer| world.set_slow(peer, by));
            }
            Fault::Wall => self.world.refuse_links = true,
            Fault::Crash { seat, power, .. } => {
                let power = *power;
                self.each(&[*seat], |world, peer| if power { world.power_off(peer) } else { world.kill(peer) });
            }
            Fault::Drain(seat) => {
                self.each(&[Seat::Worker(*seat)], |world, peer| world.worker_input(peer, WorkerInput::Drain))
            }
            Fault::Stop(seat) => {
                self.each(&[Seat::Worker(*seat)], |world, peer| world.worker_input(peer, WorkerInput::Stop))
            }
            Fault::Leave(seat) => {
                self.each(&[Seat::Client(*seat)], |world, peer| world.client_input(peer, ClientInput::Leave))
            }
            Fault::Sleep(seat) => self.each(&[*seat], |world, peer| world.sleep(peer, time)),
            Fault::Skew(seat, by_s) => self.each(&[*seat], |world, peer| world.set_skew(peer, *by_s)),
        }
    }

    fn end(&mut self, index: usize) {
        let fault = &self.plan.faults[index];
        match &fault.fault {
            Fault::Weather(_) => self.world.set_weather(Weather::default()),
            Fault::Apart(seats) => self.each(seats, |world, peer| world.set_group(peer, 0)),
            Fault::BoardRestart => self.world.open_board(),
            Fault::BoardAway(seat) | Fault::Misrouted(seat) => self.each(&[*seat], World::board_up),
            Fault::Slow(seat, _) => self.each(&[*seat], |world, peer| world.set_slow(peer, Duration::ZERO)),
            Fault::Wall => self.world.refuse_links = false,
            Fault::Crash { seat, keeps, .. } => {
                let before = self.seats.get(seat).copied().filter(|_| *keeps);
                // Who never was does not start again.
                if self.seats.contains_key(seat) {
                    self.start(*seat, before);
                }
            }
            Fault::Drain(seat) | Fault::Stop(seat) => self.replace(Seat::Worker(*seat)),
            Fault::Leave(seat) => self.replace(Seat::Client(*seat)),
            Fault::Skew(seat, _) => {
                // Also where the process is gone: the next one reads the same clock.
                if let Some(peer) = self.seats.get(seat) {
                    self.world.set_skew(*peer, 0);
                }
            }
            _ => {}
        }
    }

    /// Another process takes the seat of one that leaves, whether that has left already or not.
    fn replace(&mut self, seat: Seat) {
        let leaving = self.at(seat).filter(|peer| self.world.is_draining(*peer));
        if let Some(before) = leaving {
            self.seats.remove(&seat);
            self.start(seat, Some(before));
        }
    }

    fn each(&mut self, seats: &[Seat], mut what: impl FnMut(&mut World, Peer)) {
        for seat in seats {
            if let Some(peer) = self.at(*seat) {
                what(&mut self.world, peer);
            }
        }
    }

    /// Nothing goes wrong any more.
    fn calm_down(&mut self) {
        self.world.trace.note(self.world.at, "CALM", || "nothing goes wrong from here".to_owned());
        self.world.set_weather(Weather::default());
        self.world.refuse_links = false;
        self.world.open_board();
        for peer in self.world.alive() {
            self.world.set_group(peer, 0);
            self.world.set_slow(peer, Duration::ZERO);
            self.world.board_up(peer);
        }
        if self.at(Seat::Host).is_none() {
            self.start(Seat::Host, self.seats.get(&Seat::Host).copied());
        }
    }

    /// She says that she goes, which nobody must wait for.
    fn host_leaves(&mut self) {
        if let Some(host) = self.at(Seat::Host) {
            self.world.host_input(host, HostInput::Leave);
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs this, and catches a panic without printing it.
fn quietly<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(true);
    let ended = std::panic::catch_unwind(AssertUnwindSafe(what));
    QUIET.set(false);
    ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}
