//! The workers that a client is linked to: their credits, what they hold, and who is the best next one.

mod worker;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::ids::{AttemptId, ProcessKey, TaskId};
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::{Pong, Want};
use p2p_proto::task::ReturnReason;

use super::Needs;
use super::links::Carrier;
use super::locality::rank;
use super::tasks::{ClassId, Room, Tasks};
use crate::LinkId;
use crate::machine::Now;
use crate::machine::directory::Present;

pub(super) use self::worker::Worker;
use self::worker::{Held, LOAD_UNIT};

/// Attempts that a worker may hand back without finishing one, before it gets no more of that kind. Honest ones hand
/// much back only when they leave, and say so first.
const RETURNS: u32 = 256;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    links: BTreeMap<LinkId, Worker>,
    /// Those with credits and a connection, least loaded first.
    ready: BTreeSet<(u64, LinkId)>,
    /// Those that hold attempts beyond their slots: how many that could be called back, fewest first.
    loaded: BTreeSet<(u32, LinkId)>,
    /// Those that this client does not fill.
    open: BTreeSet<LinkId>,
    /// All of what could be called back.
    excess: u64,
    /// Asked back without an answer yet.
    recalling: u32,
    /// Tasks that waited when the workers were last told how much there is.
    told_of: usize,
    /// A worker has come or changed since, or used up most of what it was told of.
    stale: bool,
    /// Gets nothing more until a task that must run alone has it.
    reserved: Option<LinkId>,
    /// Some held more than their slots, and others could take it, when that was last looked at.
    uneven: bool,
    /// Classes that nobody who is linked takes, unless `refitted` since.
    unserved: BTreeSet<ClassId>,
    refitted: bool,
}

/// Newest attempts of a worker of one kind that are looked at when some are to be called back.
const RECALL_LOOK: usize = 64;
/// The same when others are to be called for what waits there.
const CALL_LOOK: usize = 8;

impl Workers {
    pub(super) fn add(
        &mut self,
        now: Now,
        link: LinkId,
        present: Present,
        (path, carrier): (LinkPath, Carrier),
        tasks: &Tasks,
    ) {
        let worker = Worker::new(now, present, path, carrier);
        if worker.may_start() {
            self.open.insert(link);
        }
        self.links.insert(link, worker);
        (self.stale, self.refitted) = (true, true);
        self.refit(link, tasks);
    }

    /// There is a new class of tasks.
    pub(super) fn on_class(&mut self, class: ClassId, tasks: &Tasks) {
        for worker in self.links.values_mut() {
            worker.refit_one(class, tasks);
        }
        if self.serves(class) {
            self.unserved.remove(&class);
        } else {
            self.unserved.insert(class);
        }
    }

    /// Works out anew what a worker could run.
    fn refit(&mut self, link: LinkId, tasks: &Tasks) {
        if let Some(worker) = self.links.get_mut(&link) {
            worker.refit(tasks);
        }
    }

