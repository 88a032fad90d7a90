//! The workers that a client is linked to: their credits, what they hold, and who is the best next one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use p2p_proto::ids::{AttemptId, PeerName, ProcessKey, TaskId};
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::{Pong, Want};
use p2p_proto::task::ReturnReason;

use super::links::Carrier;
use super::tasks::{ClassId, Tasks};
use crate::LinkId;
use crate::machine::Now;
use crate::machine::directory::Present;

/// How finely load is compared: attempts per slot in 1/1024.
const LOAD_UNIT: u64 = 1024;

/// Attempts that a worker may hand back without finishing one, before it gets no more of that kind. Honest ones hand
/// much back only when they leave, and say so first.
const RETURNS: u32 = 256;

/// One linked worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: PeerName,
    pub(super) process: ProcessKey,
    pub(super) path: LinkPath,
    /// Who it is, to be called again.
    pub(super) present: Present,
    pub(super) carrier: Carrier,
    pub(super) slots: u32,
    pub(super) runtimes: Vec<String>,
    pub(super) attempts: HashMap<AttemptId, TaskId>,
    pub(super) draining: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) load: Option<Pong>,
    /// Attempts that it handed back since the last one that it finished.
    pub(super) returns: u32,
    credits: u32,
    /// What it believes that waits: the last `Want`, less what it was sent since.
    told: Want,
    /// By class: whether it could ever run such a task.
    fits: Vec<bool>,
    /// What it offered and did not take.
    excluded: BTreeSet<ClassId>,
    ping_sent: Option<Duration>,
    ping_at: Duration,
    idle_since: Duration,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    links: BTreeMap<LinkId, Worker>,
    /// Those with credits and a connection, least loaded first.
    ready: BTreeSet<(u64, LinkId)>,
}

impl Workers {
    pub(super) fn add(
        &mut self,
        now: Now,
        link: LinkId,
        present: Present,
        (path, carrier): (LinkPath, Carrier),
        tasks: &Tasks,
    ) {
        let offer = present.offer.clone().unwrap_or_default();
        let worker = Worker {
            name: present.name.clone(),
            process: present.verified.keys.process,
            path,
            present,
            carrier,
            slots: offer.slots,
            runtimes: offer.runtimes,
            attempts: HashMap::new(),
            draining: false,
            round_trip: None,
            load: None,
            returns: 0,
            credits: 0,
            told: Want::default(),
            fits: Vec::new(),
            excluded: BTreeSet::new(),
            ping_sent: None,
            ping_at: now.at,
            idle_since: now.at,
        };
        self.links.insert(link, worker);
        self.refit(link, tasks);
    }

    /// There is a new class of tasks.
    pub(super) fn on_class(&mut self, tasks: &Tasks) {
        for worker in self.links.values_mut() {
            worker.refit(tasks);
        }
    }

    /// Works out anew what a worker could run.
    fn refit(&mut self, link: LinkId, tasks: &Tasks) {
        if let Some(worker) = self.links.get_mut(&link) {
            worker.refit(tasks);
        }
    }

