//! The attempts on a worker: which wait, which run, and who is next (S-01, I-03).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use std::time::Duration;

use p2p_proto::ids::AttemptId;

use crate::LinkId;

/// An attempt that has run for this long is announced with a `Started`. One that ends sooner says so by its end: a message of its own
/// for each short task would cost both sides a wake-up.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(20);

/// All attempts of all clients.
#[derive(Debug)]
pub(super) struct Attempts {
    slots: u32,
    busy: u32,
    queues: BTreeMap<LinkId, VecDeque<Waiting>>,
    queued: u32,
    running: HashMap<(LinkId, AttemptId), Running>,
    /// How many of each link run, for its credits.
    running_of: HashMap<LinkId, u32>,
    /// Whose turn was last: the next one in order is next.
    last_served: LinkId,
    /// What is to be announced and when, in that order; some of it may have ended meanwhile.
    announcements: VecDeque<(Duration, LinkId, AttemptId)>,
    /// Whose next attempt takes more slots than were free when its turn came, and how many started instead.
    overtaken: Option<(LinkId, u32)>,
}

/// How many narrow attempts may start before a wide one whose turn it is, for each slot: until then no slot idles for it.
const OVERTAKEN_PER_SLOT: u32 = 2;

#[derive(Debug)]
struct Waiting {
    attempt: AttemptId,
    cpus: u32,
    /// Its client sends stdin once it hears that it runs.
    stdin: bool,
}

#[derive(Debug)]
struct Running {
    cpus: u32,
}

/// Where an attempt was when it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// It waited, and is forgotten.
    Queued,
    /// It runs; its end is to come.
    Running,
    /// It is not here.
    Unknown,
}

