//! What tests ask a world, and let it do.

use std::time::Duration;

use p2p_proto::board::{BoardEvent, Line};
use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::link::ToWorker;
use p2p_proto::task::TaskSpec;
use p2p_scheduler::machine::Me;
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientReport};
use p2p_scheduler::machine::host::HostReport;
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerReport};
use p2p_scheduler::{LinkId, MemberKept, Outcome, Waiting};

use super::executor::label;
use super::{Happening, Machine, Peer, World};

impl World {
    /// Lets this time pass.
    ///
    /// # Panics
    /// When a rule is broken meanwhile.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.at + time;
        while self.must_step(until) {}
    }

    /// Runs until `done`, for at most `limit`.
    ///
    /// # Panics
    /// When it does not come about in time, or a rule is broken meanwhile.
    #[track_caller]
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let until = self.at + limit;
        while !done(self) {
            let stepped = self.must_step(until);
            assert!(stepped || done(self), "it did not come about within {limit:?} of virtual time; {}", self.why());
        }
    }

    #[track_caller]
    fn must_step(&mut self, until: Duration) -> bool {
        self.step(until).unwrap_or_else(|violation| panic!("{violation}\n{}", self.why()))
    }

    /// What every client says, for people who look for a fault.
    pub fn why(&self) -> String {
        let clients = self.places.iter().enumerate().filter_map(|(peer, place)| match &place.machine {
            Machine::Client(machine) => {
                let (waiting, status) = (machine.waiting(self.now()), machine.status(self.now()));
                Some(format!("client {peer} waits: {waiting:?}; {status:#?}\n"))
            }
            _ => None,
        });
        clients.collect()
    }

    /// Submits a task.
    pub fn submit(&mut self, client: Peer, spec: TaskSpec) -> TaskId {
        self.submit_all(client, vec![spec])[0]
    }

    /// Submits tasks.
    pub fn submit_all(&mut self, client: Peer, specs: Vec<TaskSpec>) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        for mut spec in specs {
            let id = self.next_task_id();
            label(&mut spec, id);
            self.ledger.on_submitted(id, client, spec.clone());
            tasks.push((id, spec));
        }
        let ids: Vec<TaskId> = tasks.iter().map(|(id, _)| *id).collect();
        self.note(client, || format!("submits tasks {:?}", ids.iter().map(|id| id.0).collect::<Vec<_>>()));
        self.client_input(client, ClientInput::Submit(tasks));
        ids
    }

    /// A task's outcome.
    pub fn outcome(&self, task: TaskId) -> Option<&Outcome> {
        self.ledger.task(task)?.outcomes.first()
    }

    /// How often a task began to run.
    pub fn runs(&self, task: TaskId) -> u32 {
        self.ledger.task(task).map_or(0, |task| task.runs)
    }

    /// Whether every task has its outcome.
    pub fn all_done(&self) -> bool {
        self.ledger.is_done()
    }

    /// Who a process is.
    pub fn me_of(&self, peer: Peer) -> &Me {
        &self.places[peer].me
    }

    /// What a process has kept for its next start.
    pub fn kept(&self, peer: Peer) -> &MemberKept {
        &self.places[peer].kept
    }

    /// What a worker's owner was told.
    pub fn worker_reports(&self, peer: Peer) -> &[WorkerReport] {
        &self.places[peer].worker_reports
    }

    /// What a client's user was told.
    pub fn client_reports(&self, peer: Peer) -> &[ClientReport] {
        &self.places[peer].client_reports
    }

    /// What a host was told.
    pub fn host_reports(&self, peer: Peer) -> &[HostReport] {
        &self.places[peer].host_reports
    }

    /// A client's machine.
    ///
    /// # Panics
    /// When it is no client, or gone.
    pub fn client_machine(&self, peer: Peer) -> &ClientMachine {
        match &self.places[peer].machine {
            Machine::Client(machine) => machine,
            _ => panic!("peer {peer} is no client"),
        }
    }

    /// A worker's machine.
    ///
    /// # Panics
    /// When it is no worker, or gone.
    pub fn worker_machine(&self, peer: Peer) -> &WorkerMachine {
        match &self.places[peer].machine {
            Machine::Worker(machine) => machine,
            _ => panic!("peer {peer} is no worker"),
        }
    }

    /// What a worker offers.
    pub fn offer_of(&self, peer: Peer) -> Option<&WorkerOffer> {
        self.places[peer].offer.as_ref()
    }

    /// Whether a worker or client was told to leave.
    pub fn is_draining(&self, peer: Peer) -> bool {
        self.places[peer].draining
    }

    /// Whether a worker has left in order.
    pub fn has_drained(&self, peer: Peer) -> bool {
        self.places[peer].drained
    }

    /// When a process wants to be called next.
    pub fn wake_of(&self, peer: Peer) -> Option<Duration> {
        self.places[peer].wake
    }

    /// Lines that a process has said.
    pub fn lines_of(&self, peer: Peer) -> u64 {
        self.places[peer].lines
    }

    /// Why a client's tasks wait.
    pub fn waiting(&self, client: Peer) -> Option<Waiting> {
        self.client_machine(client).waiting(self.now())
    }

    /// Lets something happen on the board now.
    pub fn board_event(&mut self, peer: Peer, event: BoardEvent) {
        self.later(Duration::ZERO, Happening::Board(peer, event));
        self.run_for(Duration::ZERO);
    }

    /// Says a line to one peer, in whosever name.
    pub fn inject(&mut self, peer: Peer, line: Line) {
        self.board_event(peer, BoardEvent::Line(line));
    }

    /// What a client sends that its machine did not decide: its tasks are nobody's.
    pub fn forged_input(&mut self, worker: Peer, link: LinkId, items: Vec<ToWorker>) {
        self.worker_input(worker, WorkerInput::Items { link, items });
    }

    /// The latest attempt of whomever.
    pub fn last_attempt(&self) -> AttemptId {
        self.last_attempt
    }

    /// Links that this peer has.
    pub fn links(&self, peer: Peer) -> usize {
        self.links_of(peer).len()
    }

    /// The other end of a link.
    ///
    /// # Panics
    /// When there never was one.
    pub fn other_end(&self, peer: Peer, link: LinkId) -> super::End {
        self.partner((peer, link)).unwrap_or_else(|| panic!("{link:?} of {peer} never was"))
    }
}