    pub(super) fn remove(&mut self, link: LinkId) -> Option<Worker> {
        // Out of every index first.
        self.change(link, Worker::retire);
        self.refitted = true;
        self.links.remove(&link)
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Worker> {
        self.links.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Worker> {
        self.links.get_mut(&link)
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

    /// The worker for the next task of this class: one with a credit and the least work per slot, and no more than `room` allows; not the one that is `kept`
    /// for another task. None that has the task already. One with enough free memory, if there is any and the task needs it. Among those
    /// where it starts as soon, one that holds most of its large inputs, which `held` tells, if it has any. Looks at
    /// [`limits::CLIENT_LINKS`] at most.
    ///
    /// [`limits::CLIENT_LINKS`]: p2p_proto::limits::CLIENT_LINKS
    pub(super) fn best(
        &self,
        (class, needs): (ClassId, &Needs),
        room: Room,
        kept: bool,
        has: impl Fn(LinkId) -> bool,
        held: Option<&dyn Fn(&Worker) -> u64>,
    ) -> Option<LinkId> {
        let below = match room {
            Room::Queue => u64::MAX,
            Room::Slot => LOAD_UNIT,
            Room::Worker => 1,
        };
        let fitting = self.ready.iter().take_while(|(load, _)| *load < below);
        let open = fitting.filter(|(_, link)| !kept || room != Room::Queue || self.reserved != Some(*link));
        let mut able = open.filter(|(_, link)| self.fits(*link, class) && !has(*link));
        if needs.memory_mib == 0 && held.is_none() {
            return able.next().map(|(_, link)| *link);
        }
        let rank = |(load, link): &(u64, LinkId)| {
            let has_memory = needs.memory_mib == 0 || self.has_room(*link, needs);
            let held = held.zip(self.links.get(link)).map_or(0, |(held, worker)| held(worker));
            rank(has_memory, load / LOAD_UNIT, held)
        };
        // The least loaded of those that are equal.
        able.map(|ready| (rank(ready), Reverse(*ready))).max().map(|(_, Reverse((_, link)))| link)
    }

    /// Whether such a task could start there now, beside what this client has there.
    fn has_room(&self, link: LinkId, needs: &Needs) -> bool {
        self.links.get(&link).is_some_and(|worker| worker.room_for(needs) > 0)
    }

    /// Tasks that wait and that somebody who is linked could run.
    pub(super) fn queued_here(&mut self, tasks: &Tasks) -> usize {
        self.settle_unserved(tasks);
        let unserved: usize = self.unserved.iter().map(|class| tasks.waiting_in(*class)).sum();
        tasks.queued() - unserved
    }

    /// Classes of which tasks wait that nobody who is linked could run.
    pub(super) fn unserved(&mut self, tasks: &Tasks) -> impl Iterator<Item = ClassId> {
        self.settle_unserved(tasks);
        self.unserved.iter().copied().filter(|class| tasks.waiting_in(*class) > 0)
    }

    /// Whether nobody who was linked when that was last looked at could run these.
    pub(super) fn is_unserved(&self, class: ClassId) -> bool {
        self.unserved.contains(&class)
    }

    fn settle_unserved(&mut self, tasks: &Tasks) {
        if std::mem::take(&mut self.refitted) {
            self.unserved =
                tasks.classes().iter().map(|(class, _)| class).filter(|class| !self.serves(*class)).collect();
        }
    }

    /// Whether somebody who is linked, and was not away for long, could run these.
    fn serves(&self, class: ClassId) -> bool {
        self.links.values().any(|worker| worker.fits(class) && !worker.carrier.is_elsewhere())
    }

    /// Classes of what waits at workers that have more than they can run.
    pub(super) fn stuck(&self, tasks: &Tasks) -> BTreeSet<ClassId> {
        let loaded = self.loaded.iter().filter_map(|(_, link)| self.links.get(link));
        let waits = |worker: &Worker, class| worker.waiting_in(class, CALL_LOOK, tasks).next().is_some();
        loaded.flat_map(|worker| worker.classes().filter(|class| waits(worker, *class))).collect()
    }

    /// Keeps one worker free for the next task of `class`, which waits for a free slot or a worker of its own. The same one, as long as that
    /// can serve it.
    pub(super) fn reserve(&mut self, class: ClassId) {
        let serves = |worker: &Worker| worker.fits(class) && !worker.carrier.is_broken();
        if self.reserved.is_none_or(|link| !self.links.get(&link).is_some_and(serves)) {
            let fitting = self.links.iter().filter(|(_, worker)| serves(worker));
            self.reserved = fitting.min_by_key(|(_, worker)| worker.attempts.len()).map(|(link, _)| *link);
        }
    }

    /// Nothing waits for a worker to be free.
    pub(super) fn end_reservation(&mut self) {
        self.reserved = None;
    }

    /// Whether some worker has a credit for a slot that is free.
    pub(super) fn has_free_slot(&self) -> bool {
        self.ready.first().is_some_and(|(load, _)| *load < LOAD_UNIT)
    }

    /// Whether some worker whom the caller takes has a slot for such a task that this client does not fill.
    pub(super) fn could_start(&self, class: ClassId, takes: impl Fn(LinkId) -> bool) -> bool {
        self.links.iter().any(|(link, worker)| worker.may_start() && worker.fits(class) && takes(*link))
    }

    /// The task of an attempt that this worker has.
    pub(super) fn task_of(&self, link: LinkId, attempt: AttemptId) -> Option<TaskId> {
        self.links.get(&link)?.attempts.get(&attempt).map(|held| held.task)
    }

    /// All attempts of a worker in the order in which it got them; whether each may have run by now: there were slots for it.
    pub(super) fn attempts_of(&self, link: LinkId) -> Vec<(AttemptId, TaskId, bool)> {
        let Some(worker) = self.links.get(&link) else { return Vec::new() };
        let mut free = worker.slots;
        let attempts = worker.attempts.iter().map(|(attempt, held)| {
            let may_have_run = held.slots <= free;
            free -= if may_have_run { held.slots } else { 0 };
            (*attempt, held.task, may_have_run)
        });
        attempts.collect()
    }

    /// Whether some worker has more than it can run, or is to hand that back.
    pub(super) fn is_loaded(&self) -> bool {
        self.excess > 0 || self.recalling > 0
    }

    /// Tasks that could move to this worker from those that hold more than they have slots: it has a slot for them.
    pub(super) fn movable(&self, link: LinkId) -> u32 {
        let may = self.links.get(&link).is_some_and(|worker| worker.may_start());
        if may { u32::try_from(self.excess.div_ceil(2)).unwrap_or(u32::MAX) } else { 0 }
    }

    /// Attempts to ask back, because workers with credits have free slots that nothing which waits could take (S-02): from those who hold most, what they would start last, and
    /// half of it, so that both come to their ends together.
    pub(super) fn recalls(&mut self, tasks: &Tasks) -> Vec<(LinkId, AttemptId)> {
        let mut recalls = Vec::new();
        if self.loaded.is_empty() || !self.has_free_slot() {
            return recalls;
        }
        let free = self.ready.iter().take_while(|(load, _)| *load < LOAD_UNIT).map(|(_, link)| *link);
        let idle: Vec<LinkId> = free.filter(|link| !tasks.waiting().any(|class| self.fits(*link, class))).collect();
        let credits: u32 = idle.iter().filter_map(|link| self.links.get(link)).map(|worker| worker.credits).sum();
        let mut free = credits.saturating_sub(self.recalling);
        // Those who hold most first, each once.
        let loaded: Vec<_> = self.loaded.iter().rev().copied().collect();
        for (excess, loaded) in loaded {
            let Some(worker) = self.links.get(&loaded) else { continue };
            // What it could start itself it will. Others may fill the slots of whoever has a credit: from one whom they crowd to the next one would lead nowhere.
            let crowded = worker.is_crowded();
            let could = |link: &LinkId, class| {
                let has_slot = !crowded || self.links.get(link).is_some_and(Worker::has_idle_slot);
                *link != loaded && has_slot && self.fits(*link, class) && self.has_room(*link, tasks.needs(class))
            };
            let classes = worker.classes().filter(|class| free > 0 && idle.iter().any(|link| could(link, *class)));
            let waiting = |class| worker.waiting_in(class, RECALL_LOOK, tasks).take(free as usize);
            let mut movable: Vec<(AttemptId, Held)> = classes.flat_map(waiting).collect();
            movable.sort_unstable_by_key(|(attempt, _)| Reverse(*attempt));
            let mut left = excess.div_ceil(2);
            let half = movable.into_iter().take_while(|(_, held)| {
                let more = left > 0;
                left = left.saturating_sub(held.slots);
                more
            });
            let attempts: Vec<AttemptId> = half.take(free as usize).map(|(attempt, _)| attempt).collect();
            let count = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
            free -= count;
            self.change(loaded, |worker| attempts.iter().for_each(|attempt| worker.recall(*attempt)));
            recalls.extend(attempts.into_iter().map(|attempt| (loaded, attempt)));
        }
        recalls
    }

    /// It could not be called back: it runs, or has ended.
    pub(super) fn on_too_late(&mut self, link: LinkId, attempt: AttemptId) {
        self.change(link, |worker| {
            worker.keep(attempt);
        });
    }

    /// A connection broke, or is back, or was away for long: the others are to hear what waits for them now.
    pub(super) fn tell_again(&mut self) {
        (self.stale, self.refitted) = (true, true);
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

    /// Slots that could still be filled with tasks of these classes, of all workers but those that were away for so long that others should.
    pub(super) fn room_for(&self, classes: impl Iterator<Item = ClassId> + Clone, tasks: &Tasks) -> u32 {
        self.room_of(classes, tasks, |_| true)
    }

    /// The same, less that of workers whose slots others fill.
    pub(super) fn room_beside_others(&self, class: ClassId, tasks: &Tasks) -> u32 {
        self.room_of(std::iter::once(class), tasks, |worker| !worker.is_filled_by_others())
    }

    fn room_of(
        &self,
        classes: impl Iterator<Item = ClassId> + Clone,
        tasks: &Tasks,
        counts: impl Fn(&Worker) -> bool,
    ) -> u32 {
        let here = self.links.values().filter(|worker| !worker.carrier.is_elsewhere() && counts(worker));
        let rooms = here.map(|worker| {
            let fitting = classes.clone().filter(|class| worker.fits(*class));
            fitting.map(|class| worker.room_for(tasks.needs(class))).max().unwrap_or_default()
        });
        rooms.fold(0, u32::saturating_add)
    }

    /// It handed an attempt back. Returns whether it is of no use for such tasks: it says so, or has grown tiresome.
    pub(super) fn on_returned(&mut self, link: LinkId, why: ReturnReason) -> bool {
        let Some(worker) = self.links.get_mut(&link) else { return false };
        // What was cancelled or recalled comes back because it was asked for.
        worker.returns += u32::from(!matches!(why, ReturnReason::Cancelled | ReturnReason::Recalled));
        why == ReturnReason::Mismatch || worker.returns >= RETURNS
    }

    /// It offered this and does not take it: asking again would go round in circles.
    pub(super) fn exclude(&mut self, link: LinkId, class: ClassId) {
        if let Some(worker) = self.links.get_mut(&link) {
            worker.exclude(class);
            self.refitted = true;
        }
    }

    /// It takes no more tasks.
    pub(super) fn on_draining(&mut self, link: LinkId, tasks: &Tasks) {
        self.change(link, |worker| {
            worker.draining = true;
            worker.credits = 0;
            worker.refit(tasks);
        });
        self.refitted = true;
    }

    pub(super) fn on_open(&mut self, link: LinkId, slots: u32, tasks: &Tasks) {
        self.change(link, |worker| {
            worker.slots = slots.max(1);
            worker.refit(tasks);
        });
        (self.stale, self.refitted) = (true, true);
    }

    pub(super) fn on_credit(&mut self, link: LinkId, credits: u32) {
        self.change(link, |worker| worker.credits = worker.credits.saturating_add(credits));
    }

    pub(super) fn on_revoke(&mut self, link: LinkId, credits: u32) {
        self.change(link, |worker| worker.credits = worker.credits.saturating_sub(credits));
    }

    /// An attempt was sent: of a task with these needs, that takes all slots where it runs `alone`.
    pub(super) fn on_submit(
        &mut self,
        link: LinkId,
        attempt: AttemptId,
        task: (TaskId, ClassId),
        needs: &Needs,
        alone: bool,
    ) {
        self.change(link, |worker| {
            worker.credits = worker.credits.saturating_sub(1);
            worker.told.tasks = worker.told.tasks.saturating_sub(1);
            let slots = if alone { worker.slots } else { needs.cpus.min(worker.slots) };
            worker.hold(attempt, Held { task: task.0, class: task.1, slots, memory_mib: needs.memory_mib });
        });
        self.stale |= self.links.get(&link).is_some_and(|worker| worker.told.tasks <= worker.hear_below);
    }

    /// An attempt is over; whose it was.
    pub(super) fn on_ended(&mut self, now: Now, link: LinkId, attempt: AttemptId) -> Option<TaskId> {
        let mut task = None;
        self.change(link, |worker| {
            task = worker.release(attempt);
            worker.idle_since = now.at;
        });
        task
    }

    /// An attempt runs there.
    pub(super) fn on_started(&mut self, link: LinkId, attempt: AttemptId) {
        self.change(link, |worker| worker.on_started(attempt));
    }

    pub(super) fn on_pong(&mut self, now: Now, link: LinkId, pong: Pong, tasks: &Tasks) {
        self.change(link, |worker| worker.on_load(pong, RECALL_LOOK, tasks));
        if let Some(worker) = self.links.get_mut(&link)
            && let Some(sent) = worker.ping_sent.take()
        {
            let sample = now.at.saturating_sub(sent);
            // The least of what was measured is nearest to the line's own round trip; a slow creep lets it rise again.
            self.stale |= worker.round_trip.is_none();
            worker.round_trip = Some(worker.round_trip.map_or(sample, |least| sample.min(least + least / 8)));
        }
    }

    /// Those whom to tell what waits, because what they were told may be too far from that. They are not looked at for each task.
    pub(super) fn must_hear(&mut self, queued: usize) -> Vec<LinkId> {
        let moved = (queued == 0) != (self.told_of == 0) || queued > 2 * self.told_of || queued < self.told_of / 2;
        let uneven = !self.loaded.is_empty() && (queued == 0 || !self.open.is_empty());
        // Once more when that is over, to take it back.
        let was_uneven = std::mem::replace(&mut self.uneven, uneven);
        if moved || self.stale || (uneven && queued == 0) || (was_uneven && !uneven) {
            (self.told_of, self.stale) = (queued, false);
            return self.ids();
        }
        if uneven { self.open.iter().copied().collect() } else { Vec::new() }
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
        worker.hear_below = tasks / 2;
        worker.idle_since = now.at;
        Some(worker.told)
    }

    /// Links to ping now.
    pub(super) fn due_pings(&mut self, now: Now, interval: Duration) -> Vec<LinkId> {
        let mut due = Vec::new();
        for (link, worker) in &mut self.links {
            if worker.pings() && worker.ping_at <= now.at {
                worker.ping_sent = Some(now.at);
                worker.ping_after = worker.attempts.last_key_value().map(|(attempt, _)| *attempt);
                worker.ping_at = now.at + interval;
                due.push(*link);
            }
        }
        due
    }

    /// Links that had nothing to do for so long.
    pub(super) fn idle_since(&self, now: Now, limit: Duration) -> Vec<LinkId> {
        self.idle().filter(|(_, worker)| worker.idle_since + limit <= now.at).map(|(link, _)| *link).collect()
    }

    /// When the next one has had nothing to do for so long.
    pub(super) fn idle_at(&self, limit: Duration) -> Option<Duration> {
        self.idle().map(|(_, worker)| worker.idle_since + limit).min()
    }

    /// One that knows of waiting tasks is not idle, however long all its slots serve others.
    fn idle(&self) -> impl Iterator<Item = (&LinkId, &Worker)> {
        self.links.iter().filter(|(_, worker)| worker.attempts.is_empty() && worker.told.tasks == 0)
    }

    /// The next ping, and what is next for links without a connection.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pings = self.links.values().filter(|worker| worker.pings()).map(|worker| worker.ping_at);
        pings.chain(self.links.values().filter_map(|worker| worker.carrier.wake_at())).min()
    }

    /// Changes a worker and keeps the indexes in step.
    pub(super) fn change(&mut self, link: LinkId, change: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.links.get_mut(&link) else { return };
        let (ready, excess, recalling) = (worker.readiness(), worker.excess(), worker.recalled.len());
        let open = worker.may_start();
        change(worker);
        let (ready_now, excess_now, recalling_now) = (worker.readiness(), worker.excess(), worker.recalled.len());
        match (open, worker.may_start()) {
            (false, true) => drop(self.open.insert(link)),
            (true, false) => drop(self.open.remove(&link)),
            _ => {}
        }
        if ready != ready_now {
            ready.map(|load| self.ready.remove(&(load, link)));
            ready_now.map(|load| self.ready.insert((load, link)));
        }
        if excess != excess_now {
            self.loaded.remove(&(excess, link));
            if excess_now > 0 {
                self.loaded.insert((excess_now, link));
            }
            self.excess = self.excess - u64::from(excess) + u64::from(excess_now);
        }
        if recalling != recalling_now {
            self.recalling = self.recalling.saturating_add_signed(recalling_now as i32 - recalling as i32);
        }
    }
}
