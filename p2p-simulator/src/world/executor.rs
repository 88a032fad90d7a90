//! What runs on the workers of a world. A task's payload says how long it runs and which task it is, so that the world can tell what ran
//! from what arrives, not from what the machines say about it.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::link::item::{Finished, Submit};
use p2p_proto::task::{Content, Ended, TaskSpec};
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::worker::WorkerInput;

use super::{End, Happening, Peer, World};
use crate::ledger::Violation;
use crate::plan::TaskPlan;

/// From an interrupt or kill to the end of what runs.
const DIES_WITHIN_MS: u64 = 20;

#[derive(Debug, Default)]
pub(super) struct Executor {
    staged: BTreeMap<(Peer, LinkId, AttemptId), Work>,
    running: BTreeMap<(Peer, LinkId, AttemptId), Running>,
    /// Slots and memory in use.
    busy: BTreeMap<Peer, (u32, u64)>,
    /// Workers on which an attempt runs that must be alone.
    alone: BTreeMap<Peer, AttemptId>,
    /// How often an attempt was started there.
    starts: BTreeMap<Peer, usize>,
    /// Workers on which everything takes so many times as long.
    slowness: BTreeMap<Peer, u32>,
    /// When an attempt was started here last.
    started_at: BTreeMap<Peer, Duration>,
}

#[derive(Clone, Debug)]
struct Work {
    spec: TaskSpec,
    alone: bool,
    task: Option<TaskId>,
}

#[derive(Debug)]
struct Running {
    work: Work,
    since: Duration,
}

/// A task for the runtime `r` that runs so long.
pub fn task(time_ms: u64) -> TaskSpec {
    let payload = Content::Inline(time_ms.to_be_bytes().to_vec());
    TaskSpec { runtime: "r".to_owned(), payload, ..TaskSpec::default() }
}

/// The task that a plan asks for. A poisonous one ends its worker's process when it has run so long.
pub fn plan_task(plan: &TaskPlan) -> TaskSpec {
    let mut spec = task(plan.time_ms);
    if let (true, Content::Inline(bytes)) = (plan.poison, &mut spec.payload) {
        // In place of the task's number until it has one.
        bytes.extend([0; 8]);
        bytes.push(1);
    }
    TaskSpec {
        extra_cpus: plan.cpus.saturating_sub(1),
        once: plan.once,
        stdin: plan.stdin,
        memory_mib: plan.memory_mib,
        labels: plan.labels.iter().map(|label| (*label).to_owned()).collect(),
        priority: plan.priority,
        timeout_ms: plan.timeout_ms,
        ..spec
    }
}

/// Writes into the payload which task it is.
pub(super) fn label(spec: &mut TaskSpec, id: TaskId) {
    if let Content::Inline(bytes) = &mut spec.payload {
        bytes.resize(bytes.len().max(16), 0);
        bytes[8..16].copy_from_slice(&id.0.to_be_bytes());
    }
}

/// Which task it is, if it was submitted to a world.
pub fn task_of(spec: &TaskSpec) -> Option<TaskId> {
    part(spec, 8).map(TaskId)
}

/// How long it runs.
pub fn time_of(spec: &TaskSpec) -> Duration {
    Duration::from_millis(part(spec, 0).unwrap_or(0))
}

fn is_poison(spec: &TaskSpec) -> bool {
    matches!(&spec.payload, Content::Inline(bytes) if bytes.get(16) == Some(&1))
}

