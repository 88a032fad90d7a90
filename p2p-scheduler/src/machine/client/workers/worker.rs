//! One linked worker.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::ids::{AttemptId, PeerName, ProcessKey, TaskId};
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::{Pong, Want};

use super::super::Needs;
use super::super::links::Carrier;
use super::super::tasks::{ClassId, Tasks};
use crate::machine::Now;
use crate::machine::directory::Present;

/// How finely load is compared: attempts per slot in 1/1024.
pub(super) const LOAD_UNIT: u64 = 1024;

/// An attempt that a worker has.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Held {
    pub(in super::super) task: TaskId,
    pub(super) class: ClassId,
    /// All of the worker's for one that runs alone.
    pub(super) slots: u32,
    pub(super) memory_mib: u64,
}

/// One linked worker.
#[derive(Debug)]
pub(in super::super) struct Worker {
    pub(in super::super) name: PeerName,
    pub(in super::super) process: ProcessKey,
    pub(in super::super) path: LinkPath,
    /// Who it is, to be called again.
    pub(in super::super) present: Present,
    pub(in super::super) carrier: Carrier,
    pub(in super::super) slots: u32,
    pub(in super::super) offer: Offer,
    /// In the order in which it got them: it runs the first ones first.
    pub(in super::super) attempts: BTreeMap<AttemptId, Held>,
    /// The same by their kind.
    by_class: BTreeMap<ClassId, BTreeSet<AttemptId>>,
    /// The slots of all of them together.
    held: u32,
    /// And their memory.
    held_memory_mib: u64,
    pub(in super::super) draining: bool,
    /// It is about to be forgotten.
    retired: bool,
    pub(in super::super) round_trip: Option<Duration>,
    pub(in super::super) load: Option<Pong>,
    /// Of its slots that were busy then, those that others filled.
    others: u32,
    /// Attempts that it handed back since the last one that it finished.
    pub(in super::super) returns: u32,
    pub(super) credits: u32,
    /// Attempts that it was asked to hand back, and has not answered about.
    pub(super) recalled: BTreeSet<AttemptId>,
    /// The slots of these together.
    recalled_slots: u32,
    /// And their memory.
    recalled_memory_mib: u64,
    /// What it believes that waits: the last `Want`, less what it was sent since.
    pub(super) told: Want,
    /// When so little of that is left, it is to hear how much there is now.
    pub(super) hear_below: u32,
    pub(super) ping_sent: Option<Duration>,
    /// The newest attempt that it had been sent then.
    pub(super) ping_after: Option<AttemptId>,
    pub(super) ping_at: Duration,
    /// Attempts that have waited there since the last ping, though there are slots for them: others fill these. Their slots.
    crowded_out: BTreeMap<AttemptId, u32>,
    pub(super) idle_since: Duration,
    /// By class: whether it could ever run such a task.
    fits: Vec<bool>,
    /// What it offered and did not take.
    excluded: BTreeSet<ClassId>,
}

impl Worker {
    pub(super) fn new(now: Now, present: Present, path: LinkPath, carrier: Carrier) -> Self {
        let offer = present.offer.clone().unwrap_or_default();
        Self {
            name: present.name.clone(),
            process: present.verified.keys.process,
            path,
            present,
            carrier,
            slots: offer.slots,
            offer,
            attempts: BTreeMap::new(),
            by_class: BTreeMap::new(),
            held: 0,
            held_memory_mib: 0,
            draining: false,
            retired: false,
            round_trip: None,
            load: None,
            others: 0,
            returns: 0,
            credits: 0,
            recalled: BTreeSet::new(),
            recalled_slots: 0,
            recalled_memory_mib: 0,
            told: Want::default(),
            hear_below: 0,
            ping_sent: None,
            ping_after: None,
            ping_at: now.at,
            crowded_out: BTreeMap::new(),
            idle_since: now.at,
            fits: Vec::new(),
            excluded: BTreeSet::new(),
        }
    }

    pub(in super::super) fn fits(&self, class: ClassId) -> bool {
        !self.draining && self.fits.get(class.0).copied().unwrap_or(false)
    }

