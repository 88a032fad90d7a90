//! Host, worker and client machine in one thread, without sockets and clocks: what deciding alone costs.

use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::board::{BoardEvent, Line};
use p2p_proto::ids::{PeerName, Role, TaskId};
use p2p_proto::link::item::Finished;
use p2p_proto::link::{Hints, LinkPath, ToClient, ToWorker};
use p2p_proto::task::{Content, Ended, TaskSpec};
use p2p_proto::trust::ProcessSecret;
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientOutput};
use p2p_scheduler::machine::host::{HostInput, HostMachine, HostOutput};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput};
use p2p_scheduler::machine::{Me, Now};
use p2p_scheduler::{ConnectionId, HostConfig, HostKept, HostTrust, LinkId, MemberKept};

use crate::Result;
use crate::meeting::{GUEST, OWNER, member};

/// The runtime of its tasks.
const RUNTIME: &str = "noop";

/// A client that is linked to a worker.
#[derive(Debug)]
pub struct Machines {
    now: Now,
    host: HostMachine,
    worker: WorkerMachine,
    client: ClientMachine,
    links: Option<(LinkId, LinkId)>,
    /// The worker's side of the connection that is made.
    connecting: Option<ConnectionId>,
    to_worker: Vec<ToWorker>,
    to_client: Vec<ToClient>,
    ended: Vec<WorkerInput>,
    next_task: u64,
    outcomes: usize,
}

impl Machines {
    /// Lets them find each other.
    ///
    /// # Errors
    /// When they do not.
    pub fn linked(slots: u32) -> Result<Self> {
        let now = Now { at: Duration::from_secs(1), unix: 1_800_000_000 };
        let offer = Offer { slots, free: slots, runtimes: vec![RUNTIME.to_owned()], ..Offer::default() };
        let guest = me(GUEST, Role::Worker)?;
        let members = vec![(guest.user.clone(), guest.identity.machine_key())];
        let known = HostKept { members, ..HostKept::default() };
        let mut machines = Self {
            now,
            host: HostMachine::new(me(OWNER, Role::Host)?, HostConfig::of([GUEST.parse()?]), known),
            worker: WorkerMachine::new(
                me(GUEST, Role::Worker)?,
                WorkerOffer { offer, allow: None, weights: Default::default() },
                now,
                HostTrust::FirstSight,
                MemberKept::default(),
                [1; 32],
            ),
            client: ClientMachine::new(
                me(OWNER, Role::Client)?,
                now,
                HostTrust::FirstSight,
                MemberKept::default(),
                [2; 32],
            ),
            links: None,
            connecting: None,
            to_worker: Vec::new(),
            to_client: Vec::new(),
            ended: Vec::new(),
            next_task: 0,
            outcomes: 0,
        };
        let mut lines = Vec::new();
        machines.host(HostInput::Board(BoardEvent::Up), &mut lines);
        machines.worker(WorkerInput::Board(BoardEvent::Up), &mut lines);
        machines.client(ClientInput::Board(BoardEvent::Up), &mut lines);
        machines.submit(1);
        for _ in 0..100 {
            for (from, line) in std::mem::take(&mut lines) {
                if from != Role::Host {
                    machines.host(HostInput::Board(BoardEvent::Line(line.clone())), &mut lines);
                }
                if from != Role::Worker {
                    machines.worker(WorkerInput::Board(BoardEvent::Line(line.clone())), &mut lines);
                }
                if from != Role::Client {
                    machines.client(ClientInput::Board(BoardEvent::Line(line)), &mut lines);
                }
            }
            machines.exchange(&mut lines);
            if machines.outcomes == 1 {
                return Ok(machines);
            }
            if lines.is_empty() {
                machines.now.at += Duration::from_millis(100);
                machines.host(HostInput::Tick, &mut lines);
                machines.worker(WorkerInput::Tick, &mut lines);
                machines.client(ClientInput::Tick, &mut lines);
            }
        }
        Err("the machines did not find each other".into())
    }

    /// Submits `count` tasks at once and sees all of them to their outcome. Each direction's items travel in one batch, as in one record.
    pub fn run(&mut self, count: usize) {
        let before = self.outcomes;
        self.submit(count);
        let mut lines = Vec::new();
        while self.outcomes < before + count {
            let moved = self.exchange(&mut lines);
            assert!(moved, "the machines stand still");
        }
    }

