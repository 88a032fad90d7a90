//! After the last fault: every task that can run has its outcome within a bound, no slot idles beside it (I-05), and nothing is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::limits;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::worker::WorkerInput;

use super::{Run, Seat};
use crate::ledger::{TaskState, Violation};
use crate::world::Peer;

/// How long a slot may idle beside a task that it could run, once nothing goes wrong (I-05): a membership may have to be renewed, a hello to
/// come round, a pause between two calls of one worker to end.
const IDLE_BOUND: Duration = Duration::from_secs(240);
/// Beyond the time that all tasks take one after the other, everything that can run has its outcome within this.
const OUTCOME_BOUND: Duration = Duration::from_secs(400);
/// How often slots are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A cancelled task has its outcome within this.
const CANCEL_BOUND: Duration = Duration::from_secs(30);
/// Beyond the time that a link may idle.
const CLOSE_BOUND: Duration = Duration::from_secs(30);

impl Run<'_> {
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        let work: Duration = self.world.ledger.open().map(|(_, task)| time_of(task)).sum();
        let mut idle = BTreeMap::new();
        loop {
            let left = self.world.ledger.open().filter(|(_, task)| self.can_run(task)).map(|(id, _)| id).next();
            let Some(left) = left else { return Ok(()) };
            if self.world.at > self.calm + work + OUTCOME_BOUND {
                let what = format!("task {} never ended though somebody could run it; {}", left.0, self.world.why());
                return Err(Violation::new("I-01", what));
            }
            self.look_for_idle_slots(&mut idle)?;
            self.run_to(self.world.at + LOOK)?;
        }
    }

    /// Whether a worker is there that could run the task.
    fn can_run(&self, task: &TaskState) -> bool {
        self.world.is_alive(task.client) && self.workers().any(|worker| self.fits(worker, task))
    }

    fn workers(&self) -> impl Iterator<Item = Peer> {
        let seats = (0..self.plan.workers.len()).map(Seat::Worker);
        seats.filter_map(|seat| self.at(seat)).filter(|worker| !self.world.is_draining(*worker))
    }

    fn fits(&self, worker: Peer, task: &TaskState) -> bool {
        let Some(offer) = self.world.offer_of(worker) else { return false };
        let user = &self.world.me_of(task.client).user;
        offer.allow.as_ref().is_none_or(|allow| allow.contains(user))
            && offer.offer.slots >= task.spec.cpus()
            && offer.offer.memory_mib >= task.spec.memory_mib
            && task.spec.labels.iter().all(|label| offer.offer.labels.contains(label))
    }

    /// I-05. `idle` holds since when a worker could have run something that waited, and started nothing.
    fn look_for_idle_slots(&self, idle: &mut BTreeMap<Peer, Duration>) -> Result<(), Violation> {
        for worker in self.workers() {
            let (busy, started) = self.world.business(worker);
            let free = self.world.offer_of(worker).map_or(0, |offer| offer.offer.slots).saturating_sub(busy);
            let waits = |task: &TaskState| task.running == 0 && task.staged == 0 && task.spec.cpus() <= free;
            let kept = self
                .world
                .ledger
                .open()
                .find(|(_, task)| self.world.is_alive(task.client) && waits(task) && self.fits(worker, task));
            let Some((id, _)) = kept.filter(|_| !self.world.is_reserved(worker)) else {
                idle.remove(&worker);
                continue;
            };
            let since = idle.entry(worker).or_insert(self.world.at);
            *since = (*since).max(started).max(self.calm);
            if self.world.at.saturating_sub(*since) > IDLE_BOUND {
                let what =
                    format!("{free} slots of worker {worker} idle while task {} waits; {}", id.0, self.world.why());
                return Err(Violation::new("I-05", what));
            }
        }
        Ok(())
    }

    /// Everybody leaves: nothing may be left of what was.
    pub(super) fn clean_up(&mut self) -> Result<(), Violation> {
        let open: Vec<_> = self.world.ledger.open().map(|(id, task)| (task.client, id)).collect();
        for (client, id) in open {
            self.world.client_input(client, ClientInput::Cancel(id));
        }
        self.run_to(self.world.at + CANCEL_BOUND)?;
        if let Some((id, task)) = self.world.ledger.open().next() {
            return Err(Violation::new(
                "I-01",
                format!("task {} of {} was cancelled and has no end", id.0, task.client),
            ));
        }
        self.run_to(self.world.at + limits::LINK_IDLE * 2 + CLOSE_BOUND)?;
        self.expect("links of clients with nothing to do", self.world.connections())?;
        self.expect("ends of links that have no connection", self.world.link_ends())?;
        self.expect("attempts of tasks that are over", self.world.attempts())?;
        for worker in (0..self.plan.workers.len()).filter_map(|seat| self.at(Seat::Worker(seat))).collect::<Vec<_>>() {
            self.world.worker_input(worker, WorkerInput::Drain);
            self.expect("workers with nothing to do that cannot leave", usize::from(!self.world.has_drained(worker)))?;
        }
        for client in (0..self.plan.clients.len()).filter_map(|seat| self.at(Seat::Client(seat))).collect::<Vec<_>>() {
            self.world.client_input(client, ClientInput::Leave);
        }
        self.host_leaves();
        self.run_to(self.world.at + CLOSE_BOUND)?;
        let timers = self.seats.values().filter(|peer| self.world.wake_of(**peer).is_some()).count();
        self.expect("timers of peers that have left", timers)
    }

    fn expect(&self, what: &'static str, left: usize) -> Result<(), Violation> {
        if left == 0 {
            Ok(())
        } else {
            Err(Violation::new("I-07", format!("left over: {left} {what}; {}", self.world.why())))
        }
    }
}

fn time_of(task: &TaskState) -> Duration {
    crate::world::time_of(&task.spec)
}