    pub(super) fn remove(&mut self, link: LinkId) -> Option<Worker> {
        let worker = self.links.remove(&link)?;
        self.ready.remove(&(worker.load(), link));
        Some(worker)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Worker> {
        self.links.get_mut(&link)
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Worker> {
        self.links.get(&link)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &Worker)> {
        self.links.iter().map(|(link, worker)| (*link, worker))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LinkId, &mut Worker)> {
        self.links.iter_mut().map(|(link, worker)| (*link, worker))
    }

    pub(super) fn ids(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Worker> {
        self.links.values()
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn of_process(&self, process: ProcessKey) -> Option<&Worker> {
        self.links.values().find(|worker| worker.process == process)
    }

    /// The worker for the next task of this class: one with a credit and the least work per slot. A task that may start only
    /// once goes to a free slot or nowhere: it is never prefetched (S-02).
    pub(super) fn best(&self, class: ClassId, once: bool) -> Option<LinkId> {
        self.ready.iter().map(|(_, link)| *link).filter(|link| self.fits(*link, class)).find(|link| {
            !once || self.links.get(link).is_some_and(|worker| worker.attempts.len() < worker.slots as usize)
        })
    }

    /// Whether a worker could ever run such a task.
    pub(super) fn fits(&self, link: LinkId, class: ClassId) -> bool {
        self.links.get(&link).is_some_and(|worker| worker.fits(class))
    }

    /// Slots of all that could run one of these, but for those that were away for so long that others should.
    pub(super) fn slots_for(&self, classes: impl Iterator<Item = ClassId> + Clone) -> u32 {
        let here = self.links.values().filter(|worker| !worker.carrier.is_elsewhere());
        let fitting = here.filter(|worker| classes.clone().any(|class| worker.fits(class)));
        fitting.map(|worker| worker.slots).fold(0, u32::saturating_add)
    }

    /// It handed an attempt back. Returns whether it is of no use for such tasks: it says so, or has grown tiresome.
    pub(super) fn on_returned(&mut self, link: LinkId, why: ReturnReason) -> bool {
        let Some(worker) = self.links.get_mut(&link) else { return false };
        // What was cancelled comes back because it was asked for.
        worker.returns += u32::from(why != ReturnReason::Cancelled);
        why == ReturnReason::Mismatch || worker.returns >= RETURNS
    }

    /// It offered this and does not take it: asking again would go round in circles.
    pub(super) fn exclude(&mut self, link: LinkId, class: ClassId, tasks: &Tasks) {
        if let Some(worker) = self.links.get_mut(&link) {
            worker.excluded.insert(class);
            worker.refit(tasks);
        }
    }

    /// It takes no more tasks.
    pub(super) fn on_draining(&mut self, link: LinkId, tasks: &Tasks) {
        self.change(link, |worker| {
            worker.draining = true;
            worker.credits = 0;
            worker.refit(tasks);
        });
    }

    pub(super) fn on_open(&mut self, link: LinkId, slots: u32, tasks: &Tasks) {
        self.change(link, |worker| {
            worker.slots = slots.max(1);
            worker.refit(tasks);
        });
    }

    pub(super) fn on_credit(&mut self, link: LinkId, credits: u32) {
        self.change(link, |worker| worker.credits = worker.credits.saturating_add(credits));
    }

    pub(super) fn on_revoke(&mut self, link: LinkId, credits: u32) {
        self.change(link, |worker| worker.credits = worker.credits.saturating_sub(credits));
    }

    pub(super) fn on_submit(&mut self, link: LinkId, attempt: AttemptId, task: TaskId) {
        self.change(link, |worker| {
            worker.credits = worker.credits.saturating_sub(1);
            worker.told.tasks = worker.told.tasks.saturating_sub(1);
            worker.attempts.insert(attempt, task);
        });
    }

    /// An attempt is over; whose it was.
    pub(super) fn on_ended(&mut self, now: Now, link: LinkId, attempt: AttemptId) -> Option<TaskId> {
        let mut task = None;
        self.change(link, |worker| {
            task = worker.attempts.remove(&attempt);
            worker.idle_since = now.at;
        });
        task
    }

    pub(super) fn on_pong(&mut self, now: Now, link: LinkId, pong: Pong) {
        if let Some(worker) = self.links.get_mut(&link) {
            worker.load = Some(pong);
            if let Some(sent) = worker.ping_sent.take() {
                let sample = now.at.saturating_sub(sent);
                // The least of what was measured is nearest to the line's own round trip; a slow creep lets it rise again.
                worker.round_trip = Some(worker.round_trip.map_or(sample, |least| sample.min(least + least / 8)));
            }
        }
    }

    /// What to tell a worker for which `tasks` wait, if what it believes is wrong by more than half.
    pub(super) fn want(&mut self, now: Now, link: LinkId, tasks: u32) -> Option<Want> {
        let worker = self.links.get_mut(&link)?;
        let round_trip_us =
            worker.round_trip.map_or(0, |trip| u32::try_from(trip.as_micros().max(1)).unwrap_or(u32::MAX));
        let told = worker.told;
        let news = (told.tasks == 0) != (tasks == 0)
            || tasks > told.tasks.saturating_mul(2)
            || tasks < told.tasks / 2
            || (told.round_trip_us == 0 && round_trip_us != 0 && tasks > 0);
        if !news {
            return None;
        }
        worker.told = Want { tasks, round_trip_us };
        worker.idle_since = now.at;
        Some(worker.told)
    }

    /// Links to ping now.
    pub(super) fn due_pings(&mut self, now: Now, interval: Duration) -> Vec<LinkId> {
        let mut due = Vec::new();
        for (link, worker) in &mut self.links {
            if worker.pings() && worker.ping_at <= now.at {
                worker.ping_sent = Some(now.at);
                worker.ping_at = now.at + interval;
                due.push(*link);
            }
        }
        due
    }

    /// Links that had nothing to do for so long.
    pub(super) fn idle_since(&self, now: Now, limit: Duration) -> Vec<LinkId> {
        // One that knows of waiting tasks is not idle, however long all its slots serve others.
        let idle = |worker: &Worker| {
            worker.attempts.is_empty() && worker.told.tasks == 0 && worker.idle_since + limit <= now.at
        };
        self.links.iter().filter(|(_, worker)| idle(worker)).map(|(link, _)| *link).collect()
    }

    /// The next ping, and what is next for links without a connection.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pings = self.links.values().filter(|worker| worker.pings()).map(|worker| worker.ping_at);
        pings.chain(self.links.values().filter_map(|worker| worker.carrier.wake_at())).min()
    }

    /// Changes a worker and keeps `ready` in step.
    pub(super) fn change(&mut self, link: LinkId, change: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.links.get_mut(&link) else { return };
        let before = worker.load();
        let was_ready = worker.is_ready();
        change(worker);
        let after = worker.load();
        let is_ready = worker.is_ready();
        if was_ready && (!is_ready || before != after) {
            self.ready.remove(&(before, link));
        }
        if is_ready && (!was_ready || before != after) {
            self.ready.insert((after, link));
        }
    }
}

impl Worker {
    pub(super) fn fits(&self, class: ClassId) -> bool {
        self.fits.get(class.0).copied().unwrap_or(false)
    }

    fn refit(&mut self, tasks: &Tasks) {
        let fits = tasks.classes().map(|(class, needs)| {
            self.slots >= needs.cpus
                && self.runtimes.contains(&needs.runtime)
                && !self.draining
                && !self.excluded.contains(&class)
        });
        let fits: Vec<bool> = fits.collect();
        self.fits = fits;
    }

    /// Whether the next task may go to it.
    fn is_ready(&self) -> bool {
        self.credits > 0 && !self.carrier.is_broken()
    }

    /// Whether it is to be pinged when its time comes.
    fn pings(&self) -> bool {
        self.ping_sent.is_none() && !self.carrier.is_broken()
    }

    /// Whether it has work, or knows of some.
    pub(super) fn is_busy(&self) -> bool {
        !self.attempts.is_empty() || self.told.tasks > 0
    }

    fn load(&self) -> u64 {
        self.attempts.len() as u64 * LOAD_UNIT / u64::from(self.slots.max(1))
    }
}