    /// Whether it offers what such a task needs.
    pub(in super::super) fn could_run(&self, needs: &Needs) -> bool {
        !self.draining && !self.carrier.is_broken() && needs.fit(self.slots, &self.offer)
    }

    /// Works out anew what it could run.
    pub(super) fn refit(&mut self, tasks: &Tasks) {
        let fits = tasks
            .classes()
            .iter()
            .map(|(class, needs)| needs.fit(self.slots, &self.offer) && !self.excluded.contains(&class));
        self.fits = fits.collect();
    }

    /// There is a new kind of tasks.
    pub(super) fn refit_one(&mut self, class: ClassId, tasks: &Tasks) {
        self.excluded.remove(&class);
        if self.fits.len() <= class.0 {
            self.fits.resize(class.0 + 1, false);
        }
        self.fits[class.0] = tasks.needs(class).fit(self.slots, &self.offer);
    }

    /// It offered this and does not take it.
    pub(super) fn exclude(&mut self, class: ClassId) {
        self.excluded.insert(class);
        if let Some(fits) = self.fits.get_mut(class.0) {
            *fits = false;
        }
    }

    /// Its load, if it can be given a task. Of equals, those are last whose slots others filled when they last told.
    pub(super) fn readiness(&self) -> Option<u64> {
        let full = u64::from(self.is_full_but_not_here());
        let load = || u64::from(self.held) * LOAD_UNIT / u64::from(self.slots.max(1)) + full;
        (self.credits > 0 && !self.carrier.is_broken()).then(load)
    }

    /// Slots that this client's attempts there want beyond those that there are, at least one where they want more memory than there is; or those
    /// that wait for slots which others fill. What was asked back is not counted.
    pub(super) fn excess(&self) -> u32 {
        if self.carrier.is_broken() || self.retired {
            return 0;
        }
        self.own_excess().max(self.crowded_out.values().sum())
    }

    fn own_excess(&self) -> u32 {
        let lacks_memory = self.held_memory_mib - self.recalled_memory_mib > self.offer.memory_mib;
        (self.held - self.recalled_slots).saturating_sub(self.slots).max(lacks_memory.into())
    }

    /// Whether all that is too much there is so because others fill its slots.
    pub(super) fn is_crowded(&self) -> bool {
        self.own_excess() == 0
    }

    /// Whether others fill the slots that this client does not, as far as it said.
    pub(in super::super) fn is_filled_by_others(&self) -> bool {
        !self.crowded_out.is_empty() || self.is_full_but_not_here()
    }

    fn is_full_but_not_here(&self) -> bool {
        self.held < self.slots && self.load.is_some_and(|load| load.busy >= load.slots)
    }

    /// Whether it said lately that it has a slot which nobody fills.
    pub(super) fn has_idle_slot(&self) -> bool {
        self.load.is_some_and(|load| load.busy < load.slots && load.queued == 0)
    }

    /// Slots that are filled: by others as it told last, and by this client as of now.
    pub(in super::super) fn busy(&self) -> Option<u32> {
        self.load.map(|load| self.others.saturating_add(self.held).min(load.slots))
    }

    /// It said how much there is to do for it: what was sent before it was asked, and has not started, waits.
    pub(super) fn on_load(&mut self, load: Pong, look: usize, tasks: &Tasks) {
        self.load = Some(load);
        self.others = load.busy.saturating_sub(self.held);
        self.crowded_out.clear();
        if let Some(last) = self.ping_after.take().filter(|_| load.queued > 0) {
            let known = self.newest(look).filter(|(attempt, _)| *attempt <= last);
            let waits = known.filter(|(attempt, held)| !tasks.has_started(held.task, *attempt));
            self.crowded_out = waits.map(|(attempt, held)| (attempt, held.slots)).collect();
        }
    }

    /// An attempt runs.
    pub(super) fn on_started(&mut self, attempt: AttemptId) {
        self.crowded_out.remove(&attempt);
    }

    /// It gets an attempt.
    pub(super) fn hold(&mut self, attempt: AttemptId, held: Held) {
        self.held += held.slots;
        self.held_memory_mib += held.memory_mib;
        self.attempts.insert(attempt, held);
        self.by_class.entry(held.class).or_default().insert(attempt);
    }

