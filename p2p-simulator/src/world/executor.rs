//! What runs on the workers of a world. A task's payload says how long it runs and which task it is, so that the world can tell what ran
//! from what arrives, not from what the machines say about it.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::blob::{BlobId, BlobRef};
use p2p_proto::ids::{AttemptId, TaskId, UserName};
use p2p_proto::link::item::{Finished, Submit};
use p2p_proto::task::{Content, Ended, File, TaskSpec};
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::worker::WorkerInput;

use super::{End, Happening, Peer, World};
use crate::fair::{Fair, Load};
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
    /// How many are staged here.
    waiting: BTreeMap<Peer, u32>,
    fair: Fair,
}

#[derive(Clone, Debug)]
struct Work {
    spec: TaskSpec,
    alone: bool,
    task: Option<TaskId>,
    /// Whose it is, as far as the world knows.
    user: Option<UserName>,
}

impl Work {
    fn load(&self) -> Load {
        let cpus = self.spec.cpus();
        Load { cpus, plain: cpus == 1 && self.spec.memory_mib == 0 && !self.alone }
    }
}

#[derive(Debug)]
struct Running {
    work: Work,
    /// Slots that it has.
    cpus: u32,
    since: Duration,
    /// Its end is on the way: it was interrupted or killed.
    stopped: bool,
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
    // From what is sent in no time to what takes as long as anybody would wait for it.
    let input = |which: u8| File {
        name: which.to_string(),
        content: Content::Blob(BlobRef {
            id: BlobId([which; 32]),
            size: 100_000 << (8 * which.min(2)),
            chunks: 65_536,
        }),
        executable: false,
        folder: false,
    };
    TaskSpec {
        inputs: plan.input.map(input).into_iter().collect(),
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
    fn unstage(&mut self, key: (Peer, LinkId, AttemptId)) -> Option<Work> {
        let work = self.staged.remove(&key)?;
        self.waiting.entry(key.0).and_modify(|waiting| *waiting -= 1);
        Some(work)
    }

    /// The process is gone, and with it what it had. Returns which tasks waited there and which ran.
    pub(super) fn on_gone(&mut self, peer: Peer) -> (Vec<TaskId>, Vec<TaskId>) {
        let keys = (peer, LinkId(0), AttemptId(0))..=(peer, LinkId(u64::MAX), AttemptId(u64::MAX));
        let staged: Vec<_> = self.staged.range(keys.clone()).map(|(key, _)| *key).collect();
        let waited = staged.iter().filter_map(|key| self.staged.remove(key)?.task).collect();
        let running: Vec<_> = self.running.range(keys).map(|(key, _)| *key).collect();
        self.busy.remove(&peer);
        self.alone.remove(&peer);
        self.waiting.remove(&peer);
        self.fair.on_gone(peer);
        let ran = running.iter().filter_map(|key| self.running.remove(key)?.work.task).collect();
        (waited, ran)
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
        let user = self.partner_peer((peer, link)).map(|client| self.places[client].me.user.clone());
        let work = Work { spec, alone, task, user };
        *self.executor.waiting.entry(peer).or_default() += 1;
        if let (true, Some(user)) = (self.strict, &work.user) {
            let weight =
                self.places[peer].offer.as_ref().and_then(|offer| offer.weights.get(user)).copied().unwrap_or(1);
            self.executor.fair.on_staged(self.at, peer, user, weight, work.load());
        }
        let known = self.executor.staged.insert(key, work).is_some();
        if known || self.executor.running.contains_key(&key) {
            self.ledger.break_rule(Violation::new("S-04", format!("{attempt:?} was staged twice")));
        }
    }

    /// What was staged or runs there is not wanted any more.
    pub(super) fn stop_attempt(&mut self, (peer, link): End, attempt: AttemptId) {
        if let Some(work) = self.executor.unstage((peer, link, attempt)) {
            if let Some(user) = &work.user {
                self.executor.fair.on_unstaged(self.at, peer, user, work.load());
            }
            if let Some(task) = work.task {
                self.ledger.on_unstaged(task);
            }
        } else if let Some(running) = self.executor.running.get_mut(&(peer, link, attempt)) {
            running.stopped = true;
            let after = Duration::from_millis(1 + self.dice.below(DIES_WITHIN_MS));
            self.later(after, Happening::Ended((peer, link), attempt, Ended::Cancelled));
        }
    }

    pub(super) fn run_attempt(&mut self, end: End, attempt: AttemptId) {
        let (peer, link) = end;
        let Some(work) = self.executor.unstage((peer, link, attempt)) else {
            self.ledger.break_rule(Violation::new("S-04", format!("{attempt:?} runs on {peer} and was never staged")));
            return;
        };
        self.check_place(end, &work);
        let offered = self.places[peer].offer.as_ref().map(|offer| &offer.offer);
        let (slots, memory) = offered.map_or((0, 0), |offer| (offer.slots, offer.memory_mib));
        // What runs alone has all of them.
        let cpus = if work.alone { slots } else { work.spec.cpus() };
        let busy = self.executor.busy.entry(peer).or_default();
        busy.0 += cpus;
        busy.1 += work.spec.memory_mib;
        let (busy, used) = *busy;
        let others = busy > cpus;
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
        if let Some(user) = &work.user
            && let Some((other, lead)) = self.executor.fair.on_start(self.at, peer, user, work.load())
        {
            let what = format!(
                "worker {peer} gives a slot to {user}, who has had {lead:?} of slots more than {other} who waits"
            );
            self.ledger.break_rule(Violation::new("I-06", what));
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
        self.executor.running.insert((peer, link, attempt), Running { work, cpus, since: self.at, stopped: false });
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
        let Some(Running { work, cpus: had, since, .. }) = self.executor.running.remove(&(peer, link, attempt)) else {
            return;
        };
        if let Some((cpus, memory)) = self.executor.busy.get_mut(&peer) {
            *cpus -= had;
            *memory -= work.spec.memory_mib;
        }
        if self.executor.alone.get(&peer) == Some(&attempt) {
            self.executor.alone.remove(&peer);
        }
        if let Some(user) = &work.user {
            self.executor.fair.on_end(self.at, peer, user, work.load(), self.at - since);
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

    /// A link is over: nothing of it waits any more, and what runs is on its way to its end (S-06).
    pub(super) fn check_over(&mut self, (peer, link): End) {
        let keys = (peer, link, AttemptId(0))..=(peer, link, AttemptId(u64::MAX));
        let waits = self.executor.staged.range(keys.clone()).map(|((.., attempt), _)| *attempt).next();
        let runs = self.executor.running.range(keys).find(|(_, running)| !running.stopped).map(|((.., id), _)| *id);
        if let Some(attempt) = waits.or(runs) {
            let what = format!("{attempt:?} goes on at worker {peer} though its link {} is over", link.0);
            self.ledger.break_rule(Violation::new("S-06", what));
        }
    }

    /// Slots in use there, and attempts that wait.
    pub(super) fn load(&self, worker: Peer) -> (u32, u32) {
        let busy = self.executor.busy.get(&worker).map_or(0, |(cpus, _)| *cpus);
        (busy, self.executor.waiting.get(&worker).copied().unwrap_or(0))
    }

    /// Everything that waits or runs anywhere: where, of which task, whether it runs.
    pub(super) fn all_attempts(&self) -> impl Iterator<Item = (Peer, TaskId, bool)> {
        let staged = self.executor.staged.iter().map(|((peer, ..), work)| (*peer, work.task, false));
        let running = self.executor.running.iter().map(|((peer, ..), running)| (*peer, running.work.task, true));
        staged.chain(running).filter_map(|(peer, task, runs)| Some((peer, task?, runs)))
    }

    /// The same of one worker: of which link, what, whether it runs.
    pub(super) fn attempts_at(&self, worker: Peer) -> impl Iterator<Item = (LinkId, &TaskSpec, bool)> {
        let keys = (worker, LinkId(0), AttemptId(0))..=(worker, LinkId(u64::MAX), AttemptId(u64::MAX));
        let staged = self.executor.staged.range(keys.clone()).map(|((_, link, _), work)| (*link, &work.spec, false));
        let running = self.executor.running.range(keys);
        staged.chain(running.map(|((_, link, _), running)| (*link, &running.work.spec, true)))
    }

    /// Attempts that are staged or run anywhere.
    pub fn attempts(&self) -> usize {
        self.executor.staged.len() + self.executor.running.len()
    }

    /// Whether free slots may be kept there for a task that takes more than one, or all of them, or more memory than is free.
    pub(crate) fn is_reserved(&self, worker: Peer) -> bool {
        let memory_mib = self.places[worker].offer.as_ref().map_or(0, |offer| offer.offer.memory_mib);
        let free_mib = memory_mib.saturating_sub(self.executor.busy.get(&worker).map_or(0, |(_, used)| *used));
        let keys = (worker, LinkId(0), AttemptId(0))..=(worker, LinkId(u64::MAX), AttemptId(u64::MAX));
        self.executor.alone.contains_key(&worker)
            || self
                .executor
                .staged
                .range(keys)
                .any(|(_, work)| work.alone || work.spec.cpus() > 1 || work.spec.memory_mib > free_mib)
    }

    /// Slots and memory in use there, and when something started there last.
    pub(crate) fn business(&self, worker: Peer) -> ((u32, u64), Duration) {
        let busy = self.executor.busy.get(&worker).copied().unwrap_or_default();
        (busy, self.executor.started_at.get(&worker).copied().unwrap_or_default())
    }
}
