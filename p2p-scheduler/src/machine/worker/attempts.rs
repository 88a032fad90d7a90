//! The attempts on a worker: which wait, which run, and who is next (S-01, S-03, I-03).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::ids::{AttemptId, UserName};

use super::fair::{Shares, UserId};
use super::queue::{UserQueue, Waiting, Withdrawn};
use crate::LinkId;

/// An attempt that has run for this long is announced with a `Started`. One that ends sooner says so by its end: a message of its own
/// for each short task would cost both sides a wake-up.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(20);

/// How many others may start before an attempt whose turn it is and that does not fit yet, for each slot: until then no slot idles for
/// it. Afterwards it is next, as soon as what runs has left it room.
const OVERTAKEN_PER_SLOT: u32 = 2;

/// All attempts of all clients.
#[derive(Debug)]
pub(super) struct Attempts {
    /// In all, and of them in use.
    slots: u32,
    busy: u32,
    /// In all, and of it spoken for, MiB.
    memory_mib: u64,
    memory_used_mib: u64,
    shares: Shares,
    /// Of users for whom something waits.
    queues: BTreeMap<UserId, UserQueue>,
    queued: u32,
    lanes: BTreeMap<LinkId, Lane>,
    running: BTreeMap<(LinkId, AttemptId), Running>,
    /// What is to be announced and when, in that order; some of it may have ended meanwhile.
    announcements: VecDeque<(Duration, LinkId, AttemptId)>,
    overtaken: Option<Overtaken>,
}

/// What a link that has sent an attempt has here.
#[derive(Debug)]
struct Lane {
    user: UserId,
    /// The latest attempt: ids rise.
    latest: AttemptId,
    waiting: u32,
    running: u32,
}

#[derive(Debug)]
struct Running {
    user: UserId,
    cpus: u32,
    memory_mib: u64,
    since: Duration,
}

/// Whose turn it is, though it does not fit yet.
#[derive(Clone, Copy, Debug)]
struct Overtaken {
    user: UserId,
    link: LinkId,
    next: Waiting,
    /// How many started instead.
    times: u32,
}

impl Attempts {
    /// For the slots and the memory of `offer`, which users share by `weights`.
    pub(super) fn new(offer: &Offer, weights: BTreeMap<UserName, u32>) -> Self {
        Self {
            slots: offer.slots,
            busy: 0,
            memory_mib: offer.memory_mib,
            memory_used_mib: 0,
            shares: Shares::new(weights),
            queues: BTreeMap::new(),
            queued: 0,
            lanes: BTreeMap::new(),
            running: BTreeMap::new(),
            announcements: VecDeque::new(),
            overtaken: None,
        }
    }

    /// Lets an attempt of a user's link wait. It must fit into what the worker has in all. Returns `false` when its id does not rise: it
    /// may be here already.
    pub(super) fn queue(&mut self, at: Duration, link: LinkId, user: &UserName, waiting: Waiting) -> bool {
        let attempt = waiting.attempt;
        let lane = match self.lanes.get_mut(&link) {
            Some(lane) if lane.latest >= attempt => return false,
            Some(lane) => lane,
            None => {
                let user = self.shares.on_link(at, user);
                self.lanes.entry(link).or_insert(Lane { user, latest: attempt, waiting: 0, running: 0 })
            }
        };
        lane.latest = attempt;
        lane.waiting += 1;
        self.queued += 1;
        self.shares.on_waiting(at, lane.user);
        self.queues.entry(lane.user).or_default().push(link, waiting);
        true
    }

    /// The next attempt to run, which from now on does (S-01). One that needs more than is free is overtaken by others, but not for ever.
    pub(super) fn next_to_run(&mut self, at: Duration) -> Option<(LinkId, AttemptId)> {
        if self.queued == 0 || self.busy >= self.slots {
            return None;
        }
        let held_up = self.overtaken;
        let (user, link, next) = match held_up {
            Some(Overtaken { user, link, next, .. }) => (user, link, next),
            None => {
                let user = self.shares.next(at)?;
                let (link, next) = self.queues.get(&user)?.fronts().next()?;
                (user, link, next)
            }
        };
        if self.fits(&next) {
            self.overtaken = None;
            return Some(self.start(at, user, link, next));
        }
        let times = held_up.map_or(0, |held_up| held_up.times);
        self.overtaken = Some(Overtaken { user, link, next, times });
        if times >= OVERTAKEN_PER_SLOT.saturating_mul(self.slots) {
            return None;
        }
        let (other, other_link, instead) = self.overtaker(at)?;
        self.overtaken = Some(Overtaken { user, link, next, times: times + 1 });
        Some(self.start(at, other, other_link, instead))
    }