fn part(spec: &TaskSpec, at: usize) -> Option<u64> {
    let Content::Inline(bytes) = &spec.payload else { return None };
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

impl Executor {
    /// The process is gone, and with it what it ran. Returns which tasks ran.
    pub(super) fn on_gone(&mut self, peer: Peer) -> Vec<TaskId> {
        let keys = (peer, LinkId(0), AttemptId(0))..=(peer, LinkId(u64::MAX), AttemptId(u64::MAX));
        let staged: Vec<_> = self.staged.range(keys.clone()).map(|(key, _)| *key).collect();
        staged.iter().for_each(|key| drop(self.staged.remove(key)));
        let running: Vec<_> = self.running.range(keys).map(|(key, _)| *key).collect();
        self.busy.remove(&peer);
        self.alone.remove(&peer);
        running.iter().filter_map(|key| self.running.remove(key)?.work.task).collect()
    }
}

impl World {
    pub(super) fn stage(&mut self, (peer, link): End, submit: Submit) {
        let Submit { attempt, task: spec, alone } = submit;
        let task = task_of(&spec);
        if let Some(task) = task {
            self.ledger.on_staged(task);
        }
        let key = (peer, link, attempt);
        let known = self.executor.staged.insert(key, Work { spec, alone, task }).is_some();
        if known || self.executor.running.contains_key(&key) {
            self.ledger.break_rule(Violation::new("S-04", format!("{attempt:?} was staged twice")));
        }
    }

    /// What was staged or runs there is not wanted any more.
    pub(super) fn stop_attempt(&mut self, (peer, link): End, attempt: AttemptId) {
        if let Some(work) = self.executor.staged.remove(&(peer, link, attempt)) {
            if let Some(task) = work.task {
                self.ledger.on_unstaged(task);
            }
        } else if self.executor.running.contains_key(&(peer, link, attempt)) {
            let after = Duration::from_millis(1 + self.dice.below(DIES_WITHIN_MS));
            self.later(after, Happening::Ended((peer, link), attempt, Ended::Cancelled));
        }
    }

    pub(super) fn run_attempt(&mut self, end: End, attempt: AttemptId) {
        let (peer, link) = end;
        let Some(work) = self.executor.staged.remove(&(peer, link, attempt)) else {
            self.ledger.break_rule(Violation::new("S-04", format!("{attempt:?} runs on {peer} and was never staged")));
            return;
        };
        self.check_place(end, &work);
        let offered = self.places[peer].offer.as_ref().map(|offer| &offer.offer);
        let (slots, memory) = offered.map_or((0, 0), |offer| (offer.slots, offer.memory_mib));
        let busy = self.executor.busy.entry(peer).or_default();
        busy.0 += work.spec.cpus();
        busy.1 += work.spec.memory_mib;
        let (busy, used) = *busy;
        let others = busy > work.spec.cpus();
        if busy > slots {
            self.ledger.break_rule(Violation::new("I-03", format!("worker {peer} uses {busy} of {slots} slots")));
        }
        if used > memory && memory > 0 {
            self.ledger.break_rule(Violation::new("S-03", format!("worker {peer} uses {used} of {memory} MiB")));
        }
        if others && (work.alone || self.executor.alone.contains_key(&peer)) {
            self.ledger.break_rule(Violation::new("S-04", format!("{attempt:?} is not alone on worker {peer}")));
        }
        if work.alone {
            self.executor.alone.insert(peer, attempt);
        }
        if let Some(task) = work.task {
            self.ledger.on_run(task);
        }
        let time = time_of(&work.spec) * self.executor.slowness.get(&peer).copied().unwrap_or(1);
        *self.executor.starts.entry(peer).or_default() += 1;
        self.executor.started_at.insert(peer, self.at);
        if is_poison(&work.spec) {
            self.later(time, Happening::Poisoned(peer));
        } else {
            let limit = Duration::from_millis(work.spec.timeout_ms);
            let ended = if limit.is_zero() || time <= limit { Ended::Exit(0) } else { Ended::TimedOut };
            let after = if limit.is_zero() { time } else { time.min(limit) };
            self.later(after, Happening::Ended(end, attempt, ended));
        }
        self.executor.running.insert((peer, link, attempt), Running { work, since: self.at });
    }

    /// Nothing runs where it may not (I-08, S-03).
    fn check_place(&mut self, end: End, work: &Work) {
        let Some(client) = self.partner_peer(end) else { return };
        let (user, owner) = (self.places[client].me.user.clone(), work.task.and_then(|task| self.ledger.owner(task)));
        let Some(offer) = &self.places[end.0].offer else { return };
        let allowed = offer.allow.as_ref().is_none_or(|allow| allow.contains(&user));
        let fits = offer.offer.runtimes.contains(&work.spec.runtime)
            && work.spec.labels.iter().all(|label| offer.offer.labels.contains(label));
        if !allowed || owner.is_some_and(|owner| owner != client) {
            self.ledger.break_rule(Violation::new("I-08", format!("worker {} runs a task of {user}", end.0)));
        }
        if !fits {
            self.ledger.break_rule(Violation::new("S-03", format!("worker {} runs what it does not offer", end.0)));
        }
    }

    /// An attempt ends now, if it still runs.
    pub(super) fn on_ended(&mut self, (peer, link): End, attempt: AttemptId, ended: Ended) {
        let Some(Running { work, since }) = self.executor.running.remove(&(peer, link, attempt)) else { return };
        if let Some((cpus, memory)) = self.executor.busy.get_mut(&peer) {
            *cpus -= work.spec.cpus();
            *memory -= work.spec.memory_mib;
        }
        if self.executor.alone.get(&peer) == Some(&attempt) {
            self.executor.alone.remove(&peer);
        }
        let mut value = Content::default();
        if let Some(task) = work.task {
            self.ledger.on_ended(task, &ended);
            value = Content::Inline(task.0.to_be_bytes().to_vec());
        }
        self.note(peer, || format!("{attempt:?} of link {} ended: {ended:?}", link.0));
        let ran_us = u64::try_from((self.at - since).as_micros()).unwrap_or(u64::MAX);
        let finished = Finished { attempt, ended, value, outputs: Vec::new(), ran_us };
        self.worker_input(peer, WorkerInput::Ended { link, finished });
    }

    /// Attempts that run there.
    pub fn running(&self, worker: Peer) -> usize {
        let keys = (worker, LinkId(0), AttemptId(0))..=(worker, LinkId(u64::MAX), AttemptId(u64::MAX));
        self.executor.running.range(keys).count()
    }

    /// On this worker everything takes so many times as long.
    pub fn slow_down(&mut self, worker: Peer, times: u32) {
        self.executor.slowness.insert(worker, times);
    }

    /// How often a worker has started anything.
    pub fn runs_of(&self, worker: Peer) -> usize {
        self.executor.starts.get(&worker).copied().unwrap_or(0)
    }

    /// The workers on which a task runs now.
    pub fn runs_on(&self, task: TaskId) -> Vec<Peer> {
        let running = self.executor.running.iter().filter(|(_, running)| running.work.task == Some(task));
        running.map(|((worker, ..), _)| *worker).collect()
    }

    /// Attempts that are staged or run anywhere.
    pub fn attempts(&self) -> usize {
        self.executor.staged.len() + self.executor.running.len()
    }

    /// Whether free slots may be kept there for a task that takes more than one, or all of them.
    pub(crate) fn is_reserved(&self, worker: Peer) -> bool {
        let keys = (worker, LinkId(0), AttemptId(0))..=(worker, LinkId(u64::MAX), AttemptId(u64::MAX));
        self.executor.alone.contains_key(&worker)
            || self.executor.staged.range(keys).any(|(_, work)| work.alone || work.spec.cpus() > 1)
    }

    /// Slots in use there, and when something started there last.
    pub(crate) fn business(&self, worker: Peer) -> (u32, Duration) {
        let busy = self.executor.busy.get(&worker).map_or(0, |(cpus, _)| *cpus);
        (busy, self.executor.started_at.get(&worker).copied().unwrap_or_default())
    }
}