impl Attempts {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots,
            busy: 0,
            queues: BTreeMap::new(),
            queued: 0,
            running: HashMap::new(),
            running_of: HashMap::new(),
            last_served: LinkId(0),
            announcements: VecDeque::new(),
            overtaken: None,
        }
    }

    /// Lets an attempt wait for `cpus` slots. Returns `false` when its id is here already. One that reads `stdin` is announced at once.
    pub(super) fn queue(&mut self, link: LinkId, attempt: AttemptId, cpus: u32, stdin: bool) -> bool {
        let queue = self.queues.entry(link).or_default();
        // Ids count up, so only the last one needs a look; one that runs has left the queue.
        let fresh =
            queue.back().is_none_or(|last| last.attempt < attempt) && !self.running.contains_key(&(link, attempt));
        if fresh {
            queue.push_back(Waiting { attempt, cpus, stdin });
            self.queued += 1;
        }
        fresh
    }

    /// The next attempt to run, which from now on does: clients in turn, each in its own order. One that takes more slots than are free is
    /// overtaken by others, but not for ever.
    pub(super) fn next_to_run(&mut self, at: Duration) -> Option<(LinkId, AttemptId)> {
        if self.queued == 0 || self.busy >= self.slots {
            return None;
        }
        let free = self.slots - self.busy;
        let after = (Bound::Excluded(self.last_served), Bound::Unbounded);
        let turns = || self.queues.range(after).chain(self.queues.range(..=self.last_served));
        let fronts = || turns().filter_map(|(link, queue)| queue.front().map(|next| (*link, next.cpus)));
        let held_up = fronts().find(|(link, _)| self.overtaken.is_some_and(|(overtaken, _)| overtaken == *link));
        let (first, cpus) = held_up.or_else(|| fronts().next())?;
        let link = if cpus <= free {
            self.overtaken = None;
            first
        } else {
            let times = self.overtaken.map_or(0, |(_, times)| times);
            if times >= OVERTAKEN_PER_SLOT * self.slots {
                return None;
            }
            let (link, _) = fronts().find(|(_, cpus)| *cpus <= free)?;
            self.overtaken = Some((first, times + 1));
            link
        };
        let Waiting { attempt, cpus, stdin } = self.queues.get_mut(&link)?.pop_front()?;
        self.queued -= 1;
        self.busy += cpus;
        self.last_served = link;
        self.running.insert((link, attempt), Running { cpus });
        *self.running_of.entry(link).or_default() += 1;
        if stdin {
            self.announcements.push_front((at, link, attempt));
        } else {
            self.announcements.push_back((at + ANNOUNCE_AFTER, link, attempt));
        }
        Some((link, attempt))
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
    pub(super) fn on_ended(&mut self, link: LinkId, attempt: AttemptId) -> bool {
        let Some(running) = self.running.remove(&(link, attempt)) else {
            // It failed while it was staged.
            return self.forget_queued(link, attempt);
        };
        self.busy -= running.cpus;
        if let Some(count) = self.running_of.get_mut(&link) {
            *count -= 1;
            if *count == 0 {
                self.running_of.remove(&link);
            }
        }
        true
    }

    /// Takes an attempt back from the queue, if it is there.
    pub(super) fn cancel(&mut self, link: LinkId, attempt: AttemptId) -> Withdrawn {
        if self.running.contains_key(&(link, attempt)) {
            Withdrawn::Running
        } else if self.forget_queued(link, attempt) {
            Withdrawn::Queued
        } else {
            Withdrawn::Unknown
        }
    }

    /// The link is gone: everything of its that waits is forgotten. Returns all its attempts, to be killed; those that
    /// run keep their slots until they have ended.
    pub(super) fn on_link_gone(&mut self, link: LinkId) -> Vec<AttemptId> {
        self.overtaken.take_if(|(overtaken, _)| *overtaken == link);
        let waiting = self.queues.remove(&link).unwrap_or_default();
        self.queued -= u32::try_from(waiting.len()).unwrap_or(self.queued);
        let running = self.running.keys().filter(|(of, _)| *of == link).map(|(_, attempt)| *attempt);
        waiting.into_iter().map(|next| next.attempt).chain(running).collect()
    }

    /// Empties all queues.
    pub(super) fn withdraw_queued(&mut self) -> Vec<(LinkId, AttemptId)> {
        self.queued = 0;
        let queues = std::mem::take(&mut self.queues);
        queues.into_iter().flat_map(|(link, queue)| queue.into_iter().map(move |next| (link, next.attempt))).collect()
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
        let waiting = self.queues.get(&link).map_or(0, VecDeque::len);
        u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(self.running_of.get(&link).copied().unwrap_or(0))
    }

    /// Whether nothing waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.queued == 0 && self.running.is_empty()
    }

    fn forget_queued(&mut self, link: LinkId, attempt: AttemptId) -> bool {
        let Some(queue) = self.queues.get_mut(&link) else { return false };
        let Some(at) = queue.iter().position(|next| next.attempt == attempt) else { return false };
        queue.remove(at);
        self.queued -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1);
    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    #[test]
    fn clients_take_turns_whoever_came_first() {
        let mut attempts = Attempts::new(2);
        for id in 0..4 {
            assert!(attempts.queue(A, AttemptId(id), 1, false));
        }
        assert!(attempts.queue(B, AttemptId(0), 1, false));
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(0))));
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
        assert_eq!(attempts.next_to_run(AT), None, "I-03: never more than there are slots");
        attempts.on_ended(B, AttemptId(0));
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(1))));
        assert_eq!((attempts.busy(), attempts.queued()), (2, 2));
    }

    #[test]
    fn a_wide_task_waits_until_it_fits() {
        let mut attempts = Attempts::new(2);
        attempts.queue(A, AttemptId(0), 1, false);
        attempts.queue(A, AttemptId(1), 2, false);
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(0))));
        assert_eq!(attempts.next_to_run(AT), None);
        attempts.on_ended(A, AttemptId(0));
        assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(1))));
        assert_eq!(attempts.busy(), 2);
    }

    #[test]
    fn a_wide_task_is_not_overtaken_for_ever() {
        let mut attempts = Attempts::new(2);
        for id in 0..100 {
            attempts.queue(B, AttemptId(id), 1, false);
        }
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
        attempts.queue(A, AttemptId(0), 2, false);
        // One of two slots is always busy, as those of somebody with many short tasks are.
        let mut running = AttemptId(0);
        for started in 1..100 {
            match attempts.next_to_run(AT) {
                Some((B, next)) => {
                    attempts.on_ended(B, running);
                    running = next;
                }
                None => {
                    attempts.on_ended(B, running);
                    assert_eq!(attempts.next_to_run(AT), Some((A, AttemptId(0))));
                    assert!(started <= 5, "{started} were first");
                    attempts.on_ended(A, AttemptId(0));
                    assert!(matches!(attempts.next_to_run(AT), Some((B, _))), "and then the others go on");
                    return;
                }
                next => panic!("{next:?}"),
            }
        }
        panic!("the wide task never ran");
    }

    #[test]
    fn what_runs_keeps_its_slot_when_the_link_goes() {
        let mut attempts = Attempts::new(1);
        attempts.queue(A, AttemptId(0), 1, false);
        attempts.queue(A, AttemptId(1), 1, false);
        attempts.next_to_run(AT);
        assert_eq!(attempts.on_link_gone(A).len(), 2);
        assert!(!attempts.is_idle());
        attempts.queue(B, AttemptId(0), 1, false);
        assert_eq!(attempts.next_to_run(AT), None);
        attempts.on_ended(A, AttemptId(0));
        assert_eq!(attempts.next_to_run(AT), Some((B, AttemptId(0))));
    }

    #[test]
    fn an_id_is_taken_once() {
        let mut attempts = Attempts::new(1);
        assert!(attempts.queue(A, AttemptId(3), 1, false));
        assert!(!attempts.queue(A, AttemptId(3), 1, false));
        attempts.next_to_run(AT);
        assert!(!attempts.queue(A, AttemptId(3), 1, false));
    }

    #[test]
    fn only_what_runs_on_is_announced() {
        let mut attempts = Attempts::new(3);
        for (id, stdin) in [(0, false), (1, false), (2, true)] {
            attempts.queue(A, AttemptId(id), 1, stdin);
            attempts.next_to_run(AT);
        }
        assert_eq!(attempts.due_announcements(AT), [(A, AttemptId(2))], "its stdin waits for it");
        attempts.on_ended(A, AttemptId(0));
        let later = attempts.wake_at().unwrap();
        assert_eq!(later, AT + ANNOUNCE_AFTER);
        assert_eq!(attempts.due_announcements(later), [(A, AttemptId(1))]);
        assert_eq!(attempts.wake_at(), None);
    }
}