    /// The first in turn that fits. Links keep their own order: behind one that does not fit the same link's others wait.
    fn overtaker(&self, at: Duration) -> Option<(UserId, LinkId, Waiting)> {
        self.shares.in_turn(at).into_iter().find_map(|user| {
            let mut fronts = self.queues.get(&user)?.fronts();
            fronts.find(|(_, next)| self.fits(next)).map(|(link, next)| (user, link, next))
        })
    }

    fn fits(&self, next: &Waiting) -> bool {
        next.cpus <= self.slots - self.busy && next.memory_mib <= self.memory_mib - self.memory_used_mib
    }

    fn start(&mut self, at: Duration, user: UserId, link: LinkId, next: Waiting) -> (LinkId, AttemptId) {
        let Waiting { attempt, cpus, memory_mib, priority, stdin } = next;
        self.shares.on_start(at, user, cpus);
        if let Some(queue) = self.queues.get_mut(&user) {
            queue.serve(link, priority);
        }
        self.unqueue(at, user, link);
        if let Some(lane) = self.lanes.get_mut(&link) {
            lane.running += 1;
        }
        self.busy += cpus;
        self.memory_used_mib += memory_mib;
        self.running.insert((link, attempt), Running { user, cpus, memory_mib, since: at });
        if stdin {
            self.announcements.push_front((at, link, attempt));
        } else {
            self.announcements.push_back((at + ANNOUNCE_AFTER, link, attempt));
        }
        (link, attempt)
    }

    /// What runs for long enough by now to be announced.
    pub(super) fn due_announcements(&mut self, at: Duration) -> Vec<(LinkId, AttemptId)> {
        let mut due = Vec::new();
        while let Some((when, link, attempt)) = self.announcements.front().copied() {
            let runs = self.running.contains_key(&(link, attempt));
            if runs && when > at {
                break;
            }
            self.announcements.pop_front();
            if runs {
                due.push((link, attempt));
            }
        }
        due
    }

