//! Inputs into machines, and what becomes of their outputs.

use std::collections::BTreeSet;

use p2p_proto::board::BoardEvent;

use p2p_proto::link::{Hints, LinkError, ToClient, ToWorker};
use p2p_scheduler::machine::client::{ClientInput, ClientOutput};
use p2p_scheduler::machine::host::{HostInput, HostOutput};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerOutput};

use super::{Machine, Peer, Plug, World};
use crate::ledger::Violation;

/// Of so many inputs, one is preceded by a tick that nobody asked for.
const PROBE_ONE_IN: u64 = 8;

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

    pub(super) fn on_prepared(&mut self, plug: Plug) {
        let (peer, connection) = plug;
        if !self.wires.live.contains(&plug) {
            return;
        }
        let hints = if self.refuse_links && self.dice.percent(30) {
            Err(LinkError::Unreachable("no place to listen at".to_owned()))
        } else {
            Ok(Hints::default())
        };
        self.preparing(Some(plug));
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Prepared { connection, hints }),
            _ => self.client_input(peer, ClientInput::Prepared { connection, hints }),
        }
        self.preparing(None);
    }

    /// Gives a host an input, and does what she wants done.
    pub fn host_input(&mut self, peer: Peer, input: HostInput) {
        self.wake_sleeper(peer);
        if matches!(input, HostInput::Leave) {
            self.places[peer].draining = true;
            self.owes_nothing(peer);
        }
        let now = self.now_of(peer);
        let probes = !matches!(input, HostInput::Tick) && self.probes_now(peer);
        let Machine::Host(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        if probes {
            machine.handle(now, HostInput::Tick, &mut out);
            if let Some(forgotten) = out.first() {
                self.ledger.break_rule(slept_over(peer, forgotten));
            }
        }
        machine.handle(now, input, &mut out);
        for output in out {
            match output {
                HostOutput::Publish(line) => self.publish(peer, line),
                HostOutput::Bind { user, machine, serial, until } => {
                    let kept = &mut self.places[peer].roster;
                    kept.members.retain(|(_, other)| *other != machine);
                    kept.members.push((user, machine));
                    kept.serial = serial;
                    kept.until = kept.until.max(until);
                }
                HostOutput::Unbind { removal, .. } => {
                    let kept = &mut self.places[peer].roster;
                    kept.members.retain(|(_, other)| *other != removal.machine);
                    kept.removals.retain(|other| other.machine != removal.machine);
                    kept.removals.push(removal);
                    kept.serial = removal.serial;
                }
                HostOutput::Pending { .. } => {}
                HostOutput::Side(output) => self.side(peer, output),
                HostOutput::Report(report) => self.places[peer].host_reports.push(report),
            }
        }
        self.check_tables(peer);
        self.on_handled(peer);
    }

    /// Gives a worker an input, and does what it wants done.
    pub fn worker_input(&mut self, peer: Peer, input: WorkerInput) {
        self.wake_sleeper(peer);
        self.places[peer].draining |= matches!(input, WorkerInput::Drain | WorkerInput::Stop);
        if matches!(input, WorkerInput::Stop | WorkerInput::Drain) {
            self.on_event();
            self.owes_nothing(peer);
            // What runs there is lost, and what is under way to it may be: its client cannot tell whether that began.
            self.ledger.on_trouble();
        }
        let now = self.now_of(peer);
        let probes = !matches!(input, WorkerInput::Tick) && self.probes_now(peer);
        let Machine::Worker(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        if probes {
            machine.handle(now, WorkerInput::Tick, &mut out);
            if let Some(forgotten) = out.first() {
                self.ledger.break_rule(slept_over(peer, forgotten));
            }
        }
        machine.handle(now, input, &mut out);
        let mut touched = BTreeSet::new();
        let mut closed = Vec::new();
        for output in out {
            match output {
                WorkerOutput::Publish(line) => self.publish(peer, line),
                WorkerOutput::Prepare(connection) => self.prepare((peer, connection)),
                WorkerOutput::Connect(connection, plan) => self.dial((peer, connection), &plan),
                WorkerOutput::Attach { link, connection, open, resumes } => {
                    self.attach((peer, link), (peer, connection), open, resumes);
                    touched.insert(link);
                }
                WorkerOutput::Abandon(connection) => {
                    self.note(peer, || format!("abandons connection {}", connection.0));
                    self.abandon((peer, connection));
                }
                WorkerOutput::Close(link) => {
                    self.close((peer, link));
                    closed.push(link);
                }
                WorkerOutput::Send(link, item) => {
                    self.note(peer, || format!("sends on link {}: {item:?}", link.0));
                    self.push_to_client((peer, link), item);
                    touched.insert(link);
                }
                WorkerOutput::Pong(link, _, pong) => {
                    let item = ToClient::Pong(pong);
                    self.note(peer, || format!("sends on link {}: {item:?}", link.0));
                    self.push_to_client((peer, link), item);
                    touched.insert(link);
                }
                WorkerOutput::Stage { link, submit, .. } => self.stage((peer, link), *submit),
                WorkerOutput::Run(link, attempt) => {
                    self.note(peer, || format!("runs {attempt:?} of link {}", link.0));
                    self.run_attempt((peer, link), attempt);
                }
                WorkerOutput::Interrupt(link, attempt) | WorkerOutput::Kill(link, attempt) => {
                    self.note(peer, || format!("stops {attempt:?} of link {}", link.0));
                    self.stop_attempt((peer, link), attempt);
                }
                WorkerOutput::Save(kept) => self.places[peer].kept = kept,
                WorkerOutput::Side(output) => self.side(peer, output),
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
        for link in touched {
            self.flush((peer, link));
        }
        closed.into_iter().for_each(|link| self.check_over((peer, link)));
        self.check_tables(peer);
        self.on_handled(peer);
    }

    /// Gives a client an input, and does what it wants done.
    pub fn client_input(&mut self, peer: Peer, input: ClientInput) {
        self.wake_sleeper(peer);
        match &input {
            ClientInput::Cancel(task) => self.ledger.on_cancel(*task),
            ClientInput::Leave => {
                self.places[peer].draining = true;
                self.ledger.on_client_leaves(peer);
                self.on_event();
                self.owes_nothing(peer);
            }
            _ => {}
        }
        let now = self.now_of(peer);
        let probes = !matches!(input, ClientInput::Tick) && self.probes_now(peer);
        let Machine::Client(machine) = &mut self.places[peer].machine else { return };
        let mut out = Vec::new();
        if probes {
            machine.handle(now, ClientInput::Tick, &mut out);
            // Who asks half back each time that he looks, and says what that changes, has forgotten nothing.
            let looks = |output: &&ClientOutput| {
                matches!(output, ClientOutput::Send(_, ToWorker::Recall(_) | ToWorker::Want(_)))
            };
            if let Some(forgotten) = out.iter().find(|output| !looks(output)) {
                self.ledger.break_rule(slept_over(peer, forgotten));
            }
        }
        machine.handle(now, input, &mut out);
        let mut touched = BTreeSet::new();
        for output in out {
            match output {
                ClientOutput::Publish(line) => self.publish(peer, line),
                ClientOutput::Prepare(connection) => self.prepare((peer, connection)),
                ClientOutput::Connect(connection, plan) => self.dial((peer, connection), &plan),
                ClientOutput::Attach { link, connection, open, resumes } => {
                    self.attach((peer, link), (peer, connection), open, resumes);
                    touched.insert(link);
                }
                ClientOutput::Abandon(connection) => {
                    self.note(peer, || format!("abandons connection {}", connection.0));
                    self.abandon((peer, connection));
                }
                ClientOutput::Close(link) => self.close((peer, link)),
                ClientOutput::Send(link, item) => {
                    self.note(peer, || format!("sends on link {}: {}", link.0, short(&item)));
                    if let ToWorker::Submit(submit) = &item {
                        let worker = self.partner_peer((peer, link));
                        self.ledger.on_submit((peer, link), worker);
                        self.last_attempt = self.last_attempt.max(submit.attempt);
                    }
                    self.push_to_worker((peer, link), item);
                    touched.insert(link);
                }
                ClientOutput::Outcome(task, outcome) => {
                    self.note(peer, || format!("outcome of task {}: {outcome:?}", task.0));
                    self.ledger.on_outcome(peer, task, outcome);
                }
                ClientOutput::Attempt { .. }
                | ClientOutput::Withdraw { .. }
                | ClientOutput::Started { .. }
                | ClientOutput::Note { .. } => {}
                ClientOutput::Save(kept) => self.places[peer].kept = kept,
                ClientOutput::Side(output) => self.side(peer, output),
                ClientOutput::Report(report) => {
                    self.note(peer, || format!("reports {report:?}"));
                    self.places[peer].client_reports.push(report);
                }
            }
        }
        for link in touched {
            self.flush((peer, link));
        }
        self.check_tables(peer);
        self.on_handled(peer);
    }

    /// Whether to see now if the machine does something that it did not ask to be woken for. It costs as much as an input: not each time. While
    /// its board is away nothing is to be done about calls.
    fn probes_now(&mut self, peer: Peer) -> bool {
        let place = &self.places[peer];
        let due = place.wake.is_some_and(|wake| wake <= self.at);
        let asks = self.strict && !due && !place.wake_is_old && !place.joining && place.asleep_until.is_none();
        asks && self.probes.below(PROBE_ONE_IN) == 0
    }

    /// The machine has handled something, by its clock as it is now.
    fn on_handled(&mut self, peer: Peer) {
        self.places[peer].wake_is_old = false;
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
}

fn slept_over(peer: Peer, forgotten: &impl std::fmt::Debug) -> Violation {
    let what = format!("{peer} did not ask to be woken by now, and yet this was due: {forgotten:?}");
    Violation::new("I-10", what.chars().take(300).collect())
}

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