    fn submit(&mut self, count: usize) {
        let tasks = (0..count as u64)
            .map(|nth| {
                let spec = TaskSpec { runtime: RUNTIME.to_owned(), ..TaskSpec::default() };
                (TaskId(self.next_task + nth), spec)
            })
            .collect();
        self.next_task += count as u64;
        self.client(ClientInput::Submit(tasks), &mut Vec::new());
    }

    /// Brings what waits to the other side. Says whether anything did.
    fn exchange(&mut self, lines: &mut Vec<(Role, Line)>) -> bool {
        let Some((at_client, at_worker)) = self.links else { return false };
        let mut moved = false;
        let items = std::mem::take(&mut self.to_worker);
        if !items.is_empty() {
            moved = true;
            self.worker(WorkerInput::Items { link: at_worker, items }, lines);
        }
        for ended in std::mem::take(&mut self.ended) {
            moved = true;
            self.worker(ended, lines);
        }
        let items = std::mem::take(&mut self.to_client);
        if !items.is_empty() {
            moved = true;
            self.client(ClientInput::Items { link: at_client, items }, lines);
        }
        moved
    }

    fn host(&mut self, input: HostInput, lines: &mut Vec<(Role, Line)>) {
        let mut out = Vec::new();
        self.host.handle(self.now, input, &mut out);
        for output in out {
            if let HostOutput::Publish(line) = output {
                lines.push((Role::Host, line));
            }
        }
    }

    fn worker(&mut self, input: WorkerInput, lines: &mut Vec<(Role, Line)>) {
        let mut out = Vec::new();
        self.worker.handle(self.now, input, &mut out);
        for output in out {
            match output {
                WorkerOutput::Publish(line) => lines.push((Role::Worker, line)),
                WorkerOutput::Prepare(connection) => {
                    self.worker(WorkerInput::Prepared { connection, hints: Ok(Hints::default()) }, lines);
                }
                // The client hears of it first: its own `Connect` comes with the `ready` that follows.
                WorkerOutput::Connect(connection, _) => self.connecting = Some(connection),
                WorkerOutput::Attach { link, .. } => self.links = Some((LinkId(u64::MAX), link)),
                WorkerOutput::Send(_, item) => self.to_client.push(item),
                WorkerOutput::Run(link, attempt) => {
                    let value = Content::default();
                    let finished = Finished { attempt, ended: Ended::Exit(0), value, outputs: Vec::new(), ran_us: 1 };
                    self.ended.push(WorkerInput::Ended { link, finished });
                }
                _ => {}
            }
        }
    }

    fn client(&mut self, input: ClientInput, lines: &mut Vec<(Role, Line)>) {
        let mut out = Vec::new();
        self.client.handle(self.now, input, &mut out);
        for output in out {
            match output {
                ClientOutput::Publish(line) => lines.push((Role::Client, line)),
                ClientOutput::Prepare(connection) => {
                    self.client(ClientInput::Prepared { connection, hints: Ok(Hints::default()) }, lines);
                }
                ClientOutput::Connect(connection, _) => {
                    let Some(at_worker) = self.connecting.take() else { continue };
                    let path = LinkPath::Memory;
                    self.worker(WorkerInput::Connected { connection: at_worker, path: path.clone() }, lines);
                    self.client(ClientInput::Connected { connection, path }, lines);
                }
                ClientOutput::Attach { link, .. } => {
                    if let Some((at_client, _)) = &mut self.links {
                        *at_client = link;
                    }
                }
                ClientOutput::Send(_, item) => self.to_worker.push(item),
                ClientOutput::Outcome(..) => self.outcomes += 1,
                _ => {}
            }
        }
    }
}

fn me(user: &str, role: Role) -> Result<Me> {
    let member = member(user)?;
    let pid = role as u32 + 1;
    Ok(Me {
        name: PeerName::new(&member.user, &member.hostname, pid),
        cluster: member.cluster,
        user: member.user,
        role,
        identity: member.identity,
        secret: ProcessSecret::from_entropy([pid as u8; 32]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_gets_its_outcome() {
        let mut machines = Machines::linked(2).unwrap();
        machines.run(3000);
        machines.run(1);
        assert_eq!(machines.outcomes, 3002);
    }
}