    /// When something may be to be announced.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.announcements.front().map(|(when, ..)| *when)
    }

    /// An attempt ended; its slots are free. Returns whether it was here: one that was withdrawn while it ended is not.
    pub(super) fn on_ended(&mut self, at: Duration, link: LinkId, attempt: AttemptId) -> bool {
        let Some(running) = self.running.remove(&(link, attempt)) else {
            // It failed while it was staged.
            return self.forget_queued(at, link, attempt);
        };
        self.busy -= running.cpus;
        self.memory_used_mib -= running.memory_mib;
        self.shares.on_end(at, running.user, running.cpus, running.since);
        if let Some(lane) = self.lanes.get_mut(&link) {
            lane.running -= 1;
        }
        true
    }

    /// Takes an attempt back from the queue, if it is there.
    pub(super) fn withdraw(&mut self, at: Duration, link: LinkId, attempt: AttemptId) -> Withdrawn {
        if self.running.contains_key(&(link, attempt)) {
            Withdrawn::Running
        } else if self.forget_queued(at, link, attempt) {
            Withdrawn::Queued
        } else {
            Withdrawn::Unknown
        }
    }

    /// The link is gone: everything of its that waits is forgotten. Returns all its attempts, to be killed; those that
    /// run keep their slots until they have ended.
    pub(super) fn on_link_gone(&mut self, at: Duration, link: LinkId) -> Vec<AttemptId> {
        let Some(lane) = self.lanes.remove(&link) else { return Vec::new() };
        self.overtaken.take_if(|overtaken| overtaken.link == link);
        let mut attempts = Vec::new();
        if let Some(queue) = self.queues.get_mut(&lane.user) {
            attempts = queue.withdraw_link(link);
            if queue.is_empty() {
                self.queues.remove(&lane.user);
                self.shares.on_none_waiting(at, lane.user);
            }
        }
        self.queued -= lane.waiting;
        self.shares.on_link_gone(lane.user);
        if lane.running > 0 {
            let all = (link, AttemptId(0))..=(link, AttemptId(u64::MAX));
            attempts.extend(self.running.range(all).map(|((_, attempt), _)| *attempt));
        }
        attempts
    }

    /// Empties all queues.
    pub(super) fn withdraw_queued(&mut self, at: Duration) -> Vec<(LinkId, AttemptId)> {
        self.queued = 0;
        self.overtaken = None;
        self.lanes.values_mut().for_each(|lane| lane.waiting = 0);
        let queues = std::mem::take(&mut self.queues);
        for user in queues.keys() {
            self.shares.on_none_waiting(at, *user);
        }
        let mut attempts: Vec<_> = queues.into_values().flat_map(UserQueue::into_all).collect();
        attempts.sort_unstable();
        attempts
    }

    /// Everything that runs.
    pub(super) fn running(&self) -> impl Iterator<Item = (LinkId, AttemptId)> {
        self.running.keys().copied()
    }

    /// Slots in use.
    pub(super) fn busy(&self) -> u32 {
        self.busy
    }

    /// Attempts that wait.
    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    /// Attempts of one link, waiting or running.
    pub(super) fn held(&self, link: LinkId) -> u32 {
        self.lanes.get(&link).map_or(0, |lane| lane.waiting + lane.running)
    }

    /// Whether more than one user has attempts here.
    pub(super) fn is_contended(&self) -> bool {
        self.shares.active() > 1
    }

    /// Whether nothing waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.queued == 0 && self.running.is_empty()
    }

    fn forget_queued(&mut self, at: Duration, link: LinkId, attempt: AttemptId) -> bool {
        let Some(user) = self.lanes.get(&link).map(|lane| lane.user) else { return false };
        if !self.queues.get_mut(&user).is_some_and(|queue| queue.withdraw(link, attempt)) {
            return false;
        }
        self.overtaken.take_if(|overtaken| (overtaken.link, overtaken.next.attempt) == (link, attempt));
        self.unqueue(at, user, link);
        true
    }

    /// One attempt waits less.
    fn unqueue(&mut self, at: Duration, user: UserId, link: LinkId) {
        self.queued -= 1;
        if let Some(lane) = self.lanes.get_mut(&link) {
            lane.waiting -= 1;
        }
        if self.queues.get(&user).is_some_and(UserQueue::is_empty) {
            self.queues.remove(&user);
            self.shares.on_none_waiting(at, user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1);
    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    fn attempts(slots: u32) -> Attempts {
        Attempts::new(&Offer { slots, memory_mib: 1000, ..Offer::default() }, BTreeMap::new())
    }

    fn task(attempt: u64, cpus: u32) -> Waiting {
        Waiting { attempt: AttemptId(attempt), cpus, memory_mib: 0, priority: 0, stdin: false }
    }

    /// Each link is another user's.
    fn queue(attempts: &mut Attempts, link: LinkId, waiting: Waiting) -> bool {
        let user = format!("user{}", link.0).parse().unwrap();
        attempts.queue(AT, link, &user, waiting)
    }

    #[test]
    fn users_take_turns_whoever_came_first() {
        let mut attempts = attempts(2);
        for id in 0..4 {
            assert!(queue(&mut attempts, A, task(id, 1)));
        }
        assert!(queue(&mut attempts, B, task(0, 1)));
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(0))));
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
        assert_eq!(attempts.next_to_run(AT), None, "I-03: never more than there are slots");
        attempts.on_ended(AT, B, AttemptId(0));
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(1))));
        assert_eq!((attempts.busy(), attempts.queued()), (2, 2));
    }

    /// Columns: what runs and what is next, each as (slots, MiB) of 4 slots and 1000 MiB; then: whether it starts beside it.
    #[test]
    fn what_is_next_starts_when_slots_and_memory_are_free() {
        let table = [
            ((1, 0), (3, 0), true),
            ((2, 0), (3, 0), false),
            ((1, 0), (4, 0), false),
            ((4, 0), (1, 0), false),
            ((1, 600), (1, 400), true),
            ((1, 600), (1, 401), false),
            ((1, 1000), (1, 0), true),
            ((1, 1000), (1, 1), false),
        ];
        for ((runs_cpus, runs_mib), (cpus, memory_mib), starts) in table {
            let mut attempts = attempts(4);
            queue(&mut attempts, A, Waiting { memory_mib: runs_mib, ..task(1, runs_cpus) });
            assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(1))));
            queue(&mut attempts, A, Waiting { memory_mib, ..task(2, cpus) });
            let expected = starts.then_some((A, AttemptId(2)));
            assert_eq!(attempts.next_to_run(AT), expected, "({cpus}, {memory_mib}) beside ({runs_cpus}, {runs_mib})");
            attempts.on_ended(AT, A, AttemptId(1));
            let later = (!starts).then_some((A, AttemptId(2)));
            assert_eq!(attempts.next_to_run(AT), later);
            attempts.on_ended(AT, A, AttemptId(2));
            assert_eq!((attempts.busy, attempts.memory_used_mib), (0, 0));
        }
    }

    /// One that takes both slots, and one that takes most of the memory, beside somebody with many small ones.
    #[test]
    fn what_needs_much_is_not_overtaken_for_ever() {
        for (needs, others_mib) in [(task(0, 2), 0), (Waiting { memory_mib: 900, ..task(0, 1) }, 300)] {
            let mut attempts = attempts(2);
            for id in 0..100 {
                queue(&mut attempts, B, Waiting { memory_mib: others_mib, ..task(id, 1) });
            }
            assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
            queue(&mut attempts, A, needs);
            // One of two slots is always busy, as those of somebody with many short tasks are.
            let mut running = AttemptId(0);
            let first = (1..100).find(|_| match attempts.next_to_run(AT) {
                Some((B, next)) => {
                    attempts.on_ended(AT, B, running);
                    running = next;
                    false
                }
                None => true,
                next => panic!("{next:?}"),
            });
            assert!(first.is_some_and(|first| first <= 5), "{first:?} were first");
            attempts.on_ended(AT, B, running);
            assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(0))));
            attempts.on_ended(AT, A, AttemptId(0));
            assert!(matches!(attempts.next_to_run(AT), Some((B, _))), "and then the others go on");
        }
    }

    /// How what holds the others up goes away without having run: the others go on at once.
    #[test]
    fn what_is_withdrawn_holds_nobody_up() {
        let ways: [fn(&mut Attempts); 3] = [
            |attempts| assert_eq!(attempts.withdraw(AT, A, AttemptId(0)), Withdrawn::Queued),
            |attempts| assert_eq!(attempts.on_link_gone(AT, A), [AttemptId(0)]),
            |attempts| assert!(attempts.on_ended(AT, A, AttemptId(0))),
        ];
        for way in ways {
            let mut attempts = attempts(2);
            for id in 0..10 {
                queue(&mut attempts, B, task(id, 1));
            }
            attempts.next_to_run(AT);
            queue(&mut attempts, A, task(0, 2));
            let mut ends = 0;
            while attempts.next_to_run(AT).is_some() {
                attempts.on_ended(AT, B, AttemptId(ends));
                ends += 1;
            }
            way(&mut attempts);
            assert!(matches!(attempts.next_to_run(AT), Some((B, _))));
        }
    }

    #[test]
    fn what_runs_keeps_its_slot_when_the_link_goes() {
        let mut attempts = attempts(1);
        queue(&mut attempts, A, task(0, 1));
        queue(&mut attempts, A, task(1, 1));
        attempts.next_to_run(AT);
        assert_eq!(attempts.on_link_gone(AT, A).len(), 2);
        assert!(!attempts.is_idle());
        queue(&mut attempts, B, task(0, 1));
        assert_eq!(attempts.next_to_run(AT), None);
        attempts.on_ended(AT, A, AttemptId(0));
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
    }

    /// Columns: how many start first, then which is withdrawn; then: where it was, and how many are held afterwards.
    #[test]
    fn what_waits_can_be_withdrawn_and_what_runs_cannot() {
        let table = [
            (0, 2, Withdrawn::Queued, 2),
            (1, 1, Withdrawn::Running, 3),
            (1, 3, Withdrawn::Queued, 2),
            (1, 4, Withdrawn::Unknown, 3),
        ];
        for (start, attempt, expected, held) in table {
            let mut attempts = attempts(1);
            for id in 1..=3 {
                queue(&mut attempts, A, task(id, 1));
            }
            for _ in 0..start {
                attempts.next_to_run(AT);
            }
            assert_eq!(attempts.withdraw(AT, A, AttemptId(attempt)), expected);
            assert_eq!(attempts.held(A), held, "its credit is free again where it was taken out");
        }
    }

    #[test]
    fn everything_that_waits_is_handed_back_in_order() {
        let mut attempts = attempts(1);
        for (link, id) in [(B, 1), (A, 1), (A, 2), (B, 2)] {
            queue(&mut attempts, link, task(id, 1));
        }
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(1))));
        assert_eq!(attempts.withdraw_queued(AT), [(A, AttemptId(1)), (A, AttemptId(2)), (B, AttemptId(2))]);
        assert_eq!((attempts.held(A), attempts.held(B), attempts.queued(), attempts.is_idle()), (0, 1, 0, false));
    }

    #[test]
    fn an_id_is_taken_once() {
        let mut attempts = attempts(1);
        assert!(queue(&mut attempts, A, task(3, 1)));
        assert!(!queue(&mut attempts, A, task(3, 1)));
        attempts.next_to_run(AT);
        assert!(!queue(&mut attempts, A, task(3, 1)));
        assert!(queue(&mut attempts, B, task(3, 1)), "each link counts for itself");
    }

    #[test]
    fn only_what_runs_on_is_announced() {
        let mut attempts = attempts(3);
        for (id, stdin) in [(0, false), (1, false), (2, true)] {
            queue(&mut attempts, A, Waiting { stdin, ..task(id, 1) });
            attempts.next_to_run(AT);
        }
        assert_eq!(attempts.due_announcements(AT), [(A, AttemptId(2))], "its stdin waits for it");
        attempts.on_ended(AT, A, AttemptId(0));
        let later = attempts.wake_at().unwrap();
        assert_eq!(later, AT + ANNOUNCE_AFTER);
        assert_eq!(attempts.due_announcements(later), [(A, AttemptId(1))]);
        assert_eq!(attempts.wake_at(), None);
    }
}
