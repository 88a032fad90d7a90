//! Inputs into machines, and what becomes of their outputs.

use std::collections::BTreeMap;

use p2p_proto::board::BoardEvent;
use p2p_proto::link::item::Item;
use p2p_proto::link::{Hints, LinkError, LinkPath, ToClient, ToWorker, record};
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::client::{ClientInput, ClientOutput};
use p2p_scheduler::machine::host::{HostInput, HostOutput};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerOutput};

use super::wires::LATENCY;
use super::{End, Happening, Machine, Peer, World};
use crate::ledger::Violation;

impl World {
    pub(super) fn tick(&mut self, peer: Peer) {
        match &self.places[peer].machine {
            Machine::Host(_) => self.host_input(peer, HostInput::Tick),
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Tick),
            Machine::Client(_) => self.client_input(peer, ClientInput::Tick),
            Machine::Gone => self.rewake(peer),
        }
        if let Some(next) = self.places[peer].wake.filter(|next| *next <= self.at) {
            let what =
                format!("{peer} ticked at {:?} and wants to be woken at {next:?}: its driver would spin", self.at);
            self.ledger.break_rule(Violation::new("I-10", what));
        }
    }

    pub(super) fn board_input(&mut self, peer: Peer, event: BoardEvent) {
        match &self.places[peer].machine {
            Machine::Host(_) => self.host_input(peer, HostInput::Board(event)),
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Board(event)),
            Machine::Client(_) => self.client_input(peer, ClientInput::Board(event)),
            Machine::Gone => {}
        }
    }

    pub(super) fn on_prepared(&mut self, (peer, link): End) {
        let hints = Ok(Hints::default());
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Prepared { link, hints }),
            _ => self.client_input(peer, ClientInput::Prepared { link, hints }),
        }
    }

    pub(super) fn on_link_up(&mut self, (peer, link): End) {
        self.note(peer, || format!("link {} is up", link.0));
        let path = LinkPath::Memory;
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::LinkUp { link, path }),
            _ => self.client_input(peer, ClientInput::LinkUp { link, path }),
        }
    }

    pub(super) fn on_link_down(&mut self, (peer, link): End, error: LinkError) {
        self.note(peer, || format!("link {} is down: {error}", link.0));
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::LinkDown { link, error }),
            _ => self.client_input(peer, ClientInput::LinkDown { link, error }),
        }
    }

    pub(super) fn on_record(&mut self, wire: usize, (peer, link): End, bytes: &[u8]) {
        if !self.carries(wire) {
            return;
        }
        match &self.places[peer].machine {
            Machine::Worker(_) => match record::items::<ToWorker>(bytes).collect::<Result<Vec<_>, _>>() {
                Ok(items) => self.worker_input(peer, WorkerInput::Items { link, items }),
                Err(fault) => self.ledger.break_rule(Violation::new("L-03", fault.to_string())),
            },
            Machine::Client(_) => match record::items::<ToClient>(bytes).collect::<Result<Vec<_>, _>>() {
                Ok(items) => {
                    for item in &items {
                        if let ToClient::Credit(credits) = item {
                            self.ledger.on_credit((peer, link), i64::from(*credits));
                        }
                    }
                    self.client_input(peer, ClientInput::Items { link, items });
                }
                Err(fault) => self.ledger.break_rule(Violation::new("L-03", fault.to_string())),
            },
            _ => {}
        }
    }

    /// Gives a host an input, and does what she wants done.
    pub fn host_input(&mut self, peer: Peer, input: HostInput) {
        self.wake_sleeper(peer);
        let now = self.now_of(peer);
        let Machine::Host(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        for output in out {
            match output {
                HostOutput::Publish(line) => self.publish(peer, line),
                HostOutput::Bind { user, machine, serial } => {
                    self.places[peer].bound.retain(|(other, _)| *other != user);
                    self.places[peer].bound.push((user, machine));
                    self.places[peer].serial = serial;
                }
                HostOutput::Report(report) => self.places[peer].host_reports.push(report),
            }
        }
        self.rewake(peer);
    }

    /// Gives a worker an input, and does what it wants done.
    pub fn worker_input(&mut self, peer: Peer, input: WorkerInput) {
        self.wake_sleeper(peer);
        self.places[peer].draining |= matches!(input, WorkerInput::Drain | WorkerInput::Stop);
        let now = self.now_of(peer);
        let Machine::Worker(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        let mut sends = Sends::default();
        for output in out {
            match output {
                WorkerOutput::Publish(line) => self.publish(peer, line),
                WorkerOutput::Prepare(link) => self.later(LATENCY, Happening::Prepared((peer, link))),
                WorkerOutput::Connect(link, plan) => self.dial((peer, link), &plan),
                WorkerOutput::Close(link) => {
                    self.flush(peer, link, &mut sends);
                    self.note(peer, || format!("closes link {}", link.0));
                    self.close((peer, link));
                }
                WorkerOutput::Send(link, item) => {
                    self.note(peer, || format!("sends on link {}: {item:?}", link.0));
                    self.push(peer, link, &item, &mut sends);
                }
                WorkerOutput::Stage(link, submit) => self.stage((peer, link), *submit),
                WorkerOutput::Run(link, attempt) => {
                    self.note(peer, || format!("runs {attempt:?} of link {}", link.0));
                    self.run_attempt((peer, link), attempt);
                }
                WorkerOutput::Interrupt(link, attempt) | WorkerOutput::Kill(link, attempt) => {
                    self.note(peer, || format!("stops {attempt:?} of link {}", link.0));
                    self.stop_attempt((peer, link), attempt);
                }
                WorkerOutput::Save { host, membership } => self.places[peer].kept = (Some(host), Some(membership)),
                WorkerOutput::Report(report) => {
                    self.note(peer, || format!("reports {report:?}"));
                    self.places[peer].worker_reports.push(report);
                }
                WorkerOutput::Drained => {
                    self.note(peer, || "has drained".to_owned());
                    self.places[peer].drained = true;
                }
            }
        }
        self.flush_all(peer, sends);
        self.rewake(peer);
    }

    /// Gives a client an input, and does what it wants done.
    pub fn client_input(&mut self, peer: Peer, input: ClientInput) {
        self.wake_sleeper(peer);
        match &input {
            ClientInput::Cancel(task) => self.ledger.on_cancel(*task),
            ClientInput::Leave => self.ledger.on_client_leaves(peer),
            _ => {}
        }
        let now = self.now_of(peer);
        let Machine::Client(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        machine.handle(now, input, &mut out);
        let mut sends = Sends::default();
        for output in out {
            match output {
                ClientOutput::Publish(line) => self.publish(peer, line),
                ClientOutput::Prepare(link) => self.later(LATENCY, Happening::Prepared((peer, link))),
                ClientOutput::Connect(link, plan) => self.dial((peer, link), &plan),
                ClientOutput::Close(link) => {
                    self.flush(peer, link, &mut sends);
                    self.note(peer, || format!("closes link {}", link.0));
                    self.close((peer, link));
                }
                ClientOutput::Send(link, item) => {
                    self.note(peer, || format!("sends on link {}: {}", link.0, short(&item)));
                    if let ToWorker::Submit(submit) = &item {
                        let worker = self.partner((peer, link)).map(|(worker, _)| worker);
                        self.ledger.on_submit((peer, link), worker);
                        self.last_attempt = self.last_attempt.max(submit.attempt);
                    }
                    self.push(peer, link, &item, &mut sends);
                }
                ClientOutput::Outcome(task, outcome) => {
                    self.note(peer, || format!("outcome of task {}: {outcome:?}", task.0));
                    self.ledger.on_outcome(peer, task, outcome);
                }
                ClientOutput::Attempt { .. }
                | ClientOutput::Withdraw { .. }
                | ClientOutput::Started { .. }
                | ClientOutput::Note { .. } => {}
                ClientOutput::Save { host, membership } => self.places[peer].kept = (Some(host), Some(membership)),
                ClientOutput::Report(report) => {
                    self.note(peer, || format!("reports {report:?}"));
                    self.places[peer].client_reports.push(report);
                }
            }
        }
        self.flush_all(peer, sends);
        self.rewake(peer);
    }

    /// Notes when the machine wants to be called next.
    pub(super) fn rewake(&mut self, peer: Peer) {
        self.steps += 1;
        let place = &mut self.places[peer];
        let wake = match &place.machine {
            Machine::Host(machine) => machine.wake_at(),
            Machine::Worker(machine) => machine.wake_at(),
            Machine::Client(machine) => machine.wake_at(),
            Machine::Gone => None,
        };
        let wake = wake.map(|wake| wake.max(place.asleep_until.unwrap_or_default()));
        if place.wake == wake {
            return;
        }
        if let Some(before) = std::mem::replace(&mut place.wake, wake) {
            self.wakes.remove(&(before, peer));
        }
        if let Some(wake) = wake {
            self.wakes.insert((wake, peer));
        }
    }

    fn push<T: Item>(&mut self, peer: Peer, link: LinkId, item: &T, sends: &mut Sends) {
        let record = sends.entry(link).or_default();
        if !record::append(item, record) {
            let full = std::mem::take(record);
            record::append(item, record);
            self.send((peer, link), full);
        }
        self.items += 1;
    }

    fn flush(&mut self, peer: Peer, link: LinkId, sends: &mut Sends) {
        if let Some(record) = sends.remove(&link) {
            self.send((peer, link), record);
        }
    }

    fn flush_all(&mut self, peer: Peer, sends: Sends) {
        for (link, record) in sends {
            self.send((peer, link), record);
        }
    }
}

/// Records that are being filled: what one call sends on a link travels together.
type Sends = BTreeMap<LinkId, Vec<u8>>;

/// An item for people, without the payload.
fn short(item: &ToWorker) -> String {
    match item {
        ToWorker::Submit(submit) => {
            let task = super::task_of(&submit.task).map_or_else(|| "?".to_owned(), |task| task.0.to_string());
            format!("Submit({:?}, task {task}, alone {})", submit.attempt, submit.alone)
        }
        item => format!("{item:?}"),
    }
}
