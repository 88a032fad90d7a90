//! After the last fault: every task that can run has its outcome within a bound, no slot idles beside it (I-05), and nothing is left over.

use std::time::Duration;

use p2p_proto::ids::TaskId;
use p2p_proto::limits;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::worker::WorkerInput;

use super::{Run, START, Seat};
use crate::ledger::{TaskState, Violation};
use crate::world::Peer;

/// How long a slot may idle beside a task that it could run, once nothing goes wrong (I-05): a membership may have to be renewed, a hello to
/// come round, a pause between two calls of one worker to end.
const IDLE_BOUND: Duration = Duration::from_secs(240);
/// The same while a client has a link to that worker and all its links are whole: a few messages, and what was slow is still under way.
const LINKED_IDLE_BOUND: Duration = Duration::from_secs(15);
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
        loop {
            let left = self.world.ledger.open().filter(|(_, task)| self.can_run(task)).map(|(id, _)| id).next();
            let Some(left) = left else { return Ok(()) };
            if self.world.at > self.calm + work + OUTCOME_BOUND {
                let what = format!("task {} never ended though somebody could run it; {}", left.0, self.world.why());
                return Err(Violation::new("I-01", what));
            }
            self.watch_to(self.world.at + LOOK)?;
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

    /// Lets time pass, and looks for idle slots meanwhile.
    pub(super) fn watch_to(&mut self, until: Duration) -> Result<(), Violation> {
        while self.world.at < until {
            self.run_to(until.min(self.world.at + LOOK))?;
            self.look_for_idle_slots()?;
        }
        Ok(())
    }

    /// I-05.
    fn look_for_idle_slots(&mut self) -> Result<(), Violation> {
        // While something goes wrong nobody is to blame.
        let Some(quiet) = self.quiet_since() else {
            self.idle.clear();
            self.linked_idle.clear();
            return Ok(());
        };
        for worker in self.workers().collect::<Vec<_>>() {
            let kept = if self.world.is_reserved(worker) { None } else { self.kept_waiting(worker) };
            let Some((id, client)) = kept else {
                self.idle.remove(&worker);
                self.linked_idle.remove(&worker);
                continue;
            };
            let (_, started) = self.world.business(worker);
            let at = self.world.at;
            let longest = |since: &mut Duration| {
                *since = (*since).max(started).max(quiet);
                at.saturating_sub(*since)
            };
            let time = longest(self.idle.entry(worker).or_insert(at));
            let steady = self.world.steady_since(client, worker).filter(|_| !self.is_choosy(client, worker));
            let linked_time = match steady {
                Some(steady) => longest(self.linked_idle.entry(worker).or_insert(at)).min(at.saturating_sub(steady)),
                None => {
                    self.linked_idle.remove(&worker);
                    Duration::ZERO
                }
            };
            if linked_time > LINKED_IDLE_BOUND || (at > self.calm && time > IDLE_BOUND) {
                let what = format!(
                    "slots of worker {worker} idle for {time:?} while task {} waits; {}",
                    id.0,
                    self.world.why()
                );
                return Err(Violation::new("I-05", what));
            }
        }
        Ok(())
    }

    /// A task that waits, at its client or at another worker, and could start on this one now; one whose client has a link to it, if there is any.
    fn kept_waiting(&self, worker: Peer) -> Option<(TaskId, Peer)> {
        let ((busy, used_mib), _) = self.world.business(worker);
        let offer = &self.world.offer_of(worker)?.offer;
        let (free, free_mib) = (offer.slots.saturating_sub(busy), offer.memory_mib.saturating_sub(used_mib));
        if free == 0 {
            return None;
        }
        let waits =
            |task: &TaskState| task.running == 0 && task.spec.cpus() <= free && task.spec.memory_mib <= free_mib;
        let open = self.world.ledger.open().filter(|(_, task)| self.world.is_alive(task.client) && waits(task));
        let mut kept = open.filter(|(_, task)| self.fits(worker, task)).map(|(id, task)| (id, task.client)).peekable();
        let first = kept.peek().copied()?;
        let linked = kept.find(|(_, client)| self.world.steady_since(*client, worker).is_some());
        linked.or(Some(first))
    }

    /// Whether a client may keep slots of this worker free for one that must not wait beside others: it starts only once, needs several slots, or
    /// was lost before and runs alone.
    fn is_choosy(&self, client: Peer, worker: Peer) -> bool {
        let special = |task: &TaskState| task.spec.once || task.spec.cpus() > 1 || task.runs > 0;
        let mut open = self.world.ledger.open().filter(|(_, task)| task.client == client && task.running == 0);
        open.any(|(_, task)| special(task) && self.fits(worker, task))
    }

    /// Since when nothing goes wrong, if nothing does now.
    fn quiet_since(&self) -> Option<Duration> {
        let begun = self.plan.faults.iter().map(|fault| {
            let at = START + Duration::from_millis(fault.at_ms);
            (at, at + Duration::from_millis(fault.for_ms))
        });
        let last = begun.filter(|(at, _)| *at <= self.world.at).map(|(_, over)| over).max();
        let quiet = last.unwrap_or_default().max(self.disturbed);
        (quiet <= self.world.at).then_some(quiet)
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