    /// It does not have an attempt any more. Whose it was.
    pub(super) fn release(&mut self, attempt: AttemptId) -> Option<TaskId> {
        self.keep(attempt);
        self.crowded_out.remove(&attempt);
        let held = self.attempts.remove(&attempt)?;
        self.held -= held.slots;
        self.held_memory_mib -= held.memory_mib;
        if let Entry::Occupied(mut alike) = self.by_class.entry(held.class) {
            alike.get_mut().remove(&attempt);
            if alike.get().is_empty() {
                alike.remove();
            }
        }
        Some(held.task)
    }

    /// It is asked to hand an attempt back.
    pub(super) fn recall(&mut self, attempt: AttemptId) {
        self.crowded_out.remove(&attempt);
        if let Some(held) = self.attempts.get(&attempt)
            && self.recalled.insert(attempt)
        {
            self.recalled_slots += held.slots;
            self.recalled_memory_mib += held.memory_mib;
        }
    }

    /// It keeps an attempt that it was asked to hand back.
    pub(super) fn keep(&mut self, attempt: AttemptId) {
        if self.recalled.remove(&attempt)
            && let Some(held) = self.attempts.get(&attempt)
        {
            self.recalled_slots -= held.slots;
            self.recalled_memory_mib -= held.memory_mib;
        }
    }

    /// Nothing is to be had of it any more.
    pub(super) fn retire(&mut self) {
        (self.credits, self.recalled_slots, self.recalled_memory_mib, self.draining) = (0, 0, 0, true);
        self.recalled.clear();
        self.crowded_out.clear();
        self.retired = true;
    }

    /// Whether it is to be pinged when its time comes.
    pub(super) fn pings(&self) -> bool {
        self.ping_sent.is_none() && !self.carrier.is_broken()
    }

    /// Whether it has work, or knows of some.
    pub(in super::super) fn is_busy(&self) -> bool {
        !self.attempts.is_empty() || self.told.tasks > 0
    }

    /// Slots that would be taken if as many tasks with these needs started there as can beside what it has of this client.
    pub(super) fn room_for(&self, needs: &Needs) -> u32 {
        let by_slots = self.slots.saturating_sub(self.held) / needs.cpus.max(1);
        let memory_mib = self.offer.memory_mib.saturating_sub(self.held_memory_mib);
        let by_memory =
            memory_mib.checked_div(needs.memory_mib).map_or(u32::MAX, |tasks| tasks.try_into().unwrap_or(u32::MAX));
        by_slots.min(by_memory).saturating_mul(needs.cpus)
    }

    /// What it would start last and was not asked back, newest first: of some.
    fn newest(&self, look: usize) -> impl Iterator<Item = (AttemptId, Held)> {
        let newest = self.attempts.iter().rev().take(look);
        newest.filter(|(attempt, _)| !self.recalled.contains(attempt)).map(|(attempt, held)| (*attempt, *held))
    }

    /// The kinds of tasks that it has.
    pub(super) fn classes(&self) -> impl Iterator<Item = ClassId> {
        self.by_class.keys().copied()
    }

    /// Of one kind, what has not started and was not asked back, newest first: of some.
    pub(super) fn waiting_in(
        &self,
        class: ClassId,
        look: usize,
        tasks: &Tasks,
    ) -> impl Iterator<Item = (AttemptId, Held)> {
        let newest = self.by_class.get(&class).into_iter().flat_map(move |alike| alike.iter().rev().take(look));
        let kept = newest.filter(|attempt| !self.recalled.contains(attempt));
        let held = kept.filter_map(|attempt| Some((*attempt, *self.attempts.get(attempt)?)));
        held.filter(|(attempt, held)| !tasks.has_started(held.task, *attempt))
    }

    /// Whether a credit for a slot that nobody fills is likely to come.
    pub(in super::super) fn could_credit(&self) -> bool {
        self.credits == 0 && self.may_start() && !self.is_filled_by_others()
    }

    /// Whether this client does not fill its slots.
    pub(super) fn may_start(&self) -> bool {
        !self.carrier.is_broken() && !self.draining && self.held < self.slots
    }
}
